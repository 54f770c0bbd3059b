"""What the cells say together: points over seeds, best betas, differences paired by prompt.

Invariant: operations take frames and return new ones; every interval averages within a prompt first and clusters, and covers
the choice of training runs too wherever there are RUNS of them or more.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.frames import Results
from refstudy.measures import intervals
from refstudy.measures.intervals import Estimate

SELF = "policy"
"""The kind of the reference that is the policy's own start."""

RUNS = 3
"""Training runs (seeds) from which on their spread is estimated; below, an interval covers the choice of prompts only."""

POINT = ["panel", "policy", "reference", "beta"]
EDGE_TEXT = {"largest": " or more", "smallest": " or less", "only": " (the only one)", "": ""}
NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
CARRIED = ["truncation_rate", "seq_rep_4", "kl_start_nats", "gold_reward", "precision", "statements"]
OWN_INTERVAL = ["own_win_rate_se", "own_win_rate_low", "own_win_rate_high"]
OWN = ["own_win_rate", *OWN_INTERVAL, "own_win_rate_least", "own_win_rate_most", "own_seeds", "own_length_tokens_mean"]
BEST = [
    *("panel", "reference", "beta", "beta_text", "edge", "win_rate", "win_rate_low", "win_rate_high", "length_tokens"),
    *("not_separable", "near_edges", "self", "self_beta", "gain", "gain_low", "gain_high", "gain_runs", "cells"),
]


def points(results: Results) -> pd.DataFrame:
    """A row for each panel, reference and beta: win rate and length with 95 % intervals, means over seeds of the rest; in the
    sweep's order of panels and references, by beta.

    With one seed the interval is the record's own. `interval_runs` is the number of runs behind it: with RUNS or more it covers the
    choice of prompts and of runs, with fewer the choice of prompts for these very runs.
    """
    rows = []
    for key, cells in results.done.groupby(POINT, sort=False):
        win, length = _over_seeds(results, cells, "p"), _over_seeds(results, cells, "length_tokens")
        rows.append(
            {
                **dict(zip(POINT, key, strict=True)),
                "self": cells["reference_kind"].iloc[0] == SELF,
                "seeds": len(cells),
                "interval_runs": 1 if len(cells) == 1 else _rows(results, cells["cell_id"], "p")["seed"].nunique(),
                "win_rate": win.value,
                "win_rate_low": win.low,
                "win_rate_high": win.high,
                "length_tokens": length.value,
                "length_low": length.low,
                "length_high": length.high,
                **{name: cells[name].mean() for name in CARRIED},
                "degenerate": bool(cells["degenerate"].any()),
                "reason": "; ".join(dict.fromkeys(cells.loc[cells["degenerate"], "reason"].dropna())),
                "stopped": bool(cells["stopped_step"].notna().any()),
                "cells": tuple(cells["cell_id"]),
            }
        )
    intervals_of = [f"{name}{end}" for name in ("win_rate", "length") for end in ("_low", "_high")]
    columns = [*POINT, "self", "seeds", "interval_runs", "win_rate", "length_tokens", *intervals_of]
    frame = pd.DataFrame(rows, columns=[*columns, *CARRIED, "degenerate", "reason", "stopped", "cells"])
    seen = dict.fromkeys(zip(frame["panel"], frame["reference"], strict=True))
    order = {key: number for number, key in enumerate(seen)}
    frame["order"] = [order[key] for key in zip(frame["panel"], frame["reference"], strict=True)]
    return frame.sort_values(["order", "beta"], kind="stable").drop(columns="order").reset_index(drop=True)


def best(results: Results, found: pd.DataFrame) -> pd.DataFrame:
    """A row for each panel and reference: the beta with the highest win rate, and how its win rate differs from self's best.

    The best of several noisy points is biased upwards; of equal ones it is the smallest beta. `edge` is "largest" or "smallest"
    where the best beta ends the grid: the optimum may then lie outside. `not_separable` lists the betas that cannot be told from
    the best (the interval of the paired difference has 0 in it, or there is none), `near_edges` those ends of the grid among them.
    """
    rows = []
    for _, group in found.dropna(subset=["win_rate"]).groupby(["panel", "reference"], sort=False):
        betas = group.to_dict("records")
        top = max(betas, key=lambda point: point["win_rate"])
        own = _best_of_self(found, top["panel"])
        gain, runs = (NOTHING, 0) if own is None or top["self"] else paired(results, top["cells"], own["cells"])
        edge = _edge(top["beta"], [point["beta"] for point in betas])
        alike = _not_separable(results, top, betas)
        rows.append(
            {
                **{name: top[name] for name in BEST if name in top},
                "edge": edge,
                "beta_text": f"{top['beta']:g}{EDGE_TEXT[edge]}",
                "not_separable": alike,
                "near_edges": _near_edges(top["beta"], alike, [point["beta"] for point in betas]),
                "self_beta": math.nan if own is None else own["beta"],
                "gain": gain.value,
                "gain_low": gain.low,
                "gain_high": gain.high,
                "gain_runs": runs,
            }
        )
    return pd.DataFrame(rows, columns=BEST)


def differences(results: Results, found: pd.DataFrame) -> pd.DataFrame:
    """A row for each point of a reference other than self: its win rate minus self's at the same beta, as `paired`."""
    rows = []
    for _, point in found[~found["self"].astype(bool)].iterrows():
        at = found[found["self"].astype(bool) & (found["panel"] == point["panel"]) & (found["beta"] == point["beta"])]
        if len(at):
            of, runs = paired(results, point["cells"], at.iloc[0]["cells"])
            row = {name: point[name] for name in POINT} | {"difference": of.value, "low": of.low, "high": of.high}
            rows.append(row | {"prompts": of.n, "clusters": of.clusters, "interval_runs": runs})
    return pd.DataFrame(rows, columns=[*POINT, "difference", "low", "high", "prompts", "clusters", "interval_runs"])


