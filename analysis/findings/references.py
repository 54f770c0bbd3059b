"""Findings about references: does a stronger one help, is it a ceiling, does its family matter."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from analysis.evidence import FEWEST
from analysis.findings.finding import (
    Decision,
    Finding,
    at_best,
    best_index,
    best_text,
    biased,
    is_stronger,
    mean_own,
    not_testable,
    others,
    row,
    shown,
)
from analysis.grids import Grid, Reference, weigh

MATCHED = 0.03
"""Largest difference of own win rates (means over replicates) between a same-family and a cross-family reference that are compared
as equally strong."""

FIGURE = "gains"


def stronger_reference_helps(grid: Grid) -> list[Finding]:
    """Claim (section 5): a stronger reference raises the best win rate when it fits. Confirmatory.

    Statistic: win rate at the best beta with the reference minus that with self, both betas chosen on the other replicates. The
    row without a reference is the test that enters Holm: the best stronger reference, itself chosen on the other replicates. A
    reference's own row says reproduced only if that test does, at the finding's level; contradicted (it harms) is corrected over
    the rows as well (Bonferroni), for harm to one reference is no evidence in the first test. Null hypothesis: 0.
    """
    key, own = "stronger_reference_helps", grid.self
    if own is None:
        return [not_testable(grid, key, None, "the policy itself is no reference in this grid")]
    stronger = [each for each in others(grid) if is_stronger(grid, each) and best_index(each) >= 0]
    if best_index(own) < 0 or not stronger:
        first = not_testable(grid, key, None, "no reference is known to be stronger than the policy")
    else:
        top = _best_of(stronger)
        of = weigh(grid, [at_best(top), at_best(own, -1.0)])
        said = f"the best stronger reference ({top.name}) changes win rate by {shown(grid, of)} against {own.name}{biased(grid)}"
        first = row(grid, key, None, of, "win rate", said, figure=FIGURE, tested=True)
    return [first, *(_gain(grid, key, each, own, each in stronger) for each in others(grid))]


def _gain(grid: Grid, key: str, reference: Reference, own: Reference, stronger: bool) -> Finding:
    if not stronger:
        rate = mean_own(reference)
        why = (
            "its own win rate is not known" if np.isnan(rate) else f"its own answers win {rate:.3f}, not enough to call it stronger"
        )
        return not_testable(grid, key, reference.name, f"{reference.name} is no stronger reference: {why}")
    of = weigh(grid, [at_best(reference), at_best(own, -1.0)])
    said = (
        f"{reference.name} at its best beta, {best_text(reference)}, changes win rate by {shown(grid, of)} against {own.name} at "
        f"{best_text(own)}{biased(grid)}"
    )
    return row(grid, key, reference.name, of, "win rate", said, figure=FIGURE)


def _best_of(references: list[Reference]) -> Reference:
    """The references as one whose choices are all their betas; with few replicates the one with the highest mean."""
    if len(references[0].win_rate) < FEWEST or len(references) == 1:
        return max(references, key=lambda each: float(each.win_rate[:, best_index(each)].mean()))
    return replace(
        references[0],
        name=f"of {', '.join(each.name for each in references)}",
        betas=tuple(beta for each in references for beta in each.betas),
        win_rate=np.concatenate([each.win_rate for each in references], axis=1),
        length_tokens=np.concatenate([each.length_tokens for each in references], axis=1),
        accuracy=np.concatenate([each.accuracy for each in references], axis=1),
    )


def reference_is_a_ceiling(grid: Grid) -> list[Finding]:
    """Claim (section 5): a policy does not pass the own score of a stronger reference. Descriptive; for each stronger reference.

    Statistic: win rate of the policy at its best beta (chosen on the other replicates) minus that of the reference's own answers.
    Reproduced below 0, contradicted above. A best value chosen on the same runs is biased towards contradiction.
    """
    key, found = "reference_is_a_ceiling", []
    for each in others(grid):
        if not is_stronger(grid, each) or best_index(each) < 0:
            found.append(not_testable(grid, key, each.name, f"{each.name} is not known to be stronger than the policy"))
            continue
        of = weigh(grid, [at_best(each)], minus_own=each)
        said = (
            f"held to {each.name} the policy at its best is {shown(grid, of)} from that reference's own {mean_own(each):.3f}"
            f"{biased(grid)}"
        )
        one = row(grid, key, each.name, of, "win rate", said, figure="win_rate_map")
        turned: dict[str, Decision] = {"reproduced": "contradicted", "contradicted": "reproduced"}
        seen = None if one.seen_in_this_run is None else of.high < 0
        found.append(replace(one, decision=turned.get(one.decision, one.decision), seen_in_this_run=seen))
    return found or [not_testable(grid, key, None, "no reference but the policy itself")]


@dataclass(frozen=True)
class _Pair:
    """Two derived columns with their length part taken out, of references that differ in family and are matched otherwise."""

    same: Reference
    cross: Reference
    apart: float
    """Difference of the own win rates of the references that they are made from."""


def family_matters(grid: Grid) -> list[Finding]:
    """Claim (section 5): a reference of the policy's own family (or base) fits better. Confirmatory; length-free, or not at all.

    Statistic: the gain of the matched same-family reference minus that of the matched cross-family one, each with the part of D
    that answer length explains taken out (columns of `keep: length_free`), at betas chosen on the other replicates; self, which
    both gains are against, cancels. Matched: the declared sizes are equal, the own win rates of the references that the columns are
    made from differ by MATCHED at most. Of several such pairs the closest. Null hypothesis: 0.
    """
    key = "family_matters"
    pairs = [
        _Pair(same, cross, abs(mean_own(bases[0]) - mean_own(bases[1])))
        for same, cross in itertools.permutations([each for each in grid.references if each.keep == "length_free"], 2)
        if (bases := _matched(grid, same, cross)) is not None
    ]
    pairs = [each for each in pairs if best_index(each.same) >= 0 and best_index(each.cross) >= 0]
    if not pairs:
        why = (
            "it takes length-free columns of a same-family and a cross-family reference of equal declared size whose own win "
            f"rates are within {MATCHED:g}"
        )
        return [not_testable(grid, key, None, why)]
    pair = min(pairs, key=lambda each: each.apart)
    of = weigh(grid, [at_best(pair.same), at_best(pair.cross, -1.0)])
    said = (
        f"length-free, the matched reference of the policy's family ({pair.same.name}) gains {shown(grid, of)} more than that of "
        f"another family ({pair.cross.name}); their own win rates differ by {pair.apart:.3f}{biased(grid)}"
    )
    return [row(grid, key, f"{pair.same.name} - {pair.cross.name}", of, "win rate", said, figure=FIGURE, tested=True)]


def _matched(grid: Grid, same: Reference, cross: Reference) -> tuple[Reference, Reference] | None:
    """What two derived columns are made from, if these are of the policy's family and of another, and matched otherwise."""
    one, other = grid.named(same.of), grid.named(cross.of)
    if one is None or other is None or one.own or other.own:
        return None
    families = one.family == grid.policy_family and other.family != grid.policy_family
    matched = families and one.size == other.size and abs(mean_own(one) - mean_own(other)) <= MATCHED
    return (one, other) if matched else None
