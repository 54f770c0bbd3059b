"""Whether a mean has fallen beyond noise, asked once or of many cells at once.

Invariant: the more questions are asked together, the more each must show; a re-run that differs by chance alone passes them all
with the probability that one question promises.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from refstudy.measures import intervals


def falls(values: ArrayLike, clusters: Sequence[Any]) -> float:
    """The one-sided p-value of the hypothesis that the mean of `values` is not below 0; 1 where there are no values.

    Student's t of `intervals.mean` with its clusters, so that p < 0.025 says that the 95 % interval lies below 0; but never below
    2^-G for G clusters, which is what the exact sign-flip test gives where all clusters agree (Fisher 1935, section 21): t alone
    would call two clusters of no variance certain.
    """
    estimate = intervals.mean(values, clusters)
    if estimate.n == 0 or estimate.value >= 0:
        return 1.0
    floor = 2.0**-estimate.clusters
    if estimate.clusters < 2 or estimate.standard_error == 0:
        return floor
    return max(float(stats.t.cdf(estimate.value / estimate.standard_error, estimate.clusters - 1)), floor)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values adjusted for being asked together, in their order: those below a level may be claimed together at that level.

    Holm (1979), "A simple sequentially rejective multiple test procedure": sorted, the k-th smallest of m is multiplied by
    m - k + 1, and none is adjusted below a smaller one.
    """
    order = np.argsort(p, kind="stable")
    adjusted, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted
