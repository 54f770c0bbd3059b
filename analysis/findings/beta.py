"""Findings about beta: is there a best one inside the grid, what do smaller ones do to length, can accuracy choose it."""

import math
from dataclasses import replace

import numpy as np

from analysis.evidence import ALPHA, FEWEST, Evidence, mean_over_replicates, not_separable, of_replicates, own_best, sign_flip
from analysis.findings.finding import (
    NEGLIGIBLE,
    Decision,
    Finding,
    at_best,
    best_index,
    best_text,
    biased,
    edge,
    is_stronger,
    not_testable,
    others,
    row,
    shown,
)
from analysis.grids import Grid, Reference, Term, weigh


def sweet_spot(grid: Grid) -> list[Finding]:
    """Claim (arXiv 2407.13709, section 4): win rate has a best beta, and falls on both sides of it. Descriptive; self and others.

    Statistic: the smaller of two falls of win rate, from the best beta (chosen on the other replicates) to the smallest and to
    the largest beta of the grid. Reproduced: both intervals lie above 0 (so no correction is due). Contradicted: the interval of
    the smaller fall lies below NEGLIGIBLE: the curve is flat. Undecided where the best beta ends the grid, for it may then lie
    outside. An end that degenerated without a score counts as fallen.
    """
    key = "sweet_spot"
    return [_spot(grid, key, each) for each in grid.references if each.kind != "derived"]


def _spot(grid: Grid, key: str, reference: Reference) -> Finding:
    top = best_index(reference)
    if len(reference.betas) < 3 or top < 0:
        return not_testable(grid, key, reference.name, "it takes three betas with a win rate")
    ends = {"smallest": 0, "largest": len(reference.betas) - 1}
    scored = {name: index for name, index in ends.items() if np.isfinite(reference.win_rate[:, index]).any()}
    falls = {name: weigh(grid, [at_best(reference), _fixed(reference, index, -1.0)]) for name, index in scored.items()}
    text = f"with {reference.name} as reference the best beta is {best_text(reference)}"
    figure = "win_rate_by_beta"
    if edge(reference, top):
        of = falls[edge(reference, top)]
        said = f"{text}: it ends the grid, and the optimum may lie outside"
        return row(grid, key, reference.name, of, "win rate", said, decision="undecided", figure=figure, seen_in_this_run=None)
    if not falls:
        return not_testable(grid, key, reference.name, "both ends of the grid degenerated without a score")
    unscored = [f"the {name} beta degenerated without a score" for name in ends if name not in falls]
    told = [f"to the {name} beta {reference.betas[ends[name]]:g} it falls by {shown(grid, of)}" for name, of in falls.items()]
    of = min(falls.values(), key=lambda each: each.statistic)
    weakest = max(falls.values(), key=lambda each: 1.0 if math.isnan(each.p) else each.p)
    found = row(grid, key, reference.name, of, "win rate", f"{text}; {', '.join([*told, *unscored])}{biased(grid)}", figure=figure)
    decision = _both_fall(found, of, weakest)
    seen = None if found.seen_in_this_run is None else all(each.low > 0 for each in falls.values())
    return replace(found, decision=decision, seen_in_this_run=seen)


def _both_fall(found: Finding, smaller: Evidence, weakest: Evidence) -> Decision:
    if found.decision == "reproduced" and not (weakest.p <= ALPHA and weakest.statistic > 0):
        return "undecided"
    flat = smaller.basis in ("replicates", "stated error") and smaller.high < NEGLIGIBLE
    return "contradicted" if flat else found.decision


def length_explosion(grid: Grid) -> list[Finding]:
    """Claim (section 4): a smaller beta makes answers longer. Confirmatory; for the policy with itself as the reference.

    Statistic: the natural logarithm of the ratio of mean answer lengths in tokens, at the grid's smallest beta to at the best beta,
    which is chosen by win rate on the other replicates. Null hypothesis: 0. Reproduced above 0 and contradicted below, after
    Holm; its size is in the sentence. Where answers are cut off at max_new_tokens their mean is too small, and so is the ratio.
    Undecided where the smallest beta is the best: nothing then lies below it.
    """
    key, own = "length_explosion", grid.self
    if own is None:
        return [not_testable(grid, key, None, "the policy itself is no reference in this grid")]
    if not np.isfinite(own.length_tokens).any() or len(own.betas) < 2:
        return [not_testable(grid, key, own.name, "no answer lengths by beta are known")]
    of = weigh(grid, [_fixed(own, 0), at_best(own, -1.0)], "length_tokens")
    if best_index(own) == 0:
        said = f"the best beta is {best_text(own)}, so that no smaller one tells what becomes of length"
        found = row(grid, key, own.name, of, "log ratio", said, decision="undecided", figure="length_by_beta", tested=True)
        return [replace(found, p=math.nan)]
    ratio = replace(of, statistic=math.exp(of.statistic), low=math.exp(of.low), high=math.exp(of.high))
    said = f"at beta {own.betas[0]:g} answers are {shown(grid, ratio, '.2f')} times as long as at the best beta, {best_text(own)}"
    return [row(grid, key, own.name, of, "log ratio", said, figure="length_by_beta", tested=True)]


