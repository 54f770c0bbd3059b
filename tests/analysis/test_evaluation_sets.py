"""Evaluation sets in the analysis: the same frames on other answers, and a section of the report."""

import json
from dataclasses import asdict

import pandas as pd
import pytest

from analysis import controlled, evaluation_sets, frames, report
from refstudy import records, texts
from refstudy.measures.cell import measure
from tests.analysis import synthetic

SET = "alpaca.2"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, store = synthetic.build(tmp_path_factory.mktemp("sets"), betas=(1, 0.1), references=("self", "larger-same"))
    add_set(folder, store)
    return folder, store


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(controlled, "DRAWS", 60)


def add_set(folder, store, leave_out=()):
    """Every done cell judged on half of the prompts as well, against answers of a file: each verdict turned round."""
    prompts = texts.read_prompts(store.root / "miniature_prompts" / "prompts0" / "prompts.jsonl")[::2]
    synthetic._artefact(store, "prompts", "half", "prompts.jsonl", [asdict(row) for row in prompts])
    given = texts.read_completions(store.root / "completions" / "base0" / "completions.jsonl")[::2]
    artefact(store, "answers", "given", "completions.jsonl", [asdict(row) for row in given])
    for path in sorted((folder / "cells").glob("*.json")):
        record = records.read_record(path)
        if record["status"] != "done" or record["cell_id"] in leave_out:
            continue
        cell_id = record["cell_id"]
        own = texts.read_completions(store.root / "completions" / cell_id / "completions.jsonl")[::2]
        verdicts = [row for _, row in texts.read_objects(store.root / "verdicts" / f"v{cell_id}" / "verdicts.jsonl")][::2]
        verdicts = [{**row, "p": 1 - row["p"]} for row in verdicts]
        artefact(store, "completions", f"half{cell_id}", "completions.jsonl", [asdict(row) for row in own])
        artefact(store, "verdicts", f"half{cell_id}", "verdicts.jsonl", verdicts)
        measures = measure(prompts, own, given, verdicts, [], {})
        recipes = {"completions": f"half{cell_id}", "baseline": "given", "verdicts": f"half{cell_id}"}
        of = {"measures": measures, "degenerate": True, "reason": "on the set", "recipes": recipes, "recipe": record["recipe"]}
        records.write_record(folder, {**record, "evaluations": {SET: of}})
    records.write_json(folder / "sweep.json", {**records.read_sweep(folder), "evaluation_sets": [SET]})


def artefact(store, kind, identity, name, rows):
    synthetic._artefact(store, kind, identity, name, rows)
    canonical = {"kind": kind, "prompts": {"recipe": "prompts:half"}}
    (store.root / kind / identity / "recipe.json").write_text(json.dumps({"canonical": canonical, "description": {}}))


def test_on_set_reads_the_measures_answers_and_baselines_of_the_set(made):
    folder, store = made
    loaded = frames.load(folder, store)
    on_set = frames.on_set(loaded, SET, store)
    assert on_set.faults == []
    assert list(on_set.cells.columns) == list(loaded.cells.columns)
    assert on_set.prompts.groupby("cell_id").size().tolist() == [96] * 4
    assert on_set.cells["win_rate"].tolist() != loaded.cells["win_rate"].tolist()
    by_prompt = loaded.prompts.merge(on_set.prompts, on=["cell_id", "prompt_id"], suffixes=("", "_set"))
    assert (by_prompt["p"] == 1 - by_prompt["p_set"]).all()
    assert on_set.cells["degenerate"].all()
    assert not loaded.cells["degenerate"].any()
    assert on_set.baselines["baseline_id"].tolist() == ["given"]


def test_report_has_a_section_a_figure_and_rows_for_the_set(made):
    folder, store = made
    page = report.write(folder, store).read_text()
    assert f"Evaluation set {SET}" in page
    assert f'href="#set-{SET}"' in page
    assert f'id="set-{SET}"' in page
    assert (folder / "figures" / f"win_rate_by_beta_{SET}.png").stat().st_size > 10_000
    assert f"{SET}: win rate against beta" in page
    evaluations = pd.read_csv(folder / "tables" / "evaluations.csv")
    of_record = {path.stem: records.read_record(path)["evaluations"][SET] for path in (folder / "cells").glob("*.json")}
    assert len(evaluations) == 4
    for row in evaluations.to_dict("records"):
        assert row["win_rate"] == of_record[row["cell_id"]]["measures"]["win_rate"]
        assert row["evaluation_set"] == SET
    assert evaluations["lc_win_rate"].notna().all()
    assert (folder / f"difficulty_{SET}.json").is_file()
    points = pd.read_csv(folder / "tables" / "evaluation_points.csv")
    assert sorted(points["win_rate"]) == sorted(evaluations["win_rate"])


def test_report_without_sets_says_nothing_of_them(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self",))
    page = report.write(folder, store).read_text()
    assert "Evaluation set" not in page
    assert not (folder / "tables" / "evaluations.csv").exists()


def test_cells_that_are_not_judged_on_a_set_yet_are_counted(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-same"), broken=("failed",))
    add_set(folder, store, leave_out=("c0001",))
    (of,) = evaluation_sets.load(frames.load(folder, store), store)
    assert of.faults == [f"1 of 3 cells that are done are not judged on {SET} yet."]
    assert "once every cell of the grid is finished" in of.notes[0]
    assert len(of.points) == 2


def test_set_whose_answers_are_gone_is_named_and_keeps_its_rates(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self",))
    add_set(folder, store)
    (store.root / "answers" / "given" / "manifest.json").unlink()
    (of,) = evaluation_sets.load(frames.load(folder, store), store)
    assert any("The baseline answers cannot be read" in fault for fault in of.faults)
    assert of.points["win_rate"].notna().all()
    assert any("the baseline's answers, cannot be read" in note for note in of.notes)
