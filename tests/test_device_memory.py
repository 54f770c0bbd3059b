"""What a trial holds in memory: one policy once it is trained, and nothing at its end, however it ends.

Shown on the CPU by the tensors that exist. On a GPU that others share, what the allocator keeps of freed ones is given back too;
that part has not been run.
"""

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses import FakeTensor

from refstudy import grid, make, plan, results, session, spec, trial
from refstudy.grid import Cell
from refstudy.measurement import Measurement
from refstudy.results import Results
from tests import sweeps


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], Results]:
    """Two cells with all that they need, after a first trial: what a warm worker keeps for the next is in memory."""
    sweep = grid.read(sweeps.write(tmp_path_factory.mktemp("memory")), ["axes.reference=[self]", "axes.beta=[1, 0.1, 0.01]"])
    cells = grid.cells(sweep)
    at = results.place(sweep, tmp_path_factory.mktemp("results") / "tiny", None)
    make.make_all(plan.shared(cells, at.store), at.store)
    assert trial.run_trial(cells[0], at.store, at.folder)["status"] == "done"
    return cells[1:], at


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Python collects circles of garbage when it likes; here only where it is asked to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> int:
    """Bytes of all tensors of this process, those of circles of garbage too. What a tracer keeps of an earlier test has none."""
    kinds = [(each, type(each)) for each in gc.get_objects()]
    tensors = [each for each, kind in kinds if issubclass(kind, torch.Tensor) and not issubclass(kind, FakeTensor)]
    storages = [each.untyped_storage() for each in tensors if not each.is_meta]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


@pytest.mark.usefixtures("uncollected")
def test_trial_holds_one_policy_when_it_answers_and_nothing_at_its_end(ready: tuple[list[Cell], Results]) -> None:
    """Gradients and AdamW's moments, three times the weights, are gone before the first answer."""
    (cell, _), at = ready
    seen: dict[str, int] = {}
    before = held()

    def emit(measurement: Measurement) -> None:
        seen[measurement.stage] = max(seen.get(measurement.stage, 0), held() - before)

    assert trial.run_trial(cell, at.store, at.folder, emit)["status"] == "done"
    assert held() <= before
    weights = seen["train"] / 4  # at most: weights, gradients, two moments
    assert weights > 10_000
    assert seen["generate"] < 2 * weights


@pytest.mark.usefixtures("uncollected")
def test_trial_that_fails_in_the_middle_of_its_training_holds_nothing_afterwards(ready: tuple[list[Cell], Results]) -> None:
    (_, cell), at = ready
    before = held()

    def emit(measurement: Measurement) -> None:
        if measurement.stage == "train" and measurement.step:
            raise RuntimeError("no room on the device")

    assert trial.run_trial(cell, at.store, at.folder, emit)["status"] == "failed"
    assert held() <= before


def test_collections_of_a_warm_worker_look_through_nothing_that_was_imported() -> None:
    code = "import gc; from refstudy import work; work.warm_here(); print(gc.get_freeze_count(), len(gc.get_objects()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    frozen, looked_through = map(int, told.splitlines()[-1].split())  # a library may say something before
    assert frozen > 10_000
    assert looked_through < 1_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is free")
def test_worker_gives_back_what_it_no_longer_uses() -> None:
    """64 MB between blocks that stay are the worker's own for the next step, and the system's once they are given back."""
    code = """
import torch
from refstudy import shelf
from tests.bench.counting import memory_gb
blocks = [torch.ones(2**18) for _ in range(128)]
del blocks[::2]
kept_gb = memory_gb("RssAnon")
shelf.free_device()
print(kept_gb - memory_gb("RssAnon"))
"""
    environment = {**os.environ, **session.environment(spec.Resources())}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
    assert float(told.splitlines()[-1]) == pytest.approx(64 / 1024, rel=0.2)
