"""How long planning, running and resuming take as a sweep grows, with trials that do nothing: `python -m tests.bench.growth`.

Prints wall time, CPU time of this process, and its memory. No test: a busy machine would decide about it.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray.cloudpickle

from refstudy import cost, driver, grid, plan, records, results
from refstudy.grid import Cell
from refstudy.measurement import Emit
from refstudy.recipes import Recipe
from refstudy.records import Record
from refstudy.store import Store
from refstudy.work import Work

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not have this file

SWEEP = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"
REFERENCES, BETAS = 4, 10


def main() -> None:
    parser = argparse.ArgumentParser(description="planning, running and resuming of a sweep of stub trials")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary one")
    parser.add_argument("--without-run", action="store_true", help="makes the cells in this process, without Ray")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(given.folder or Path(temporary), given.cells, given.without_run)


def measure(folder: Path, count: int, without_run: bool) -> None:
    seeds = list(range(-(-count // (REFERENCES * BETAS))))
    axes = [f"axes.beta={json.dumps([10 / 2**power for power in range(BETAS)])}", f"axes.seed={seeds}", "wandb.enabled=false"]
    with timed("read and unfold the grid"):
        sweep = grid.read(SWEEP, axes)
        cells = grid.cells(sweep)
    at = results.place(sweep, folder / "results" / "growth", None)
    with timed("plan an empty store, with cost", len(cells)):
        cost.estimate(sweep, cells, at)
    with timed("run" if not without_run else "make in this process", len(cells)):
        if without_run:
            results.begin(at, sweep, cells)
            make(plan.shared(cells, at.store), at.store, lambda measurement: None)
            for cell in cells:
                trial(cell, at.store, at.folder, lambda measurement: None)
        else:
            driver.run_sweep(sweep, at, cells, work=Work(make, trial))
    with timed("plan the finished sweep, with cost", len(cells)):
        cost.estimate(sweep, cells, at)
    with timed("resume: what is missing", len(cells)):
        assert results.pending(at, cells, again=True) == []
        plan.reference_passes(cells, at.store)
    with timed("status", len(cells)):
        records.status_rows(at.folder)


def make(wanted: Sequence[Recipe], store: Store, emit: Emit) -> None:
    """Stands for making artefacts: a file each."""
    for recipe in wanted:
        claim = store.claim(recipe)
        if claim is not None:
            with claim:
                (claim.folder / "file").write_text("x")
                store.publish(claim)


def trial(cell: Cell, store: Store, folder: Path, emit: Emit) -> Record:
    """Stands for a trial: the cell's artefacts and its record."""
    fields = results.heading(cell)
    with records.running(folder, fields):
        make(plan.missing(plan.cell_goals(cell), store, except_for=lambda recipe: recipe == cell.dpo), store, emit)
        measures = {"win_rate": 0.5, "length_tokens_mean": 17.0}
        records.write_record(folder, fields | {"status": "done", "measures": measures, "duration_s": 0.1})
    return records.read_record(records.record_path(folder, cell.id))


@contextmanager
def timed(what: str, count: int | None = None) -> Iterator[None]:
    """Prints what the block took."""
    wall, used = time.perf_counter(), os.times()
    yield
    wall_s, now = time.perf_counter() - wall, os.times()
    cpu_s = now.user + now.system - used.user - used.system
    each = f"  {1000 * wall_s / count:8.2f} ms a cell ({1000 * cpu_s / count:.2f} of CPU)" if count else ""
    print(f"{what:38}  {wall_s:7.2f} s wall  {cpu_s:7.2f} s CPU{each}  {_memory_mb()}", flush=True)


def _memory_mb() -> str:
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return f"{now:.0f} MB, at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"


if __name__ == "__main__":
    main()
