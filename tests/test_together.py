"""Trials on two devices each: Ray Train's workers train together, the first one judges and records; what fails and dies."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
from ray import train
from safetensors.torch import load_file

from refstudy import artefacts, driver, grid, records, results, together
from refstudy.errors import SpecError
from refstudy.grid import Cell
from refstudy.records import Record
from refstudy.work import Work
from tests import sweeps
from tests.sharding import each_way

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

SETTINGS = ["wandb.enabled=false", "axes.reference=[self]", "train.batch_pairs=4", "train.save_every_minutes=0"]
TWO = "resources.trial={workers: 2}"


def opened(folder: Path, *assignments: str) -> tuple[Any, list[Cell], results.Results]:
    sweep = grid.read(sweeps.write(folder), [*SETTINGS, *assignments])
    return sweep, grid.cells(sweep), results.place(sweep, folder / "results" / "tiny", None)


def run(folder: Path, *assignments: str, work: Work | None = None) -> tuple[list[Record], list[Cell], results.Results]:
    sweep, cells, at = opened(folder, *assignments)
    driver.run_sweep(sweep, at, cells, work=work)
    return [records.read_record(records.record_path(at.folder, cell.id)) for cell in cells], cells, at


@pytest.mark.long
def test_cells_on_two_devices_each_come_to_what_they_are_on_one(tmp_path):
    """Two cells, one after another on two cores: neither waits for what the other holds."""
    ones, cells, at = run(tmp_path / "one", "axes.beta=[1, 0.1]")
    twos, same, to = run(tmp_path / "two", "axes.beta=[1, 0.1]", TWO)
    assert [cell.id for cell in cells] == [cell.id for cell in same]
    assert [record["status"] for record in [*ones, *twos]] == ["done"] * 4, twos
    for cell in cells:
        one, two = artefacts.read_log(cell.log, at.store), artefacts.read_log(cell.log, to.store)
        assert two["final"] == pytest.approx(one["final"], rel=1e-3, abs=1e-4)


def once(folder: Path) -> bool:
    """Whether this is the first call with the folder."""
    first = not (folder / "once").exists()
    (folder / "once").touch()
    return first


def others() -> list[int]:
    """The trial's other workers, by process id."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title, parent = (process / "cmdline").read_text(), (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if "RayTrainWorker" in title and int(parent) == os.getppid() and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def disturbed(act: Any) -> Any:
    """A trial that does `act` in the middle of its training, the first time."""

    def trial_of(cell: Cell, store: Any, folder: Path, emit: Any) -> Record:
        from refstudy import trial

        def passed_on(measurement: Any) -> Any:
            if measurement.stage == "train" and measurement.step >= 2 and once(folder):
                act()
            return emit(measurement)

        return trial.run_trial(cell, store, folder, passed_on)

    return trial_of


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_other() -> None:
    (other,) = others()
    os.kill(other, signal.SIGKILL)


def break_down() -> None:
    raise ValueError("no room on the device")


@pytest.mark.long
@pytest.mark.parametrize("act", [die, kill_the_other])
def test_death_of_either_worker_ends_both_and_the_trial_is_started_again(tmp_path, act):
    (record,), _, at = run(tmp_path, "axes.beta=[0.1]", TWO, work=Work(trial=disturbed(act)))
    assert (record["status"], record.get("error")) == ("done", None)
    assert (at.folder / "once").exists()


@pytest.mark.long
def test_exception_in_a_worker_is_the_cells_failure_and_ends_the_other(tmp_path):
    (record,), _, at = run(tmp_path, "axes.beta=[0.1]", TWO, work=Work(trial=disturbed(break_down)))
    assert record["status"] == "failed"
    assert (record["error"]["type"], record["error"]["message"]) == ("ValueError", "no room on the device")
    assert not list((at.store.root / "claims").iterdir())


def test_shared_artefacts_have_no_workers_and_trials_no_shards(tmp_path):
    for assignment in ("resources.artefact={workers: 2}", "references.cross.resources={workers: 2}"):
        with pytest.raises(SpecError, match="only trials have several workers; expected workers: 1"):
            opened(tmp_path, assignment)
    with pytest.raises(SpecError, match="only tables are scored in shards"):
        opened(tmp_path, "resources.trial={shards: 2}")


def test_exception_of_another_worker_is_recorded_in_its_words_and_a_death_is_left_to_tune(tmp_path):
    _, (cell,), at = opened(tmp_path, "axes.beta=[0.1]", TWO)
    endings = tmp_path / "endings"
    endings.mkdir()
    died = train.WorkerGroupError("a worker died", {1: RuntimeError("gone")})
    with pytest.raises(train.WorkerGroupError, match="a worker died"):
        together._failed(cell, at.folder, endings, died)
    (endings / "1").write_text(json.dumps({"type": "TableError", "message": "worker 2: lacks a pair", "traceback": ""}))
    record = together._failed(cell, at.folder, endings, died)
    assert (record["status"], record["error"]["message"]) == ("failed", "worker 2: lacks a pair")
    with pytest.raises(train.WorkerGroupError):
        together._failed(
            cell, at.folder, endings, train.WorkerGroupError("the first one died", {0: RuntimeError(), 1: RuntimeError()})
        )


@pytest.mark.long
@each_way
@pytest.mark.parametrize("keep", [("keep=full",), ("train.lora={rank: 2, alpha: 4}", "keep=adapter")], ids=["full", "lora"])
def test_cell_whose_policy_lies_in_parts_comes_to_what_it_is_on_one_device(tmp_path, keep, how):
    """Trained, kept, answered and judged: answers and weights are those of one worker up to rounding."""
    (one,), (cell,), at = run(tmp_path / "one", "axes.beta=[0.1]", *keep)
    (two,), (same,), to = run(tmp_path / "two", "axes.beta=[0.1]", f"resources.trial={{workers: 2, sharding: {how}}}", *keep)
    assert cell.id == same.id
    assert (one["status"], two["status"]) == ("done", "done"), two
    logs = [artefacts.read_log(cell.log, each.store)["final"] for each in (at, to)]
    assert logs[1] == pytest.approx(logs[0], rel=1e-3, abs=1e-4)
    (whole,), (gathered,) = ([load_file(file) for file in each.store.path(cell.dpo).glob("*.safetensors")] for each in (at, to))
    assert whole.keys() == gathered.keys()
    assert max((whole[name] - gathered[name]).abs().max().item() for name in whole) < 1e-4
    answers = [artefacts.read_completions(cell.completions, each.store) for each in (at, to)]
    assert [each.token_ids for each in answers[0]] == [each.token_ids for each in answers[1]]


def test_sharding_wants_workers_and_a_trial(tmp_path):
    for assignment, why in (
        ("resources.trial={sharding: fsdp}", "sharding shares a policy out over workers; expected workers: 2 or more"),
        ("resources.artefact={sharding: fsdp}", "only trials of several workers share a model out; expected sharding: none"),
        ("resources.trial={workers: 2, sharding: zero}", "expected 'none', 'fsdp' or 'deepspeed'"),
    ):
        with pytest.raises(SpecError, match=why):
            opened(tmp_path, assignment)


def test_sharding_changes_no_id(tmp_path):
    _, plain, _ = opened(tmp_path)
    _, shared_out, _ = opened(tmp_path, "resources.trial={workers: 2, sharding: fsdp}")
    assert [cell.id for cell in plain] == [cell.id for cell in shared_out]
    assert {cell.resources.sharding for cell in shared_out} == {"fsdp"}
