"""AlpacaEval's annotations as verdicts: the preference scale, the join by text, and what is refused."""

import json

import pytest

from refstudy.errors import DataError, JudgeError
from refstudy.judges import annotations
from refstudy.texts import Completion, Prompt

PROMPTS = [
    Prompt(prompt_id=name, messages=[{"role": "user", "content": f"Question {name}?"}], cluster=name) for name in ("a", "b", "c")
]


def answers(side):
    return [
        Completion(prompt_id=each.prompt_id, text=f"{side} {each.prompt_id}", token_ids=[1], terminated=True, logp_sum_nats=-1.0)
        for each in PROMPTS
    ]


def row(name, preference, one="base", two="cell"):
    """An annotation as AlpacaEval writes it: output_1 is the baseline's, output_2 the model's."""
    return {
        "instruction": f"Question {name}?",
        "output_1": f"{one} {name}",
        "generator_1": "baseline",
        "output_2": f"{two} {name}",
        "generator_2": "model",
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "preference": preference,
    }


@pytest.fixture
def judged(tmp_path):
    def judge(*rows):
        (tmp_path / "annotations.json").write_text(json.dumps(rows))
        return annotations.judge(annotations.read(tmp_path / "annotations.json"), PROMPTS, answers("cell"), answers("base"))

    return judge


def test_preference_of_two_is_a_win(judged):
    found = judged(row("a", 2), row("b", 1.25), row("c", 1))
    assert [each.p for each in found.verdicts] == [1.0, 0.25, 0.0]


def test_zero_and_one_and_a_half_are_draws_and_null_is_none(judged):
    found = judged(row("a", 0), row("b", 1.5), row("c", None))
    assert [each.p for each in found.verdicts] == [0.5, 0.5, None]
    assert found.summary == {"verdicts": 3, "no_verdict": 1, "annotations": 3}


def test_nan_of_a_failed_annotation_is_none(judged):
    assert judged(row("a", float("nan")), row("b", 2), row("c", 2)).verdicts[0].p is None


def test_outputs_in_the_other_order_give_the_complement(judged):
    found = judged(row("a", 1.75, one="cell", two="base"), row("b", 2), row("c", 2))
    assert found.verdicts[0].p == pytest.approx(0.25)


def test_several_annotations_of_a_pair_are_averaged(judged):
    """(1 + 0.25) / 2, the third having failed."""
    found = judged(row("a", 2), row("a", 1.25), row("a", None), row("b", 2), row("c", 2))
    assert found.verdicts[0].p == pytest.approx(0.625)


def test_annotations_of_other_models_are_left_aside(judged):
    found = judged(row("a", 1, two="other"), row("a", 2), row("b", 2), row("c", 2))
    assert found.verdicts[0].p == 1.0


def test_missing_pairs_are_refused_with_the_first(judged):
    with pytest.raises(JudgeError, match=r"2 of 3 pairs of answers have no annotation \(first instruction: 'Question b\?'\)"):
        judged(row("a", 2), row("b", 2, two="changed"))


def test_equal_outputs_are_one_pair(tmp_path):
    (tmp_path / "annotations.json").write_text(json.dumps([row("a", 1.5, one="same", two="same")]))
    found = annotations.read(tmp_path / "annotations.json")
    assert found == {("Question a?", "same a", "same a"): [0.5]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "are no JSON"),
        ("{}", "hold no list"),
        ("[]", "hold no list"),
        ("[3]", "annotation 0 lacks the texts"),
        ('[{"instruction": "x", "output_1": "a"}]', "annotation 0 lacks the texts"),
        (json.dumps([{k: v for k, v in row("a", 1).items() if k != "preference"}]), "annotation 0 has no preference"),
        (json.dumps([row("a", 2.5)]), "has the preference 2.5; expected a number in"),
        (json.dumps([row("a", 0.5)]), "has the preference 0.5"),
        (json.dumps([row("a", True)]), "has the preference True"),
        (json.dumps([row("a", "2")]), "has the preference '2'"),
    ],
)
def test_file_that_holds_no_annotations_is_refused(tmp_path, content, said):
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(DataError, match=r"annotations\.json") as refused:
        annotations.read(tmp_path / "annotations.json")
    assert said in str(refused.value)
