"""The frames that a researcher gets."""

import json

import pytest

import analysis
from refstudy.errors import DataError, StoreError
from tests.analysis import studies, synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}
HISTORY = [{"step": 10, "epoch": 0.5, "loss": 0.7, "policy_accuracy": 0.5}, {"step": 20, "epoch": 1.0, "loss": 0.6}]


def _flat(world, reference, beta, seed):
    return 0.6, 18.0


def _with_history(folder, store):
    """The folder, its first cell with a training log."""
    path = folder / "cells" / "c0000.json"
    record = json.loads(path.read_text())
    record["recipes"]["training_log"] = "log0"
    path.write_text(json.dumps(record))
    log = store.root / "training_log" / "log0"
    log.mkdir(parents=True)
    (log / "training.json").write_text(json.dumps({"history": HISTORY}))
    (log / "manifest.json").write_text("{}")
    return folder


def test_load_declares_every_column_of_every_frame(tmp_path):
    study = analysis.load(_with_history(*synthetic.build(tmp_path, **SMALL)))
    for table in ("cells", "prompts", "curves", "references", "measures"):
        declared = study.columns.loc[study.columns["table"] == table, "name"]
        assert set(declared) == set(getattr(study, table).columns), table
        assert declared.is_unique, table
    assert study.columns[["source", "unit"]].map(len).gt(0).all(axis=None)


def test_load_one_folder_has_cells_prompts_curves_and_references(tmp_path):
    study = analysis.load(_with_history(*synthetic.build(tmp_path, **SMALL)))
    assert study.cells["cell_id"].tolist() == ["c0000", "c0001", "c0002", "c0003"]
    assert set(study.cells["sweep"]) == {"example"}
    assert len(study.prompts) == 4 * 12
    assert study.curves[["cell_id", "step", "loss"]].values.tolist() == [["c0000", 10, 0.7], ["c0000", 20, 0.6]]
    assert sorted(study.references["reference"]) == ["larger-same", "self"]
    assert study.faults == []


def test_load_unreadable_history_is_a_fault(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    _with_history(folder, store)
    (store.root / "training_log" / "log0" / "training.json").write_text("{")
    study = analysis.load(folder)
    assert study.curves.empty
    assert any("training history of cell c0000" in fault for fault in study.faults)


def test_load_runs_the_checks_and_says_of_which_sweep(tmp_path):
    first, _ = synthetic.build(tmp_path / "a", **SMALL, broken=("failed",))
    second = studies.build(tmp_path / "b", _flat)
    faults = analysis.load(first, second).faults
    assert "example: 1 of 4 cells are failed: self at beta 1." in faults
    assert any(fault.startswith("study: ") for fault in faults)


def test_load_worlds_are_replicates_and_other_settings_tell_cells_apart(tmp_path):
    first = studies.build(tmp_path / "a", _flat, worlds=(201, 202))
    second = studies.build(tmp_path / "b", _flat, worlds=(203,), settings={"train.learning_rate": 0.1})
    study = analysis.load(first, second)
    assert set(zip(study.cells["replicate"], study.cells["setting"], strict=True)) == {
        (201, ""),
        (202, ""),
        (203, "train.learning_rate 0.1"),
    }
    assert set(zip(study.references["replicate"], study.references["setting"], strict=True)) == {(201, ""), (202, "")}


def test_load_the_world_is_found_in_the_recipe_where_no_axis_names_it(tmp_path):
    folder = studies.build(tmp_path / "a", _flat, worlds=(7,), seeds=(0, 1))
    path = folder / "sweep.json"
    path.write_text(path.read_text().replace('"data.world": 7', '"data.annotator": "human"'))
    for record in (folder / "cells").iterdir():
        record.write_text(record.read_text().replace('"data.world": 7', '"data.annotator": "human"'))
    assert set(analysis.load(folder).cells["replicate"]) == {7}


def test_load_a_selection_of_pairs_is_a_part_of_the_reference_that_selects_them(tmp_path):
    """Its table is self's, on the pairs that `same` prefers: only the texts tell, and the world stands one level deeper."""
    folder = studies.build(tmp_path / "a", _flat, worlds=(7,), betas=(1.0,))
    path = folder / "cells" / "7-same-only-1-0.json"
    record = json.loads(path.read_text())
    table = record["recipe"]["candidate"]["source"]["table"]
    selection = {"kind": "selection", "pairs": table["texts"], "of": {"recipe": "sft:same-7"}}
    table.update(scorer={"recipe": "sft:self-7"}, texts=selection)
    record["settings"] = {}
    path.write_text(json.dumps(record))
    cell = analysis.load(folder).cells.set_index("reference").loc["same-only"]
    assert (cell["keep"], cell["of_id"], cell["replicate"]) == ("selection_only", "same-7", 7)


def test_load_real_data_takes_the_seed_as_replicate(tmp_path):
    folder, _ = synthetic.build(tmp_path, **SMALL, seeds=(0, 1))
    study = analysis.load(folder)
    assert set(study.cells["replicate"]) == {0, 1}
    assert study.cells["world"].isna().all()


def test_load_parts_of_one_study_are_joined_once(tmp_path):
    first = studies.build(tmp_path / "a", _flat, worlds=(201, 202))
    second = studies.build(tmp_path / "b", _flat, worlds=(202, 203))
    study = analysis.load(first, second)
    assert len(study.cells) == 3 * len(studies.REFERENCES) * len(studies.BETAS)
    assert len(study.references) == 9


def test_load_refuses_two_different_cells_for_one_place(tmp_path):
    first, second = studies.build(tmp_path / "a", _flat, worlds=(201,)), studies.build(tmp_path / "b", _flat, worlds=(201,))
    path = second / "sweep.json"
    path.write_text(path.read_text().replace("201-self-30-0", "other"))
    (second / "cells" / "201-self-30-0.json").unlink()
    with pytest.raises(DataError, match="hold different cells for small self beta=30 seed=0 of sweep 'study'"):
        analysis.load(first, second)


def test_load_sees_cells_of_earlier_grids_only_when_asked(tmp_path):
    folder = studies.build(tmp_path / "a", _flat, worlds=(201,))
    studies.build(folder, _flat, worlds=(202,))
    assert set(analysis.load(folder).done["replicate"]) == {202}
    assert set(analysis.load(folder, earlier=True).done["replicate"]) == {201, 202}


def test_load_without_a_folder_or_with_a_wrong_one_is_refused(tmp_path):
    with pytest.raises(DataError, match="no results folder was given"):
        analysis.load()
    with pytest.raises(StoreError, match="is no folder of a sweep"):
        analysis.load(tmp_path)
