"""Findings about beta on grids whose truth is known."""

import math

import pytest

from analysis.findings import beta
from tests.analysis.arrays import BETAS, grid, only, reference, rows

NAN = math.nan
PEAK = rows((0.50, 0.60, 0.52), (0.51, 0.62, 0.55), (0.49, 0.61, 0.53), (0.50, 0.61, 0.54))


def _self(win_rate, **more):
    return reference("self", win_rate, kind="policy", **more)


def test_sweet_spot_that_falls_on_both_sides_is_reproduced():
    """Falls to beta 10: 0.08, 0.07, 0.08, 0.07; mean 0.075, standard deviation 0.0057735, over 4: se 0.0028868;
    t(0.975, 3) = 3.18245: half width 0.0091869."""
    found = only(beta.sweet_spot(grid(_self(PEAK))))
    assert (found.decision, found.n_replicates, found.reference) == ("reproduced", 4, "self")
    assert found.statistic == pytest.approx(0.075)
    assert found.low == pytest.approx(0.075 - 0.0091869, abs=1e-6)


def test_sweet_spot_with_one_fall_in_the_noise_is_undecided():
    noisy = rows((0.50, 0.60, 0.52), (0.51, 0.62, 0.64), (0.49, 0.61, 0.53), (0.50, 0.61, 0.60))
    found = only(beta.sweet_spot(grid(_self(noisy))))
    assert found.decision == "undecided"
    assert found.low < 0 < found.high


def test_sweet_spot_at_the_edge_is_censored():
    rising = rows(*[(0.5, 0.6, 0.7)] * 3)
    found = only(beta.sweet_spot(grid(_self(rising))))
    assert found.decision == "undecided"
    assert "10 or more" in found.sentence


def test_sweet_spot_of_a_flat_curve_is_contradicted():
    flat = rows((0.600, 0.602, 0.600), (0.601, 0.602, 0.601), (0.600, 0.602, 0.601), (0.601, 0.603, 0.600))
    assert only(beta.sweet_spot(grid(_self(flat)))).decision == "contradicted"


def test_sweet_spot_of_two_betas_is_not_testable():
    found = only(beta.sweet_spot(grid(_self(rows((0.5, 0.6), (0.5, 0.6), (0.5, 0.6)), betas=BETAS[:2]))))
    assert (found.decision, found.n_replicates) == ("not_testable", 0)
    assert math.isnan(found.statistic)


def test_sweet_spot_of_two_worlds_decides_nothing():
    found = only(beta.sweet_spot(grid(_self(PEAK[:2]))))
    assert (found.decision, found.n_replicates, found.seen_in_this_run) == ("undecided", 2, None)


def test_length_explosion_is_the_log_ratio_at_the_smallest_to_the_best_beta():
    """Lengths at beta 0.1 and 1: 20 to 16, 21 to 16, 22 to 16, 20 to 16. Logs 0.22314, 0.27193, 0.31845, 0.22314: mean 0.259168."""
    length = rows((20, 16, 15), (21, 16, 15), (22, 16, 15), (20, 16, 15))
    found = only(beta.length_explosion(grid(_self(PEAK, length=length))))
    assert (found.decision, found.unit, found.tested) == ("reproduced", "log ratio", True)
    assert found.statistic == pytest.approx((math.log(20 / 16) * 2 + math.log(21 / 16) + math.log(22 / 16)) / 4)
    assert "1.30" in found.sentence


def test_length_explosion_is_contradicted_where_answers_shrink():
    length = rows((12, 16, 15), (13, 16, 15), (12.5, 16, 15), (12, 16, 15))
    assert only(beta.length_explosion(grid(_self(PEAK, length=length)))).decision == "contradicted"


def test_length_explosion_best_beta_is_chosen_on_the_other_worlds():
    """World 0 alone would choose beta 10 (0.9); the others choose 1, where it has 16 tokens, not 40."""
    win = rows((0.5, 0.6, 0.9), (0.5, 0.7, 0.4), (0.5, 0.7, 0.4), (0.5, 0.7, 0.4))
    length = rows((20, 16, 40), (20, 16, 40), (20, 16, 40), (20, 16, 40))
    assert only(beta.length_explosion(grid(_self(win, length=length)))).statistic == pytest.approx(math.log(20 / 16))


