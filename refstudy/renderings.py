"""Pairs through tokenizers and chat templates before anything is scored: what would be cut, and what would be refused.

Invariant: what is tried here is what training and scoring do, by the same functions: the policy cuts the text, every reference
renders what is left of it.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refstudy import chat, token_pairs
from refstudy.chat import Tokenizer
from refstudy.checkpoints import SystemRole
from refstudy.errors import DataError, LengthError, ModelError
from refstudy.texts import Pair
from refstudy.token_pairs import TokenPair

PAIRS_CHECKED = 4096
"""Pairs that are tried at most: half of them spread evenly over all, half of them those that are likeliest to fail."""

Relation = Literal["same", "same vocabulary", "other"]
"""Of a reference's tokens to the policy's: the same of every conversation, the same vocabulary under another template, another."""


@dataclass(frozen=True)
class Sample:
    """The pairs to be tried."""

    spread: list[Pair]
    """Evenly over all of them: shares and lengths are of these."""
    awkward: list[Pair]
    """Likelier than others to be refused; empty where all pairs are in `spread`."""


@dataclass(frozen=True)
class Cut:
    """The pairs as the policy trains on them, and what does not fit or is refused."""

    spread: list[TokenPair]
    awkward: list[TokenPair]
    too_long: list[str]
    """Pairs without room for an answer, each with the reason."""
    refused: list[str]
    """Pairs that the policy's own template or tokenizer changes, likewise."""

    @property
    def rows(self) -> list[TokenPair]:
        return [*self.spread, *self.awkward]

    def cut_share(self, answer: Literal["chosen", "rejected"]) -> float:
        """Share of the pairs whose answer was cut to train.max_length."""
        return sum(not getattr(row, f"{answer}_complete") for row in self.spread) / max(1, len(self.spread))


@dataclass(frozen=True)
class Read:
    """What a model reads of pairs, by its own tokenizer and template."""

    pairs: int
    tokens_per_pair: float
    """Both answers, each with its prompt: what a pass of the model computes; of the evenly spread pairs."""
    longest_tokens: int
    longest_pair: str
    refused: list[str]
    """Pairs that its template or tokenizer changes, each with the reason."""
    as_policy: bool
    """Whether every token is the policy's."""


def sample(pairs: Sequence[Pair], marks: Iterable[str], count: int = PAIRS_CHECKED) -> Sample:
    """All pairs up to `count`; of more those spread evenly, and the awkward ones: with special tokens (`marks`) in the text, with
    white space at an edge, with text that normalising changes, and the longest."""
    if len(pairs) <= count:
        return Sample(list(pairs), [])
    half = count // 2
    places = {round(each * (len(pairs) - 1) / (half - 1)) for each in range(half)}
    rest = [pair for place, pair in enumerate(pairs) if place not in places]
    marks = [mark for mark in marks if mark.strip()]
    awkward = {each.pair_id: each for some in _awkward(rest, marks, (count - half) // 4) for each in some}
    return Sample([pairs[place] for place in sorted(places)], list(awkward.values()))


def cut(chosen: Sample, tokenizer: Tokenizer, max_length: int, system: str | None = None, system_role: SystemRole = "keep") -> Cut:
    """The sample's pairs in the policy's tokens, cut as training cuts them; pairs that cannot be are listed, not raised."""
    too_long: list[str] = []
    refused: list[str] = []

    def rows(pairs: Sequence[Pair]) -> list[TokenPair]:
        found = []
        for pair in pairs:
            try:
                found += token_pairs.tokenise([pair], tokenizer, max_length, system, system_role)
            except LengthError as error:
                too_long.append(str(error))
            except (DataError, ModelError) as error:
                refused.append(str(error))
        return found

    return Cut(rows(chosen.spread), rows(chosen.awkward), too_long, refused)


def read(
    text: Cut, tokenizer: Tokenizer, system_role: SystemRole, messages_of: Callable[[TokenPair], list[Any]] | None = None
) -> Read:
    """What the model reads of the pairs, exactly as scoring renders them; `messages_of` puts other conversations in their place."""
    tokens, refused, longest, as_policy = 0, list[str](), (0, ""), True
    for place, row in enumerate(text.rows):
        messages = messages_of(row) if messages_of else row.messages
        try:
            yes = chat.turn(tokenizer, messages, row.chosen, row.chosen_complete, system_role=system_role)
            no = chat.turn(tokenizer, messages, row.rejected, row.rejected_complete, system_role=system_role)
        except ModelError as error:
            refused.append(f"pair {row.pair_id!r}: {error}")
            continue
        lengths = [len(each.prompt_ids) + len(each.answer_ids) for each in (yes, no)]
        longest = max(longest, (max(lengths), row.pair_id))
        tokens += sum(lengths) if place < len(text.spread) else 0
        as_policy &= (yes.prompt_ids, yes.answer_ids, no.answer_ids) == (row.prompt_ids, row.chosen_ids, row.rejected_ids)
    return Read(len(text.rows), tokens / max(1, len(text.spread)), *longest, refused, as_policy)


def relation(policy: Tokenizer, reference: Tokenizer) -> Relation:
    """How the reference's tokens relate to the policy's, by the tokenizers alone."""
    if chat.same_tokens(policy, reference):
        return "same"
    return "same vocabulary" if chat.same_vocabulary(policy, reference) else "other"


def special_texts(tokenizer: Tokenizer) -> list[str]:
    """The texts that the tokenizer takes for special tokens."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _awkward(pairs: Sequence[Pair], marks: Sequence[str], each: int) -> list[list[Pair]]:
    """Some pairs of each kind of awkwardness."""
    kinds: list[Callable[[Pair], bool]] = [
        lambda pair: any(mark in text for mark in marks for text in _texts(pair)),
        lambda pair: any(text != text.strip() for text in _texts(pair)),
        lambda pair: any(not unicodedata.is_normalized("NFC", text) for text in _texts(pair)),
    ]
    found = [[pair for pair in pairs if is_one(pair)][:each] for is_one in kinds]
    longest = sorted(pairs, key=lambda pair: -sum(len(text) for text in _texts(pair)))[:each]
    return [*found, longest]


def _texts(pair: Pair) -> list[str]:
    return [*(message["content"] for message in pair.messages), pair.chosen, pair.rejected]
