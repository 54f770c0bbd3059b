"""How far DPO moved each token's log-prob, as frames: histograms, the end token and the most moved tokens of every cell.

Invariant: cells whose shifts were not measured are left out; nothing is measured again, and all cells of a policy and seed are on
the same answers.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import Column, Results, artefact
from refstudy.errors import StoreError
from refstudy.measures.token_shifts import Shifts, TokenShift, shifts
from refstudy.store import Store

KIND, ROWS, SUMMARY = "token_shifts", "token_shifts.parquet", "summary.json"

KEY = (
    Column("panel", "policy and settings", "name"),
    Column("reference", "reference", "name"),
    Column("beta", "beta", "1"),
    Column("seed", "seed", "1"),
)
CELL_COLUMNS = (
    *KEY,
    Column("answers", "summary.json", "chosen answers"),
    Column("tokens", "token_shifts.parquet", "tokens"),
    Column("mean_nats", "after - before", "nats a token"),
    Column("spread_nats", "after - before", "nats a token"),
    Column("end_count", "end_token_id", "end tokens"),
    Column("end_mean_nats", "after - before", "nats an end token"),
)
HISTOGRAM_COLUMNS = (
    *KEY,
    Column("low_nats", "bin", "nats; empty: all below"),
    Column("high_nats", "bin", "nats; empty: all above"),
    Column("tokens", "after - before", "tokens in the bin"),
    Column("share", "after - before", "[0, 1] of the cell's tokens"),
)
MOVED_COLUMNS = (
    *KEY,
    Column("direction", "after - before", "down or up"),
    Column("rank", "after - before", "1: the most moved"),
    Column("token_id", "token_id", "id of the policy's vocabulary"),
    Column("token", "summary.json", "what the token says"),
    Column("count", "token_shifts.parquet", "occurrences"),
    Column("mean_nats", "after - before", "nats"),
)


@dataclass(frozen=True)
class Shifted:
    """The shifts of the present grid's cells; all empty where none were measured."""

    cells: pd.DataFrame
    """CELL_COLUMNS, `degenerate` and `stopped`."""
    histogram: pd.DataFrame
    """HISTOGRAM_COLUMNS."""
    moved: pd.DataFrame
    """MOVED_COLUMNS, of tokens that occur often enough."""


def load(results: Results, store: Store) -> Shifted:
    """The shifts of the done cells of the present grid that have some; an artefact that cannot be read is a fault of `results`."""
    cells: list[dict[str, Any]] = []
    histogram: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    for cell in results.done.to_dict("records"):
        folder = _folder(results.records[cell["cell_id"]], store)
        if folder is None:
            continue
        key = {column.name: cell[column.name] for column in KEY}
        try:
            found, about = _read(folder)
        except (OSError, ValueError, KeyError) as error:
            results.faults.append(f"The token shifts of cell {cell['cell_id']} cannot be read and are left out: {error}")
            continue
        flags = {"degenerate": cell["degenerate"], "stopped": not pd.isna(cell["stopped_step"])}
        cells.append(key | _cell(found, about) | flags)
        histogram += [key | row for row in _histogram(found)]
        moved += [key | row for row in _moved(found, about["tokens"])]
    return Shifted(
        _frame(cells, CELL_COLUMNS, "degenerate", "stopped"), _frame(histogram, HISTOGRAM_COLUMNS), _frame(moved, MOVED_COLUMNS)
    )


def points(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each panel, reference and beta, its seeds averaged; degenerate or stopped if one of them is."""
    of = {"mean_nats": "mean", "spread_nats": "mean", "end_mean_nats": "mean", "degenerate": "any", "stopped": "any"}
    grouped = cells.groupby(["panel", "reference", "beta"], sort=False)
    return grouped.agg(of).assign(seeds=grouped.size()).reset_index().sort_values("beta", kind="stable")


def by_beta(histogram: pd.DataFrame) -> pd.DataFrame:
    """The histograms with the seeds of one panel, reference and beta put together; without the two open bins."""
    inside = histogram.dropna(subset=["low_nats", "high_nats"])
    key = ["panel", "reference", "beta"]
    counted = inside.groupby([*key, "low_nats", "high_nats"], sort=False)["tokens"].sum().reset_index()
    whole = histogram.groupby(key)["tokens"].sum().rename("of").reset_index()
    return counted.merge(whole, on=key).assign(share=lambda frame: frame["tokens"] / frame["of"])


def most_moved(moved: pd.DataFrame, count: int = 5) -> pd.DataFrame:
    """For each panel and reference the `count` most moved tokens each way at its smallest beta, of its first seed."""
    if moved.empty:
        return moved
    chosen = moved[moved["rank"] <= count]
    first = chosen.groupby(["panel", "reference"])["beta"].transform("min")
    chosen = chosen[chosen["beta"] == first]
    return chosen[chosen["seed"] == chosen.groupby(["panel", "reference"])["seed"].transform("min")]


def _folder(record: Mapping[str, Any], store: Store) -> Path | None:
    """The artefact of a cell's shifts; None where none were asked for, or the policy was gone by then."""
    try:
        return artefact(store, KIND, record["recipes"].get(KIND))
    except StoreError:
        return None


def _read(folder: Path) -> tuple[Shifts, dict[str, Any]]:
    rows = pd.read_parquet(folder / ROWS)
    about = json.loads((folder / SUMMARY).read_bytes())
    return shifts(rows["token_id"], rows["before_nats"], rows["after_nats"], about["end_token_id"]), about


def _cell(found: Shifts, about: Mapping[str, Any]) -> dict[str, Any]:
    end = found.end or TokenShift(about["end_token_id"], 0, math.nan)
    return {
        "answers": about["answers"],
        "tokens": int(found.counts.sum()) + found.below + found.above,
        "mean_nats": found.mean_nats,
        "spread_nats": found.spread_nats,
        "end_count": end.count,
        "end_mean_nats": end.mean_nats,
    }


def _histogram(found: Shifts) -> Iterator[dict[str, Any]]:
    edges = [math.nan, *found.edges_nats.tolist(), math.nan]
    counts = [found.below, *found.counts.tolist(), found.above]
    for low, high, tokens in zip(edges, edges[1:], counts, strict=False):
        yield {"low_nats": low, "high_nats": high, "tokens": tokens, "share": tokens / sum(counts)}


def _moved(found: Shifts, texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for direction, tokens in (("down", found.down), ("up", found.up)):
        for rank, each in enumerate(tokens, start=1):
            row = {"direction": direction, "rank": rank, "token_id": each.token_id, "token": texts[str(each.token_id)]}
            yield row | {"count": each.count, "mean_nats": each.mean_nats}


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *more: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*(column.name for column in columns), *more])
