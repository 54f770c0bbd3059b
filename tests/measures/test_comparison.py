"""Two sides, prompt by prompt: numbers worked by hand."""

import math

import pytest

from refstudy.measures.comparison import Side, compare
from refstudy.texts import Completion, Prompt


def side(texts, p=None, title="x", judge="j", baseline="b", rewards=None, counted_by="t"):
    """A side that answers prompts 0, 1, ... with `texts`, a token a word."""
    prompts = [
        Prompt(prompt_id=str(n), messages=[{"role": "user", "content": f"q{n}"}], cluster=f"c{n}") for n in range(len(texts))
    ]
    answers = [
        Completion(prompt_id=str(n), text=text, token_ids=[1] * len(text.split()), terminated=True, logp_sum_nats=math.nan)
        for n, text in enumerate(texts)
        if text is not None
    ]
    given = None if p is None else {str(n): each for n, each in enumerate(p)}
    known = None if rewards is None else {str(n): each for n, each in enumerate(rewards)}
    return Side(
        title=title, prompts=prompts, answers=answers, p=given, judge=judge, baseline=baseline, rewards=known, counted_by=counted_by
    )


def test_difference_is_paired_by_prompt():
    """p_a - p_b = 1, 0, 0, 1: mean 0.5, std(ddof=1) sqrt(1/3), standard error sqrt(1/3)/2 = 0.2887; of p alone 0.75, 0.25."""
    found = compare(side(["a"] * 4, [1, 0.5, 0.5, 1]), side(["b"] * 4, [0, 0.5, 0.5, 0]))
    assert found.difference.value == 0.5
    assert found.difference.standard_error == pytest.approx(0.28868, abs=1e-5)
    assert (found.p_a.estimate.value, found.p_b.estimate.value) == (0.75, 0.25)


def test_a_verdict_missing_on_one_side_leaves_the_prompt_out_of_the_difference():
    """Left are prompts 0 and 2: (1 - 0 + 0 - 0) / 2."""
    found = compare(side(["a"] * 3, [1, None, 0]), side(["b"] * 3, [0, 1, 0]))
    assert (found.difference.value, found.difference.n) == (0.5, 2)


@pytest.mark.parametrize("other", [{"judge": "k"}, {"baseline": "c"}])
def test_win_rates_by_other_judges_or_baselines_make_no_difference(other):
    found = compare(side(["a"] * 3, [1, 1, 1]), side(["b"] * 3, [0, 0, 0], **other))
    assert found.difference is None
    assert found.p_a is None
    assert all(each.p_a is None for each in found.examples)


def test_direct_verdicts_give_the_head_to_head():
    """(1 + 0.5 + 0) / 3 with one of three a tie; the None is counted apart."""
    found = compare(side(["a"] * 4), side(["b"] * 4), {"0": 1.0, "1": 0.5, "2": 0.0, "3": None})
    assert found.direct.estimate.value == 0.5
    assert found.direct.tie_share == pytest.approx(1 / 3)
    assert found.direct.failures == 1


def test_lengths_are_paired_and_in_tokens_only_where_the_tokens_are_the_same():
    """Words 2, 1 against 1, 1: means 1.5 and 1, difference 0.5."""
    one, two = side(["aa bb", "cc"]), side(["dd", "ee"])
    by_unit = {each.unit: each for each in compare(one, two).lengths}
    assert list(by_unit) == ["tokens", "characters", "words"]
    assert (by_unit["words"].a, by_unit["words"].b, by_unit["words"].difference.value) == (1.5, 1.0, 0.5)
    assert (by_unit["characters"].a, by_unit["characters"].b) == (3.5, 2.0)
    assert [each.unit for each in compare(one, side(["dd", "ee"], counted_by="u")).lengths] == ["characters", "words"]


def test_prompts_of_one_side_only_are_left_out():
    found = compare(side(["a", None, "c"], [1, 1, 1]), side(["a", "b", "x"], [0, 0, 0]))
    assert sorted(each.prompt.prompt_id for each in found.examples) == ["0", "2"]
    assert found.same_text == 1
    assert found.difference.n == 2


def test_prompts_of_one_id_that_read_otherwise_are_not_paired():
    """Two miniature worlds name their prompts alike. A side that knows ids only is paired by them."""
    one, two = side(["a", "b"], [1, 1]), side(["a", "b"], [0, 0])
    two.prompts[1].messages[0]["content"] = "of another world"
    assert [each.prompt.prompt_id for each in compare(one, two).examples] == ["0"]
    two.prompts[1].messages.clear()
    assert len(compare(one, two).examples) == 2


def test_examples_come_by_verdict_then_reward_then_length():
    """Prompt 2 has opposite verdicts; 0 and 1 agree, 1 with rewards further apart; 3 has neither, but another length than 4."""
    one = side(["a", "b", "c", "dddd", "e"], [1, 1, 1, 0, 0], rewards=[1, 3, 0, 0, 0])
    two = side(["a", "b", "c", "d", "e"], [1, 1, 0, 0, 0], rewards=[0, 0, 0, 0, 0])
    assert [each.prompt.prompt_id for each in compare(one, two).examples] == ["2", "1", "0", "3", "4"]


def test_rewards_of_two_judges_are_not_compared():
    one, two = side(["a"], [1], rewards=[100], judge="j"), side(["a"], [1], rewards=[0], judge="k")
    assert compare(one, two).examples[0].disagreement == (0.0, 0.0, 0.0)