def stronger_wants_larger_beta(grid: Grid) -> list[Finding]:
    """Claim (section 5): with a fitting stronger reference the best beta is larger. Descriptive; for each stronger reference.

    Statistic: log10 of the ratio of best betas, reference's to self's, each the best of its own replicate; t interval, and a sign
    flip's p must agree, for betas are coarse. A best beta at the end of its grid is censored: a claim that the beyond could undo is
    not made. With a stated error: from the betas that it cannot tell from the best, the extremes.
    """
    key, own = "stronger_wants_larger_beta", grid.self
    if own is None:
        return [not_testable(grid, key, None, "the policy itself is no reference in this grid")]
    chosen = [each for each in others(grid) if is_stronger(grid, each)]
    return [_wants(grid, key, each, own) for each in chosen] or [
        not_testable(grid, key, None, "no reference is known to be stronger than the policy")
    ]


def _wants(grid: Grid, key: str, reference: Reference, own: Reference) -> Finding:
    if best_index(reference) < 0 or best_index(own) < 0:
        return not_testable(grid, key, reference.name, "a best beta is unknown")
    of, doubts = (_by_replicate if grid.error is None else _by_error)(grid, reference, own)
    said = (
        f"the best beta is {best_text(reference)} with {reference.name} and {best_text(own)} with {own.name}; "
        f"log10 of their ratio is {shown(grid, of, '+.2f')}"
    )
    found = row(grid, key, reference.name, of, "log10 ratio of betas", said, figure="best_betas")
    if found.decision in doubts:
        return replace(found, decision="undecided", sentence=f"{found.sentence} Censored: a best beta ends its grid.")
    return found


def _by_replicate(grid: Grid, reference: Reference, own: Reference) -> tuple[Evidence, set[str]]:
    """(evidence over replicates, decisions that censored best betas forbid)."""
    mine, theirs = own_best(own.win_rate), own_best(reference.win_rate)
    both = (mine >= 0) & (theirs >= 0)
    ratios = np.log10(np.array(reference.betas)[theirs[both]]) - np.log10(np.array(own.betas)[mine[both]])
    of = of_replicates(ratios)
    if of.n_replicates >= FEWEST:
        of = Evidence(of.statistic, of.low, of.high, max(of.p, sign_flip(ratios)), of.n_replicates, of.basis)
    doubts = set()
    if (theirs[both] == 0).any() or (mine[both] == len(own.betas) - 1).any():
        doubts.add("reproduced")
    if (mine[both] == 0).any() or (theirs[both] == len(reference.betas) - 1).any():
        doubts.add("contradicted")
    return of, doubts


def _by_error(grid: Grid, reference: Reference, own: Reference) -> tuple[Evidence, set[str]]:
    """(evidence from the betas that the stated error cannot tell from the best, decisions that the grid's ends forbid)."""
    error = float(grid.error or 0.0)
    alike = [np.array(each.betas)[not_separable(each.win_rate[0], error)] for each in (reference, own)]
    low, high = math.log10(min(alike[0]) / max(alike[1])), math.log10(max(alike[0]) / min(alike[1]))
    tops = [each.betas[best_index(each)] for each in (reference, own)]
    p = 0.0 if low > 0 or high < 0 else 1.0
    doubts = {"reproduced"} if max(alike[1]) == max(own.betas) or min(alike[0]) == min(reference.betas) else set()
    return Evidence(math.log10(tops[0] / tops[1]), low, high, p, 1, "stated error"), doubts


def accuracy_does_not_select(grid: Grid) -> list[Finding]:
    """Claim (section 4): policy ranking accuracy rises on as beta falls, and so cannot select beta. Descriptive; for self.

    Statistic: win rate at the best beta (chosen on the other replicates) minus win rate at the beta of the highest accuracy in
    this replicate: what selecting by accuracy costs. Reproduced above 0; contradicted where the whole interval is below
    NEGLIGIBLE. A cell that degenerated without a score cannot be priced; it is named.
    """
    key, own = "accuracy_does_not_select", grid.self
    if own is None or not np.isfinite(own.accuracy).any() or best_index(own) < 0 or len(own.betas) < 2:
        return [not_testable(grid, key, None if own is None else own.name, "no ranking accuracies by beta are known")]
    by_accuracy = own_best(np.where(np.isfinite(own.win_rate), own.accuracy, np.nan))
    of = weigh(grid, [at_best(own), Term(-1.0, own, by_accuracy)])
    means = mean_over_replicates(own.accuracy)
    at = own.betas[int(np.nanargmax(means))]
    unscored = "" if np.isfinite(own.win_rate[:, int(np.nanargmax(means))]).any() else ", a cell that degenerated without a score"
    said = (
        f"ranking accuracy is highest at beta {at:g}{unscored}; selecting by it{' among scored cells' if unscored else ''} costs "
        f"{shown(grid, of)} of win rate against beta {best_text(own)}{biased(grid)}"
    )
    found = row(grid, key, own.name, of, "win rate", said, figure="accuracy_by_beta")
    if found.decision != "reproduced" and of.basis in ("replicates", "stated error") and of.high < NEGLIGIBLE:
        return [replace(found, decision="contradicted")]
    return [found if found.decision != "contradicted" else replace(found, decision="undecided")]


def _fixed(reference: Reference, index: int, sign: float = 1.0) -> Term:
    """One beta, the same in every replicate."""
    return Term(sign, reference, np.full(len(reference.win_rate), index))
