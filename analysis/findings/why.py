"""Findings about reasons: which part of a reference's column carries its gain, and whether the column tells before training."""

import numpy as np

from analysis.evidence import of_replicates, rank_correlations
from analysis.findings.finding import Finding, at_best, best_index, not_testable, others, row, shown
from analysis.grids import Grid, Reference, values, weigh
from refstudy.measures.compatibility import PRIMARY_GAIN

FEWEST_REFERENCES = 4
"""References below which a rank correlation over them is not looked at."""
BASELINE = "own_win_rate"


def measure_predicts_gain(grid: Grid) -> list[Finding]:
    """Claim (this project's): the declared measure of a reference's column orders references by gain. Descriptive.

    Statistic: Spearman's correlation, over the references of a replicate, of PRIMARY_GAIN with the gain over self (betas chosen
    on the other replicates); mean over replicates. The same of the references' own win rates stands beside it: a measure that
    does not beat that tells nothing new.
    """
    key, own = "measure_predicts_gain", grid.self
    if own is None or best_index(own) < 0:
        return [not_testable(grid, key, None, "the policy itself is no reference in this grid")]
    measured = [each for each in others(grid) if PRIMARY_GAIN in each.measures and best_index(each) >= 0]
    if len(measured) < FEWEST_REFERENCES:
        why = f"it takes {FEWEST_REFERENCES} references with a measure of compatibility; {len(measured)} have one"
        return [not_testable(grid, key, None, why)]
    gains = np.stack([values(grid, [at_best(each), at_best(own, -1.0)]) for each in measured], axis=1)
    of = of_replicates(
        rank_correlations(np.stack([each.measures[PRIMARY_GAIN] for each in measured], axis=1), gains, FEWEST_REFERENCES)
    )
    baseline = of_replicates(
        rank_correlations(np.stack([each.own_win_rate for each in measured], axis=1), gains, FEWEST_REFERENCES)
    )
    said = (
        f"over {len(measured)} references the rank correlation of {PRIMARY_GAIN} with gain is {shown(grid, of, '+.2f')}, and that "
        f"of the references' own win rates {baseline.statistic:+.2f}"
    )
    return [row(grid, key, None, of, "rank correlation", said, figure="measure_against_gain")]


def why_it_helps(grid: Grid) -> list[Finding]:
    """Claim (this project's): a reference helps because it knows better, not because it stops better. Descriptive.

    Statistic: win rate held to the length-free column of a reference minus that held to its length-only column, at betas chosen on
    the other replicates. Reproduced above 0: what length does not explain carries the gain. Contradicted below: it only
    stops better. The sentence adds the gain over self of each column there is; a permuted column that gains as much as the
    length-free one says that neither is the reason.
    """
    key, own = "why_it_helps", grid.self
    found = []
    for base in others(grid):
        parts = {
            each.keep: each for each in grid.references if each.kind == "derived" and each.of == base.name and best_index(each) >= 0
        }
        if not parts:
            continue
        if own is None or not {"length_free", "length_only"} <= set(parts):
            found.append(not_testable(grid, key, base.name, "it takes a length_free and a length_only column of the reference"))
            continue
        of = weigh(grid, [at_best(parts["length_free"]), at_best(parts["length_only"], -1.0)])
        gains = _gains(grid, base, parts, own)
        said = f"of {base.name}, length-free minus length-only is {shown(grid, of)}; gains over {own.name}: {gains}"
        found.append(row(grid, key, base.name, of, "win rate", said, figure="gains"))
    return found or [not_testable(grid, key, None, "no reference has columns derived from it in this grid")]


def _gains(grid: Grid, base: Reference, parts: dict[str | None, Reference], own: Reference) -> str:
    """The gain of the whole reference and of each part, in words."""
    arms = {"whole": base, **{str(keep): each for keep, each in parts.items()}}
    return ", ".join(f"{name} {weigh(grid, [at_best(each), at_best(own, -1.0)]).statistic:+.3f}" for name, each in arms.items())
