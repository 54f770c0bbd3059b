"""How far the judge of a sweep can be trusted, cell by cell: beside every win rate stands what it rests on.

Invariant: a quantity that a judge's verdicts cannot tell (consistency without two orders, agreement without labels) is NaN.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import frames
from analysis.frames import Column, Results
from refstudy import records
from refstudy.errors import DataError, StoreError
from refstudy.measures import judge_quality
from refstudy.store import Store

JUDGE_COLUMNS = (
    Column("cell_id", "cell_id", "id; empty: all cells of the panel"),
    Column("panel", "policy and settings", "name"),
    Column("reference", "reference", "name"),
    Column("beta", "beta", "1"),
    Column("seed", "seed", "1"),
    Column("judge", "recipe.judge", "kind and name"),
    Column("verdicts", "verdicts.jsonl", "prompts asked"),
    Column("win_rate", "verdicts.jsonl", "[0, 1]"),
    Column("no_verdict", "verdicts.jsonl", "[0, 1]; share without a verdict"),
    Column("tie_share", "verdicts.jsonl", "[0, 1]; of the verdicts given, exactly 0.5"),
    Column("consistency", "verdicts.jsonl", "[0, 1]; same answer preferred in both orders, of those read twice"),
    Column("consistency_low", "verdicts.jsonl", "[0, 1]"),
    Column("consistency_high", "verdicts.jsonl", "[0, 1]"),
    Column("first_preferred", "verdicts.jsonl", "[0, 1]; mean P(the answer shown first wins), of those read twice"),
    Column("longer_win_rate", "verdicts.jsonl, completions.jsonl", "[0, 1]; where the answer is longer, in characters"),
    Column("shorter_win_rate", "verdicts.jsonl, completions.jsonl", "[0, 1]; where it is shorter"),
    Column("length_bias", "verdicts.jsonl, completions.jsonl", "difference of the two"),
    Column("agreement", "verdicts.jsonl", "[0, 1]; with objective labels, ties half"),
    Column("agreement_low", "verdicts.jsonl", "[0, 1]"),
    Column("agreement_high", "verdicts.jsonl", "[0, 1]"),
    Column("labels", "verdicts.jsonl", "prompts with an objective label"),
    Column("tokens", "summary.json", "tokens read and written for these verdicts; empty: the judge counts none"),
    Column("cost", "summary.json", "price of those asked for in this cell's trial, in the sweep's currency"),
)


READ = ("prompt_id", "p", "read", "p_first", "p_second", "label")
"""What is read of a verdict; details of a million of them would take gigabytes."""


@dataclass(frozen=True)
class Judged:
    """Verdicts of one cell, with the lengths and clusters of what was judged."""

    rows: list[dict[str, Any]]
    characters: list[int]
    baseline_characters: list[int]
    clusters: list[str]
    tokens: float = math.nan
    cost: float = math.nan


def frame(results: Results, store: Store) -> pd.DataFrame:
    """JUDGE_COLUMNS: a row for each cell that is done, and before them one for all of a panel that has several."""
    rows: list[dict[str, Any]] = []
    for panel, cells in results.done.groupby("panel", sort=False):
        found = {cell_id: judged for cell_id in cells["cell_id"] if (judged := _judged(results, cell_id, store))}
        names = list(dict.fromkeys(name(results.records[cell_id]) for cell_id in found))
        if len(found) > 1 and len(names) == 1:
            rows.append({"panel": panel, "reference": "all", "judge": names[0], **quality(_together(list(found.values())))})
        for cell in cells[cells["cell_id"].isin(list(found))].to_dict("records"):
            about = {key: cell[key] for key in ("cell_id", "panel", "reference", "beta", "seed")}
            rows.append({**about, "judge": name(results.records[cell["cell_id"]]), **quality(found[cell["cell_id"]])})
    return pd.DataFrame(rows, columns=[column.name for column in JUDGE_COLUMNS])


def quality(judged: Judged) -> dict[str, float]:
    """What JUDGE_COLUMNS say of verdicts."""
    p = [row["p"] for row in judged.rows]
    given = [value for value in p if value is not None]
    bias = judge_quality.length_bias(p, judged.characters, judged.baseline_characters, judged.clusters)
    return {
        "verdicts": len(p),
        "win_rate": sum(given) / len(given) if given else math.nan,
        "no_verdict": judge_quality.parse_failure_share(p),
        "tie_share": judge_quality.tie_share(p),
        "longer_win_rate": bias.longer.value,
        "shorter_win_rate": bias.shorter.value,
        "length_bias": bias.difference,
        "tokens": judged.tokens,
        "cost": judged.cost or math.nan,
        **_orders(judged),
        **_agreement(judged),
    }


def name(record: Mapping[str, Any]) -> str:
    """The judge in words: its kind, and what it is called where it has a name."""
    judge = (record.get("recipe") or {}).get("judge") or {}
    kind = str(judge.get("kind", "")).removesuffix("_judge").replace("_", " ")
    called = judge.get("model") if isinstance(judge.get("model"), str) else judge.get("name")
    return " ".join(str(part) for part in (kind, called) if part)


def _orders(judged: Judged) -> dict[str, float]:
    """Of judges that were asked in both orders: whether they agree, and how they lean to the answer shown first."""
    asked = [(row, cluster) for row, cluster in zip(judged.rows, judged.clusters, strict=True) if row.get("read")]
    first, second = ([row[side] for row, _ in asked] for side in ("p_first", "p_second"))
    of = judge_quality.position_consistency(first, second, [cluster for _, cluster in asked])
    leaning = [(one + 1 - two) / 2 for one, two in zip(first, second, strict=True) if one is not None and two is not None]
    return {
        "consistency": of.estimate.value,
        "consistency_low": of.estimate.low,
        "consistency_high": of.estimate.high,
        "first_preferred": sum(leaning) / len(leaning) if leaning else math.nan,
    }


def _agreement(judged: Judged) -> dict[str, float]:
    known = [(row, cluster) for row, cluster in zip(judged.rows, judged.clusters, strict=True) if row.get("label") in (0, 1)]
    p, better = [row["p"] for row, _ in known], [row["label"] == 1 for row, _ in known]
    of = judge_quality.agreement(p, better, [cluster for _, cluster in known])
    return {
        "agreement": of.estimate.value,
        "agreement_low": of.estimate.low,
        "agreement_high": of.estimate.high,
        "labels": len(known),
    }


def _judged(results: Results, cell_id: str, store: Store) -> Judged | None:
    """None where an artefact cannot be read, which the checks say."""
    record, known = results.records[cell_id], results.rows_of((cell_id,)).set_index("prompt_id")
    try:
        rows = [{name: row[name] for name in READ if name in row} for row in frames.verdicts_of(store, record)]
        found = known.loc[[row["prompt_id"] for row in rows]]
        ours, theirs = found["length_characters"], found["baseline_length_characters"].astype(int)
        return Judged(rows, ours.tolist(), theirs.tolist(), found["cluster"].tolist(), *_spent(store, record))
    except (StoreError, DataError, OSError, KeyError, TypeError, ValueError):
        return None


def _spent(store: Store, record: records.Record) -> tuple[float, float]:
    """(tokens, cost) as the verdicts' summary has them; NaN where it says nothing of them."""
    file = frames.artefact(store, "verdicts", record["recipes"].get("verdicts")) / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "prompt_tokens" not in summary:
        return math.nan, math.nan
    names = [f"{name}{kept}" for name in ("prompt_tokens", "completion_tokens") for kept in ("", "_kept")]
    return float(sum(summary[name] for name in names)), float(summary["cost"])


def _together(cells: Sequence[Judged]) -> Judged:
    return Judged(
        [row for cell in cells for row in cell.rows],
        [count for cell in cells for count in cell.characters],
        [count for cell in cells for count in cell.baseline_characters],
        [cluster for cell in cells for cluster in cell.clusters],
        sum(cell.tokens for cell in cells),
        sum(cell.cost for cell in cells),
    )
