"""What a grid shows over its replicates, as frames for figures: every point, best betas, gains and their parts, measures and gains.

Invariant: the same grids, choices and intervals as the findings; each figure is drawn from one of these frames and adds nothing.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import grids
from analysis.evidence import FEWEST, Evidence, Floats, mean_over_replicates, of_replicates, own_best, rank_correlations
from analysis.findings.finding import at_best, best_index, edge, mean_own, others, title
from analysis.frames import Results
from analysis.grids import DERIVED, Grid, Reference, Term
from analysis.study import Study
from refstudy.measures.compatibility import PRIMARY_DEGENERATION, PRIMARY_GAIN

SPREAD = "difference_spread_nats"
OWN = "own_win_rate"
MEASURES = (PRIMARY_GAIN, PRIMARY_DEGENERATION, OWN, "margin_correlation")
"""The two measures declared primary and two baselines, each known before any training."""
FEWEST_REFERENCES = 3
"""References below which nothing is said of an order among them."""
WHOLE = "whole"
"""The part of a reference's column that is all of it."""

PLACE = ["panel", "reference", "kind", "beta"]
POINTS = [
    *(*PLACE, "unit", "replicates", "win_rate", "win_rate_low", "win_rate_high", "length_tokens", "length_low", "length_high"),
    *("accuracy", "degenerate", "stopped", "best", "difference", "difference_low", "difference_high", "separable"),
    *("own_win_rate", "baseline_length_tokens"),
]
BEST = [*PLACE, "replicate", "edge", "alike_low", "alike_high", "spread_nats", "saturation"]
GAINS = ["panel", "base", "part", "reference", "replicate", "best_beta", "gain", "gain_low", "gain_high", "replicates", "basis"]
MEASURED = [
    *("panel", "measure", "reference", "replicate", "value", "gain", "gain_low", "gain_high"),
    *("references", "correlation", "correlation_low", "correlation_high", "replicates"),
]


def points(of: Sequence[Grid], study: Study, loaded: Results) -> pd.DataFrame:
    """A row for each reference and beta of each grid, means over replicates, POINTS.

    Intervals: Student's t over replicates, with fewer than FEWEST over the prompts of these runs. `difference` is that to the
    reference's own best mean, paired by replicate, or by prompt; `separable` if its interval lies below 0.
    """
    cells = study.done.merge(
        loaded.baselines[["baseline_id", "length_tokens"]], on="baseline_id", suffixes=("", "_baseline"), how="left"
    )
    by_id = cells.drop_duplicates("cell_id").set_index("cell_id")
    rows = [row for grid in of for each in grid.references for row in _points(grid, each, by_id)]
    return pd.DataFrame(rows, columns=POINTS)


def _points(grid: Grid, of: Reference, by_id: pd.DataFrame) -> Iterator[dict[str, Any]]:
    top = best_index(of)
    for index, beta in enumerate(of.betas if top >= 0 else ()):
        ids = [each for replicate in grid.replicates for each in grid.cells.get((of.name, replicate, beta), ())]
        cells = by_id.loc[ids]
        rate = _value(grid, of, index, cells, "win_rate", ("win_rate_low", "win_rate_high"))
        length = _value(grid, of, index, cells, "length_tokens", ("length_low", "length_high"))
        gap = grids.weigh(grid, [_at(of, index), _at(of, top, -1.0)]) if index != top else None
        yield {
            **{"panel": title(grid), "reference": of.name, "kind": of.kind, "beta": beta, "unit": grid.unit},
            **{"replicates": int(np.isfinite(of.win_rate[:, index]).sum())},
            **{"win_rate": rate[0], "win_rate_low": rate[1], "win_rate_high": rate[2]},
            **{"length_tokens": length[0], "length_low": length[1], "length_high": length[2]},
            "accuracy": float(mean_over_replicates(of.accuracy)[index]),
            "degenerate": bool(cells["degenerate"].any()),
            "stopped": bool(cells["stopped_step"].notna().any()),
            "best": index == top,
            **_told(gap),
            "own_win_rate": mean_own(of),
            "baseline_length_tokens": cells.drop_duplicates("baseline_id")["length_tokens_baseline"].mean(),
        }


def _value(
    grid: Grid, of: Reference, index: int, cells: pd.DataFrame, name: str, bounds: tuple[str, str]
) -> tuple[float, float, float]:
    """(mean over replicates, ends of its interval): t over replicates, of a single cell its own, else as grids.weigh."""
    column = getattr(of, name)[:, index]
    found = of_replicates(column)
    if found.n_replicates < FEWEST and len(cells) == 1:
        return found.statistic, float(cells[bounds[0]].iloc[0]), float(cells[bounds[1]].iloc[0])
    if found.n_replicates < FEWEST and name == "win_rate":
        found = grids.weigh(grid, [_at(of, index)])
    return found.statistic, max(found.low, 0.0), min(found.high, 1.0) if name == "win_rate" else found.high


def _told(gap: Evidence | None) -> dict[str, Any]:
    """The difference to the best; of the best itself, and without an interval, nothing is separable."""
    if gap is None:
        return {"difference": 0.0, "difference_low": math.nan, "difference_high": math.nan, "separable": False}
    return {"difference": gap.statistic, "difference_low": gap.low, "difference_high": gap.high, "separable": bool(gap.high < 0)}


def _at(of: Reference, index: int, sign: float = 1.0) -> Term:
    return Term(sign, of, np.full(len(of.win_rate), index))


