"""Curves along training and alarms, read from logs and records."""

import json

import pytest

from analysis import frames, study, training_curves
from refstudy import records
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self",), "entities": 4, "prompts_each": 2, "seeds": (0, 1)}
ALARM = {"limit": "length_ratio > 2", "value": 2.5, "step": 20, "stop": True, "words": "length_ratio 2.5 > 2 at step 20"}


@pytest.fixture
def loaded(tmp_path):
    """Betas 1 and .1 with two runs each; the last run was ended by an alarm at step 20, its first twin trained to step 30."""
    folder, store = synthetic.build(tmp_path, **SMALL)
    for number, path in enumerate(sorted((folder / "cells").glob("*.json"))):
        record = records.read_record(path)
        steps = (10, 20) if number == 3 else (10, 20, 30)
        _log(store, f"log{number}", [{"step": step, "loss": 0.1 * number, "reward_accuracy": step / 100} for step in steps])
        along = [{"step": step, "win_rate": 0.5 + number / 10, "length_tokens_mean": float(step)} for step in steps]
        stopped = {"step": 20, "reason": "length_ratio 2.5 > 2"} if number == 3 else None
        raised = [ALARM] if number == 3 else []
        recipes = {**record["recipes"], "training_log": f"log{number}"}
        records.write_record(folder, {**record, "recipes": recipes, "along": along, "alarms": raised, "stopped": stopped})
    results = frames.load(folder, store)
    return results, study.joined([results], [store])


def _log(store, name, history):
    folder = store.root / "training_log" / name
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"history": history}))
    (folder / "manifest.json").write_text("{}")


def test_logged_curves_are_means_over_runs_by_step(loaded):
    """Cells 0 and 1 are beta 1's two seeds: losses 0 and .1, mean .05; cells 2 and 3 beta .1's: .2 and .3, then .2 alone."""
    found = training_curves.logged(loaded[1])
    assert found[["beta", "step", "loss", "runs", "of_runs"]].values.tolist() == [
        [0.1, 10, pytest.approx(0.25), 2, 2],
        [0.1, 20, pytest.approx(0.25), 2, 2],
        [0.1, 30, pytest.approx(0.2), 1, 2],
        [1, 10, pytest.approx(0.05), 2, 2],
        [1, 20, pytest.approx(0.05), 2, 2],
        [1, 30, pytest.approx(0.05), 2, 2],
    ]
    assert found["policy_accuracy"].isna().all(), "not logged"


def test_shown_curves_end_where_the_first_of_their_runs_ended(loaded):
    shown = training_curves.shown(training_curves.logged(loaded[1]))
    assert shown.groupby("beta")["step"].max().to_dict() == {0.1: 20, 1: 30}


def test_along_counts_the_runs_that_raised_an_alarm_or_ended_at_a_step(loaded):
    found = training_curves.along(*loaded)
    assert found[found["alarms"] > 0][["beta", "step", "alarms", "stopped", "win_rate"]].values.tolist() == [
        [0.1, 20, 1, 1, pytest.approx(0.75)]
    ]
    assert found["of_runs"].tolist() == [2] * 6


def test_alarms_are_rows_with_their_cell_limit_value_and_step(loaded):
    (row,) = training_curves.alarms(loaded[0]).to_dict("records")
    assert {name: row[name] for name in ("limit", "value", "step", "stop")} == {
        name: ALARM[name] for name in ("limit", "value", "step", "stop")
    }
    assert (row["reference"], row["beta"], row["seed"], row["cell_id"]) == ("self", 0.1, 1, "c0003")


def test_cells_without_logs_or_evaluations_along_training_have_no_curves(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    results = frames.load(folder, store)
    whole = study.joined([results], [store])
    assert training_curves.logged(whole).empty
    assert training_curves.along(results, whole).empty
    assert training_curves.alarms(results).empty
