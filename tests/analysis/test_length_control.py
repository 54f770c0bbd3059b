"""Length control against fits worked by hand, judges made up to be biased by length alone, and its refusals."""

import math

import numpy as np
import pytest

from analysis import length_control
from analysis.length_control import Calibration, Gamed, Judged
from refstudy.errors import DataError

ONE_DRAW = 1.0


def _alone(target, strength):
    """The one coefficient of a fit of a constant feature to ten rows of one target."""
    w = length_control.fit([np.ones((1, 10))], np.full(10, target), np.ones((1, 10)), np.array([strength]))
    return float(w[0, 0])


def _judged(p, longer_by, difficulty=None):
    """A model whose answers are `longer_by` than the baseline's, which are 1,000 each."""
    excess = np.asarray(longer_by, dtype=float)
    gamma = np.zeros(len(excess)) if difficulty is None else np.asarray(difficulty, dtype=float)
    return Judged(np.asarray(p, dtype=float), 1_000 + excess, np.full(len(excess), 1_000.0), gamma)


def _world(n=400, length=-1.5, hardness=0.7, model=-0.4, seed=0):
    """(a judged model whose p is exactly logistic in the three terms, its win rate at equal length)."""
    rng = np.random.default_rng(seed)
    excess, gamma = rng.normal(300, 500, n).round(), rng.normal(0, 1, n)
    d = -excess / excess.std(ddof=1)
    p = 1 / (1 + np.exp(-(length * np.tanh(d) + hardness * gamma + model)))
    return _judged(p, excess, gamma), float(np.mean(1 / (1 + np.exp(-(hardness * gamma + model)))))


def _once(judged):
    return np.ones((1, len(judged.p)))


def test_fit_of_a_constant_matches_hand_calculation():
    """At the minimum C * 10 * (sigma(w) - 0.9) + 1 = 0; with C = 1: sigma(w) = 0.8, w = log 4."""
    assert _alone(0.9, 1.0) == pytest.approx(math.log(4), abs=1e-8)


def test_fit_below_the_penalty_stays_at_zero():
    """At w = 0 the slope is C * 10 * (0.5 - 0.55) = -0.5, weaker than the penalty's 1."""
    assert _alone(0.55, 1.0) == 0.0


def test_fit_of_many_equals_each_alone():
    rng = np.random.default_rng(1)
    features = [rng.normal(size=(4, 60)), rng.normal(size=(4, 60)), rng.normal(size=(1, 60))]
    target, weight = rng.random(60), rng.random((4, 60))
    strength = np.array([0.1, 1.0, 100.0, 1e4])
    together = length_control.fit(features, target, weight, strength)
    own = [[each if len(each) == 1 else each[[i]] for each in features] for i in range(4)]
    alone = [length_control.fit(own[i], target, weight[[i]], strength[[i]])[0] for i in range(4)]
    assert together == pytest.approx(np.array(alone), abs=1e-7)


def test_fit_is_stationary_under_its_penalty():
    """For coefficients that are not 0 the slope of the likelihood equals the penalty's, sign by sign."""
    rng = np.random.default_rng(2)
    features, target, weight = rng.normal(size=(80, 3)), rng.random(80), rng.random((1, 80))
    w = length_control.fit([column[None] for column in features.T], target, weight, np.array([5.0]))[0]
    slope = 5 * features.T @ (weight[0] * (1 / (1 + np.exp(-features @ w)) - target))
    assert (w != 0).all()
    assert slope == pytest.approx(-np.sign(w), abs=1e-5)


def test_fit_of_separated_labels_is_finite():
    """All labels 1: sigma(w) = 1 - 1 / (10 C), w = log(10 C - 1)."""
    assert _alone(1.0, 1e4) == pytest.approx(math.log(1e5 - 1), abs=1e-6)


def test_of_sweep_recovers_the_win_rate_at_equal_length():
    judged, truth = _world()
    of = length_control.of_sweep(judged, _once(judged), range(400))
    assert float(judged.p.mean()) - truth > 0.1
    assert of.value == pytest.approx(truth, abs=0.01)
    assert of.coefficients.length == pytest.approx(-1.5, abs=0.1)
    assert of.refusal is None


def test_alpaca_eval_2_of_a_judge_of_length_alone_is_a_half():
    """p = sigma(2 tanh(-d)): the raw win rate is what longer answers earn, the controlled one 0.5."""
    judged, _ = _world(hardness=0.0, model=0.0, length=-2.0)
    d = np.random.default_rng(3).normal(size=200)
    gamed = Gamed(1 / (1 + np.exp(2 * np.tanh(d))), d, np.zeros(200))
    of = length_control.alpaca_eval_2(judged, gamed, _once(judged))
    assert float(judged.p.mean()) > 0.6
    assert of.value == pytest.approx(0.5, abs=0.01)


def test_alpaca_eval_2_gamed_rows_tell_what_length_is_worth_where_the_model_cannot():
    """All answers 500 longer, all p 0.7: alone that could be length or merit; the gamed rows say it is length."""
    judged = _judged(np.full(100, 0.7), 500 + np.tile([-1, 1], 50))
    d = np.repeat([-3.0, 3.0], 2_000)
    biased = Gamed(np.where(d < 0, 0.7, 0.3), d, np.zeros(4_000))
    fair = Gamed(np.full(4_000, 0.5), d, np.zeros(4_000))
    assert length_control.alpaca_eval_2(judged, biased, _once(judged)).value == pytest.approx(0.5, abs=0.02)
    assert length_control.alpaca_eval_2(judged, fair, _once(judged)).value == pytest.approx(0.7, abs=0.02)


