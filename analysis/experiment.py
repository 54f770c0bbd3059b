"""What the experiment on reference columns shows, as files that are kept: each world's cells, gains, and what predicted them.

    python -m analysis.experiment results/why_references_help sweeps/why_references_help

Invariant: every gain is at betas chosen on the other worlds; the files are written from records and tables alone, and come out the
same each time.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import findings, grids, study
from analysis.evidence import Floats, of_replicates, rank_correlations
from analysis.findings.finding import at_best, best_index, others
from analysis.grids import Grid, Reference
from analysis.study import Study
from refstudy.errors import SpecError
from refstudy.measures.compatibility import PRIMARY_DEGENERATION, PRIMARY_GAIN

CELLS = (
    *("reference", "beta", "seed", "win_rate", "win_rate_low", "win_rate_high", "win_rate_seen", "win_rate_held_out"),
    *("length_tokens", "truncation_rate", "seq_rep_4", "distinct_answers", "kl_start_nats", "gold_reward", "precision"),
    *("statements", "policy_accuracy", "degenerate", "reason", "cell_id"),
)
"""Columns of a world's file, as frames.CELL_COLUMNS declares them."""
PREDICTORS = (PRIMARY_GAIN, PRIMARY_DEGENERATION, "own_win_rate", "margin_correlation")
"""The two declared measures and the two baselines."""
FEWEST_REFERENCES = 3
"""References below which nothing is said of an order among them."""
DIGITS = 5


def write(of: Study, folder: Path) -> list[Path]:
    """Writes world_N.csv (or seed_N.csv) with each replicate's cells, references.csv, gains.csv, predictions.csv and
    findings.csv; returns paths.

    Where other settings than the world are varied, a column `setting` tells their rows apart. SpecError if the study has more than
    one policy or none: the files would be one another's.
    """
    of_policies, done = grids.of_study(of), of.cells[of.cells["status"] == "done"]
    if len({grid.policy for grid in of_policies}) != 1:
        names = ", ".join(dict.fromkeys(grid.policy for grid in of_policies)) or "none"
        raise SpecError(f"an experiment is written for one policy; got {names}: give results of one of them")
    folder.mkdir(parents=True, exist_ok=True)
    frames = {f"{of_policies[0].unit}_{name}": _cells(cells, of_policies) for name, cells in done.groupby("replicate", sort=True)}
    frames["gains"] = _told(of_policies, [gains(grid) for grid in of_policies])
    frames["predictions"] = _told(of_policies, [predictions(grid, done[done["setting"] == grid.setting]) for grid in of_policies])
    frames["references"] = _told(of_policies, [references(grid) for grid in of_policies])
    frames["findings"] = pd.DataFrame(findings.as_rows(row for grid in of_policies for row in findings.judge(grid)))
    paths = []
    for name, frame in frames.items():
        paths.append(folder / f"{name}.csv")
        frame.round(DIGITS).to_csv(paths[-1], index=False)
    return paths


def _cells(cells: pd.DataFrame, of: list[Grid]) -> pd.DataFrame:
    return cells[["setting", *CELLS]] if len(of) > 1 else cells[list(CELLS)]


def _told(of: list[Grid], frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The grids' frames as one, each with its grid's setting where there are several."""
    if len(of) == 1:
        return frames[0]
    for grid, frame in zip(of, frames, strict=True):
        frame.insert(0, "setting", grid.setting)
    return pd.concat(frames, ignore_index=True)


def gains(grid: Grid) -> pd.DataFrame:
    """A row for each reference: its win rate at its best beta minus self's, and log length against self's, over replicates."""
    own = grid.self
    rows = []
    for each in others(grid) + [each for each in grid.references if each.kind == grids.DERIVED]:
        if own is None or best_index(each) < 0:
            continue
        gain = grids.weigh(grid, [at_best(each), at_best(own, -1.0)])
        length = grids.weigh(grid, [at_best(each), at_best(own, -1.0)], "length_tokens")
        rows.append(
            {
                "reference": each.name,
                "keep": each.keep,
                "best_beta": each.betas[best_index(each)],
                "gain": gain.statistic,
                "gain_low": gain.low,
                "gain_high": gain.high,
                "log_length_ratio_to_self": length.statistic,
                "replicates": gain.n_replicates,
            }
        )
    return pd.DataFrame(rows).drop_duplicates("reference")


def references(grid: Grid) -> pd.DataFrame:
    """A row for each reference and replicate: its own win rate and the measures of its column, known before training."""
    rows: list[dict[str, Any]] = []
    for each in grid.references:
        for place, replicate in enumerate(grid.replicates):
            measures = {name: float(values[place]) for name, values in sorted(each.measures.items())}
            rows.append({"replicate": replicate, "reference": each.name, "own_win_rate": each.own_win_rate[place], **measures})
    return pd.DataFrame(rows)


def predictions(grid: Grid, done: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation, over the references that are no derived columns, of each predictor with each outcome; its mean over
    replicates with Student's t interval. Outcomes: the gain; the share of a reference's betas whose cell is degenerate; and how
    far answers at its best beta are from self's in length, |log ratio|."""
    own, known = grid.self, [each for each in others(grid) if each.kind != grids.DERIVED and best_index(each) >= 0]
    if own is None or len(known) < FEWEST_REFERENCES:
        return pd.DataFrame(columns=["outcome", "predictor", "references", "correlation", "low", "high", "replicates"])
    outcomes = {
        "gain": np.stack([grids.values(grid, [at_best(each), at_best(own, -1.0)]) for each in known], axis=1),
        "degenerate_share": np.stack([_degenerate(each, grid, done) for each in known], axis=1),
        "length_shift": np.abs(
            np.stack([grids.values(grid, [at_best(each), at_best(own, -1.0)], "length_tokens") for each in known], axis=1)
        ),
    }
    return pd.DataFrame(_correlated(outcomes, known))


def _correlated(outcomes: dict[str, Floats], known: list[Reference]) -> Iterator[dict[str, Any]]:
    for outcome, values in outcomes.items():
        for predictor in PREDICTORS:
            x = np.stack([_predictor(each, predictor) for each in known], axis=1)
            of = of_replicates(rank_correlations(x, values, FEWEST_REFERENCES))
            found = {"correlation": of.statistic, "low": of.low, "high": of.high, "replicates": of.n_replicates}
            yield {"outcome": outcome, "predictor": predictor, "references": len(known), **found}


def _predictor(reference: Reference, name: str) -> Floats:
    if name == "own_win_rate":
        return reference.own_win_rate
    return reference.measures.get(name, np.full(len(reference.own_win_rate), np.nan))


def _degenerate(reference: Reference, grid: Grid, done: pd.DataFrame) -> Floats:
    """(replicates,) share of the reference's cells that are degenerate."""
    own = done[done["reference"] == reference.name].groupby("replicate")["degenerate"].mean()
    return np.array([own.get(replicate, np.nan) for replicate in grid.replicates], dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes what an experiment on reference columns shows as CSV files.")
    parser.add_argument("results", type=Path, nargs="+", help="results folders of the experiment")
    parser.add_argument("folder", type=Path, help="where the files are written")
    parser.add_argument("--store", type=Path, help="the store; default: as the results say")
    given = parser.parse_args()
    for path in write(study.load(*given.results, store=given.store), given.folder):
        print(path)


if __name__ == "__main__":
    main()
