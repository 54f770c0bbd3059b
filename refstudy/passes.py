"""A scoring pass, whoever scores: the texts that it asks for, and the table that their log-probs become.

Invariant: a scorer reads text, not tokens. It renders the same conversation and the same answer by its own template and
tokenizer; the sum over its tokens is log p(answer | prompt) in nats whatever the tokenizer. An answer's end of turn is scored
if the answer is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refstudy import chat
from refstudy.checkpoints import SystemRole
from refstudy.errors import ModelError
from refstudy.tables import CompletionTable, PairTable
from refstudy.texts import Completion, Prompt, in_place
from refstudy.token_pairs import TokenPair


@dataclass(frozen=True)
class Text:
    """A prompt with an answer to be scored, and the words that name it in messages."""

    name: str
    turn: chat.Turn


@dataclass(frozen=True)
class Shard:
    """One worker's part of a pass: of all its batches every `of`-th, from number `number` on."""

    number: int
    of: int


WHOLE = Shard(0, 1)


def pair_texts(tokenizer: chat.Tokenizer, pairs: Sequence[TokenPair], system_role: SystemRole = "keep") -> list[Text]:
    """All chosen answers, then all rejected ones, in the order of `pairs`."""
    chosen = [_answer(tokenizer, pair, "chosen", pair.chosen, pair.chosen_complete, system_role) for pair in pairs]
    rejected = [_answer(tokenizer, pair, "rejected", pair.rejected, pair.rejected_complete, system_role) for pair in pairs]
    return [*chosen, *rejected]


def completion_texts(
    tokenizer: chat.Tokenizer,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    system: str | None = None,
    system_role: SystemRole = "keep",
    as_drawn: bool = False,
) -> list[Text]:
    """Each completion in its place; terminated answers with the end of turn.

    `as_drawn`: the completions' tokens are this tokenizer's, and are scored as they were drawn. Otherwise their text is, by this
    tokenizer's own tokens: what it cannot keep (half a character, written U+FFFD; a letter that it normalises) as it reads it.
    An answer that never ended is scored as it stands: the probability that the scorer begins with it.
    """
    found = []
    for each, prompt in zip(completions, in_place(prompts, completions), strict=True):
        name = f"the answer to prompt {each.prompt_id!r}"
        if as_drawn:
            turn = chat.Turn(chat.prompt_ids(tokenizer, prompt.messages, system, system_role), each.token_ids)
        else:
            turn = _named_turn(name, tokenizer, prompt.messages, each.text, each.terminated, system, system_role, False)
        found.append(Text(name, turn))
    return found


def pair_table(pairs: Sequence[TokenPair], texts: Sequence[Text], logps: Sequence[np.ndarray]) -> PairTable:
    """The table of `pair_texts` with their token log-probs, rows in the order of `pairs`; per token where all tokens are the
    policy's."""
    count = len(pairs)
    turns = [text.turn for text in texts]
    shared = all(
        yes.prompt_ids == pair.prompt_ids and yes.answer_ids == pair.chosen_ids and no.answer_ids == pair.rejected_ids
        for yes, no, pair in zip(turns[:count], turns[count:], pairs, strict=True)
    )
    tokens = np.array([len(turn.answer_ids) for turn in turns])
    each_token = [row.astype(np.float32) for row in logps] if shared else None
    return PairTable(
        pair_ids=[pair.pair_id for pair in pairs],
        chosen_logp_sum=sums(logps[:count]),
        rejected_logp_sum=sums(logps[count:]),
        chosen_tokens=tokens[:count],
        rejected_tokens=tokens[count:],
        bytes_sha256=[pair.text_sha256 for pair in pairs],
        chosen_logps=each_token and each_token[:count],
        rejected_logps=each_token and each_token[count:],
    )


def completion_table(completions: Sequence[Completion], texts: Sequence[Text], logps: Sequence[np.ndarray]) -> CompletionTable:
    """The table of `completion_texts` with their token log-probs."""
    return CompletionTable(
        prompt_ids=[each.prompt_id for each in completions],
        logp_sum=sums(logps),
        tokens=np.array([len(text.turn.answer_ids) for text in texts]),
        answer_bytes=np.array([len(each.text.encode()) for each in completions]),
    )


def sums(logps: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) float64 sums of each row's token log-probs."""
    return np.array([row.sum(dtype=np.float64) for row in logps])


def token_count(texts: Sequence[Text]) -> int:
    """Tokens of prompts and answers, each answer with its prompt."""
    return sum(len(text.turn.prompt_ids) + len(text.turn.answer_ids) for text in texts)


def _answer(tokenizer: chat.Tokenizer, pair: TokenPair, side: str, answer: str, complete: bool, system_role: SystemRole) -> Text:
    name = f"pair {pair.pair_id!r} ({side})"
    return Text(name, _named_turn(name, tokenizer, pair.messages, answer, complete, None, system_role, True))


def _named_turn(name: str, *of_turn: object) -> chat.Turn:
    try:
        return chat.turn(*of_turn)  # type: ignore[arg-type]
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