def test_alpaca_eval_2_of_the_baseline_itself_is_a_half():
    rng = np.random.default_rng(4)
    judged = _judged(np.full(50, 0.5), np.zeros(50))
    gamed = Gamed(rng.random(100), rng.normal(size=100), rng.normal(size=100))
    assert length_control.alpaca_eval_2(judged, gamed, _once(judged)).value == 0.5


def test_alpaca_eval_2_prompts_without_a_verdict_do_not_teach():
    judged, _ = _world()
    gamed = Gamed(np.array([0.4, 0.6]), np.array([1.0, -1.0]), np.zeros(2))
    silent = Judged(np.where(np.arange(400) < 40, np.nan, judged.p), judged.length, judged.baseline_length, judged.difficulty)
    whole, part = (length_control.alpaca_eval_2(each, gamed, _once(each)) for each in (judged, silent))
    assert part.value == pytest.approx(whole.value, abs=0.01)
    assert part.value != whole.value


def test_interval_of_unchanged_draws_is_the_value():
    judged, _ = _world(n=100)
    of = length_control.of_sweep(judged, np.full((5, 100), ONE_DRAW), range(100))
    assert of.draws == pytest.approx(np.full(5, of.value), abs=1e-6)
    assert (of.low, of.high) == pytest.approx((of.value, of.value), abs=1e-6)


def test_interval_draw_equals_a_fit_to_the_repeated_prompts():
    """A draw that takes each prompt as often as its count says is the fit to that list of prompts."""
    judged, _ = _world(n=120)
    counts = length_control.resample(range(120), np.random.default_rng(5), 1)
    index = np.repeat(np.arange(120), counts[0].astype(int))
    drawn = Judged(judged.p[index], judged.length[index], judged.baseline_length[index], judged.difficulty[index])
    of = length_control.of_sweep(judged, counts, range(120))
    alone = length_control.of_sweep(drawn, np.ones((1, 120)), range(120))
    assert of.strength == alone.strength  # else the two fits answer different questions
    assert of.draws[0] == pytest.approx(alone.value, abs=1e-6)


def test_resample_draws_whole_clusters():
    counts = length_control.resample(["a", "a", "b", "c"], np.random.default_rng(0), 50)
    assert counts.shape == (50, 4)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 1:].sum(axis=1) == 3).all()
    assert counts.std() > 0


def test_difference_of_a_cell_to_itself_is_zero_and_paired_is_narrower():
    judged, _ = _world(n=200)
    better = Judged(np.clip(judged.p + 0.05, 0, 1), judged.length, judged.baseline_length, judged.difficulty)
    counts = length_control.resample(range(200), np.random.default_rng(0), 100)
    one, other = (length_control.of_sweep(each, counts, range(200)) for each in (better, judged))
    value, low, high = length_control.difference(one, other)
    assert length_control.difference(one, one) == (0, 0, 0)
    assert low < value < high
    assert high - low < (one.high - one.low) / 2


def test_difference_to_a_refused_cell_is_nan():
    judged, _ = _world(n=100)
    counts = _once(judged)
    refused = length_control.of_sweep(_judged(np.zeros(100), judged.length - 1_000), counts, range(100))
    assert all(math.isnan(each) for each in length_control.difference(refused, refused))


@pytest.mark.parametrize(
    ("p", "longer_by", "clusters", "words"),
    [
        (np.zeros(100), np.tile([-9, 9], 50), range(100), "0 wins in 100 prompts are too few"),
        (np.ones(100), np.tile([-9, 9], 50), range(100), "0 losses in 100 prompts are too few"),
        (np.full(100, 0.5), np.repeat([-9, 9], [97, 3]), range(100), "3.0% of the answers are longer"),
        (np.full(100, 0.5), np.arange(100) + 1, range(100), "0.0% of the answers are shorter"),
        (np.full(100, 0.5), np.full(100, 7), range(100), "by the same length"),
        (np.full(100, 0.5), np.tile([-9, 9], 50), [each % 4 for each in range(100)], "4 clusters of prompts"),
        (np.full(100, np.nan), np.tile([-9, 9], 50), range(100), "0 clusters of prompts"),
    ],
)
def test_of_sweep_refuses_in_words_what_is_not_identified(p, longer_by, clusters, words):
    judged = _judged(p, longer_by)
    of = length_control.of_sweep(judged, _once(judged), clusters)
    assert words in of.refusal
    assert math.isnan(of.value)
    assert of.coefficients is None


def test_difficulty_is_the_centred_logit_of_the_other_cells():
    """Others of "a": prompt x (0.5 + 1) / 2 = 0.75, logit log 3; y 0.25, logit -log 3, for a failure counts not; mean 0."""
    cells = {"a": {"x": 0.0, "y": 0.0}, "b": {"x": 0.5, "y": 0.25}, "c": {"x": 1.0, "y": None}}
    gamma = length_control.difficulty(Calibration("first grid", cells), "a", ["x", "y"])
    assert gamma == pytest.approx([math.log(3), -math.log(3)])


def test_difficulty_of_prompts_that_all_lose_or_win_is_clipped():
    """logit(0.999) = log 999 and logit(0.001) = -log 999."""
    calibration = Calibration("first grid", {"b": {"x": 1.0, "y": 0.0}})
    assert length_control.difficulty(calibration, "a", ["x", "y"]) == pytest.approx([math.log(999), -math.log(999)])


def test_difficulty_without_another_cell_on_a_prompt_is_refused():
    calibration = Calibration("first grid", {"a": {"x": 1.0, "y": 1.0}, "b": {"x": 1.0}})
    with pytest.raises(DataError, match=r"'first grid' has no verdict of another cell than 'a' on 1 of 2 prompts \(first: 'y'\)"):
        length_control.difficulty(calibration, "a", ["x", "y"])
