import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import ray
import ray.cloudpickle

from refstudy import demand, driver, grid, plan, recipes, records, results, spec
from refstudy.driver import Work, run_sweep
from refstudy.identity import fingerprint, kind
from refstudy.measurement import Measurement

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

SWEEP = """
name: stub
data: {kind: miniature, world: 0, pairs: 300, eval_prompts: 8, annotator: human}
policies:
  small: {kind: miniature, family: north, size: small}
references:
  self:        {kind: policy}
  larger-near: {kind: miniature, family: south, size: large, north_share: 0.05}
axes: {beta: [1, 0.1], reference: [self, larger-near], seed: [0]}
train: {epochs: 1, batch_pairs: 32, learning_rate: 1.0e-4, max_length: 128}
generate: {max_new_tokens: 8}
judge: {kind: gold}
wandb: {enabled: false}
"""


def make(wanted, store, emit):
    """Stands for making artefacts: a file, and a line in the log; behaves as `behaviour.json` in the store says."""
    for recipe in wanted:
        if kind(recipe) in behaviour(store.root).get("broken_kinds", []) and "south" in str(recipe):
            raise ValueError("no such corpus")
        claim = store.claim(recipe)
        if claim is None:
            store.wait(recipe, timeout_s=30)
            continue
        with claim:
            emit(Measurement("pretrain", 1, 2, {}))
            (claim.folder / "file").write_text("x")
            store.publish(claim)
        note(store.root, fingerprint(recipe))
        note(store.root, f"threads of {kind(recipe)} {os.environ.get('OMP_NUM_THREADS')}", "threads")


def score(wanted, number, of, store, emit):
    """Stands for scoring a part of tables: a line in the log for each."""
    acts = behaviour(store.root)
    once = store.root / "killed-part"
    if acts.get("kill_part") == number and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if acts.get("broken_part") == number:
        raise ValueError("no room on the device")
    for table in wanted:
        emit(Measurement("score", 1, 2, {}))
        note(store.root, f"part {number} of {of} of {fingerprint(table)}")


def trial(cell, store, folder, emit):
    """Stands for a trial: makes the cell's artefacts and writes its record."""
    acts = behaviour(store.root)
    if acts.get("kill_first"):
        os.kill(os.getpid(), signal.SIGKILL)
    note(store.root, f"trial {cell.beta} {cell.reference}")
    with records.running(folder, {"cell_id": cell.id}):
        emit(Measurement("train", 1, 10, {"loss": 0.5}))
        if [cell.beta, cell.reference] in acts.get("kill_always", []):
            os.kill(os.getpid(), signal.SIGKILL)
        once = store.root / f"killed-{cell.id}"
        if [cell.beta, cell.reference] in acts.get("kill_once", []) and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for goal in plan.missing(plan.cell_goals(cell), store, except_for=lambda recipe: recipe == cell.dpo):
            claim = store.claim(goal)
            with claim:
                (claim.folder / "file").write_text("x")
                time.sleep(acts.get("sleep_s", 0.0))
                store.publish(claim)
        record = {
            "cell_id": cell.id,
            "status": "done",
            "policy": cell.policy,
            "reference": cell.reference,
            "beta": cell.beta,
            "seed": cell.seed,
            "measures": {"win_rate": 0.5, "length_tokens_mean": 17.0},
            "provenance": {"threads": os.environ.get("OMP_NUM_THREADS"), "malloc": os.environ.get("MALLOC_TOP_PAD_")},
        }
        records.write_record(folder, record)
    return records.read_record(records.record_path(folder, cell.id))


def behaviour(root):
    path = root / "behaviour.json"
    return json.loads(path.read_text()) if path.exists() else {}


def note(root, line, log="log"):
    with open(root / log, "a") as file:
        file.write(line + "\n")


def noted(at, log="log") -> Counter:
    return Counter((at.store.root / log).read_text().split("\n")[:-1])


@pytest.fixture(scope="module")
def cluster():
    os.environ.update(driver.RAY_SETTINGS)
    environment = {"env_vars": driver._environment(spec.Resources())}
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=environment
    )
    yield
    ray.shutdown()


def opened(folder: Path, *assignments: str, **acts):
    file = folder / "stub.yaml"
    file.write_text(SWEEP)
    sweep = grid.read(file, list(assignments))
    at = results.place(sweep, folder / "results" / "stub", None)
    at.store.root.mkdir(parents=True, exist_ok=True)
    (at.store.root / "behaviour.json").write_text(json.dumps(acts))
    return sweep, at, grid.cells(sweep)


