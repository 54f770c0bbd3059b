"""Preference pairs exactly as the policy trains on them.

Invariant: text is cut once, here, by the policy's tokenizer and template; `chosen` and `rejected` are the text of the tokens that
are trained, so that every reference scores these bytes and no others. A cut answer ends without the end of turn.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from refstudy import chat
from refstudy.checkpoints import SystemRole
from refstudy.errors import DataError, LengthError, ModelError
from refstudy.texts import Message, Pair

FILE = "token_pairs.parquet"
SUMMARY = "summary.json"
FEW = 64
"""Rows that are objects at once while they are read one after another."""


@dataclass(frozen=True)
class TokenPair:
    """One preference pair as tokens of the policy, with the text that these tokens are."""

    pair_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    messages: list[Message]
    """The conversation that the answers belong to, with the system prompt if the sweep sets one."""
    chosen: str
    rejected: str
    chosen_complete: bool
    rejected_complete: bool
    cluster: str

    @property
    def text_sha256(self) -> str:
        """The hash of everything that a reference must score: conversation, both answers, and which of them are complete."""
        scored = [self.messages, self.chosen, self.rejected, self.chosen_complete, self.rejected_complete]
        return hashlib.sha256(json.dumps(scored, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def tokenise(
    pairs: list[Pair],
    tokenizer: chat.Tokenizer,
    max_length: int,
    system: str | None = None,
    system_role: SystemRole = "keep",
    drop: Callable[[str], None] | None = None,
) -> list[TokenPair]:
    """The pairs as tokens, answers cut so that prompt and answer have at most `max_length` tokens.

    A pair whose prompt leaves no room for an answer is passed over and `drop` told why; LengthError without `drop`. DataError for
    two pairs of one id, ModelError for a template or tokenizer that changes the text. All name the pair.
    """
    _check_unique(pairs)
    rows = []
    for pair in pairs:
        try:
            rows.append(_tokenised(pair, tokenizer, max_length, system, system_role))
        except LengthError as error:
            if drop is None:
                raise
            drop(str(error))
    if not rows:
        raise DataError(f"none of {len(pairs):,} pairs has room for an answer in {max_length} tokens; raise train.max_length")
    return rows


def write(folder: Path, rows: list[TokenPair], dropped: list[str]) -> None:
    """Writes token_pairs.parquet and summary.json {pairs, truncated_chosen, truncated_rejected, dropped, ...}."""
    records = [{**asdict(row), "messages": json.dumps(row.messages, ensure_ascii=False)} for row in rows]
    pq.write_table(pa.Table.from_pylist(records, schema=_SCHEMA), folder / FILE)
    lengths = [len(row.prompt_ids) + max(len(row.chosen_ids), len(row.rejected_ids)) for row in rows]
    summary = {
        "pairs": len(rows),
        "truncated_chosen": sum(not row.chosen_complete for row in rows),
        "truncated_rejected": sum(not row.rejected_complete for row in rows),
        "dropped": dropped,
        "identical_answers": sum(row.chosen == row.rejected for row in rows),
        "longest_tokens": max(lengths, default=0),
        "chosen_tokens": sum(len(row.chosen_ids) for row in rows),
        "rejected_tokens": sum(len(row.rejected_ids) for row in rows),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1))


def read(folder: Path) -> list[TokenPair]:
    """The rows that `write` wrote, in order."""
    return list(each(folder))


def each(folder: Path) -> Iterator[TokenPair]:
    """`read` one after another: as objects all of them take thirty times the memory of their file."""
    for few in pq.read_table(folder / FILE).to_batches(max_chunksize=FEW):
        for record in few.to_pylist():
            yield TokenPair(**{**record, "messages": json.loads(record["messages"])})


_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_ids", _IDS),
        ("chosen_ids", _IDS),
        ("rejected_ids", _IDS),
        ("messages", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_complete", pa.bool_()),
        ("rejected_complete", pa.bool_()),
        ("cluster", pa.string()),
    ]
)


def _check_unique(pairs: list[Pair]) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.pair_id in seen:
            raise DataError(f"pair id {pair.pair_id!r} stands twice in the preference data; expected each id once")
        seen.add(pair.pair_id)


def _tokenised(pair: Pair, tokenizer: chat.Tokenizer, max_length: int, system: str | None, system_role: SystemRole) -> TokenPair:
    try:
        chosen = chat.turn(tokenizer, pair.messages, pair.chosen, True, system, system_role)
        rejected = chat.turn(tokenizer, pair.messages, pair.rejected, True, system, system_role)
        room = max_length - len(chosen.prompt_ids)
        if room < 1:
            raise LengthError(
                f"pair {pair.pair_id!r}: its prompt has {len(chosen.prompt_ids)} tokens, which leaves no room for an answer in "
                f"train.max_length {max_length}; raise train.max_length, or set data.unusable to drop"
            )
        chosen_cut, rejected_cut = (
            cut(tokenizer, pair.messages, turn.answer_ids, answer, room, system, system_role)
            for turn, answer in ((chosen, pair.chosen), (rejected, pair.rejected))
        )
    except ModelError as error:
        raise ModelError(f"pair {pair.pair_id!r}: {error}") from error
    if not chosen_cut.ids or not rejected_cut.ids:
        raise LengthError(
            f"pair {pair.pair_id!r}: no whole character of an answer fits beside its prompt of {len(chosen.prompt_ids)} tokens in "
            f"train.max_length {max_length}; raise train.max_length, or set data.unusable to drop"
        )
    return TokenPair(
        pair_id=pair.pair_id,
        prompt_ids=chosen.prompt_ids,
        chosen_ids=chosen_cut.ids,
        rejected_ids=rejected_cut.ids,
        messages=chat.conversation(pair.messages, system),
        chosen=chosen_cut.text,
        rejected=rejected_cut.text,
        chosen_complete=chosen_cut.complete,
        rejected_complete=rejected_cut.complete,
        cluster=pair.cluster,
    )


@dataclass(frozen=True)
class Cut:
    """The part of an answer that is trained: its tokens, their text, and whether it is the whole answer."""

    ids: list[int]
    text: str
    complete: bool


def cut(
    tokenizer: chat.Tokenizer,
    messages: list[Message],
    ids: list[int],
    answer: str,
    room: int,
    system: str | None = None,
    system_role: SystemRole = "keep",
) -> Cut:
    """The longest beginning of an answer that fits into `room` tokens, stands on whole characters, and is tokenised alike when
    read alone; an empty one if there is none. `ids`: the complete answer's, with its end of turn."""
    end = chat.end_of_turn(tokenizer)
    spoken = ids[: len(ids) - len(end)]
    if len(ids) <= room:
        return Cut(ids, answer, True)
    for kept in _shortening(spoken[:room]):
        text = chat.answer_text(tokenizer, kept)
        if not text or not answer.startswith(text):
            continue
        if chat.turn(tokenizer, messages, text, False, system, system_role, exact=False).answer_ids == kept:
            return Cut(kept, text, False)
    return Cut([], "", False)


def _shortening(ids: list[int]) -> Iterator[list[int]]:
    """The ids, then one fewer, and so on; a cut character or merge costs a few tokens, so this ends early."""
    for length in range(len(ids), 0, -1):
        yield ids[:length]
