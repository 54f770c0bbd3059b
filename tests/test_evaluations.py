"""Evaluation sets of a sweep file as recipes: what each leaf changes, what is refused, and that no cell is another for them."""

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from refstudy import demand, grid, plan, recipes, spec, sweepfile
from refstudy.entries import Place
from refstudy.errors import RefstudyError, SpecError
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.store import Store
from refstudy.sweepfile import Document
from tests import sweeps
from tests.test_grid import NO_OTHER_VALUE, execution_only, leaves, other

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
SERVER = {
    "kind": "server", "model": "m", "base_url": "http://127.0.0.1:1/v1", "revision": "r", "concurrency": 2, "timeout_s": 2.0,
    "retries": 2, "key_variable": "K",
}  # fmt: skip


@pytest.fixture
def document(tmp_path: Path) -> Document:
    """A sweep over file data with evaluation sets in which every kind of prompts and baseline has every leaf set."""
    sweeps.write(tmp_path)
    for name, text in (("prompts.jsonl", "{}\n"), ("other.jsonl", "{} \n"), ("pairs-other.jsonl", "x")):
        (tmp_path / name).write_text(text)
    whole = sweeps.document()
    judge = json.loads(json.dumps(whole["judge"])) | {"seed": 0}
    judge["start"] |= {"resources": {"cpus": 2.0, "gpus": 0.0, "custom": {"big": 1.0}}}
    judge["train"] |= {"micro_batch": 2, "checkpointing": False}
    model = json.loads(json.dumps(whole["policies"]["small"])) | {"seed": 4, "resources": {"gpus": 1.0}}
    hub = {"dataset": "org/d", "file": "f.json", "revision": "r", "config": "c", "split": "eval"}
    generate = {"max_new_tokens": 6, "temperature": 0.5, "top_p": 0.9}
    sets = {
        "file": {
            "prompts": {"kind": "file", "path": "prompts.jsonl", "count": 3},
            "generate": generate,
            "system": "s",
            "judge": judge,
        },
        "hub": {"prompts": {"kind": "hub", **hub, "count": 3}, "baseline": {"kind": "hub", **hub}},
        "held": {"prompts": {"kind": "held_out", "part": "validation", "count": 2}, "baseline": {"kind": "chosen"}},
        "given": {"baseline": {"kind": "file", "path": "prompts.jsonl"}},
        "served": {"baseline": SERVER},
        "model": {"baseline": model},
        "cell": {"baseline": {"kind": "cell", "reference": "self", "beta": 0.1}},
    }
    whole["axes"] = {"beta": [1.0, 0.1, 0.05], "reference": ["self", "cross"]}
    return {**whole, "eval": sets}


def cells_of(document: Document, folder: Path) -> list[Cell]:
    return grid.cells(Sweep(document["name"], "", document, spec.check(document, "t"), Place(folder)))


def evaluations(document: Document, folder: Path) -> list[list[str]]:
    return [[fingerprint(each.verdicts) for each in cell.evaluations] for cell in cells_of(document, folder)]


def words(path: str, value: Any) -> Any:
    """Another value for a leaf of a set, as `tests.test_grid.other` has them."""
    known = {"prompts.jsonl": "other.jsonl", "validation": "evaluation", "self": "cross"}
    if path.endswith("cell.baseline.beta"):
        return 0.05
    return known.get(value, other(path, value)) if isinstance(value, str) else other(path, value)


def test_every_leaf_of_a_set_changes_its_verdicts_alone_or_is_execution_only(document: Document, tmp_path: Path) -> None:
    ids, before, wrong, tried = [cell.id for cell in cells_of(document, tmp_path)], evaluations(document, tmp_path), [], 0
    for path, value in leaves(document["eval"], "eval"):
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in NO_OTHER_VALUE):
            continue
        changed = sweepfile.override(document, [])
        sweepfile.place(changed, path, words(path, value))
        after = evaluations(changed, tmp_path)
        place = list(document["eval"]).index(path.split(".")[1])
        same = [[one == two for one, two in zip(*rows, strict=True)] for rows in zip(before, after, strict=True)]
        tried += 1
        if any(row[place] is not execution_only(path) or not all(row[:place] + row[place + 1 :]) for row in same):
            wrong.append(path)
        assert [cell.id for cell in cells_of(changed, tmp_path)] == ids
    assert wrong == []
    assert tried > 50


def test_sets_leave_the_cells_and_all_that_they_had_as_they_were(document: Document, tmp_path: Path) -> None:
    without = {key: value for key, value in document.items() if key != "eval"}
    for one, other_ in zip(cells_of(document, tmp_path), cells_of(without, tmp_path), strict=True):
        assert (one.id, one.completions, one.goals[:4]) == (other_.id, other_.completions, other_.goals)
        assert other_.answers == (other_.completions,)


def test_set_without_leaves_is_the_sweeps_own_question_again(document: Document, tmp_path: Path) -> None:
    cell = cells_of({**document, "eval": {"again": {}}}, tmp_path)[0]
    assert cell.evaluations[0].verdicts == cell.verdicts
    assert len(cell.goals) == 4


def test_held_out_prompts_of_the_evaluation_part_are_the_sweeps_own(document: Document, tmp_path: Path) -> None:
    cell = cells_of({**document, "eval": {"held": {"prompts": {"kind": "held_out"}}}}, tmp_path)[0]
    assert cell.evaluations[0].completions == cell.completions


