"""Conversations as tokens: what a model is asked, and what it answers, by its own chat template.

Invariant: a prompt's tokens are the same whether an answer follows or not, and an answer's characters stand in the rendering, and
come back from its tokens, as they are. A template or tokenizer that cannot promise this is refused: everything measured on its
tokens would be about another text.

An answer's tokens begin where the prompt rendered for generation ends. A complete answer ends with the first special token that
the template writes after it; what the template writes behind that token (usually a newline) opens the next turn and is left out.
"""

import json
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from refstudy.checkpoints import SystemRole
from refstudy.errors import ModelError
from refstudy.texts import Message

Tokenizer = Any
"""A transformers tokenizer; untyped here so that this module needs no import of transformers."""

PROBE = [{"role": "user", "content": "question"}]
PROBE_ANSWER = "answer"


@dataclass(frozen=True)
class Turn:
    """An answer in its place: the ids of the prompt, and the ids of the answer after it."""

    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class _Manner:
    """What a chat template puts around every answer."""

    template: str
    lead: str
    """White space between generation prompt and answer; "" for most templates."""
    end_ids: list[int]
    anchor_ids: list[int]
    """A word to decode answers behind, and its text."""
    anchor: str
    special: tuple[str, ...]
    """The texts that the tokenizer reads as special tokens."""


_MANNERS: WeakKeyDictionary[Tokenizer, _Manner] = WeakKeyDictionary()


def prompt_ids(
    tokenizer: Tokenizer, messages: list[Message], system: str | None = None, system_role: SystemRole = "keep"
) -> list[int]:
    """Token ids of the conversation with the template's generation prompt at the end."""
    asked = conversation(messages, system, system_role)
    _refuse_special(tokenizer, asked)
    return _ids(tokenizer, _render(tokenizer, asked, open_turn=True))


def answer_ids(
    tokenizer: Tokenizer,
    messages: list[Message],
    answer: str,
    complete: bool,
    system: str | None = None,
    system_role: SystemRole = "keep",
) -> list[int]:
    """Token ids of `answer` after the conversation, with the end of turn only if `complete`."""
    return turn(tokenizer, messages, answer, complete, system, system_role).answer_ids


def turn(
    tokenizer: Tokenizer,
    messages: list[Message],
    answer: str,
    complete: bool,
    system: str | None = None,
    system_role: SystemRole = "keep",
    exact: bool = True,
) -> Turn:
    """Prompt and answer as token ids; ModelError if the template trims or rewrites the answer, or the prompt before it, or if the
    tokenizer does not give the answer back. `exact` False lets a tokenizer read the answer in its own way (normalised)."""
    asked = conversation(messages, system, system_role)
    _refuse_special(tokenizer, asked)
    prompt = _render(tokenizer, asked, open_turn=True)
    full = _render(tokenizer, [*asked, {"role": "assistant", "content": answer}], open_turn=False)
    if not full.startswith(prompt):
        raise ModelError(
            f"{_name(tokenizer)}: the template writes the prompt otherwise when an answer follows (the prompt alone ends "
            f"{prompt[-40:]!r}); expected the same text: give the model's entry a `template` that does so"
        )
    manner = _manner(tokenizer)
    if not full.startswith(manner.lead + answer, len(prompt)):
        raise _rewritten(tokenizer, answer, full[len(prompt) :])
    ids = _ids(tokenizer, prompt)
    spoken = _continuation(tokenizer, prompt, ids, manner.lead + answer)
    if exact and answer_text(tokenizer, spoken) != answer:
        raise _lossy(tokenizer, answer, answer_text(tokenizer, spoken))
    return Turn(ids, spoken + manner.end_ids if complete else spoken)


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers read every conversation as the same ids: the same vocabulary, rules and template."""
    if one.chat_template != other.chat_template or not (one.is_fast and other.is_fast):
        return one is other
    return bool(one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str())


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers read plain text as the same ids, whatever their templates and special tokens are."""
    if not (one.is_fast and other.is_fast):
        return one is other
    known, rules = ("model", "normalizer", "pre_tokenizer"), []
    for each in (one, other):
        content = json.loads(each.backend_tokenizer.to_str())
        rules.append([content[name] for name in known])
    return bool(rules[0] == rules[1])


def end_of_turn(tokenizer: Tokenizer) -> list[int]:
    """Token ids that the template puts after a complete answer, the last of them the special token that ends the turn."""
    return list(_manner(tokenizer).end_ids)


