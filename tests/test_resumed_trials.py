"""Trials whose process is killed while their policy trains: the same command goes on mid-training, to the same record."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from refstudy import alone, artefacts, copies, driver, grid, policies, records, results
from refstudy.grid import Cell
from refstudy.records import Record
from refstudy.results import Results
from refstudy.store import Store
from refstudy.work import Work
from tests import object_server, sweeps

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

ALWAYS = "train.save_every_minutes=1.0e-10"
SETTINGS = [
    *("wandb.enabled=false", "axes.reference=[cross]", "axes.beta=[0.1]", "train.batch_pairs=4", "train.epochs=3"),
    *("along={every_steps: 4, prompts: 3}", 'alarms=[{limit: "length_ratio > 0.01"}]', ALWAYS),
]
STEPS = 15


def opened(folder: Path, *assignments: str) -> tuple[Any, list[Cell], Results]:
    sweep = grid.read(sweeps.write(folder), [*SETTINGS, *assignments])
    return sweep, grid.cells(sweep), results.place(sweep, folder / "results" / "tiny", None)


def run(folder: Path, *assignments: str) -> Record:
    sweep, cells, at = opened(folder, *assignments)
    return alone.run_cell(cells[0], at, sweep, cells, False)


def child(folder: Path, assignments: tuple[str, ...], at_clearing: bool) -> None:
    warnings.simplefilter("ignore")
    if at_clearing:
        clear = Store._clear_partial_here
        Store._clear_partial_here = lambda store, name: (  # type: ignore[method-assign]
            os.kill(os.getpid(), signal.SIGKILL) if name.startswith("dpo-") else clear(store, name)
        )
    with contextlib.redirect_stdout(io.StringIO()):
        run(folder, *assignments)


def killed(folder: Path, until: Any, *assignments: str, at_clearing: bool = False) -> None:
    """The cell run in a process of its own, which is killed once `until()` holds, or as it removes its policy's saved states."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "refstudy.make"])
    process = context.Process(target=child, args=(folder, assignments, at_clearing))
    process.start()
    while not until() and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join(60)
    assert process.exitcode == -9, "it came to its end before it could be killed"


def steps_saved(at: Results, cell: Cell) -> list[int]:
    return sorted(int(each.name.split("-")[1]) for each in at.store.training(cell.dpo).glob("step-*"))


def same(record: Record) -> dict[str, Any]:
    """All of a record but its times."""
    return {name: record[name] for name in ("status", "measures", "degenerate", "reason", "stopped", "along", "alarms", "recipes")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, dict[str, Any]]:
    """The record of a run that saves nothing, and its training log."""
    folder = tmp_path_factory.mktemp("undisturbed")
    record = run(folder, "train.save_every_minutes=0")
    _, (cell,), at = opened(folder)
    assert record["status"] == "done", record["error"]
    return record, artefacts.read_log(cell.log, at.store)


def test_trial_killed_while_it_trains_goes_on_to_the_same_record(undisturbed, tmp_path):
    _, (cell,), at = opened(tmp_path)
    killed(tmp_path, lambda: max(steps_saved(at, cell), default=0) >= 3)
    first = max(steps_saved(at, cell))
    killed(tmp_path, lambda: max(steps_saved(at, cell), default=0) > first)
    second = max(steps_saved(at, cell))
    record = run(tmp_path)
    assert same(record) == same(undisturbed[0])
    assert [row["step"] for row in record["along"]] == [4, 8, 12, 15]
    log, other = artefacts.read_log(cell.log, at.store), undisturbed[1]
    assert log.pop("resumed_at") == [first, second]
    took_s = sum(log.pop("phases_s").values())
    assert record["phases_s"]["train"] >= took_s - 1e-3
    assert log == {name: value for name, value in other.items() if name != "phases_s"}
    assert list((at.store.root / "partial").iterdir()) == []


def test_trial_killed_after_its_training_trains_no_step_again(undisturbed, tmp_path, monkeypatch):
    """Its policy is not kept: only the state of the last step has it while answers are written."""
    _, (cell,), at = opened(tmp_path)
    killed(tmp_path, lambda: at.store.has(cell.log))
    assert not at.store.has(cell.completions), "it came further than it should"
    taken, train = [], policies.dpo.train

    def trained(*arguments: Any, **settings: Any) -> Any:
        taken.append(train(*arguments, **settings))
        return taken[-1]

    monkeypatch.setattr(policies.dpo, "train", trained)
    record = run(tmp_path)
    assert [each.resumed_at for each in taken] == [[STEPS]]
    assert same(record) == same(undisturbed[0])
    assert list((at.store.root / "partial").iterdir()) == []


