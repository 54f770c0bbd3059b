"""How far the judge of a sweep can be trusted, cell by cell: beside every win rate stands what it rests on.

Invariant: a quantity that a judge's verdicts cannot tell (consistency without two orders, agreement without labels) is NaN.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import frames
from analysis.frames import Column, Results
from refstudy import records
from refstudy.errors import StoreError
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


def frame(results: Results, store: Store) -> pd.DataFrame:
    """JUDGE_COLUMNS: a row for each cell whose verdicts can be read, and before them one for all of a panel that has several."""
    rows: list[dict[str, Any]] = []
    for panel, cells in results.done.groupby("panel", sort=False):
        found = {cell_id: each for cell_id in cells["cell_id"] if len(each := results.rows_of((cell_id,)))}
        spent = {cell_id: _spent(store, results.records[cell_id]) for cell_id in found}
        names = list(dict.fromkeys(name(results.records[cell_id]) for cell_id in found))
        if len(found) > 1 and len(names) == 1:
            of_all = {key: sum(each[key] for each in spent.values()) for key in ("tokens", "cost")}
            rows.append({"panel": panel, "reference": "all", "judge": names[0], **quality(pd.concat(found.values())), **of_all})
        for cell in cells[cells["cell_id"].isin(list(found))].to_dict("records"):
            about = {key: cell[key] for key in ("cell_id", "panel", "reference", "beta", "seed")}
            of = quality(found[cell["cell_id"]]) | spent[cell["cell_id"]]
            rows.append({**about, "judge": name(results.records[cell["cell_id"]]), **of})
    return pd.DataFrame(rows, columns=[column.name for column in JUDGE_COLUMNS]).replace({"cost": {0.0: math.nan}})


def quality(prompts: pd.DataFrame) -> dict[str, float]:
    """What JUDGE_COLUMNS say of verdicts, given as rows of frames.PROMPT_COLUMNS."""
    p, clusters = prompts["p"].to_numpy(), prompts["cluster"].tolist()
    lengths, other_lengths = prompts["length_characters"].to_numpy(), prompts["baseline_length_characters"].to_numpy()
    bias = judge_quality.length_bias(p, lengths, other_lengths, clusters)
    return {
        "verdicts": len(p),
        "win_rate": float(prompts["p"].mean()),
        "no_verdict": judge_quality.parse_failure_share(p),
        "tie_share": judge_quality.tie_share(p),
        "longer_win_rate": bias.longer.value,
        "shorter_win_rate": bias.shorter.value,
        "length_bias": bias.difference,
        **_orders(prompts[prompts["twice"]]),
        **_agreement(prompts[prompts["label"].isin((0, 1))]),
    }


def name(record: Mapping[str, Any]) -> str:
    """The judge in words: its kind, and what it is called where it has a name."""
    judge = (record.get("recipe") or {}).get("judge") or {}
    kind = str(judge.get("kind", "")).removesuffix("_judge").replace("_", " ")
    called = judge.get("model") if isinstance(judge.get("model"), str) else judge.get("name")
    return " ".join(str(part) for part in (kind, called) if part)


def _orders(asked: pd.DataFrame) -> dict[str, float]:
    """Of judges that were asked in both orders: whether they agree, and how they lean to the answer shown first."""
    first, second = asked["p_first"], asked["p_second"]
    of = judge_quality.position_consistency(first.to_numpy(), second.to_numpy(), asked["cluster"].tolist())
    return {
        "consistency": of.estimate.value,
        "consistency_low": of.estimate.low,
        "consistency_high": of.estimate.high,
        "first_preferred": float(((first + 1 - second) / 2).mean()),
    }


def _agreement(known: pd.DataFrame) -> dict[str, float]:
    of = judge_quality.agreement(known["p"].to_numpy(), (known["label"] == 1).to_numpy(), known["cluster"].tolist())
    return {
        "agreement": of.estimate.value,
        "agreement_low": of.estimate.low,
        "agreement_high": of.estimate.high,
        "labels": len(known),
    }


def _spent(store: Store, record: records.Record) -> dict[str, float]:
    """Tokens and cost as the verdicts' summary has them; NaN where it says nothing of them."""
    try:
        summary = frames.read_json(frames.artefact(store, "verdicts", record["recipes"].get("verdicts")) / "summary.json")
        names = [f"{name}{kept}" for name in ("prompt_tokens", "completion_tokens") for kept in ("", "_kept")]
        return {"tokens": float(sum(summary[name] for name in names)), "cost": float(summary["cost"])}
    except (StoreError, OSError, KeyError, TypeError, ValueError):
        return {"tokens": math.nan, "cost": math.nan}