def answer_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text that answer ids stand for: special tokens left out, and the space that some templates put before an answer."""
    manner = _manner(tokenizer)
    # Decoded behind another word: SentencePiece's decoders drop a space at the beginning of a text.
    text = _decode(tokenizer, manner.anchor_ids + ids)[len(manner.anchor) :]
    return text.removeprefix(manner.lead)


def text_ids(tokenizer: Tokenizer, text: str, complete: bool) -> list[int]:
    """Token ids of an answer that came as text from elsewhere, the end of turn behind it if `complete`; for counting it only."""
    return _ids(tokenizer, text) + (list(_manner(tokenizer).end_ids) if complete else [])


def conversation(messages: list[Message], system: str | None, system_role: SystemRole = "keep") -> list[Message]:
    """The messages with the system prompt in front (a conversation's own system message wins), merged into the user's first turn
    for models whose template knows no system role."""
    whole = list(messages)
    if system is not None and (not whole or whole[0]["role"] != "system"):
        whole = [{"role": "system", "content": system}, *whole]
    if system_role == "merge" and len(whole) > 1 and whole[0]["role"] == "system":
        first = {**whole[1], "content": f"{whole[0]['content']}\n\n{whole[1]['content']}"}
        whole = [first, *whole[2:]]
    return whole


def _render(tokenizer: Tokenizer, messages: list[Message], open_turn: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn))
    except Exception as error:  # templates raise jinja's own errors and whatever their `raise_exception` says
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"{_name(tokenizer)}: the chat template refuses a conversation of roles {roles} ({error}); "
            "declare `system_role: merge` for a template without a system role, or give the entry a `template`"
        ) from error


def _manner(tokenizer: Tokenizer) -> _Manner:
    """What the template writes around an answer, seen once on a probe and kept as long as tokenizer and template live."""
    known = _MANNERS.get(tokenizer)
    if known is None or known.template != tokenizer.chat_template:
        known = _MANNERS[tokenizer] = _probe(tokenizer)
    return known


def _probe(tokenizer: Tokenizer) -> _Manner:
    prompt = _render(tokenizer, PROBE, open_turn=True)
    rendered = _render(tokenizer, [*PROBE, {"role": "assistant", "content": PROBE_ANSWER}], open_turn=False)[len(prompt) :]
    lead, found, rest = rendered.partition(PROBE_ANSWER)
    if not found or lead.strip():
        raise _rewritten(tokenizer, PROBE_ANSWER, rendered)
    anchor_ids = _ids(tokenizer, PROBE_ANSWER)
    special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content.strip())
    return _Manner(tokenizer.chat_template, lead, _first_end(tokenizer, rest), anchor_ids, _decode(tokenizer, anchor_ids), special)


def _refuse_special(tokenizer: Tokenizer, messages: list[Message]) -> None:
    """ModelError for a message that holds a special token's text: it would open or end turns, and only in this tokenizer."""
    special = _manner(tokenizer).special
    for message in messages:
        for text in special:
            if text in message["content"]:
                raise ModelError(
                    f"{_name(tokenizer)}: a {message['role']}'s message holds {text!r}, which this tokenizer takes for a special "
                    "token; leave such rows out with `data.without`"
                )


def _rewritten(tokenizer: Tokenizer, answer: str, rendered: str) -> ModelError:
    return ModelError(
        f"{_name(tokenizer)}: the template trims or rewrites the answer (it begins {answer[:40]!r} and ends {answer[-20:]!r}, "
        f"rendered {rendered[:60]!r}); expected it verbatim: strip the answers in the data, or give the model's entry a "
        "`template` that writes message['content'] as it is"
    )


def _lossy(tokenizer: Tokenizer, answer: str, read_back: str) -> ModelError:
    return ModelError(
        f"{_name(tokenizer)}: the tokenizer does not give the answer back (it begins {answer[:40]!r}, its tokens read "
        f"{read_back[:40]!r}); expected one that loses no characters: leave special tokens out of the data, or normalise it as "
        "this tokenizer does"
    )


def _continuation(tokenizer: Tokenizer, prompt: str, ids: list[int], text: str) -> list[int]:
    """Ids of `text` after the prompt. Read together where that leaves the prompt's ids as they are, because a tokenizer may look
    back over the boundary; read alone where the two would merge, because generation can never see the merged token."""
    together = _ids(tokenizer, prompt + text)
    return together[len(ids) :] if together[: len(ids)] == ids else _ids(tokenizer, text)


def _first_end(tokenizer: Tokenizer, rest: str) -> list[int]:
    """Ids of what the template writes after the answer, up to and including the first special token."""
    ids = _ids(tokenizer, rest)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special} | {tokenizer.eos_token_id}
    for position, each in enumerate(ids):
        if each in special:
            return ids[: position + 1]
    raise ModelError(
        f"{_name(tokenizer)}: the template ends no turn (after an answer it writes {rest[:40]!r}, no special token); "
        "expected the end-of-turn token: give the model's entry a `template` that writes it"
    )


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _name(tokenizer: Tokenizer) -> str:
    return f"checkpoint {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r}"