def test_system_prompt_of_a_set_takes_the_place_of_the_policys(document: Document, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("x")
    document["policies"] = {"small": {"kind": "model", "model": str(tmp_path), "system": "own"}}
    document["eval"] = {"set": {"system": "s"}, "none": {}}
    found = cells_of(document, tmp_path)[0].evaluations
    assert [each.completions.sampling.system for each in found] == ["s", "own"]
    assert [each.verdicts.baseline.sampling.system for each in found] == ["s", "own"]


def test_baseline_that_is_a_cell_gives_the_answers_that_this_cell_gives(document: Document, tmp_path: Path) -> None:
    cells = {(cell.reference, cell.beta): cell for cell in cells_of(document, tmp_path)}
    rival, one = cells["self", 0.1], cells["cross", 1.0]
    assert one.evaluations[-1].verdicts.baseline == rival.evaluations[-1].completions
    assert [each.id for each in one.rivals] == [rival.id]
    assert one.rivals[0].answers == rival.answers
    assert rival.rivals == ()


def test_rivals_are_tried_first_and_their_policies_are_nobodys_shared_work(document: Document, tmp_path: Path) -> None:
    cells = cells_of(document, tmp_path)
    assert [(cell.reference, cell.beta) for cell in plan.rivals_first(cells)][:2] == [("self", 0.1), ("self", 1.0)]
    alone = [cell for cell in cells if cell.beta == 1.0 and cell.reference == "cross"]
    shared = plan.shared(alone, Store(tmp_path / "store"))
    assert not any(isinstance(each, recipes.Dpo) for each in shared)
    assert alone[0].rivals[0].dpo.table in shared


def test_models_behind_sets_ask_for_their_own_resources(document: Document, tmp_path: Path) -> None:
    cells = cells_of(document, tmp_path)
    sweep = Sweep("t", "", document, spec.check(document, "t"), Place(tmp_path))
    asked = demand.asked(sweep, cells)
    assert asked["eval.model.baseline.resources"].gpus == 1.0
    assert asked["eval.file.judge.start.resources"].custom == {"big": 1.0}
    baseline = cells[0].evaluations[5].verdicts.baseline
    assert demand.by_model(sweep, cells)[fingerprint(demand.loaded(baseline))].gpus == 1.0


def test_titles_of_baselines_are_words(document: Document, tmp_path: Path) -> None:
    titles = [plan.title(each.verdicts.baseline) for each in cells_of(document, tmp_path)[0].evaluations]
    assert titles[1:5] == ["answers of org/d", "chosen answers", "answers of prompts.jsonl", "answers of m (server)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("eval.a={prompts: {kind: file, path: prompts.jsonl}, baseline: {kind: chosen}}", "eval.a.baseline: only held-out pairs"),
        (
            "eval.a={baseline: {kind: cell, reference: self, beta: 0.7}}",
            "eval.a.baseline: the grid has no cell of reference 'self'",
        ),
        ("eval.a={baseline: {kind: cell, reference: slf, beta: 1}}", "axes.reference (self, cross) and one of axes.beta (1.0, 0.1"),
        ("eval.a={judge: {kind: gold}}", "eval.a.judge.kind: gold knows rewards of the miniature only"),
        ("eval.a={prompts: {kind: file, path: absent.jsonl}}", "absent.jsonl does not exist"),
        ("eval.sweep={}", "eval.sweep: got 'sweep'; that is what the sweep's own prompts are called"),
        ("eval.a={baselin: {}}", "eval.a.baselin: unknown key; did you mean baseline?"),
        ("eval.a={baseline: {kind: cel}}", "eval.a.baseline.kind: got 'cel'; expected 'start', 'chosen', 'file'"),
        ("eval.a={baseline: {kind: model, model: a/b, system: s}}", "eval.a.baseline.system: got 's', which changes nothing here"),
        ("axes.eval.file.system=[a, b]", "axes.eval.file.system: unknown axis"),
    ],
)
def test_set_that_cannot_be_is_refused_in_words(document: Document, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(RefstudyError) as caught:
        cells_of(sweepfile.override(document, [change]), tmp_path)
    assert message in str(caught.value)


def test_held_out_prompts_where_nothing_is_held_out_are_refused(document: Document, tmp_path: Path) -> None:
    document["data"]["validation_pairs"] = 0
    with pytest.raises(SpecError, match=r"no pairs are held out for validation; expected a number of them as data\.val"):
        cells_of(document, tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{prompts: {kind: held_out}}", "eval.a.prompts: held_out needs pairs of a file or dataset; data.kind is miniature"),
        ("{prompts: {kind: file, path: quickstart.yaml}}", "eval.a.judge: gold knows rewards of the world's own prompts only"),
    ],
)
def test_set_that_a_miniature_world_cannot_have_is_refused(entry: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        grid.cells(grid.read(QUICKSTART, [f"eval.a={entry}"]))
    assert message in str(caught.value)


def test_greedy_set_of_the_quickstart_has_the_worlds_judge() -> None:
    cell = grid.cells(grid.read(QUICKSTART, ["eval.greedy={generate: {max_new_tokens: 96, temperature: 0}}"]))[0]
    assert cell.evaluations[0].verdicts.judge == cell.verdicts.judge
    assert cell.evaluations[0].completions.sampling.temperature == 0