def run(folder: Path, *assignments: str, retry_failed: bool = False, **acts):
    sweep, at, cells = opened(folder, *assignments, **acts)
    return run_sweep(sweep, at, cells, retry_failed=retry_failed, work=Work(make, trial, score)), at, cells


def statuses(at) -> dict[tuple[float, str], str]:
    return {(row["beta"], row["reference"]): row["status"] for row in records.status_rows(at.folder)}


@pytest.mark.usefixtures("cluster")
def test_wider_grid_makes_only_what_is_missing_and_a_finished_one_nothing(tmp_path, capsys):
    code, at, (only,) = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]", "wandb.enabled=true")
    assert code == 0
    assert [path.stem for path in (at.folder / "wandb").glob("offline-run-*/*.wandb")] == [f"run-{only.id}-1"]
    first = noted(at)
    assert set(first.values()) == {1}
    code, at, cells = run(tmp_path, kill_once=[[0.1, "self"]])
    assert code == 0
    assert set(statuses(at).values()) == {"done"}
    second = noted(at)
    assert {line: count for line, count in second.items() if count > 1} == {"trial 0.1 self": 2}  # its worker was killed once
    assert len([line for line in second if line.startswith("trial")]) == 4
    assert all(at.store.has(each) for group in plan.reference_passes(cells, at.store) for each in group)
    assert sorted(path.name for path in at.folder.iterdir()) == ["cells", "sweep.json", "sweep.yaml", "wandb"]
    shown = capsys.readouterr().out
    assert "stub: 3 of 4 cells to run" in shown
    assert "cells 4/4: small" in shown
    assert run(tmp_path)[0] == 0
    assert noted(at) == second
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("cluster")
def test_failures_become_records_others_go_on_and_retry_runs_them_again(tmp_path, capsys):
    code, at, cells = run(tmp_path, broken_kinds=["sft"], kill_always=[[1.0, "self"]])
    assert code == 1
    assert statuses(at) == {
        (1.0, "self"): "failed",
        (0.1, "self"): "done",
        (1.0, "larger-near"): "failed",
        (0.1, "larger-near"): "failed",
    }
    assert noted(at)["trial 1.0 self"] == 2
    errors = {(cell.beta, cell.reference): records.read_record(records.record_path(at.folder, cell.id))["error"] for cell in cells}
    assert errors[1.0, "self"]["type"] == "WorkerDied"
    assert "its process ended 2 times without a record" in errors[1.0, "self"]["message"]
    assert errors[1.0, "larger-near"]["type"] == "ValueError"
    assert "SFT of pretrained south large" in errors[1.0, "larger-near"]["message"]
    assert "no such corpus" in errors[1.0, "larger-near"]["traceback"]
    shown = capsys.readouterr().out
    assert len([line for line in shown.splitlines() if line.count("no such corpus") and "SFT" in line and "beta=" not in line]) == 1
    last = "3 of 4 cells failed (first: small self beta=1 seed=0: WorkerDied: its process ended 2 times without a record, "
    assert shown.splitlines()[-1].startswith(last)
    assert shown.splitlines()[-1].endswith("; run again with --retry-failed")
    assert "answers as seen by SFT of pretrained south large" not in shown
    assert run(tmp_path)[0] == 1
    assert capsys.readouterr().out.startswith(last)
    code, at, _ = run(tmp_path, retry_failed=True)
    assert code == 0
    assert set(statuses(at).values()) == {"done"}


@pytest.mark.parametrize(
    ("assignment", "place"),
    [
        ("resources.trial.gpus=8", "resources.trial"),
        ("resources.artefact.gpus=8", "resources.artefact"),
        ("references.larger-near.resources.gpus=8", "references.larger-near.resources"),
        ("policies.small.resources.gpus=8", "policies.small.resources"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_local_ray_refuses_resources_that_it_does_not_have(tmp_path, assignment, place):
    sweep, _, cells = opened(tmp_path, assignment)
    asked = demand.asked(sweep, cells)
    with pytest.raises(driver.RefstudyError, match=rf"^{place} asks for 8 GPU, and this machine has"):
        driver._refuse_what_fits_nowhere(asked, None)
    driver._refuse_what_fits_nowhere(asked, "a cluster, which may still grow")


def test_request_that_ray_cannot_read_is_refused_before_ray_starts():
    asked = {"resources.trial": spec.Resources.model_construct(cpus=1.0, gpus=0.0, custom={"CPU": 1.0})}
    with pytest.raises(driver.RefstudyError, match=r"^resources.trial is no request that Ray takes: .*num_cpus"):
        driver._refuse_what_ray_refuses(asked)


@pytest.mark.usefixtures("cluster")
def test_cell_whose_artefacts_are_gone_and_whose_worker_dies_at_once_is_failed(tmp_path):
    """Its old record says done; the worker dies before it says anything."""
    code, at, (cell,) = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]")
    assert code == 0
    at.store.discard(cell.verdicts)
    code, at, _ = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]", kill_first=True)
    assert code == 1
    assert records.read_record(records.record_path(at.folder, cell.id))["error"]["type"] == "WorkerDied"


@pytest.mark.usefixtures("cluster")
def test_artefact_is_made_with_as_many_threads_as_it_asks_cores(tmp_path):
    _, at, _ = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]", "policies.small.resources={cpus: 2}")
    assert {"threads of sft 2", "threads of token_pairs 1"} <= set(noted(at, "threads"))


