"""Reference tables: what a reference is to DPO, two log-probs for each preference pair, as files and as arrays.

Invariant: a table is complete or refused. Every pair is in it once, every log-prob is a finite number of nats of at most 0, and
the hash of the text that was scored equals the hash of the text that is trained.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refstudy.errors import TableError
from refstudy.token_pairs import TokenPair

FILE = "table.parquet"
SUMMARY = "summary.json"
AGAIN = "remove its folder, and run the sweep again: it makes the table anew"
"""What to do about a table that is there and is wrong."""
ROUNDING_NATS = 1e-3
"""A certain token's log-prob may come out this much above 0."""


@dataclass(frozen=True)
class PairTable:
    """log p(answer | prompt) of both answers of each pair, in nats, by one scorer."""

    pair_ids: list[str]
    chosen_logp_sum: np.ndarray
    """(N,) float64 nats."""
    rejected_logp_sum: np.ndarray
    chosen_tokens: np.ndarray
    """(N,) tokens of the scorer's own tokenizer, with the end of turn where the answer is complete."""
    rejected_tokens: np.ndarray
    bytes_sha256: list[str]
    """What was scored: `TokenPair.text_sha256` of each row."""
    chosen_logps: list[np.ndarray] | None = None
    """Per token, where the scorer's tokens are the policy's; None otherwise."""
    rejected_logps: list[np.ndarray] | None = None


@dataclass(frozen=True)
class CompletionTable:
    """log p(answer | prompt) of completions, in nats, by one scorer."""

    prompt_ids: list[str]
    logp_sum: np.ndarray
    tokens: np.ndarray
    answer_bytes: np.ndarray
    """UTF-8 bytes of the answer's text."""


def write_pairs(folder: Path, table: PairTable, about: dict[str, Any]) -> None:
    """Writes table.parquet and summary.json after checking the table."""
    _check_numbers("reference table", table.pair_ids, table.chosen_logp_sum, table.rejected_logp_sum)
    columns: dict[str, Any] = {
        "pair_id": table.pair_ids,
        "chosen_logp_sum": table.chosen_logp_sum,
        "rejected_logp_sum": table.rejected_logp_sum,
        "chosen_tokens": table.chosen_tokens,
        "rejected_tokens": table.rejected_tokens,
        "bytes_sha256": table.bytes_sha256,
    }
    if table.chosen_logps is not None and table.rejected_logps is not None:
        columns["chosen_logps"] = pa.array(table.chosen_logps, pa.list_(pa.float32()))
        columns["rejected_logps"] = pa.array(table.rejected_logps, pa.list_(pa.float32()))
    _write(folder, columns, {**about, "tokenizer_shared": table.chosen_logps is not None})


def write_completions(folder: Path, table: CompletionTable, about: dict[str, Any]) -> None:
    """Writes table.parquet and summary.json after checking the table."""
    _check_numbers("completion table", table.prompt_ids, table.logp_sum)
    columns = {
        "prompt_id": table.prompt_ids,
        "logp_sum": table.logp_sum,
        "tokens": table.tokens,
        "answer_bytes": table.answer_bytes,
    }
    _write(folder, columns, about)


def read_pairs(folder: Path) -> PairTable:
    """The table in `folder`, checked; TableError if it is damaged."""
    columns = _Columns(folder / FILE)
    table = PairTable(
        pair_ids=columns.words("pair_id"),
        chosen_logp_sum=columns.numbers("chosen_logp_sum", np.float64),
        rejected_logp_sum=columns.numbers("rejected_logp_sum", np.float64),
        chosen_tokens=columns.numbers("chosen_tokens", np.int64),
        rejected_tokens=columns.numbers("rejected_tokens", np.int64),
        bytes_sha256=columns.words("bytes_sha256"),
        chosen_logps=columns.ragged("chosen_logps"),
        rejected_logps=columns.ragged("rejected_logps"),
    )
    _check_tokens(folder / FILE, table.pair_ids, table.chosen_logps, table.chosen_tokens)
    _check_tokens(folder / FILE, table.pair_ids, table.rejected_logps, table.rejected_tokens)
    _check_numbers(str(folder / FILE), table.pair_ids, table.chosen_logp_sum, table.rejected_logp_sum)
    return table


def read_completions(folder: Path) -> CompletionTable:
    """The table in `folder`, checked; TableError if it is damaged."""
    columns = _Columns(folder / FILE)
    table = CompletionTable(
        prompt_ids=columns.words("prompt_id"),
        logp_sum=columns.numbers("logp_sum", np.float64),
        tokens=columns.numbers("tokens", np.int64),
        answer_bytes=columns.numbers("answer_bytes", np.int64),
    )
    _check_numbers(str(folder / FILE), table.prompt_ids, table.logp_sum)
    return table


