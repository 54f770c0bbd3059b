"""A sweep whose trials and artefacts are stubs: it shows what the driver does, in seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import ray.cloudpickle

from refstudy import grid, plan, records, results
from refstudy.driver import run_sweep
from refstudy.identity import fingerprint, kind
from refstudy.measurement import Measurement
from refstudy.work import Work

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
from pathlib import Path
from tests import stub
code, _, _ = stub.run(Path(sys.argv[1]), *sys.argv[2:], sleep_s=0.3)
sys.exit(code)
"""
BETAS = "axes.beta=[10, 3, 1, 0.3, 0.1, 0.01]"
"""Twelve cells of 1.2 s or more."""

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


def warm(root):
    """Stands for importing, which takes longer than a worker needs to start: the worker's process in a log of its own."""
    note(root, str(os.getpid()), "warmed")
    end = time.monotonic() + 20
    while len((root / "warmed").read_text().splitlines()) < behaviour(root).get("warm_until", 0) and time.monotonic() < end:
        time.sleep(0.05)


def make(wanted, store, emit):
    """Stands for making artefacts: a file, and a line in the log; behaves as `behaviour.json` in the store says."""
    note(store.root, f"{os.getpid()} {' '.join(kind(recipe) for recipe in wanted)}", "makers")
    for recipe in wanted:
        if kind(recipe) in behaviour(store.root).get("broken_kinds", []) and "south" in str(recipe):
            raise ValueError("no such corpus")
        if behaviour(store.root).get("south_waits_for_a_cell") and kind(recipe) == "table" and "south" in str(recipe):
            wait_for_a_trial(store.root)
        claim = store.claim(recipe)
        if claim is None:
            store.wait(recipe, timeout_s=30)
            continue
        with claim:
            emit(Measurement("pretrain", 1, 2, {}))
            (claim.folder / "file").write_text("x")
            time.sleep(behaviour(store.root).get("make_s", 0.0))
            store.publish(claim)
        note(store.root, fingerprint(recipe))
        note(store.root, f"threads of {kind(recipe)} {os.environ.get('OMP_NUM_THREADS')}", "threads")


def wait_for_a_trial(root, timeout_s=60):
    """Until a trial has begun; an error where none does."""
    end = time.monotonic() + timeout_s
    while not any(line.startswith("trial") for line in (root / "log").read_text().splitlines()):
        if time.monotonic() > end:
            raise TimeoutError(f"no trial began within {timeout_s} s")
        time.sleep(0.05)


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
    return (
        run_sweep(sweep, at, cells, retry_failed=retry_failed, work=Work(make, trial, score, partial(warm, at.store.root))),
        at,
        cells,
    )


def statuses(at) -> dict[tuple[float, str], str]:
    return {(row["beta"], row["reference"]): row["status"] for row in records.status_rows(at.folder)}


def started(folder: Path, *assignments: str) -> subprocess.Popen[str]:
    """The stub sweep under way in a process of its own."""
    command = [sys.executable, "-c", SCRIPT, str(folder), BETAS, *assignments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def done(at) -> list[dict]:
    return [record for record in records.read_records(at.folder) if record["status"] == "done"]


def wait_for_cells(at, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many cells are done."""
    end = time.monotonic() + 240
    while len(done(at)) < count and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, last line of its output); the process must not have ended in a traceback."""
    output, errors = process.communicate(timeout=240)
    assert "Traceback" not in errors, errors
    return process.returncode, output.splitlines()[-1]
