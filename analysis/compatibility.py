"""How each reference fits its policy, as frames with declared columns: the measures of compatibility.json, and what came of them.

Invariant: the measures are of the tables alone, made before any training; outcomes of the sweep stand beside them, never in them.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import frames
from analysis.frames import Column, Results
from refstudy.measures.compatibility import DEGENERATE_NATS_PER_TOKEN, PRIMARY_DEGENERATION, PRIMARY_GAIN

FILE = "compatibility.json"

COLUMNS = (
    Column("panel", "panel", "policy, and the settings that differ"),
    Column("reference", "reference", "name"),
    Column("seed", "seed", "1"),
    Column("pairs", "measures.pairs", "pairs"),
    Column(PRIMARY_GAIN, f"measures.{PRIMARY_GAIN}", "1; declared primary for gain"),
    Column(PRIMARY_DEGENERATION, f"measures.{PRIMARY_DEGENERATION}", "nats a token; declared primary for degeneration"),
    Column("intercept_nats", "measures.intercept_nats", "nats a pair; D at equal lengths"),
    Column("intercept_se_nats", "measures.intercept_se_nats", "nats a pair; cluster-robust"),
    Column("slope_nats_per_token", "measures.slope_nats_per_token", "nats a token of the policy; negative: wants shorter answers"),
    Column("slope_se_nats_per_token", "measures.slope_se_nats_per_token", "nats a token; cluster-robust"),
    Column("residual_spread_nats", "measures.residual_spread_nats", "nats a pair"),
    Column("explained_share", "measures.explained_share", "[0, 1]; share of D's variance that the length difference explains"),
    Column("difference_mean_nats", "measures.difference_mean_nats", "nats a pair; of D"),
    Column("difference_spread_nats", "measures.difference_spread_nats", "nats a pair; of D"),
    Column("raised_share", "measures.raised_share", "[0, 1]; pairs with D > 0"),
    Column("pair_accuracy", "measures.pair_accuracy", "[0, 1]"),
    Column("pessimistic_share", "measures.pessimistic_share", "[0, 1]; pairs in which the reference prefers the rejected answer"),
    Column("mean_margin_nats", "measures.mean_margin_nats", "nats a pair; of the reference"),
    Column("policy_mean_margin_nats", "measures.policy_mean_margin_nats", "nats a pair; of self"),
    Column("contaminated", "measures.contaminated", "0 or 1; looks as if trained on these pairs"),
    Column("bits_per_byte", "measures.bits_per_byte", "bits a byte of answer"),
    Column("policy_bits_per_byte", "measures.policy_bits_per_byte", "bits a byte of answer; of self"),
    Column("likelihood_kl_nats", "measures.likelihood_kl_nats", "nats an answer; distance of log-likelihood vectors"),
    Column("margin_correlation", "measures.margin_correlation", "[-1, 1]; a baseline that ranks references wrongly"),
    Column("share_end_token", "measures.share_end_token", "1; part of D on the end token"),
    Column("share_first_tokens", "measures.share_first_tokens", "1; part of D on the first five tokens"),
    Column("share_rest", "measures.share_rest", "1; part of D on all other tokens"),
    Column("words", "words", "what the measures suggest, a hypothesis"),
    Column("not_measured", "not_measured", "why there are no measures"),
)
SATURATION_COLUMNS = (
    Column("panel", "panel", "policy, and the settings that differ"),
    Column("reference", "reference", "name"),
    Column("seed", "seed", "1"),
    Column("beta", "betas", "1"),
    Column("saturation", "measures.saturation_beta_BETA", "1; beta times the spread of D"),
)
BY_LENGTH_COLUMNS = (
    Column("panel", "panel", "policy, and the settings that differ"),
    Column("reference", "reference", "name"),
    Column("seed", "seed", "1"),
    Column("length_difference_tokens", "by_length", "tokens of the policy, chosen - rejected; mean of the bin"),
    Column("pairs", "by_length", "pairs in the bin"),
    Column("mean_nats", "by_length", "nats a pair; mean of D in the bin"),
    Column("spread_nats", "by_length", "nats a pair; standard deviation of D in the bin"),
)
WORDS = ("panel", "reference", "words", "not_measured")
OUTCOMES = ("gain", "gain_low", "gain_high", "degenerate_betas")
"""Of the sweep's cells: best win rate minus self's best with its interval, and the betas at which a cell degenerated."""


@dataclass(frozen=True)
class Fits:
    """What the tables say of the references of the present grid; all empty where nothing was written."""

    references: pd.DataFrame
    """COLUMNS, and after `with_outcomes` OUTCOMES: a row for each reference of each panel and seed."""
    saturation: pd.DataFrame
    """SATURATION_COLUMNS, a row for each beta of the grid."""
    by_length: pd.DataFrame
    """BY_LENGTH_COLUMNS."""


def load(results: Results) -> Fits:
    """The measures in the results' folder, of references that the present grid has; a file that is torn is a fault of `results`."""
    rows = frames.optional_json(results.folder / FILE, results.faults).get("references", [])
    current = {_key(row) for row in results.cells[results.cells["current"]].to_dict("records")}
    rows = [row for row in rows if isinstance(row, dict) and _key(row) in current]
    known = pd.DataFrame([{"policy": row["policy"], "settings": row["settings"]} for row in rows], columns=["policy", "settings"])
    panels = frames.panels(known, frames.varied(results.cells))
    labelled = [{**row, "panel": panel} for row, panel in zip(rows, panels, strict=True)]
    return Fits(
        references=_frame(({column.name: frames.at(row, column.source) for column in COLUMNS} for row in labelled), COLUMNS),
        saturation=_frame((each for row in labelled for each in _saturation(row)), SATURATION_COLUMNS),
        by_length=_frame((_label(row) | each for row in labelled for each in row["by_length"]), BY_LENGTH_COLUMNS),
    )