SHARDS = ("axes.beta=[1]", "axes.reference=[larger-near]", "references.larger-near.resources={shards: 3}")


@pytest.mark.usefixtures("cluster")
def test_table_is_made_after_its_shards_and_one_whose_worker_dies_is_scored_again(tmp_path, capsys):
    """The reference's table, and later its log-probs of the cell's answers: three parts each, the second killed once."""
    code, at, (cell,) = run(tmp_path, *SHARDS, kill_part=1)
    assert code == 0
    assert (at.store.root / "killed-part").exists()
    lines = (at.store.root / "log").read_text().splitlines()
    answers = recipes.Table(scorer=cell.dpo.table.scorer, texts=cell.completions)
    for table in (cell.dpo.table, answers):
        parts = [line for line in lines if line.endswith(f" of {fingerprint(table)}")]
        assert sorted(parts) == [f"part {number} of 3 of {fingerprint(table)}" for number in range(3)]
        assert max(map(lines.index, parts)) < lines.index(fingerprint(table))
    assert "(world 0, 0.034 false, 0.05 of it north), part 2 of 3 done" in capsys.readouterr().out


@pytest.mark.usefixtures("cluster")
def test_shard_that_fails_fails_the_cells_with_its_words(tmp_path):
    code, at, (cell,) = run(tmp_path, *SHARDS, broken_part=2)
    assert code == 1
    error = records.read_record(records.record_path(at.folder, cell.id))["error"]
    assert (error["type"], error["message"].endswith("could not be made: no room on the device")) == ("ValueError", True)
    assert not at.store.has(cell.dpo.table)
    code, _, _ = run(tmp_path, *SHARDS, retry_failed=True)
    assert code == 0


def test_workers_run_with_one_thread_and_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", "online")
    sweep, _, _ = opened(tmp_path)
    environment = driver._environment(sweep.spec.resources.trial)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["WANDB_MODE"] == "online"
    assert "secret" not in environment.values()


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_driver
code, _, _ = test_driver.run(Path(sys.argv[2]), "axes.beta=[10, 1, 0.1, 0.01]", sleep_s=0.3)
sys.exit(code)
"""


def stopped(folder: Path, number: int):
    """A run in a process of its own, ended by a signal after its first cell: exit code, seconds it took, output, errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, at, _ = opened(folder, "axes.beta=[10, 1, 0.1, 0.01]", sleep_s=0.3)
    end = time.monotonic() + 90
    while not any(record["status"] == "done" for record in records.read_records(at.folder)) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    sent = time.monotonic()
    output, errors = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - sent, output, errors


@pytest.mark.usefixtures("cluster")
def test_sigint_stops_cleanly_within_ten_seconds_and_the_next_run_goes_on(tmp_path):
    code, seconds, output, errors = stopped(tmp_path, signal.SIGINT)
    assert code == 130, errors
    assert seconds < 10
    assert "Traceback" not in errors
    assert "of 8 cells are done; the same command goes on from here" in output
    _, at, _ = opened(tmp_path)
    assert list((at.store.root / "claims").iterdir()) == []
    assert list((at.store.root / "making").iterdir()) == []
    done = [record for record in records.read_records(at.folder) if record["status"] == "done"]
    assert 0 < len(done) < 8
    assert done[0]["provenance"] == {"threads": "1", "malloc": "134217728"}
    assert run(tmp_path, "axes.beta=[10, 1, 0.1, 0.01]")[0] == 0
    assert list(statuses(at).values()) == ["done"] * 8
    for record in done:
        assert noted(at)[f"trial {record['beta']} {record['reference']}"] == 1


def test_sigterm_stops_as_sigint_does(tmp_path):
    code, seconds, output, errors = stopped(tmp_path, signal.SIGTERM)
    assert code == 130, errors
    assert seconds < 10
    assert "the same command goes on from here" in output
