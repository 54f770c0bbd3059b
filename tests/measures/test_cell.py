"""All measures of one small cell, worked by hand."""

import math

import pytest

from refstudy.measures.cell import TRAINING_MEASURES, measure
from refstudy.measures.names import ALONG, CELL
from refstudy.texts import Completion, Prompt


def _prompt(name, cluster, held_out):
    return Prompt(prompt_id=name, messages=[{"role": "user", "content": "?"}], cluster=cluster, meta={"held_out": held_out})


def _answer(name, text, tokens, terminated=True):
    return Completion(prompt_id=name, text=text, token_ids=tokens, terminated=terminated, logp_sum_nats=-1.0)


PROMPTS = [_prompt("p", "a", False), _prompt("q", "b", False), _prompt("r", "c", True)]
CANDIDATES = [
    _answer("p", "one two", [1, 2, 0]),
    _answer("q", "one two", [1, 2, 0]),
    _answer("r", "three", [3] * 9, terminated=False),
]
BASELINES = [_answer("p", "x", [1, 0]), _answer("q", "y", [2, 0]), _answer("r", "z", [3, 0])]
VERDICTS = [
    {"prompt_id": "p", "p": 1.0, "candidate_reward": 2.0, "candidate_detail": {"stated": 3, "true": 3, "false": 0}},
    {"prompt_id": "q", "p": 0.5, "candidate_reward": 1.0, "candidate_detail": {"stated": 1, "true": 0, "false": 1}},
    {"prompt_id": "r", "p": None, "candidate_reward": -3.0, "candidate_detail": {"stated": 2, "true": 0, "false": 1}},
]
DIVERGENCES = [{"prompt_id": "p", "kl_nats": 3.0, "tokens": 3}, {"prompt_id": "q", "kl_nats": 0.0, "tokens": 3}]


@pytest.fixture
def measures():
    return measure(PROMPTS, CANDIDATES, BASELINES, VERDICTS, DIVERGENCES, {"loss": 0.3, "reward_accuracy": 0.9, "other": 1})


def test_measure_win_rate_over_the_verdicts_given(measures):
    """(1 + 0.5) / 2 = 0.75 with one tie and one failure of three prompts; the one held-out prompt has no verdict: absent."""
    assert measures["win_rate"] == 0.75
    assert measures["win_rate_se"] == pytest.approx(0.25)
    assert (measures["tie_share"], measures["judge_failures"], measures["prompts"]) == (0.5, 1, 3)
    assert measures["win_rate_seen"] == 0.75
    assert "win_rate_held_out" not in measures


def test_measure_lengths_count_the_end_token(measures):
    """Tokens 3, 3, 9: mean 5, ratio 5 / 2; ended 3; characters 7, 7, 5; words 2, 2, 1."""
    assert measures["length_tokens_mean"] == 5.0
    assert measures["length_tokens_terminated_mean"] == 3.0
    assert measures["length_ratio"] == 2.5
    assert measures["length_characters_mean"] == pytest.approx(19 / 3)
    assert measures["length_words_mean"] == pytest.approx(5 / 3)
    assert measures["truncation_rate"] == pytest.approx(1 / 3)
    assert 0 <= measures["length_mean_low"] <= 5 <= measures["length_mean_high"]


def test_measure_repetition_leaves_the_end_token_out(measures):
    """3 x 9: six 4-grams, one unique: 5/6, over three answers 5/18; it is the one repetitive answer; two texts of three differ."""
    assert measures["seq_rep_4"] == pytest.approx(5 / 18)
    assert measures["repetitive_share"] == pytest.approx(1 / 3)
    assert measures["distinct_answers"] == pytest.approx(2 / 3)


def test_measure_gold_pools_statements(measures):
    """Rewards 2, 1, -3: mean 0; 6 statements in 3 answers, 3 of them true, 2 false and 1 repeated: precision 3 / 5."""
    assert measures["gold_reward"] == 0.0
    assert measures["statements_mean"] == 2.0
    assert measures["precision"] == 0.6


def test_measure_divergence_and_training_take_their_names(measures):
    assert measures["kl_start_nats"] == 1.5
    assert measures["kl_start_nats_per_token"] == 0.5
    assert measures["train_loss_final"] == 0.3
    assert measures["reward_accuracy"] == 0.9
    assert "validation_loss" not in measures


def test_measure_without_gold_or_divergence_leaves_them_out():
    plain = [{"prompt_id": row["prompt_id"], "p": 1.0, "candidate_reward": 2.0, "candidate_detail": {}} for row in VERDICTS]
    measures = measure(PROMPTS, CANDIDATES, BASELINES, plain, [], {})
    assert not {"gold_reward", "precision", "statements_mean", "kl_start_nats", "train_loss_final"} & set(measures)
    assert measures["win_rate_held_out"] == 1.0
    assert measures["judge_reward"] == 2.0


def test_measure_never_gives_a_value_that_json_cannot_hold():
    silent = [_answer(name, "", [], terminated=False) for name in "pqr"]
    nothing = [{"prompt_id": name, "p": None, "candidate_reward": None, "candidate_detail": None} for name in "pqr"]
    measures = measure(PROMPTS, silent, silent, nothing, [], {"loss": math.nan})
    assert all(type(value) is float and math.isfinite(value) for value in measures.values())
    assert "win_rate" not in measures
    assert measures["judge_failures"] == 3


def test_measure_repetition_of_a_terminated_answer_is_without_its_end_token():
    """5 x 5 then the end token: without it two 4-grams, one unique, 1/2; with it three, two unique, would be 1/3."""
    answers = [_answer(name, "said", [5, 5, 5, 5, 5, 0]) for name in "pqr"]
    assert measure(PROMPTS, answers, answers, VERDICTS, [], {})["seq_rep_4"] == 0.5


def test_every_measure_has_its_name_in_the_list_that_alarms_are_checked_against(measures):
    assert {*measures, *TRAINING_MEASURES.values()} - set(CELL) == set()
    assert set(ALONG) - set(CELL) == {"win_rate_fall"}