def child_at(url: str, folder: Path, environment: dict[str, str]) -> None:
    """The cell run on a machine of its own, a slow one: another cache, and results at an address."""
    warnings.simplefilter("ignore")
    os.environ.update(environment)
    step = policies.dpo.TableDPOTrainer.training_step

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.3)
        return step(*arguments, **named)

    policies.dpo.TableDPOTrainer.training_step = slow
    sweep, cells, _ = opened(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        alone.run_cell(cells[0], results.place(sweep, copies.results_folder(url), None), sweep, cells, False)


def step_at(endpoint: str, url: str) -> int:
    """The last step of which a state of the cell's policy is whole at the address; 0: none is."""
    listed = object_server.client(endpoint).list_objects_v2(Bucket=url.split("/")[2], Prefix="results/store/partial/dpo-")
    found = [each["Key"].split("/")[4] for each in listed.get("Contents", []) if each["Key"].count("/") == 4]
    return max((int(name.split("-")[1]) for name in found), default=0)


@pytest.mark.long
def test_trial_killed_on_one_machine_goes_on_on_another_to_the_same_record(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice, each time on another machine."""
    context = multiprocessing.get_context("forkserver")
    with object_server.serving() as endpoint:
        url = f"s3://{object_server.bucket(endpoint)}/results/tiny"
        last = [0]
        for machine in ("first", "second"):
            environment = object_server.settings(endpoint, tmp_path / machine)
            process = context.Process(target=child_at, args=(url, tmp_path, environment))
            process.start()
            while step_at(endpoint, url) < last[-1] + 2 and process.is_alive():
                time.sleep(0.01)
            process.kill()
            process.join(60)
            assert process.exitcode == -9, "it came to its end before it could be killed"
            last.append(step_at(endpoint, url))
        for name, value in object_server.settings(endpoint, tmp_path / "here").items():
            monkeypatch.setenv(name, value)
        sweep, (cell,), _ = opened(tmp_path)
        at = results.place(sweep, copies.results_folder(url), None)
        assert same(alone.run_cell(cell, at, sweep, [cell], False)) == same(undisturbed[0])
        assert artefacts.read_log(cell.log, at.store)["resumed_at"] == last[1:]
        assert not [key for key in object_server.keys(endpoint, url.split("/")[2]) if "/partial/" in key]


@pytest.mark.parametrize("keep", ["none", "full"])
def test_trial_killed_after_its_last_artefact_leaves_no_saved_states_for_good(undisturbed, tmp_path, keep):
    """It dies at the moment at which it would remove them; the next run trains nothing, and removes them."""
    _, (cell,), at = opened(tmp_path, f"keep={keep}")
    killed(tmp_path, lambda: False, f"keep={keep}", at_clearing=True)
    assert steps_saved(at, cell)[-1] == STEPS
    record = run(tmp_path, f"keep={keep}")
    assert same(record)["measures"] == same(undisturbed[0])["measures"]
    assert list((at.store.root / "partial").iterdir()) == []


def test_training_that_cannot_go_on_leaves_no_state(tmp_path):
    record = run(tmp_path, "train.learning_rate=1.0e30", "train.clip=1.0e30")
    assert record["status"] == "failed"
    assert record["error"]["type"] == "TrainingError"
    _, (cell,), at = opened(tmp_path, "train.learning_rate=1.0e30", "train.clip=1.0e30")
    assert not at.store.training(cell.dpo).exists()


def dying(cell: Cell, store: Any, folder: Path, emit: Any) -> Record:
    """A trial whose worker is killed in the middle of its training, once."""
    from refstudy import trial

    def passed_on(measurement: Any) -> Any:
        once = folder / "killed"
        if measurement.stage == "along" and measurement.step >= 8 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return emit(measurement)

    return trial.run_trial(cell, store, folder, passed_on)


@pytest.mark.long
def test_cell_whose_ray_worker_is_killed_goes_on_in_another(undisturbed, tmp_path):
    sweep, cells, at = opened(tmp_path)
    assert driver.run_sweep(sweep, at, cells, work=Work(trial=dying)) == 0
    assert (at.folder / "killed").exists()
    assert same(records.read_record(records.record_path(at.folder, cells[0].id))) == same(undisturbed[0])
    assert artefacts.read_log(cells[0].log, at.store)["resumed_at"] == [7]
    assert list((at.store.root / "partial").iterdir()) == []
