"""Falls beyond noise, alone and among many."""

import numpy as np
import pytest

from refstudy.measures import intervals
from refstudy.measures.multiplicity import falls, holm


def test_holm_adjusts_by_the_number_of_questions_left():
    """Sorted 0.01, 0.02, 0.04 of three: 3 * 0.01 = 0.03, 2 * 0.02 = 0.04, 1 * 0.04 = 0.04; in the order of the input."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_holm_never_falls_below_a_smaller_one_and_never_exceeds_one():
    """2 * 0.30 = 0.60, then 1 * 0.31 = 0.31, raised to 0.60; 0.9 and 0.8 of two become 1."""
    assert holm([0.30, 0.31]) == pytest.approx([0.60, 0.60])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_falls_agrees_with_the_interval_about_zero():
    """p < 0.025 exactly where the 95 % interval lies below 0."""
    rng = np.random.default_rng(0)
    seen = set()
    for shift in np.linspace(-0.6, 0.1, 40):
        values, clusters = rng.normal(shift, 1, 60), [number // 3 for number in range(60)]
        below = intervals.mean(values, clusters).high < 0
        assert (falls(values, clusters) < 0.025) is below
        seen.add(below)
    assert seen == {True, False}


def test_falls_of_a_rise_or_nothing_is_one():
    assert falls([0.1, 0.2, 0.1], "abc") == 1.0
    assert falls([], []) == 1.0


def test_falls_of_two_clusters_without_variance_is_not_certain():
    """Both clusters agree by chance in one of 2^2 cases."""
    assert falls([-1.0, -1.0, -1.0, -1.0], "aabb") == 0.25
    assert falls([-1.0], "a") == 0.5