def own_scores(results: Results, found: pd.DataFrame) -> pd.DataFrame:
    """A row for each panel and reference whose own answers were judged: their win rate, with one seed and its interval, with
    several as mean, least and most over seeds (whose intervals do not average to one).

    A score made under one setting stands for all panels of its policy when that policy has no other: the setting, a learning rate
    say, then does not change the reference.
    """
    rows = []
    for (panel, policy, reference, own), _ in found.groupby(["panel", "policy", "reference", "self"], sort=False):
        scores = results.references[(results.references["policy"] == policy) & (results.references["reference"] == reference)]
        here = scores[scores["panel"] == panel] if scores["panel"].nunique() > 1 else scores
        if here["own_win_rate"].notna().any():
            rows.append({"panel": panel, "reference": reference, "self": own, **_own_score(here)})
    return pd.DataFrame(rows, columns=["panel", "reference", "self", *OWN])


def paired(results: Results, cells: Iterable[str], others: Iterable[str]) -> tuple[Estimate, int]:
    """(mean win rate of `cells` minus that of `others`, runs it rests on), over the prompts and seeds that both have, clustered.

    NaN and 0 without any. With RUNS or more the interval covers prompts and runs, as intervals.two_way; with fewer prompts only.
    """
    left, right = _rows(results, cells, "p"), _rows(results, others, "p")
    both = left.merge(right[["prompt_id", "seed", "p"]], on=["prompt_id", "seed"], suffixes=("", "_other"))
    return _mean(both.assign(gap=both["p"] - both["p_other"]), "gap"), both["seed"].nunique()


def _over_seeds(results: Results, cells: pd.DataFrame, column: str) -> Estimate:
    names = ("win_rate", "win_rate_low", "win_rate_high") if column == "p" else ("length_tokens", "length_low", "length_high")
    if len(cells) == 1:
        value, low, high = (float(cells[name].iloc[0]) for name in names)
        return Estimate(value, math.nan, low, high, 0, 0)
    rows = _rows(results, cells["cell_id"], column)
    of, most = _mean(rows, column), 1.0 if column == "p" else math.inf
    low, high = of.low, of.high
    if column == "p":
        share = intervals.share(*_within_prompts(rows, column))
        low, high = min(low, share.low), max(high, share.high)
    return replace(of, value=float(cells[names[0]].mean()), low=float(np.clip(low, 0, most)), high=float(np.clip(high, 0, most)))


def _rows(results: Results, cells: Iterable[str], column: str) -> pd.DataFrame:
    """The prompt rows of `cells` that have `column`, with the cell's seed."""
    rows = results.rows_of(cells).dropna(subset=[column])
    return rows.assign(seed=rows["cell_id"].map(results.cells.set_index("cell_id")["seed"]))


def _mean(rows: pd.DataFrame, column: str) -> Estimate:
    if rows["seed"].nunique() < RUNS:
        return intervals.mean(*_within_prompts(rows, column))
    return intervals.two_way(rows[column], rows["prompt_id"].tolist(), rows["cluster"].tolist(), rows["seed"].tolist())


def _within_prompts(rows: pd.DataFrame, column: str) -> tuple[Any, list[Any]]:
    """(mean of each prompt over its rows, its cluster)."""
    _, means, clusters = intervals.average_within(rows[column], rows["prompt_id"].tolist(), rows["cluster"].tolist())
    return means, clusters


def _own_score(scores: pd.DataFrame) -> dict[str, float]:
    rates = scores["own_win_rate"].dropna()
    row = dict.fromkeys(OWN, math.nan) | {"own_win_rate": rates.mean(), "own_seeds": len(rates)}
    row |= {"own_length_tokens_mean": scores["own_length_tokens_mean"].mean()}
    if len(rates) == 1:
        return row | {name: scores.loc[rates.index[0], name] for name in OWN_INTERVAL}
    return row | {"own_win_rate_least": rates.min(), "own_win_rate_most": rates.max()}


def _best_of_self(found: pd.DataFrame, panel: str) -> dict[Hashable, Any] | None:
    own = found[found["self"].astype(bool) & (found["panel"] == panel)].dropna(subset=["win_rate"])
    return max(own.to_dict("records"), key=lambda point: point["win_rate"], default=None)


def _edge(beta: float, betas: Sequence[float]) -> str:
    """Where the best beta lies in its grid."""
    if len(set(betas)) == 1:
        return "only"
    if beta == max(betas):
        return "largest"
    return "smallest" if beta == min(betas) else ""


def _not_separable(results: Results, top: dict[Hashable, Any], betas: list[dict[Hashable, Any]]) -> tuple[float, ...]:
    """The betas that the data cannot tell from the best: the paired difference has no interval, or one with 0 in it."""
    differences = {point["beta"]: paired(results, top["cells"], point["cells"])[0] for point in betas}
    return tuple(sorted(beta for beta, of in differences.items() if beta == top["beta"] or not (of.low > 0 or of.high < 0)))


def _near_edges(beta: float, alike: Sequence[float], betas: Sequence[float]) -> tuple[str, ...]:
    """The ends of the grid that are not separable from the best beta, itself apart."""
    ends = {"smallest": min(betas), "largest": max(betas)}
    return tuple(name for name, end in ends.items() if end in alike and end != beta)