def summary(folder: Path) -> dict[str, Any]:
    """What was noted at the table's making."""
    return dict(json.loads((folder / SUMMARY).read_text()))


def join(table: PairTable, pairs: Iterable[TokenPair], name: str = "reference table") -> tuple[np.ndarray, np.ndarray]:
    """(chosen, rejected) log-prob sums (N,) in nats in the order of `pairs`, found by pair id, never by place.

    TableError if a pair is missing, or if the table scored another text than the policy trains on.
    """
    place = {pair_id: index for index, pair_id in enumerate(table.pair_ids)}
    scored = [(pair.pair_id, pair.text_sha256) for pair in pairs]
    missing = [pair_id for pair_id, _ in scored if pair_id not in place]
    if missing:
        first = ", ".join(repr(pair_id) for pair_id in missing[:3])
        raise TableError(f"{name} lacks {len(missing):,} of {len(scored):,} pairs (first: {first}); {AGAIN}")
    other = [pair_id for pair_id, text in scored if table.bytes_sha256[place[pair_id]] != text]
    if other:
        raise TableError(
            f"{name} scored another text than the policy trains on for {len(other):,} of {len(scored):,} pairs (first: "
            f"{other[0]!r}); expected the same conversation, answers and cuts: make the table from this policy's token pairs"
        )
    order = [place[pair_id] for pair_id, _ in scored]
    return table.chosen_logp_sum[order], table.rejected_logp_sum[order]


def _check_numbers(name: str, ids: list[str], *sums: np.ndarray) -> None:
    if len(set(ids)) != len(ids):
        names, counts = np.unique(ids, return_counts=True)
        again = str(names[counts > 1][0])
        raise TableError(
            f"{name} has {len(ids) - len(set(ids)):,} rows of an id that it has already (such as {again!r}); expected each id "
            f"once: {AGAIN}"
        )
    if not ids:
        raise TableError(f"{name} is empty; expected a row for each text: {AGAIN}")
    for values in sums:
        bad = np.flatnonzero(~(np.isfinite(values) & (values <= ROUNDING_NATS)))
        if bad.size:
            raise TableError(
                f"{name}: {bad.size:,} of {len(ids):,} log-prob sums are no finite number of nats of at most 0 (first: "
                f"{values[bad[0]]} at {ids[bad[0]]!r}); look for a scorer that overflows, then {AGAIN}"
            )


def _check_tokens(path: Path, ids: list[str], logps: list[np.ndarray] | None, tokens: np.ndarray) -> None:
    """Refuses per-token log-probs that are not finite, or not as many as the answer has tokens."""
    for pair_id, row, count in zip(ids, logps or [], tokens, strict=False):
        if len(row) != count or not np.isfinite(row).all():
            raise TableError(f"{path}: pair {pair_id!r} has not {count} finite log-probs, one a token; {AGAIN}")


def _write(folder: Path, columns: dict[str, Any], summary: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), folder / FILE)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1))


class _Columns:
    """The columns of a table file by name; TableError where one is absent or holds something else than it should."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.table = pq.read_table(path)
            self.table.validate(full=True)  # a damaged page can read as text that is no UTF-8
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: a column's own name
            raise TableError(f"{path} cannot be read ({error}); {AGAIN}") from error

    def words(self, name: str) -> list[str]:
        column = self._column(name, pa.types.is_string)
        return [str(each) for each in column.to_pylist()]

    def numbers(self, name: str, kind: type[np.float64] | type[np.int64]) -> np.ndarray:
        wanted = pa.types.is_floating if kind is np.float64 else pa.types.is_signed_integer
        return np.asarray(self._column(name, wanted).to_numpy(), dtype=kind)

    def ragged(self, name: str) -> list[np.ndarray] | None:
        """float32 numbers of each row; None if the table has no such column."""
        if name not in self.table.column_names:
            return None
        column = self._column(name, lambda kind: pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))
        rows = column.combine_chunks()
        ends = np.cumsum(rows.value_lengths().to_numpy(zero_copy_only=False))
        return np.split(rows.flatten().to_numpy(zero_copy_only=False).astype(np.float32), ends[:-1])

    def _column(self, name: str, is_wanted: Callable[[pa.DataType], bool]) -> pa.ChunkedArray:
        if name not in self.table.column_names:
            raise TableError(f"{self.path} lacks the column {name!r}; {AGAIN}")
        column = self.table.column(name)
        if not is_wanted(column.type) or column.null_count:
            raise TableError(f"{self.path}: column {name!r} holds {column.type} with {column.null_count} nulls; {AGAIN}")
        return column