def with_outcomes(references: pd.DataFrame, points: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The references with OUTCOMES of the sweep beside each, of all its seeds together; missing where no cell is done."""
    key = ["panel", "reference"]
    spoilt = points[points["degenerate"].astype(bool)].groupby(key)["beta"].agg(tuple)
    done = (
        points[key].drop_duplicates().assign(degenerate_betas=lambda frame: [spoilt.get(tuple(each), ()) for each in frame.values])
    )
    gains = best[~best["self"].astype(bool)][[*key, "gain", "gain_low", "gain_high"]]
    return references.merge(gains, on=key, how="left").merge(done, on=key, how="left")


def borne_out(references: pd.DataFrame) -> list[str]:
    """How far the two primary measures agree with what came of them in this very sweep, in sentences; none without outcomes.

    A reference counts once for each panel, with the mean of its seeds' measures: its outcomes are of all seeds together.
    """
    measured = references.dropna(subset=[PRIMARY_DEGENERATION]).query("difference_spread_nats > 0")
    done = measured[measured["degenerate_betas"].map(lambda betas: isinstance(betas, tuple))]
    if done.empty:
        return []
    measures = dict.fromkeys((PRIMARY_DEGENERATION, PRIMARY_GAIN), "mean")
    outcomes = dict.fromkeys(("degenerate_betas", "gain_low", "gain_high"), "first")
    done = done.groupby(["panel", "reference"], sort=False).agg(measures | outcomes)
    steep = done[PRIMARY_DEGENERATION] >= DEGENERATE_NATS_PER_TOKEN
    by_slope = {"at or above it": steep, "below it": ~steep}
    told = [
        f"References with a degenerate cell, by the bound of {DEGENERATE_NATS_PER_TOKEN:g} nats a token: "
        f"{_counts(done['degenerate_betas'].map(len) > 0, by_slope)}.",
        f"References whose best lies below self's best, the interval too: {_counts(done['gain_high'] < 0, by_slope)}.",
    ]
    gentle = done[~steep].dropna(subset=[PRIMARY_GAIN])
    if len(gentle):
        signal = gentle[PRIMARY_GAIN] > 0
        by_sign = {"with an intercept above 0": signal, "with one at or below 0": ~signal}
        told.append(
            f"References below the bound whose best lies above self's best, the interval too: "
            f"{_counts(gentle['gain_low'] > 0, by_sign)}."
        )
    return told


def _counts(came: "pd.Series[bool]", sides: Mapping[str, "pd.Series[bool]"]) -> str:
    """Of how many references on each side something came, in words; a side without any is left out."""
    return " and ".join(f"{int(came[side].sum())} of {int(side.sum())} {words}" for words, side in sides.items() if side.any())


def _saturation(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """beta times the spread of D, for each beta of the grid that it was measured at."""
    found = {beta: row["measures"].get(f"saturation_beta_{beta:g}") for beta in row["betas"]}
    return [{**_label(row), "beta": beta, "saturation": value} for beta, value in found.items() if value is not None]


def _label(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("panel", "reference", "seed")}


def _key(row: Mapping[Hashable, Any]) -> str:
    """What a row is about, the same for a cell and for a reference."""
    return json.dumps([row.get(name) for name in ("reference", "policy", "seed", "settings")], sort_keys=True)


def _frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """Declared columns in their order; all but names and words are numbers."""
    names = [column.name for column in columns]
    frame = pd.DataFrame(list(rows), columns=names)
    numbers = [name for name in names if name not in WORDS]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame
