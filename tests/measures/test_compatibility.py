"""Compatibility measures against numbers worked by hand, what must hold for any tables, and the words made of them."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from refstudy.errors import TableError
from refstudy.measures import columns, compatibility
from refstudy.measures.columns import Scores
from refstudy.measures.compatibility import Answers
from refstudy.measures.token_shifts import TokenShares

POLICY = Scores(np.array([-10.0, -10.0, -10.0]), np.array([-10.0, -12.0, -8.0]))
"""Margins 0, 2, -2."""
REFERENCE = Scores(np.array([-20.0, -8.0, -9.0]), np.array([-20.0, -10.0, -10.0]))
"""Margins 0, 2, 1: D = 0, 0, 3."""
ANSWERS = Answers(np.array([4, 5, 6]), np.array([5, 5, 5]), np.array([8, 10, 12]), np.array([10, 10, 10]), ["a", "b", "c"])
"""Length differences -1, 0, 1; 60 bytes."""


def _measured(**changes):
    """Measures of a reference by hand: those of the three pairs, some replaced."""
    return dataclasses.replace(compatibility.compatibility(POLICY, REFERENCE, ANSWERS, [1.0]), **changes)


def test_regression_three_pairs_matches_hand_calculation():
    """D = 0, 0, 3 on -1, 0, 1: intercept 1, slope 1.5, residuals 0.5, -1, 0.5 of variance 0.5; D has variance 2: 1 - 0.5 / 2."""
    measured = compatibility.compatibility(POLICY, REFERENCE, ANSWERS, [1.0])
    assert (measured.intercept_nats, measured.slope_nats_per_token) == (1.0, 1.5)
    assert measured.residual_spread_nats == pytest.approx(math.sqrt(0.5))
    assert measured.explained_share == pytest.approx(0.75)
    assert (measured.difference_mean_nats, measured.difference_spread_nats) == pytest.approx((1.0, math.sqrt(2)))


def test_primary_measures_are_signal_over_noise_and_absolute_slope():
    """1 / sqrt(0.5) = sqrt(2); |-1.5| for the reference seen from the other side."""
    assert getattr(_measured(), compatibility.PRIMARY_GAIN) == pytest.approx(math.sqrt(2))
    assert getattr(_measured(slope_nats_per_token=-1.5), compatibility.PRIMARY_DEGENERATION) == 1.5


def test_saturation_is_beta_times_the_spread_of_d():
    measured = compatibility.compatibility(POLICY, REFERENCE, ANSWERS, [10, 0.1])
    assert [(each.beta, each.spread) for each in measured.saturation] == [
        (10, pytest.approx(10 * math.sqrt(2))),
        (0.1, pytest.approx(0.1 * math.sqrt(2))),
    ]


def test_shares_of_pairs_count_ties_for_neither_side():
    """The reference's margins 0, 2, 1: two right, none wrong, one tie; D > 0 in one pair of three."""
    measured = _measured()
    assert (measured.pair_accuracy, measured.pessimistic_share) == pytest.approx((2 / 3, 0.0))
    assert measured.raised_share == pytest.approx(1 / 3)
    assert (measured.mean_margin_nats, measured.policy_mean_margin_nats) == (1.0, 0.0)


def test_margin_correlation_matches_hand_calculation():
    """0, 2, -2 against 0, 2, 1: products of the deviations 0 + 2 * 1 - 2 * 0 = 2, squares 8 and 2: 2 / sqrt(16)."""
    assert _measured().margin_correlation == pytest.approx(0.5)


def test_bits_per_byte_are_total_bits_over_total_bytes():
    """The policy's log-probs sum to -60 nats, the reference's to -77, over 60 bytes."""
    assert _measured().policy_bits_per_byte == pytest.approx(60 / math.log(2) / 60)
    assert _measured().bits_per_byte == pytest.approx(77 / math.log(2) / 60)


def test_bits_per_byte_without_bytes_is_refused():
    with pytest.raises(TableError, match="no bytes"):
        compatibility.bits_per_byte([-1.0], [0])


def test_standard_errors_single_pair_clusters_match_hand_calculation():
    """X'X = diag(3, 2); G/(G-1) (N-1)/(N-2) = 3/2 * 2 = 3. Intercept 3 * (0.25 + 1 + 0.25) / 9, slope 3 * (0.25 + 0.25) / 4."""
    measured = _measured()
    assert measured.intercept_se_nats == pytest.approx(math.sqrt(0.5))
    assert measured.slope_se_nats_per_token == pytest.approx(math.sqrt(0.375))


def test_standard_errors_two_clusters_match_hand_calculation():
    """Clusters {1, 3}, {2}: sums of e 1 and -1, of e d 0 and 0; 2/1 * 2/1 = 4: intercept 4 * 2 / 9, slope 0."""
    parts = columns.decompose([0, 0, 3], [-1, 0, 1])
    assert compatibility.standard_errors(parts, ["a", "b", "a"]) == pytest.approx((math.sqrt(8 / 9), 0.0))


def test_standard_errors_one_cluster_or_two_pairs_have_none():
    parts = columns.decompose([0, 0, 3], [-1, 0, 1])
    assert np.isnan(compatibility.standard_errors(parts, ["a", "a", "a"])).all()
    assert np.isnan(compatibility.standard_errors(columns.decompose([0, 1], [0, 1]), ["a", "b"])).all()


