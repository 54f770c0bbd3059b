"""How far a judge can be trusted: is it consistent when the order is turned, is it right, does it favour length, does it answer.

Invariant: every p is of the same answer whichever order it was shown in; a verdict that the judge could not give is never
taken for a tie or for the other side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refstudy.measures import intervals
from refstudy.measures.intervals import Estimate

Verdicts = Sequence[float | None] | NDArray[np.float64]
"""P(the answer beats the other) in [0, 1]; None or NaN: no verdict."""


@dataclass(frozen=True)
class Consistency:
    estimate: Estimate
    """Share of the pairs judged in both orders in which both verdicts prefer the same answer, or both are ties."""
    share_of_all: float
    """The same over all pairs, a verdict that was not given being an answer of its own: two of them agree, one does not. That is
    the positional agreement rate of LLMBar (Zeng et al. 2023, arXiv 2310.07641)."""
    failed_once: int
    """Pairs without a verdict in one order."""
    failed_twice: int


@dataclass(frozen=True)
class Agreement:
    estimate: Estimate
    """Share of the verdicts given that prefer the better answer; a tie counts half."""
    share_of_all: float
    """The same over all verdicts, one that was not given being wrong, as in LLMBar's accuracy."""
    failures: int


@dataclass(frozen=True)
class LengthBias:
    """A difference is no proof of bias, for longer answers may be better; between judges of the same answers it is a comparison."""

    longer: Estimate
    """Win rate on the prompts where the answer is longer than the other."""
    shorter: Estimate
    difference: float
    """longer - shorter; NaN where either is."""


def position_consistency(p_first: Verdicts, p_second: Verdicts, clusters: Sequence[Any]) -> Consistency:
    """Whether the judge prefers the same answer when the two change places.

    p_first, p_second: P(the answer beats the other) for each pair, shown first and shown second; clusters: of the pairs.
    """
    first, second = _array(p_first), _array(p_second)
    failed = np.isnan(first).astype(int) + np.isnan(second)
    same = np.sign(first - 0.5) == np.sign(second - 0.5)
    estimate = intervals.share(same[failed == 0], _where(clusters, failed == 0))
    twice = int((failed == 2).sum())
    of_all = (int(same.sum()) + twice) / len(first) if len(first) else math.nan
    return Consistency(estimate, of_all, int((failed == 1).sum()), twice)


def agreement(p: Verdicts, is_better: Sequence[bool] | NDArray[np.bool_], clusters: Sequence[Any]) -> Agreement:
    """How often verdicts prefer the answer that is objectively better.

    p: P(the answer beats the other); is_better: whether it is the better one; clusters: the pair, if both orders are passed.
    """
    values = _array(p)
    given = ~np.isnan(values)
    aim = np.where(np.asarray(is_better, dtype=bool), 1.0, -1.0)
    right = (1 + np.sign(values - 0.5) * aim) / 2
    estimate = intervals.share(right[given], _where(clusters, given))
    of_all = float(right[given].sum()) / len(values) if len(values) else math.nan
    return Agreement(estimate, of_all, int((~given).sum()))


def length_bias(p: Verdicts, lengths: ArrayLike, other_lengths: ArrayLike, clusters: Sequence[Any]) -> LengthBias:
    """The win rate where the answer is longer against where it is shorter; answers of equal length stand in neither."""
    values = _array(p)
    excess = np.asarray(lengths, dtype=float) - np.asarray(other_lengths, dtype=float)
    longer, shorter = (
        intervals.share(values[kept], _where(clusters, kept))
        for kept in (~np.isnan(values) & (excess > 0), ~np.isnan(values) & (excess < 0))
    )
    return LengthBias(longer, shorter, longer.value - shorter.value)


def parse_failure_share(p: Verdicts) -> float:
    """The share of verdicts that the judge could not give; NaN without any."""
    return float(np.isnan(_array(p)).mean()) if len(p) else math.nan


def tie_share(p: Verdicts) -> float:
    """The share of the verdicts given that are exactly 0.5; NaN without any."""
    values = _array(p)
    given = values[~np.isnan(values)]
    return float((given == 0.5).mean()) if given.size else math.nan


def _array(p: Verdicts) -> NDArray[np.float64]:
    return np.asarray(p, dtype=np.float64)


def _where(clusters: Sequence[Any], kept: NDArray[np.bool_]) -> list[Any]:
    return [cluster for cluster, is_kept in zip(clusters, kept, strict=True) if is_kept]
