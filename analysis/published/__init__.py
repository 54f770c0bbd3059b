"""The tables of the paper that refstudy re-examines, as facts with their source, and as grids that the findings judge.

"Understanding Reference Policies in Direct Preference Optimization", Liu, Liu and Cohan, arXiv 2407.13709 v2 (Findings of NAACL
2025): tables 1, 2, 3, 4, 6 and 7. Lengths along Zephyr's DPO are from arXiv 2404.16792. The CSV files hold numbers as printed
there, in percent; grids and points have them in [0, 1].

Invariant: each cell is one run, whose error, over prompts and runs together, is stated once: ERROR. The paper gives no interval.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.evidence import Floats, not_separable
from analysis.grids import SELF, Grid, Reference

SOURCE = "arXiv 2407.13709 v2"
SOURCES = {
    "lc_win_rate": f"{SOURCE}, tables 1, 4, 6 and 7",
    "reference_models": f"{SOURCE}, section 5 and appendix E",
    "ranking_accuracy": f"{SOURCE}, table 2",
    "reward_parameterizations": f"{SOURCE}, table 3",
    "policies": f"{SOURCE}, section 3 and appendix",
    "length_along_dpo": "arXiv 2404.16792",
}
ERROR = 0.01
"""Stated standard error of each win rate, prompts and runs together: one point. With 805 prompts AlpacaEval 2 reports 0.7 to 1.5
points over prompts alone for models of these win rates; the spread between runs is unknown."""

SELF_NAME = "self"
UNTRAINED = math.inf
"""The beta under which the tables list the policy before DPO."""


def table(name: str) -> pd.DataFrame:
    """One of the tables in SOURCES as printed, with its `source`."""
    return pd.read_csv(Path(__file__).parent / f"{name}.csv").assign(source=SOURCES[name])


def grids() -> list[Grid]:
    """A grid for each policy of the paper: one run a cell, ERROR in place of replicates; no length by beta, for it has none."""
    cells, scores, accuracies = table("lc_win_rate"), table("reference_models"), table("ranking_accuracy")
    rows = table("policies").to_dict("records")
    return [_grid(str(row["policy"]), str(row["family"]), cells, scores, accuracies) for row in rows]


def points() -> pd.DataFrame:
    """The paper's cells in the form of estimates.points, with its stated error as interval, to be drawn beside a sweep."""
    cells = table("lc_win_rate")
    cells = cells[cells["status"] != "untrained"].sort_values(["policy", "reference", "beta"])
    rate = cells["lc_win_rate"] / 100
    return pd.DataFrame(
        {
            "panel": cells["policy"],
            "policy": cells["policy"],
            "reference": cells["reference"],
            "beta": cells["beta"],
            "self": cells["reference"] == SELF_NAME,
            "win_rate": rate,
            "win_rate_low": rate - 1.96 * ERROR,
            "win_rate_high": rate + 1.96 * ERROR,
            "degenerate": cells["status"] == "degenerate",
        }
    ).reset_index(drop=True)


def within_noise() -> pd.DataFrame:
    """A row for each policy and reference: its best beta, `alike` those that ERROR cannot tell from it, and the gain over self.

    Win rates in [0, 1]. `gain` is best minus self's best; `gain_is_noise` says whether it is within 1.96 errors of a difference.
    """
    rows = []
    for grid in grids():
        tops = {each.name: float(np.nanmax(each.win_rate)) for each in grid.references}
        for each in grid.references:
            gain = tops[each.name] - tops[SELF_NAME]
            rows.append(
                {
                    "policy": grid.policy,
                    "reference": each.name,
                    "best_beta": each.betas[int(np.nanargmax(each.win_rate[0]))],
                    "best": tops[each.name],
                    "alike": tuple(np.array(each.betas)[not_separable(each.win_rate[0], ERROR)].tolist()),
                    "degenerate": tuple(beta for beta, rate in zip(each.betas, each.win_rate[0], strict=True) if math.isnan(rate)),
                    "gain": gain,
                    "gain_is_noise": abs(gain) <= 1.96 * math.sqrt(2) * ERROR,
                }
            )
    return pd.DataFrame(rows)


def noise_in_words() -> list[str]:
    """What the paper's numbers can and cannot tell apart, a line for each policy and reference, after one that says by what."""
    lines = [f"What a total error of {ERROR:g} a cell (prompts and runs together) tells apart in {SOURCE}:"]
    for row in within_noise().to_dict("records"):
        others = ", ".join(f"{beta:g}" for beta in row["alike"] if beta != row["best_beta"]) or "none"
        gain = f"; gain over self {row['gain']:+.3f}, {'within' if row['gain_is_noise'] else 'beyond'} noise"
        lost = f"; degenerated: {', '.join(f'{beta:g}' for beta in row['degenerate'])}" if row["degenerate"] else ""
        best = f"  {row['policy']}, {row['reference']}: best {row['best']:.3f} at beta {row['best_beta']:g}"
        lines.append(f"{best}; not told from it: {others}{'' if row['reference'] == SELF_NAME else gain}{lost}")
    return lines


def _grid(policy: str, family: str, cells: pd.DataFrame, scores: pd.DataFrame, accuracies: pd.DataFrame) -> Grid:
    own = cells[cells["policy"] == policy]
    accuracy = accuracies[accuracies["policy"] == policy].set_index("beta")["policy_accuracy"]
    references = [
        _reference(str(name), group, family, scores, accuracy, own) for name, group in own.groupby("reference", sort=False)
    ]
    return Grid(SOURCE, policy, "", "run", ("the paper's run",), tuple(references), policy_family=family, error=ERROR)


def _reference(
    name: str, cells: pd.DataFrame, family: str, scores: pd.DataFrame, accuracy: "pd.Series[float]", all_cells: pd.DataFrame
) -> Reference:
    trained = cells[cells["beta"] != UNTRAINED].sort_values("beta")
    betas, own = tuple(trained["beta"].tolist()), name == SELF_NAME
    start = all_cells.loc[all_cells["beta"] == UNTRAINED, "lc_win_rate"].iloc[0]
    score = None if own else scores[scores["reference"] == name].iloc[0]
    return Reference(
        name=name,
        kind=SELF if own else "model",
        betas=betas,
        win_rate=_row(trained["lc_win_rate"]) / 100,
        length_tokens=np.full((1, len(betas)), np.nan),
        accuracy=_row(accuracy.reindex(betas)) if own else np.full((1, len(betas)), np.nan),
        own_win_rate=np.array([start if score is None else score["own_lc_win_rate"]]) / 100,
        own_win_rate_se=np.array([ERROR]),
        family=family if score is None else str(score["family"]),
        size=None if score is None else f"{score['parameters_b']:g}B",
    )


def _row(values: "pd.Series[float]") -> Floats:
    return np.asarray(values, dtype=np.float64)[None, :]
