"""Reference tables that no model pass makes: a constant, columns that somebody has, and tables made of other tables.

Invariant: a composed table is about the same text as the tables it is made of, row by row; whatever is missing is refused.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refstudy.errors import TableError
from refstudy.measures import columns
from refstudy.tables import PairTable, join
from refstudy.texts import Message, Pair
from refstudy.token_pairs import TokenPair

Row = tuple[str, dict[str, Any]]
"""(where the row stands, its values by column)"""


def constant(pairs: Sequence[TokenPair]) -> PairTable:
    """log p = 0 for every answer: any other constant gives the same loss, which sees only the difference of the two."""
    return _table(pairs, np.zeros(len(pairs)), np.zeros(len(pairs)))


def sliced(table: PairTable, pairs: Sequence[TokenPair]) -> PairTable:
    """The rows of `table` for `pairs`, in their order; per-token log-probs stay with them."""
    chosen, rejected = join(table, list(pairs))
    place = {pair_id: index for index, pair_id in enumerate(table.pair_ids)}
    rows = [place[pair.pair_id] for pair in pairs]
    return PairTable(
        pair_ids=[pair.pair_id for pair in pairs],
        chosen_logp_sum=chosen,
        rejected_logp_sum=rejected,
        chosen_tokens=table.chosen_tokens[rows],
        rejected_tokens=table.rejected_tokens[rows],
        bytes_sha256=[table.bytes_sha256[row] for row in rows],
        chosen_logps=None if table.chosen_logps is None else [table.chosen_logps[row] for row in rows],
        rejected_logps=None if table.rejected_logps is None else [table.rejected_logps[row] for row in rows],
    )


def mixture(tables: Sequence[PairTable], weights: Sequence[float], mean: str, pairs: Sequence[TokenPair]) -> PairTable:
    """The weighted mean of references; weights sum to 1.

    geometric: log p = sum of w log p_i, not normalised over answers, a constant of the prompt that the loss does not see;
    arithmetic: log p = log of the sum of w p_i, over whole answers.
    """
    joined = [join(table, list(pairs)) for table in tables]
    sides = [np.stack([each[side] for each in joined]) for side in (0, 1)]
    weight = np.asarray(weights)[:, None]
    if mean == "geometric":
        chosen, rejected = ((weight * side).sum(axis=0) for side in sides)
    else:
        chosen, rejected = (_log_sum_exp(side + np.log(weight)) for side in sides)
    return _table(pairs, chosen, rejected)


def derived(of: PairTable, own: PairTable, keep: columns.Keep, factor: float, seed: int, pairs: Sequence[TokenPair]) -> PairTable:
    """The policy's own table with the part of another reference's difference to it that `keep` names."""
    made = _derive(of, own, keep, factor, seed, pairs)
    return _table(pairs, made.chosen_logp_sum, made.rejected_logp_sum)


def selected(of: PairTable, own: PairTable, pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The pairs whose chosen answer another reference prefers more than the policy's own start does."""
    made = _derive(of, own, "selection_only", 1.0, 0, pairs)
    return [pair for pair, keep in zip(pairs, made.selected, strict=True) if keep]


def length_differences(pairs: Sequence[TokenPair]) -> np.ndarray:
    """(N,) tokens of the chosen answer minus tokens of the rejected one, in the policy's tokens."""
    return np.array([len(pair.chosen_ids) - len(pair.rejected_ids) for pair in pairs], dtype=np.float64)


def from_columns(
    rows: Sequence[Row],
    chosen: str,
    rejected: str,
    pair_id: str | None,
    text_of: Callable[[dict[str, Any]], tuple[list[Message], str, str]],
    originals: Sequence[Pair],
    pairs: Sequence[TokenPair],
) -> PairTable:
    """The two columns of somebody's file, found by pair id or by the text of the pair; TableError names what is missing or wrong.

    `text_of` gives a row's conversation, chosen and rejected, for finding it by text; `originals`: the pairs before they were cut.
    That the numbers are about the bytes that are trained cannot be checked.
    """
    found: dict[Any, tuple[float, float]] = {}
    for where, values in rows:
        key = str(_cell(values, pair_id, where)) if pair_id else text_key(*text_of(values))
        place = f"{where} (pair {key!r})" if pair_id else where
        logps = (_logp(values, chosen, place), _logp(values, rejected, place))
        if found.setdefault(key, logps) != logps:
            raise TableError(f"{place}: a second row for the same pair with other numbers; expected each pair once: remove one")
    keys: dict[str, Any] = {
        pair.pair_id: pair.pair_id if pair_id else text_key(pair.messages, pair.chosen, pair.rejected) for pair in originals
    }
    missing = [pair.pair_id for pair in pairs if keys[pair.pair_id] not in found]
    if missing:
        first = ", ".join(repr(each) for each in missing[:3])
        by = f"column {pair_id!r}" if pair_id else "text"
        raise TableError(f"{len(missing):,} of {len(pairs):,} pairs have no row by {by} (first: {first}); add their log-probs")
    numbers = np.array([found[keys[pair.pair_id]] for pair in pairs])
    return _table(pairs, numbers[:, 0], numbers[:, 1])


def text_key(messages: list[Message], chosen: str, rejected: str) -> tuple[Any, ...]:
    """What makes two pairs the same text."""
    return (*((message["role"], message["content"]) for message in messages), chosen, rejected)


def _derive(
    of: PairTable, own: PairTable, keep: columns.Keep, factor: float, seed: int, pairs: Sequence[TokenPair]
) -> columns.Column:
    ours, theirs = (columns.Scores(*join(table, list(pairs))) for table in (own, of))
    return columns.derive(keep, ours, theirs, length_differences(pairs), factor, np.random.default_rng(seed))


def _cell(values: dict[str, Any], column: str, where: str) -> Any:
    if column not in values:
        raise TableError(f"{where}: no column {column!r}; got {', '.join(values)}: name the right one in the reference's entry")
    return values[column]


def _logp(values: dict[str, Any], column: str, where: str) -> float:
    cell = _cell(values, column, where)
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number > 0:
        do = "change its sign if it is a negative log-likelihood, else score this answer again or leave the pair out of the data"
        raise TableError(f"{where}: {column} is {cell!r}; expected log p of the whole answer, a number of nats of at most 0: {do}")
    return number


def _table(pairs: Sequence[TokenPair], chosen: np.ndarray, rejected: np.ndarray) -> PairTable:
    return PairTable(
        pair_ids=[pair.pair_id for pair in pairs],
        chosen_logp_sum=chosen,
        rejected_logp_sum=rejected,
        chosen_tokens=np.array([len(pair.chosen_ids) for pair in pairs]),
        rejected_tokens=np.array([len(pair.rejected_ids) for pair in pairs]),
        bytes_sha256=[pair.text_sha256 for pair in pairs],
    )


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """log of the sum over axis 0 of exp(values), without overflow."""
    top = values.max(axis=0)
    return np.asarray(top + np.log(np.exp(values - top).sum(axis=0)))
