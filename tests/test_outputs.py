"""Answers from files: joined to prompts or refused."""

import json

import pytest

from refstudy import imports, outputs, recipes
from refstudy.errors import DataError
from refstudy.texts import Prompt

PROMPTS = [
    Prompt(prompt_id=f"p{n}", messages=[{"role": "user", "content": text}], cluster="c")
    for n, text in enumerate(["the old river", "a new city", "the old river"])
]
HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} \x1b[2J \u202e <|end|>"


def write(folder, rows, name="answers.jsonl"):
    path = folder / name
    path.write_text(json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows))
    return imports.file(path)


def found(source, prompts=PROMPTS):
    """(text, whether it ended) of each prompt."""
    asked = recipes.Prompts(source=recipes.File(content="c", path="p"), count=None)
    recipe = recipes.Answers(source=source, prompts=asked, tokens_of=recipes.Hub(model="m", revision=None))
    return [(each.text, each.terminated) for each in outputs.answers(recipe, prompts)]


def said(source, prompts=PROMPTS):
    return [text for text, _ in found(source, prompts)]


def by_id(texts):
    return [{"prompt_id": f"p{n}", "output": text} for n, text in enumerate(texts)]


def test_answers_by_id_are_in_the_prompts_order(tmp_path):
    assert said(write(tmp_path, by_id(["green", "red bird", "fish"])[::-1])) == ["green", "red bird", "fish"]


def test_answers_of_alpaca_eval_are_found_by_the_prompts_text_in_turn(tmp_path):
    rows = [{"instruction": p.messages[0]["content"], "output": f"answer {n}", "generator": "g"} for n, p in enumerate(PROMPTS)]
    assert said(write(tmp_path, rows, "model_outputs.json")) == ["answer 0", "answer 1", "answer 2"]


RIVER = "the old river"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": RIVER, "answer": "A"},
        {"messages": [{"role": "user", "content": RIVER}], "completion": "A"},
        {"messages": [{"role": "user", "content": RIVER}, {"role": "assistant", "content": "A"}]},
        {"turns": [{"content": RIVER}], "response": "A"},
        {"turns": [RIVER], "output": "A"},
    ],
)
def test_answer_beside_a_prompt_of_every_form_is_found(row, tmp_path):
    assert said(write(tmp_path, [row]), PROMPTS[:1]) == ["A"]


def test_one_answer_serves_every_prompt_of_its_text(tmp_path):
    assert said(write(tmp_path, [{"instruction": RIVER, "output": "A"}]), [PROMPTS[0], PROMPTS[2]]) == ["A", "A"]


@pytest.mark.parametrize("told", [{"terminated": False}, {"finish_reason": "length"}])
def test_answer_that_was_cut_did_not_end(told, tmp_path):
    rows = by_id(["green", "red", "fish"])
    rows[0] |= told
    assert [ended for _, ended in found(write(tmp_path, rows))] == [False, True, True]


def test_chosen_answers_stand_beside_their_prompts():
    beside = Prompt(prompt_id="p", messages=PROMPTS[0].messages, cluster="c", meta={"chosen": "yes"})
    assert found(None, [beside]) == [("yes", True)]
    with pytest.raises(DataError, match="has no chosen answer beside it"):
        found(None)


def test_missing_prompts_are_refused_with_count_and_first(tmp_path):
    with pytest.raises(DataError, match=r"2 of 3 prompts have no answer in the file \(first: 'p1', 'a new city'\)"):
        found(write(tmp_path, by_id(["green"])))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"messages": [{"role": "user", "content": "a new city"}]}], "no answer"),
        ([*by_id(["a", "b", "c"]), {"prompt_id": "p1", "output": "again"}], "prompt 'p1' .* has 2 answers"),
        ([{"instruction": "a new city", "output": n} for n in "ab"] + by_id(["x"]), "has 2 answers .* expected 1"),
        ([{"output": "a"}], "line 1 says of no prompt"),
        (by_id(["a", "b", 3]), "line 3 has no answer as text"),
        (by_id(["a", "b", "\ud800"]), "line 3: the answer holds the lone surrogate"),
        ([{"prompt_id": f"p{n}", "output": "x", "terminated": "yes"} for n in range(3)], "terminated is 'yes'"),
    ],
)
def test_malformed_answers_are_refused(rows, message, tmp_path):
    with pytest.raises(DataError, match=message):
        found(write(tmp_path, rows))


def test_hostile_text_is_kept_as_it_is(tmp_path):
    assert said(write(tmp_path, by_id([HOSTILE] * 3))) == [HOSTILE] * 3


def test_changed_file_is_refused(tmp_path):
    source = write(tmp_path, by_id(["a", "b", "c"]))
    write(tmp_path, by_id(["a", "b", "d"]))
    with pytest.raises(DataError, match="has changed"):
        found(source)


def test_conversations_of_a_file_alone(tmp_path):
    write(tmp_path, [{"instruction": "hi", "output": "yes"}, {"prompt_id": "7", "output": "no", "finish_reason": "length"}])
    (prompt, one), (other, two) = outputs.conversations(tmp_path / "answers.jsonl")
    assert (prompt.messages, one.text, one.terminated) == ([{"role": "user", "content": "hi"}], "yes", True)
    assert (other.prompt_id, two.terminated) == ("7", False)
    assert isinstance(prompt, Prompt)