def best_betas(of: Sequence[Grid], found: pd.DataFrame) -> pd.DataFrame:
    """A row for each reference with its best beta by mean win rate (`replicate` empty), one for each replicate's own best; BEST.

    alike_low and alike_high: the range of betas that `points` cannot separate from the best. saturation: beta times the spread of
    D, where that was measured.
    """
    rows: list[dict[str, Any]] = []
    for grid in of:
        for each in grid.references:
            spread = each.measures.get(SPREAD, np.full(len(grid.replicates), np.nan))
            label = {"panel": title(grid), "reference": each.name, "kind": each.kind}
            here = found[(found["panel"] == label["panel"]) & (found["reference"] == each.name) & ~found["separable"].astype(bool)]
            alike = {"alike_low": here["beta"].min(), "alike_high": here["beta"].max()}
            mean = float(mean_over_replicates(spread[:, None])[0])
            rows += [label | alike | row for row in _best(each, best_index(each), mean, None)]
            if len(grid.replicates) > 1:
                own = own_best(each.win_rate)
                rows += [
                    label | row
                    for place, name in enumerate(grid.replicates)
                    for row in _best(each, own[place], spread[place], name)
                ]
    return pd.DataFrame(rows, columns=BEST)


def _best(of: Reference, index: int, spread: float, replicate: Any) -> list[dict[str, Any]]:
    if index < 0:
        return []
    beta = of.betas[index]
    where = {"beta": beta, "replicate": replicate, "edge": edge(of, index)}
    return [where | {"spread_nats": spread, "saturation": beta * spread if spread > 0 else math.nan}]


def gains(of: Sequence[Grid]) -> pd.DataFrame:
    """A row for each reference with its gain over self, each at its best beta (`replicate` empty), one for each replicate; GAINS.

    Betas are chosen on the other replicates. Rows of one `base` follow each other: the whole reference, then the columns derived
    from it; a derived column whose whole is no reference of the grid is its own base. Empty without self.
    """
    rows = [
        row for grid in of if grid.self is not None for base, part, each in _parts(grid) for row in _gain(grid, base, part, each)
    ]
    return pd.DataFrame(rows, columns=GAINS)


def _parts(grid: Grid) -> Iterator[tuple[str, str, Reference]]:
    """(base, part, reference) in the order in which they are shown."""
    derived = [each for each in grid.references if each.kind == DERIVED]
    bases = others(grid)
    for base in bases:
        yield base.name, WHOLE, base
        yield from ((base.name, each.keep or "derived", each) for each in derived if each.of == base.name)
    names = {base.name for base in bases}
    yield from ((each.of or each.name, each.keep or "derived", each) for each in derived if each.of not in names)


def _gain(grid: Grid, base: str, part: str, each: Reference) -> Iterator[dict[str, Any]]:
    own = grid.self
    if own is None or best_index(own) < 0 or best_index(each) < 0:
        return
    terms = [at_best(each), at_best(own, -1.0)]
    of, label = grids.weigh(grid, terms), {"panel": title(grid), "base": base, "part": part, "reference": each.name}
    about = {"best_beta": each.betas[best_index(each)], "replicates": of.n_replicates, "basis": of.basis}
    yield label | about | {"replicate": None, "gain": of.statistic, "gain_low": of.low, "gain_high": of.high}
    if len(grid.replicates) > 1:
        for name, value in zip(grid.replicates, grids.values(grid, terms), strict=True):
            yield label | {"replicate": name, "gain": float(value)}


def measures(of: Sequence[Grid]) -> pd.DataFrame:
    """A row for each of MEASURES and each reference: value and gain over self (`replicate` empty: the means), and one for each
    replicate, where several; MEASURED.

    Only references that are neither self nor derived. The correlation is Spearman's over the references of a replicate, its mean
    over replicates with a t interval; repeated in each row of its measure. A measure that fewer than FEWEST_REFERENCES have is left
    out.
    """
    rows = [row for grid in of for name in MEASURES for row in _measured(grid, name)]
    return pd.DataFrame(rows, columns=MEASURED)


def _measured(grid: Grid, name: str) -> Iterator[dict[str, Any]]:
    own = grid.self
    if own is None or best_index(own) < 0:
        return
    known = [each for each in others(grid) if np.isfinite(_measure(each, name)).any() and best_index(each) >= 0]
    if len(known) < FEWEST_REFERENCES:
        return
    x = np.stack([_measure(each, name) for each in known], axis=1)
    y = np.stack([grids.values(grid, [at_best(each), at_best(own, -1.0)]) for each in known], axis=1)
    of = of_replicates(rank_correlations(x, y, FEWEST_REFERENCES))
    about = {"panel": title(grid), "measure": name, "references": len(known), "correlation": of.statistic}
    about |= {"correlation_low": of.low, "correlation_high": of.high, "replicates": of.n_replicates}
    for place, each in enumerate(known):
        gain = grids.weigh(grid, [at_best(each), at_best(own, -1.0)])
        values = {"gain": gain.statistic, "gain_low": gain.low, "gain_high": gain.high}
        yield about | {"reference": each.name, "value": float(mean_over_replicates(x)[place]), **values}
        if len(grid.replicates) > 1:
            for row, replicate in enumerate(grid.replicates):
                yield about | {"reference": each.name, "replicate": replicate, "value": x[row, place], "gain": y[row, place]}


def _measure(of: Reference, name: str) -> Floats:
    """(replicates,); NaN where it is not known."""
    return of.own_win_rate if name == OWN else of.measures.get(name, np.full(len(of.win_rate), np.nan))
