import math

import pytest

from refstudy import judges
from refstudy.errors import JudgeError
from refstudy.judges import Verdict
from refstudy.texts import Completion, Prompt

PROMPTS = [Prompt(prompt_id=name, messages=[{"role": "user", "content": name}], cluster=name) for name in ("a", "b")]


def answers(*names):
    return [Completion(prompt_id=name, text="x", token_ids=[1], terminated=True, logp_sum_nats=-1.0) for name in names]


def test_verdicts_read_back_equal_what_was_written(tmp_path):
    verdicts = [
        Verdict(
            prompt_id="a", p=0.25, candidate_reward=-1.5, baseline_reward=0.0, candidate_detail={"stated": 3}, baseline_detail={}
        ),
        Verdict(prompt_id="b", p=None, candidate_reward=None, baseline_reward=None, candidate_detail={}, baseline_detail={}),
    ]
    judges.write(tmp_path, verdicts)
    assert judges.read(tmp_path) == verdicts


def test_check_same_prompts_of_answers_to_all_prompts_passes():
    judges.check_same_prompts(PROMPTS, answers("a", "b"), answers("a", "b"))


@pytest.mark.parametrize(
    ("candidate", "baseline", "said"),
    [
        (("a",), ("a", "b"), "the candidate has 1 answers for 2 prompts .*first without an answer: b"),
        (("a", "b"), ("b", "a"), "the baseline .*another order"),
        (("a", "b"), ("a", "b", "c"), "the baseline has 3 answers"),
    ],
)
def test_check_same_prompts_of_other_answers_is_refused(candidate, baseline, said):
    with pytest.raises(JudgeError, match=said):
        judges.check_same_prompts(PROMPTS, answers(*candidate), answers(*baseline))


@pytest.mark.parametrize(
    ("difference", "p"), [(0.0, 0.5), (math.log(3), 0.75), (-math.log(3), 0.25), (1000.0, 1.0), (-1000.0, 0.0)]
)
def test_sigmoid_worked_by_hand(difference, p):
    """sigmoid(log 3) = 3 / (3 + 1)."""
    assert judges.sigmoid(difference) == pytest.approx(p)
