"""Intervals, p values and choices, worked by hand."""

import math

import numpy as np
import pytest

from analysis import evidence

NAN = math.nan


def test_of_replicates_three_worlds_matches_hand_calculation():
    """0.02, 0.04, 0.09: mean 0.05, squared deviations 0.0009 + 0.0001 + 0.0016 = 0.0026, variance 0.0013, standard error
    sqrt(0.0013 / 3) = 0.0208167; t(0.975, 2) = 4.30265: half width 0.0895670. t = 2.40192 with 2 degrees of freedom:
    p = 1 - t / sqrt(2 + t^2) = 0.138273."""
    of = evidence.of_replicates([0.02, 0.04, 0.09])
    assert of.statistic == pytest.approx(0.05)
    assert (of.low, of.high) == (pytest.approx(0.05 - 0.0895670, abs=1e-6), pytest.approx(0.05 + 0.0895670, abs=1e-6))
    assert of.p == pytest.approx(0.138273, abs=1e-5)
    assert (of.n_replicates, of.basis) == (3, "replicates")


def test_of_replicates_leaves_unknown_ones_out():
    assert evidence.of_replicates([0.02, NAN, 0.04, 0.09]) == evidence.of_replicates([0.02, 0.04, 0.09])


def test_of_replicates_two_have_a_mean_and_no_interval():
    of = evidence.of_replicates([0.02, 0.04])
    assert (of.statistic, of.n_replicates, of.basis) == (pytest.approx(0.03), 2, "nothing")
    assert math.isnan(of.low)
    assert math.isnan(of.p)


def test_of_replicates_without_spread_takes_the_sign_flip():
    """Three equal values: two of eight sign flips are as far from 0, so p = 0.25 and nothing is claimed; zeros are no evidence."""
    assert evidence.of_replicates([0.1, 0.1, 0.1]).p == 0.25
    assert evidence.of_replicates([0.0, 0.0, 0.0]).p == 1.0


def test_sign_flip_counts_flips_as_far_from_zero():
    """1, 2, 3: only all plus and all minus reach 6: 2 / 8. 1, 2, -4: sum -1 in absolute value is reached by all but none: 8 / 8."""
    assert evidence.sign_flip([1, 2, 3]) == 0.25
    assert evidence.sign_flip([1, 2, -4]) == 1.0
    assert evidence.sign_flip([1] * 6) == 2 / 64


def test_sign_flip_of_many_values_agrees_with_students_t():
    x = np.random.default_rng(0).normal(0.3, 1, size=16)
    assert evidence.sign_flip(np.append(x, x.mean())) == pytest.approx(evidence.sign_flip(x), abs=0.02)


def test_of_stated_error_is_a_normal_interval():
    """0.04 with standard error 0.0141421: z = 2.8284, two-sided p = 0.004678, half width 1.959964 * 0.0141421 = 0.0277181."""
    of = evidence.of_stated_error(0.04, math.sqrt(2) * 0.01)
    assert of.p == pytest.approx(0.004678, abs=1e-6)
    assert of.high - of.statistic == pytest.approx(0.0277181, abs=1e-6)
    assert evidence.of_stated_error(NAN, 0.01).n_replicates == 0


def test_holm_multiplies_the_smallest_most_and_never_falls():
    """0.01 * 3 = 0.03; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, raised to 0.06."""
    assert evidence.holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})


def test_holm_what_was_not_tested_still_counts():
    assert evidence.holm({"a": 0.02, "b": NAN, "c": NAN}) == pytest.approx({"a": 0.06, "b": 1.0, "c": 1.0})


def test_best_on_the_others_never_looks_at_its_own_replicate():
    """Replicate 0's own 0.9 does not choose for it: the others have means 0.2 and 0.3, so it takes column 1 and gets 0.1."""
    quality = np.array([[0.9, 0.1], [0.2, 0.3], [0.2, 0.3]])
    choice = evidence.best_on_the_others(quality)
    assert choice.tolist() == [1, 0, 0]
    assert evidence.taken(quality, choice).tolist() == [0.1, 0.2, 0.2]


def test_best_on_the_others_with_two_replicates_is_the_plain_best():
    assert evidence.best_on_the_others(np.array([[0.9, 0.1], [0.2, 0.3]])).tolist() == [0, 0]


def test_best_on_the_others_passes_over_what_is_unknown():
    quality = np.array([[NAN, 0.1], [NAN, 0.3], [NAN, 0.2]])
    assert evidence.best_on_the_others(quality).tolist() == [1, 1, 1]
    assert evidence.best_on_the_others(np.full((3, 2), NAN)).tolist() == [-1, -1, -1]
    assert np.isnan(evidence.taken(quality, np.array([-1, 0, 1]))).tolist() == [True, True, False]


def test_best_of_equal_columns_is_the_first():
    assert evidence.best_on_the_others(np.full((3, 2), 0.5)).tolist() == [0, 0, 0]
    assert evidence.own_best(np.array([[0.5, 0.5], [NAN, NAN]])).tolist() == [0, -1]


def test_not_separable_is_what_lies_within_two_errors_of_a_difference():
    """1.959964 * sqrt(2) * 0.01 = 0.0277: 0.1329 is 0.0296 below the best, 0.1403 is 0.0222 below it."""
    values = np.array([0.1236, 0.1625, 0.1329, 0.1403, NAN])
    assert evidence.not_separable(values, 0.01).tolist() == [False, True, False, True, False]


def test_mean_over_replicates_of_nothing_is_nan():
    assert np.isnan(evidence.mean_over_replicates(np.array([[NAN], [NAN]]))).all()
