"""Loading a results folder into frames."""

import json

import pytest

from analysis import frames
from refstudy import records
from refstudy.errors import StoreError
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}


def test_load_every_listed_cell_has_one_row_in_the_sweeps_order(tmp_path):
    results = frames.load(*synthetic.build(tmp_path, **SMALL, broken=("failed", "planned")))
    assert results.cells["cell_id"].tolist() == ["c0000", "c0001", "c0002", "c0003"]
    assert results.cells["status"].tolist() == ["failed", "planned", "done", "done"]
    assert results.cells.loc[0, "error"] == "loss is nan at step 7"
    assert results.cells["win_rate"].isna().tolist() == [True, True, False, False]
    assert results.faults == []


def test_load_cell_columns_hold_what_the_record_says(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    results = frames.load(folder, store)
    record = records.read_record(folder / "cells" / "c0002.json")
    row = results.cells.set_index("cell_id").loc["c0002"]
    for column in frames.CELL_COLUMNS:
        if column.source.startswith("measures."):
            assert row[column.name] == record["measures"][column.source.removeprefix("measures.")], column.name
    assert (row["reference_kind"], row["family"], row["kl_reference_nats"]) == ("miniature", "north", 3.0)


def test_load_prompt_frame_joins_verdict_answer_and_prompt(tmp_path):
    results = frames.load(*synthetic.build(tmp_path, **SMALL))
    rows = results.prompts[results.prompts["cell_id"] == "c0001"]
    assert len(rows) == 12
    assert rows["cluster"].nunique() == 6
    assert rows["p"].mean() == pytest.approx(results.cells.loc[1, "win_rate"])
    assert rows["length_tokens"].mean() == pytest.approx(results.cells.loc[1, "length_tokens"])
    assert rows.set_index("prompt_id").loc["p03-0", "held_out"]


def test_load_cells_of_an_earlier_grid_are_kept_out_of_done(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    sweep = records.read_sweep(folder)
    records.write_sweep(folder, {"name": "example", "cells": sweep["cells"][:3]})
    results = frames.load(folder, store)
    assert results.cells["current"].tolist() == [True, True, True, False]
    assert "c0003" not in results.done["cell_id"].tolist()
    assert "c0003" not in set(results.prompts["cell_id"])


def test_load_label_follows_measures_and_limits_not_what_was_recorded(tmp_path):
    """The first cell exploded and was recorded as healthy, the second shrank, the third is healthy and was called degenerate."""
    folder, store = synthetic.build(tmp_path, **SMALL)
    for cell_id, measures, recorded in (
        ("c0000", {"truncation_rate": 0.9}, False),
        ("c0001", {"length_ratio": 0.1}, False),
        ("c0002", {"length_ratio": 1.2, "truncation_rate": 0.0}, True),
    ):
        record = records.read_record(folder / "cells" / f"{cell_id}.json")
        records.write_record(folder, {**record, "measures": {**record["measures"], **measures}, "degenerate": recorded})
    cells = frames.load(folder, store).cells.set_index("cell_id")
    assert cells.loc[["c0000", "c0001", "c0002"], "degenerate"].tolist() == [True, True, False]
    assert cells.loc["c0001", "reason"] == "length_ratio 0.1 < 0.25"


def test_load_panel_names_only_settings_that_differ(tmp_path):
    settings = ({"train.learning_rate": 1e-4, "data.world": 0}, {"train.learning_rate": 2e-4, "data.world": 0})
    results = frames.load(*synthetic.build(tmp_path, **SMALL, settings=settings))
    assert set(results.cells["panel"]) == {"small, train.learning_rate 0.0001", "small, train.learning_rate 0.0002"}


def test_load_missing_verdicts_become_a_fault_not_a_failure(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    (store.root / "verdicts" / "vc0001" / "manifest.json").unlink()
    results = frames.load(folder, store)
    assert len(results.faults) == 1
    assert "c0001" in results.faults[0]
    assert "verdicts 'vc0001' is not in the store" in results.faults[0]
    assert set(results.prompts["cell_id"]) == {"c0000", "c0002", "c0003"}


def test_load_torn_record_is_a_planned_cell_and_a_fault(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    (folder / "cells" / "c0001.json").write_text('{"schema": 1, "cell')
    results = frames.load(folder, store)
    assert results.cells.loc[1, "status"] == "planned"
    assert "c0001.json" in results.faults[0]


def test_load_references_take_the_panel_of_their_setting_and_may_be_absent(tmp_path):
    settings = ({"data.world": 0, "train.epochs": 1}, {"data.world": 1, "train.epochs": 1})
    folder, store = synthetic.build(tmp_path, **SMALL, settings=settings)
    score = {"reference": "larger-same", "policy": "small", "seed": 0, "settings": settings[1], "own_win_rate": 0.8}
    (folder / "references.json").write_text(json.dumps({"references": [score]}))
    row = frames.load(folder, store).references.iloc[0]
    assert (row["reference"], row["panel"], row["own_win_rate"]) == ("larger-same", "small, data.world 1", 0.8)
    (folder / "references.json").unlink()
    (folder / "reference_kl.json").unlink()
    results = frames.load(folder, store)
    assert results.references.empty
    assert results.cells["kl_reference_nats"].isna().all()


def test_load_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no sweep\.json"):
        frames.load(tmp_path, synthetic.Store(tmp_path))