def test_standard_errors_agree_with_the_textbook_where_noise_is_even():
    """2,000 pairs, each its own cluster, noise of one spread: within 10 % of ordinary least squares by scipy."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(-20, 20, 2_000)
    d = 1.0 - 0.3 * lengths + rng.normal(0, 4, 2_000)
    intercept, slope = compatibility.standard_errors(columns.decompose(d, lengths), list(range(2_000)))
    textbook = stats.linregress(lengths, d)
    assert (intercept, slope) == pytest.approx((textbook.intercept_stderr, textbook.stderr), rel=0.1)


def test_standard_errors_doubled_pairs_in_one_cluster_add_no_information():
    """The factor (N-1)/(N-2) alone changes, from 2/1 to 5/4."""
    single = compatibility.standard_errors(columns.decompose([0, 0, 3], [-1, 0, 1]), list("abc"))
    doubled = compatibility.standard_errors(columns.decompose([0, 0, 3] * 2, [-1, 0, 1] * 2), list("abcabc"))
    assert doubled == pytest.approx(np.array(single) * math.sqrt(5 / 8))


@pytest.mark.parametrize(
    ("mean_margin", "raised", "expected"),
    [(84.35, 0.95, True), (84.35, 0.7, False), (-25.1, 0.95, False), (38.0, 0.95, False)],
)
def test_contamination_tells_sdpos_references_apart(mean_margin, raised, expected):
    """Against a policy of -38.6: trained on the data +84.35, aligned -25.1; neither half of the rule suffices alone."""
    assert compatibility.is_contaminated(mean_margin, -38.6, raised) is expected


def test_contamination_is_flagged_from_tables_in_which_the_labels_were_learned():
    """A copy of the policy whose margins are raised by 120 nats in nine of ten pairs."""
    rng = np.random.default_rng(0)
    policy = Scores(-100 - rng.normal(39, 30, 500), np.full(500, -100.0))
    lift = np.where(rng.random(500) < 0.9, 120.0, -60.0)
    learned = Scores(policy.chosen_logp_sum, policy.rejected_logp_sum - lift)
    lengths = rng.integers(1, 50, (2, 500))
    answers = Answers(lengths[0], lengths[1], lengths[0], lengths[1], list(range(500)))
    measured = compatibility.compatibility(policy, learned, answers, [1.0])
    assert measured.contaminated
    assert "may have been trained on these pairs (mean margin +" in compatibility.words(measured)


def test_likelihood_coordinates_two_models_match_hand_calculation():
    """Rows 0, 2 and 0, -2 centred over texts: -1, 1 and 1, -1; their mean over models is 0."""
    assert compatibility.likelihood_coordinates([[0, 2], [0, -2]]).tolist() == [[-1, 1], [1, -1]]


def test_likelihood_kl_two_models_matches_hand_calculation():
    """Coordinates differ by -2, 2: squared distance 8 over 2 texts is 4, half of it 2."""
    assert compatibility.likelihood_kl([[0, 2], [0, -2]]).tolist() == [[0, 2], [2, 0]]


def test_likelihood_kl_is_near_the_true_kl_of_close_models():
    """N(0, 1) against N(0.1, 1) on 20,000 draws of the first: KL is 0.1^2 / 2 = 0.005 nats."""
    x = np.random.default_rng(0).normal(size=20_000)
    logps = np.stack([stats.norm.logpdf(x), stats.norm.logpdf(x, loc=0.1)])
    assert compatibility.likelihood_kl(logps)[0, 1] == pytest.approx(0.005, rel=0.05)


def test_likelihood_kl_of_a_table_takes_all_answers():
    """log p_policy - log p_reference: 10, -2, -1 and 10, -2, 2; mean 17 / 6, squares sum 213: (213 / 6 - (17 / 6)^2) / 2."""
    assert _measured().likelihood_kl_nats == pytest.approx((213 / 6 - (17 / 6) ** 2) / 2)


@pytest.mark.parametrize("bad", [[1.0, 2.0], np.zeros((0, 3)), [[0.0, np.nan]]])
def test_likelihood_vectors_that_are_no_table_are_refused(bad):
    with pytest.raises(TableError, match="log-likelihood vectors of shape"):
        compatibility.likelihood_coordinates(bad)


def test_self_has_no_signal_and_no_ratio():
    measured = compatibility.compatibility(POLICY, POLICY, ANSWERS, [1.0])
    assert (measured.intercept_nats, measured.slope_nats_per_token) == (0.0, 0.0)
    assert math.isnan(measured.explained_share)
    assert math.isnan(measured.intercept_over_residual_spread)
    assert not measured.contaminated


def test_values_are_flat_and_finite():
    measured = compatibility.compatibility(POLICY, POLICY, ANSWERS, [0.1], TokenShares(math.nan, math.nan, math.nan))
    flat = compatibility.values(measured)
    assert all(isinstance(value, float) and math.isfinite(value) for value in flat.values())
    assert not {"explained_share", compatibility.PRIMARY_GAIN, "share_end_token"} & set(flat)
    assert flat[compatibility.PRIMARY_DEGENERATION] == 0.0


def test_values_hold_primary_measures_saturation_and_token_shares():
    measured = compatibility.compatibility(POLICY, REFERENCE, ANSWERS, [0.1], TokenShares(0.5, 0.2, 0.3))
    flat = compatibility.values(measured)
    assert flat[compatibility.PRIMARY_GAIN] == pytest.approx(math.sqrt(2))
    assert flat["saturation_beta_0.1"] == pytest.approx(0.1 * math.sqrt(2))
    assert (flat["share_end_token"], flat["share_first_tokens"], flat["share_rest"]) == (0.5, 0.2, 0.3)


def test_constant_length_difference_is_refused():
    with pytest.raises(TableError, match="slope of D is not identified"):
        compatibility.compatibility(POLICY, REFERENCE, dataclasses.replace(ANSWERS, chosen_tokens=np.array([6, 6, 6])), [1.0])


def test_answers_of_other_pairs_are_refused():
    with pytest.raises(TableError, match="unequal shape"):
        compatibility.compatibility(POLICY, REFERENCE, dataclasses.replace(ANSWERS, rejected_bytes=np.array([1, 2])), [1.0])


def test_clusters_of_other_pairs_are_refused():
    with pytest.raises(TableError, match="3 pairs but 1 clusters"):
        compatibility.compatibility(POLICY, REFERENCE, dataclasses.replace(ANSWERS, clusters=["a"]), [1.0])


def test_no_pairs_are_refused():
    none = np.array([])
    with pytest.raises(TableError, match="are empty"):
        compatibility.compatibility(Scores(none, none), Scores(none, none), Answers(none, none, none, none, []), [1.0])


# Words ------------------------------------------------------------------------------------------------------------------------


def test_words_steep_length_slope_warns_of_degeneration():
    said = compatibility.words(_measured(slope_nats_per_token=-8.8, explained_share=0.93))
    assert said == (
        "demands 8.8 nats a token for shorter answers; 93 % of its signal is length; likely to degenerate; try `keep: length_free`"
    )


def test_words_a_signal_beside_a_gentle_slope_promises_help():
    """5 / 10 of the residual spread; 5 is ten standard errors."""
    measured = _measured(
        slope_nats_per_token=-0.25, explained_share=0.07, intercept_nats=5.0, intercept_se_nats=0.5, residual_spread_nats=10.0
    )
    assert compatibility.words(measured) == (
        "demands 0.25 nats a token for shorter answers; 7 % of its signal is length; quality signal of 5 +- 0.5 nats, 0.5 of the "
        "residual spread; likely to help, at a larger beta than self"
    )


def test_words_an_intercept_within_two_errors_is_no_signal():
    measured = _measured(slope_nats_per_token=0.1, explained_share=0.01, intercept_nats=0.5, intercept_se_nats=0.3)
    assert compatibility.words(measured) == (
        "demands 0.1 nats a token for longer answers; 1 % of its signal is length; no quality signal beyond noise (intercept 0.5 "
        "+- 0.3 nats); unlikely to help"
    )


def test_words_a_signal_against_the_chosen_answers_does_not_promise_help():
    measured = _measured(slope_nats_per_token=0.1, explained_share=0.01, intercept_nats=-5.0, intercept_se_nats=0.3)
    assert compatibility.words(measured).endswith("unlikely to help")


def test_words_gentle_slope_that_is_most_of_the_signal_asks_which_part_acts():
    measured = _measured(slope_nats_per_token=-1.0, explained_share=0.6)
    assert compatibility.words(measured).endswith("compare `keep: length_only` with `keep: length_free`")


def test_words_self_is_said_to_be_self():
    measured = compatibility.compatibility(POLICY, POLICY, ANSWERS, [1.0])
    assert compatibility.words(measured) == "says what the policy itself says in every pair; the same reference as self"


def test_by_length_runs_match_hand_calculation():
    """Two runs of at least two of the four pairs: differences -1, 0 with D = 0, 2 (mean 1, spread 1), and 3, 5 with D = 4, 4."""
    policy = Scores(np.zeros(4), np.zeros(4))
    reference = Scores(np.array([0.0, 2.0, 4.0, 4.0]), np.zeros(4))
    answers = Answers(np.array([4, 5, 8, 10]), np.array([5, 5, 5, 5]), *[np.ones(4, dtype=np.int64)] * 2, "abcd")
    found = compatibility.by_length(policy, reference, answers, bins=2)
    assert [dataclasses.astuple(each) for each in found] == [(-0.5, 2, 1.0, 1.0), (4.0, 2, 4.0, 0.0)]


def test_by_length_of_equal_differences_is_one_run():
    found = compatibility.by_length(POLICY, REFERENCE, dataclasses.replace(ANSWERS, rejected_tokens=np.array([4, 5, 6])))
    assert [(each.length_difference_tokens, each.pairs, each.mean_nats) for each in found] == [(0.0, 3, 1.0)]


def test_words_numbers_that_are_only_rounding_are_said_to_be_nothing():
    """What `keep: length_free` leaves of the slope, and `length_only` of the intercept."""
    text = compatibility.words(_measured(slope_nats_per_token=1e-17, intercept_nats=-2e-16, intercept_se_nats=8e-17))
    assert "demands nothing of length" in text
    assert "(intercept 0 +- 0 nats)" in text


def test_words_of_one_cluster_promise_nothing():
    one = dataclasses.replace(ANSWERS, clusters=["a", "a", "a"])
    measured = dataclasses.replace(compatibility.compatibility(POLICY, REFERENCE, one, [1.0]), explained_share=0.1)
    assert compatibility.words(measured).endswith(
        "intercept 1 nats, of unknown error; too few independent pairs to say whether it helps"
    )


# What holds for any tables ----------------------------------------------------------------------------------------------------

NATS = st.integers(-400, 0).map(lambda quarter: quarter / 4)


@st.composite
def _tables(draw):
    n = draw(st.integers(3, 25))
    sums = draw(arrays.arrays(np.float64, (4, n), elements=NATS))
    lengths = draw(arrays.arrays(np.int64, (2, n), elements=st.integers(1, 12)).filter(lambda x: np.ptp(x[0] - x[1]) > 0))
    answers = Answers(lengths[0], lengths[1], lengths[0] * 4, lengths[1] * 4, list(range(n)))
    return Scores(sums[0], sums[1]), Scores(sums[2], sums[3]), answers


@settings(max_examples=60, deadline=None)
@given(_tables(), st.integers(-30, 30))
def test_margin_shifted_by_a_constant_moves_intercept_and_means_alone(tables, shift):
    policy, reference, answers = tables
    shifted = Scores(reference.chosen_logp_sum + shift, reference.rejected_logp_sum)
    before = compatibility.compatibility(policy, reference, answers, [1.0])
    after = compatibility.compatibility(policy, shifted, answers, [1.0])
    for name in ("intercept_nats", "difference_mean_nats", "mean_margin_nats"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) + shift, abs=1e-7)
    for name in ("slope_nats_per_token", "residual_spread_nats", "difference_spread_nats", "explained_share", "margin_correlation"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-7, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(_tables())
def test_exchanging_chosen_and_rejected_turns_the_intercept_and_keeps_the_slope(tables):
    """D and d both change sign, so what is demanded of length stays and what is known turns round."""
    policy, reference, answers = tables
    turned = Answers(answers.rejected_tokens, answers.chosen_tokens, answers.rejected_bytes, answers.chosen_bytes, answers.clusters)
    there = compatibility.compatibility(policy, reference, answers, [1.0])
    back = compatibility.compatibility(
        Scores(policy.rejected_logp_sum, policy.chosen_logp_sum),
        Scores(reference.rejected_logp_sum, reference.chosen_logp_sum),
        turned,
        [1.0],
    )
    assert back.slope_nats_per_token == pytest.approx(there.slope_nats_per_token, abs=1e-8)
    assert back.intercept_nats == pytest.approx(-there.intercept_nats, abs=1e-8)
    assert back.pair_accuracy == there.pessimistic_share
    assert back.likelihood_kl_nats == pytest.approx(there.likelihood_kl_nats)


@settings(max_examples=60, deadline=None)
@given(_tables())
def test_variance_falls_into_length_and_residual(tables):
    policy, reference, answers = tables
    measured = compatibility.compatibility(policy, reference, answers, [1.0])
    length = measured.slope_nats_per_token * np.std(answers.chosen_tokens - answers.rejected_tokens)
    assert measured.difference_spread_nats**2 == pytest.approx(length**2 + measured.residual_spread_nats**2, abs=1e-6)
    assert math.isnan(measured.explained_share) or -1e-9 <= measured.explained_share <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float64, (4, 7), elements=NATS))
def test_likelihood_kl_is_symmetric_and_half_the_variance_of_the_difference(logps):
    found = compatibility.likelihood_kl(logps)
    expected = [[np.var(one - other) / 2 for other in logps] for one in logps]
    assert found == pytest.approx(np.array(expected), abs=1e-7)
