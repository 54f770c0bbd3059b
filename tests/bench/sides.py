"""The two sides of the benchmark: a sweep by refstudy from an empty trial state, and the same cells as separate TRL runs.

Invariant: a side begins from what is given and leaves nothing that the next run could use.
"""

import json
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refstudy import artefacts
from refstudy.grid import Cell
from refstudy.store import Store
from tests.bench import machine, parts
from tests.bench.counting import COUNTS
from tests.bench.parts import Part
from tests.bench.sweep import RUN

KEPT = ("train_loss", "train_tokens", "win_rate", "length_tokens_mean", "phases_s", "cpu_s", "peak_gb")


@dataclass
class SweepRun:
    """A sweep as it was run once."""

    wall_s: float
    run: dict[str, float]
    counts: list[dict[str, Any]]
    cells: dict[str, dict[str, float]]
    """By cell: last loss and reward margin."""
    logs: dict[str, dict[str, float]] = field(default_factory=dict)
    """By cell: seconds of the training's own phases."""


def sweep(part: Part, cells: Sequence[Cell], given: Path, folder: Path) -> SweepRun:
    """Runs the whole sweep on a fresh copy of what is given; the copy stays in `folder`, with all that the run made."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store, counts = parts.copy_store(given, folder / "store"), folder / "counts"
    command = parts.python("tests.bench.sweep", counts, "run", part.sweep, "--store", store.root, "--results", folder / "sweep")
    begun = time.perf_counter()
    parts.run(command, folder / "sweep.log")
    wall_s = time.perf_counter() - begun
    lines = [json.loads(line) for line in (counts / COUNTS).read_text().splitlines()]
    logs = {cell.id: artefacts.read_log(cell.log, store) for cell in cells}
    return SweepRun(
        wall_s=wall_s,
        run=json.loads((counts / RUN).read_text()),
        counts=lines,
        cells={name: last(log["history"]) for name, log in logs.items()},
        logs={name: log["phases_s"] for name, log in logs.items()},
    )


def baseline(
    cells: Sequence[Cell], given: Path, folder: Path, *, precompute: bool = False, bf16: bool | None = None
) -> dict[str, Any]:
    """Runs each cell in an own process, as many at a time as there are cores or GPUs; wall time of all, and what each left."""
    folder.mkdir(parents=True, exist_ok=True)
    store, jobs = Store(given), []
    for cell in cells:
        job = parts.job(cell, store, folder / f"{cell.id}.result.json", precompute=precompute, bf16=bf16)
        jobs.append(folder / f"{cell.id}.job.json")
        jobs[-1].write_text(json.dumps(job))
    begun = time.perf_counter()
    with ThreadPoolExecutor(machine.slots()) as at_once:
        walls = list(at_once.map(_timed, jobs))
    wall_s = time.perf_counter() - begun
    found = {}
    for cell, process_s in zip(cells, walls, strict=True):
        result = json.loads((folder / f"{cell.id}.result.json").read_text())
        kept = {name: result[name] for name in KEPT}
        found[cell.id] = {"wall_s": process_s, **last(result["history"]), **kept}
    return {"wall_s": wall_s, "cells": found}


def last(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The last logged loss and reward margin, means over the same steps on both sides."""
    return {name: history[-1][name] for name in ("loss", "reward_margin")}


def _timed(job: Path) -> float:
    begun = time.perf_counter()
    parts.run(parts.python("tests.bench.baseline", job), job.with_suffix(".log"))
    return time.perf_counter() - begun
