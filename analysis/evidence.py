"""What replicates, or a stated error, let one say: t intervals, sign flips, Holm, choices made without the replicate they judge.

Invariant: a replicate (a world, a seed block) is one observation; a beta that is chosen by its outcome is chosen on the other
replicates, so that no replicate is judged at the best of its own noise. Percentile bootstraps are not used: over a handful of
replicates they are too narrow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from refstudy.measures import intervals

Floats = NDArray[np.float64]
Choice = NDArray[np.int64]

LEVEL = intervals.LEVEL
ALPHA = 1 - LEVEL
FEWEST = 3
"""Replicates below which nothing is decided: with two, an interval has one degree of freedom and no power."""
MOST_FLIPPED = 16
"""Replicates up to which all sign flips are enumerated (65,536 of them)."""


@dataclass(frozen=True)
class Evidence:
    """A statistic with its 95 % interval and two-sided p of "it is 0"; NaN where there is none."""

    statistic: float
    low: float
    high: float
    p: float
    n_replicates: int
    basis: str
    """What the interval covers: "replicates", "stated error", "prompts of this run" or "nothing"."""


NOTHING = Evidence(math.nan, math.nan, math.nan, math.nan, 0, "nothing")


def of_replicates(values: ArrayLike, without: ArrayLike | None = None) -> Evidence:
    """The mean of one value a replicate, with Student's t interval and p over the finite ones; p by sign flip without any spread.

    without: for each finite value, what the mean would be without its replicate, choices made anew. Values that were chosen on each
    other hang together, so that their own spread is too small; the standard error is then the larger of theirs and the
    jackknife's, (n - 1) / n * sum (without_i - mean)^2, which is not too small on average for any statistic that takes replicates
    in any order (Efron and Stein 1981, Annals of Statistics 9) and is the usual one where every replicate makes the same choice.
    Below FEWEST replicates there is a mean and nothing else.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[np.isfinite(x)]
    if x.size < FEWEST:
        return Evidence(float(x.mean()) if x.size else math.nan, math.nan, math.nan, math.nan, x.size, "nothing")
    of = intervals.mean(x, range(x.size))
    if of.standard_error <= 1e-12 * max(1.0, abs(of.value)):
        return Evidence(of.value, of.value, of.value, sign_flip(x), x.size, "replicates")
    error = of.standard_error if without is None else max(of.standard_error, jackknife_error(without))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, x.size - 1)) * error
    p = 2 * float(stats.t.sf(abs(of.value) / error, x.size - 1))
    return Evidence(of.value, of.value - half, of.value + half, p, x.size, "replicates")


def jackknife_error(without: ArrayLike) -> float:
    """The jackknife's standard error of a statistic from its values without each replicate in turn; 0 where one is unknown."""
    t = np.asarray(without, dtype=np.float64)
    return math.sqrt((t.size - 1) / t.size * float(np.sum((t - t.mean()) ** 2))) if t.size and np.isfinite(t).all() else 0.0


def of_stated_error(value: float, standard_error: float) -> Evidence:
    """A single value whose standard error is stated: a normal interval and p."""
    if not math.isfinite(value):
        return NOTHING
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * standard_error
    p = 2 * float(stats.norm.sf(abs(value) / standard_error)) if standard_error > 0 else 1.0
    return Evidence(value, value - half, value + half, p, 1, "stated error")


def sign_flip(values: ArrayLike) -> float:
    """The two-sided p of "values are symmetric about 0": the share of all sign flips whose mean is as far from 0 or farther.

    With n values it is at least 2 / 2^n (Fisher 1935, "The Design of Experiments", section 21). Beyond MOST_FLIPPED values
    it is Student's t instead, which it then agrees with.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or not np.any(x):
        return 1.0
    if x.size > MOST_FLIPPED:
        return float(stats.ttest_1samp(x, 0.0).pvalue)
    signs = 1.0 - 2.0 * ((np.arange(2**x.size)[:, None] >> np.arange(x.size)) & 1)
    means = np.abs(signs @ x)
    return float(np.mean(means >= abs(x.sum()) * (1 - 1e-12)))


def rank_correlations(x: Floats, y: Floats, fewest: int) -> Floats:
    """Spearman's correlation of each row; NaN where fewer than `fewest` pairs are known, or one side does not vary."""
    found = []
    for one, other in zip(x, y, strict=True):
        known = np.isfinite(one) & np.isfinite(other)
        varied = known.sum() >= fewest and np.ptp(one[known]) > 0 and np.ptp(other[known]) > 0
        found.append(float(stats.spearmanr(one[known], other[known]).statistic) if varied else np.nan)
    return np.array(found)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p by name, after Holm (1979), Scandinavian J. of Statistics 6; NaN (nothing was tested) counts as 1.

    The k-th smallest of m is multiplied by m - k + 1, kept at least as large as the one before, and at most 1.
    """
    adjusted, above = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda each: _untested(p[each]))):
        above = max(above, min(1.0, (len(p) - rank) * _untested(p[name])))
        adjusted[name] = above
    return adjusted


def best_on_the_others(quality: Floats, fewest: int = FEWEST) -> Choice:
    """For each replicate the column of the highest mean over the other replicates, the first of equal ones.

    quality: (replicates, choices), NaN where unknown: a column that the others do not know is not chosen; -1 where there is none.
    With fewer than `fewest` replicates it is the column of the highest mean over all of them, which is biased upwards.
    """
    known = np.isfinite(quality)
    filled = np.where(known, quality, 0.0)
    total, count = filled.sum(axis=0), known.sum(axis=0)
    if len(quality) < fewest:
        total, count = np.broadcast_to(total, quality.shape), np.broadcast_to(count, quality.shape)
    else:
        total, count = total - filled, count - known
    means = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
    return np.where(np.isfinite(means).any(axis=1), means.argmax(axis=1), -1)


def own_best(quality: Floats) -> Choice:
    """For each replicate the column of its own highest value, the first of equal ones; -1 where nothing is known."""
    filled = np.where(np.isfinite(quality), quality, -np.inf)
    return np.where(np.isfinite(filled).any(axis=1), filled.argmax(axis=1), -1)


def taken(values: Floats, choice: Choice) -> Floats:
    """values[replicate, choice[replicate]]; NaN where the choice is -1."""
    return np.where(choice >= 0, values[np.arange(len(values)), np.maximum(choice, 0)], np.nan)


def mean_over_replicates(quality: Floats) -> Floats:
    """The mean of each column over the replicates that know it; NaN where none does."""
    known = np.isfinite(quality)
    total, count = np.where(known, quality, 0.0).sum(axis=0), known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def not_separable(values: Floats, standard_error: float) -> NDArray[np.bool_]:
    """Which columns a stated error of each cannot tell from the best: nearer to it than 1.96 errors of a difference of two."""
    reach = float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(2) * standard_error
    best = np.max(values, initial=-np.inf, where=np.isfinite(values))
    return np.isfinite(values) & (np.where(np.isfinite(values), values, -np.inf) >= best - reach)


def _untested(p: float) -> float:
    return 1.0 if math.isnan(p) else p