def test_length_explosion_with_the_smallest_beta_best_is_undecided():
    falling = rows(*[(0.7, 0.6, 0.5)] * 3)
    found = only(beta.length_explosion(grid(_self(falling, length=rows(*[(20, 16, 15)] * 3)))))
    assert found.decision == "undecided"
    assert math.isnan(found.p)
    assert "0.1 or less" in found.sentence


@pytest.mark.parametrize("arms", [(_self(PEAK),), (reference("big", PEAK),)])
def test_length_explosion_without_lengths_or_self_is_not_testable(arms):
    assert only(beta.length_explosion(grid(*arms))).decision == "not_testable"


BETAS7 = (0.01, 0.1, 1.0, 10.0, 100.0)


def _peaked(*tops):
    return rows(*[tuple(0.6 if index == top else 0.5 for index in range(5)) for top in tops])


def test_stronger_wants_larger_beta_over_replicates():
    """Self's best is 0.1 in six worlds, the reference's 1 in four and 10 in two: log10 ratios 1, 1, 1, 1, 2, 2, mean 4/3."""
    own = _self(_peaked(1, 1, 1, 1, 1, 1), betas=BETAS7)
    big = reference("big", _peaked(2, 2, 2, 2, 3, 3), betas=BETAS7, own=0.8)
    found = only(beta.stronger_wants_larger_beta(grid(own, big)))
    assert (found.decision, found.reference) == ("reproduced", "big")
    assert found.statistic == pytest.approx(4 / 3)
    assert found.p == pytest.approx(2 / 64)


def test_stronger_wants_larger_beta_five_worlds_cannot_flip_enough_signs():
    """All five agree, but 2 / 2^5 = 0.0625."""
    own, big = _self(_peaked(1, 1, 1, 1, 1), betas=BETAS7), reference("big", _peaked(2, 2, 2, 3, 3), betas=BETAS7, own=0.8)
    assert only(beta.stronger_wants_larger_beta(grid(own, big))).decision == "undecided"


def test_stronger_wants_larger_beta_is_not_claimed_when_selfs_best_is_censored():
    own, big = _self(_peaked(*[1] * 7, 4), betas=BETAS7), reference("big", _peaked(*[3] * 8), betas=BETAS7, own=0.8)
    found = only(beta.stronger_wants_larger_beta(grid(own, big)))
    assert found.decision == "undecided"


def test_stronger_wants_larger_beta_asks_for_a_stronger_reference():
    own, weak = _self(_peaked(1, 1, 1), betas=BETAS7), reference("weak", _peaked(3, 3, 3), betas=BETAS7, own=0.52)
    assert only(beta.stronger_wants_larger_beta(grid(own, weak))).decision == "not_testable"


def test_accuracy_does_not_select_is_the_price_of_selecting_by_it():
    """Accuracy is highest at beta 0.1 everywhere; the best beta is 1: prices 0.10, 0.11, 0.12, 0.11, mean 0.11."""
    accuracy = rows(*[(0.7, 0.6, 0.5)] * 4)
    found = only(beta.accuracy_does_not_select(grid(_self(PEAK, accuracy=accuracy))))
    assert found.decision == "reproduced"
    assert found.statistic == pytest.approx(0.11)


def test_accuracy_that_selects_the_best_beta_contradicts():
    accuracy = rows(*[(0.5, 0.7, 0.6)] * 4)
    found = only(beta.accuracy_does_not_select(grid(_self(PEAK, accuracy=accuracy))))
    assert (found.decision, found.statistic) == ("contradicted", 0)


def test_accuracy_without_accuracies_is_not_testable():
    assert only(beta.accuracy_does_not_select(grid(_self(PEAK)))).decision == "not_testable"
