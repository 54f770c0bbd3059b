"""Answers of a file, found for the prompts that they answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from refstudy import content, data, given_answers, recipes
from refstudy.errors import DataError
from refstudy.texts import Prompt

RIVER, BREAD = "Name a river.", "Why is bread good?"


def prompt(text: str, number: int = 1) -> Prompt:
    messages = [{"role": "user", "content": text}]
    key = data.prompt_key(messages)
    return Prompt(prompt_id=key if number == 1 else f"{key}-{number}", messages=messages, cluster=key)


def matched(rows: list[dict[str, Any]], *prompts: Prompt) -> list[str]:
    return given_answers.matched([(f"f, row {number}", row) for number, row in enumerate(rows, 1)], list(prompts))


def test_answers_are_found_by_text_and_by_id_in_the_order_of_the_prompts() -> None:
    rows = [{"prompt_id": prompt(BREAD).prompt_id, "text": "B"}, {"instruction": RIVER, "output": "A", "generator": "g"}]
    assert matched(rows, prompt(RIVER), prompt(BREAD)) == ["A", "B"]


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
def test_answer_beside_a_prompt_of_every_form_is_found(row: dict[str, Any]) -> None:
    assert matched([row], prompt(RIVER)) == ["A"]


def test_prompt_that_is_asked_twice_takes_its_rows_in_order() -> None:
    rows = [{"instruction": RIVER, "output": text} for text in ("A", "B")]
    assert matched(rows, prompt(RIVER), prompt(RIVER, 2)) == ["A", "B"]
    assert matched(rows[:1], prompt(RIVER), prompt(RIVER, 2)) == ["A", "A"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"instruction": BREAD, "output": "B"}], r"1 of 1 prompts have no answer in the file \(first: 'Name a river.'\)"),
        ([{"instruction": RIVER, "output": text} for text in "AB"], "has 2 answers that differ for 1 time"),
        ([{"instruction": RIVER}], r"f, row 1: there is no answer \(found: instruction\)"),
        ([{"instruction": RIVER, "output": None}], "f, row 1: output is None; expected the answer's text"),
        ([{"messages": [{"role": "user", "content": RIVER}]}], "f, row 1: messages ends with the user"),
        ([{"output": "A"}], "f, row 1: there is no prompt, messages, instruction or turns column"),
        ([{"instruction": RIVER, "output": "\ud800"}], "f, row 1: output holds the lone surrogate"),
    ],
)
def test_rows_that_do_not_answer_are_refused_in_words(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        matched(rows, prompt(RIVER))


def test_answers_of_a_file_are_read_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps([{"instruction": RIVER, "output": "A"}]))
    start = recipes.Hub(model="m", revision=None)
    prompts = recipes.Prompts(source=recipes.File(content="c", path="p"), count=None)
    source = recipes.File(content=content.content_hash(file), path=str(file))
    recipe = recipes.Answers(source=source, prompts=prompts, tokens_of=start)
    assert given_answers.texts(recipe, [prompt(RIVER)]) == ["A"]
    file.write_text(json.dumps([{"instruction": RIVER, "output": "B"}]))
    with pytest.raises(DataError, match="has changed since the sweep was read"):
        given_answers.texts(recipe, [prompt(RIVER)])


def test_chosen_answer_that_is_not_beside_its_prompt_is_refused() -> None:
    recipe = recipes.Answers(source=None, prompts=None, tokens_of=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no chosen answer beside it"):
        given_answers.texts(recipe, [prompt(RIVER)])
