"""Answers from files: joined to prompts or refused."""

import json
import math

import pytest

from refstudy import imports, outputs
from refstudy.errors import DataError
from refstudy.texts import Completion, Prompt
from tests import tiny

PROMPTS = [
    Prompt(prompt_id=f"p{n}", messages=[{"role": "user", "content": text}], cluster="c")
    for n, text in enumerate(["the old river", "a new city", "the old river"])
]
HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} \x1b[2J \u202e <|end|>"


def write(folder, rows, name="answers.jsonl"):
    path = folder / name
    path.write_text(json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows))
    return imports.file(path)


def by_id(texts):
    return [{"prompt_id": f"p{n}", "output": text} for n, text in enumerate(texts)]


def test_completions_by_id_are_in_the_prompts_order_with_tokens_counted(tmp_path):
    words = tiny.tokenizer()
    found = outputs.completions(write(tmp_path, by_id(["green", "red bird", "fish"])[::-1]), PROMPTS, words)
    assert [each.prompt_id for each in found] == ["p0", "p1", "p2"]
    assert [each.text for each in found] == ["green", "red bird", "fish"]
    assert found[1].token_ids == [*words("red bird", add_special_tokens=False)["input_ids"], words.eos_token_id]
    assert math.isnan(found[0].logp_sum_nats)


def test_completions_of_alpaca_eval_are_found_by_the_prompts_text_in_turn(tmp_path):
    rows = [{"instruction": p.messages[0]["content"], "output": f"answer {n}", "generator": "g"} for n, p in enumerate(PROMPTS)]
    found = outputs.completions(write(tmp_path, rows, "model_outputs.json"), PROMPTS, tiny.tokenizer())
    assert [each.text for each in found] == ["answer 0", "answer 1", "answer 2"]


def test_completions_as_conversations(tmp_path):
    rows = [{"messages": [*prompt.messages, {"role": "assistant", "content": "yes"}]} for prompt in PROMPTS]
    assert [each.text for each in outputs.completions(write(tmp_path, rows), PROMPTS, tiny.tokenizer())] == ["yes"] * 3


@pytest.mark.parametrize("said", [{"terminated": False}, {"finish_reason": "length"}])
def test_completion_that_was_cut_has_no_end_token(said, tmp_path):
    words = tiny.tokenizer()
    rows = by_id(["green", "red", "fish"])
    rows[0] |= said
    cut, whole, _ = outputs.completions(write(tmp_path, rows), PROMPTS, words)
    assert (cut.terminated, whole.terminated) == (False, True)
    assert cut.token_ids[-1] != words.eos_token_id == whole.token_ids[-1]


def test_missing_prompts_are_refused_with_count_and_first(tmp_path):
    with pytest.raises(DataError, match=r"2 of 3 prompts have no answer in the file \(first: 'p1', 'a new city'\)"):
        outputs.completions(write(tmp_path, by_id(["green"])), PROMPTS, tiny.tokenizer())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
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
        outputs.completions(write(tmp_path, rows), PROMPTS, tiny.tokenizer())


def test_hostile_text_is_kept_as_it_is(tmp_path):
    found = outputs.completions(write(tmp_path, by_id([HOSTILE] * 3)), PROMPTS, tiny.tokenizer())
    assert [each.text for each in found] == [HOSTILE] * 3


def test_changed_file_is_refused(tmp_path):
    source = write(tmp_path, by_id(["a", "b", "c"]))
    write(tmp_path, by_id(["a", "b", "d"]))
    with pytest.raises(DataError, match="has changed"):
        outputs.completions(source, PROMPTS, tiny.tokenizer())


def test_conversations_of_a_file_alone(tmp_path):
    write(tmp_path, [{"instruction": "hi", "output": "yes"}, {"prompt_id": "7", "output": "no", "finish_reason": "length"}])
    (prompt, text, ended), (other, _, cut) = outputs.conversations(tmp_path / "answers.jsonl")
    assert (prompt.messages, text, ended) == ([{"role": "user", "content": "hi"}], "yes", True)
    assert (other.prompt_id, cut) == ("7", False)
    assert isinstance(prompt, Prompt)
    assert not isinstance(prompt, Completion)
