"""How long the answers of each reference and beta are, as a frame for a figure: quantiles over all answers, not over cells.

Invariant: an answer that was cut at the limit counts with the length it has; the share of such answers stands beside it.
"""

import numpy as np
import pandas as pd

from analysis.findings.finding import title
from analysis.grids import Grid
from analysis.study import Study

QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
COLUMNS = [
    "panel",
    "reference",
    "beta",
    *QUANTILES,
    "mean_tokens",
    "answers",
    "truncation_rate",
    "degenerate",
    "stopped",
    "baseline_length_tokens",
]
KEY = ["panel", "reference", "beta"]


def distribution(of: list[Grid], study: Study, points: pd.DataFrame) -> pd.DataFrame:
    """A row for each reference and beta of each grid: quantiles of the answers' lengths in tokens, all its runs together; COLUMNS.

    points: effects.points of the same grids, whose marks and baseline lengths are taken over.
    """
    places = [
        {"panel": title(grid), "reference": reference, "beta": beta, "cell_id": each}
        for grid in of
        for (reference, _, beta), ids in grid.cells.items()
        for each in ids
    ]
    cells = pd.DataFrame(places, columns=[*KEY, "cell_id"])
    cut = cells.merge(study.done[["cell_id", "truncation_rate"]].drop_duplicates("cell_id"), on="cell_id")
    lengths = study.prompts[["cell_id", "length_tokens"]].merge(cells, on="cell_id")
    if lengths.empty:
        return pd.DataFrame(columns=COLUMNS)
    grouped = lengths.groupby(KEY, sort=False)["length_tokens"]
    found = grouped.quantile(np.array(list(QUANTILES.values()))).unstack().set_axis(list(QUANTILES), axis=1)
    found = found.assign(mean_tokens=grouped.mean(), answers=grouped.size())
    found = found.join(cut.groupby(KEY)["truncation_rate"].mean()).reset_index()
    marks = points[[*KEY, "degenerate", "stopped", "baseline_length_tokens"]]
    return marks.merge(found, on=KEY)[COLUMNS]
