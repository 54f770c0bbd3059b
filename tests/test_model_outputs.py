"""A cell's answers in AlpacaEval's form, and back again as verdicts."""

import json
from pathlib import Path

import pytest

from refstudy import cli, model_outputs, records
from refstudy.errors import SpecError, StoreError
from refstudy.judges import annotations
from refstudy.store import Store
from refstudy.texts import Completion, Prompt
from tests.analysis import synthetic

TEXT = 'He said "wolf"\n\u2028 caf\u00e9 {{x}} \\n'


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, Store]:
    return synthetic.build(tmp_path, betas=(1, 0.1), references=("self",), entities=3, prompts_each=2, broken=("done", "planned"))


def test_rows_have_the_keys_of_alpaca_eval() -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}, {"role": "user", "content": "Why?"}]
    prompts = [
        Prompt(prompt_id="a", messages=[{"role": "user", "content": "What?"}], cluster="a", meta={"dataset": "koala"}),
        Prompt(prompt_id="b", messages=turns, cluster="b"),
    ]
    answers = [Completion(prompt_id=each, text=TEXT + each, token_ids=[], terminated=True, logp_sum_nats=0.0) for each in "ab"]
    assert model_outputs.rows(prompts, answers, "me", "mine") == [
        {"dataset": "koala", "instruction": "What?", "output": TEXT + "a", "generator": "me"},
        {"dataset": "mine", "instruction": "user: Hi.\n\nassistant: Ho.\n\nuser: Why?", "output": TEXT + "b", "generator": "me"},
    ]


def test_answers_and_baseline_are_written_and_printed(
    built: tuple[Path, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = built
    file = tmp_path / "outputs.json"
    cli.export("c0000", None, file, results_=folder, store=store.root)
    baseline = tmp_path / "outputs.baseline.json"
    assert capsys.readouterr().out == f"{file}\n{baseline}\n"
    ours, theirs = json.loads(file.read_text()), json.loads(baseline.read_text())
    assert len(ours) == len(theirs) == 6
    assert [row["instruction"] for row in ours] == [row["instruction"] for row in theirs]
    assert {row["generator"] for row in ours} == {"small self beta=1 seed=0 (c0000)"}
    assert {row["generator"] for row in theirs} == {"baseline"}
    assert {row["dataset"] for row in ours} == {"example"}


def test_annotations_of_what_was_written_judge_the_same_answers(tmp_path: Path) -> None:
    """Every sixth preference of AlpacaEval on texts that quote, break lines and hold braces comes back on its prompt."""
    folder, store = synthetic.build(tmp_path, betas=(1,), references=("self",), entities=3, prompts_each=2, text=TEXT)
    record = records.read_record(folder / "cells" / "c0000.json")
    ours, theirs = (json.loads(path.read_text()) for path in model_outputs.write(record, store, "d", tmp_path / "o.json"))
    made = [
        {
            "instruction": mine["instruction"],
            "output_1": other["output"],
            "output_2": mine["output"] + str(number),
            "preference": 1 + number / 5,
        }
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True))
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(made))
    prompts = [
        Prompt(prompt_id=str(n), messages=[{"role": "user", "content": r["instruction"]}], cluster="c") for n, r in enumerate(ours)
    ]
    texts = ([row["output_2"] for row in made], [row["output_1"] for row in made])
    candidate, baseline = (
        [Completion(prompt_id=str(n), text=text, token_ids=[], terminated=True, logp_sum_nats=0.0) for n, text in enumerate(side)]
        for side in texts
    )
    found = annotations.judge(annotations.read(tmp_path / "annotations.json"), prompts, candidate, baseline)
    assert [each.p for each in found.verdicts] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("name", ["outputs.json", "outputs.baseline.json"])
def test_existing_file_is_left_as_it_is(built: tuple[Path, Store], tmp_path: Path, name: str) -> None:
    folder, store = built
    (tmp_path / name).write_text("mine")
    with pytest.raises(StoreError, match=r"exists; expected a new file"):
        cli.export("c0000", None, tmp_path / "outputs.json", results_=folder, store=store.root)
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.glob("outputs*"))) == 1


def test_cell_without_answers_is_refused(built: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = built
    with pytest.raises(SpecError, match="no finished cell of the folder has an id that begins with 'c0001'"):
        cli.export("c0001", None, tmp_path / "o.json", results_=folder, store=store.root)
    record = records.read_record(folder / "cells" / "c0000.json")
    with pytest.raises(StoreError, match="the answers of cell c0000 are not in the store"):
        model_outputs.write(record, Store(tmp_path / "empty"), "d", tmp_path / "o.json")


@pytest.mark.parametrize("both", [True, False])
def test_export_of_both_or_nothing_is_refused(tmp_path: Path, both: bool) -> None:
    with pytest.raises(SpecError, match=r"expected either DIR, .* or --alpaca-eval FILE"):
        cli.export("c0", tmp_path / "dir" if both else None, tmp_path / "o.json" if both else None)
