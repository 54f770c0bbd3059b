"""What workers of a run do, as values that travel to them.

Invariant: small, and free of torch and Ray; what a function needs for making is imported where it is made.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refstudy import copies, processes, spec
from refstudy.grid import Cell
from refstudy.measurement import Emit
from refstudy.recipes import Recipe
from refstudy.records import Record
from refstudy.results import Results
from refstudy.store import Store


@functools.cache
def warm_here() -> None:
    """Imports what making needs, once; on a worker, while nothing is there yet to be made on it."""
    with processes.importing():
        from refstudy import make, trial  # noqa: F401  # imports torch and trl: seconds


def make_here(wanted: Sequence[Recipe], store: Store, emit: Emit, save_every_s: float = 0.0) -> None:
    """Makes artefacts in this process, one after another; on a worker."""
    warm_here()
    from refstudy import make  # imports torch: only where something is made

    make.make_all(wanted, store, emit, save_every_s)


def score_here(wanted: Sequence[Recipe], number: int, of: int, store: Store, emit: Emit) -> None:
    """Scores part `number` of `of` of each table in this process; on a worker."""
    warm_here()
    from refstudy import make, passes

    make.score_shard(wanted, passes.Shard(number, of), store, emit)


def try_here(cell: Cell, store: Store, folder: Path, emit: Emit) -> Record:
    """Runs a cell's trial in this process; on a worker."""
    warm_here()
    from refstudy import trial

    return trial.run_trial(cell, store, folder, emit)


def nothing() -> None:
    """Work that begins without a warm-up."""


@dataclass(frozen=True)
class Work:
    """What workers do: the functions that make artefacts, run a trial, and score a part. Tests put others in their place."""

    make: Callable[[Sequence[Recipe], Store, Emit], None] = make_here
    trial: Callable[[Cell, Store, Path, Emit], Record] = try_here
    score: Callable[[Sequence[Recipe], int, int, Store, Emit], None] = score_here
    warm: Callable[[], None] = nothing
    """What every worker of the first tasks does before them, all at once."""


def work_of(train: spec.TrainEntry) -> Work:
    """What workers of a sweep do."""
    return Work(make=functools.partial(make_here, save_every_s=60 * train.save_every_minutes), warm=warm_here)


@dataclass(frozen=True)
class Job:
    """All that a worker must know of the run; small, since it travels to every worker."""

    sweep: str
    store: str
    """Where it lies, as all machines know it: a path or an address. So are the following."""
    folder: str
    progress: str
    wandb: spec.WandbEntry
    work: Work
    stop_file: str
    """Once it is there, no trial is begun any more."""

    def opened(self) -> Results:
        """The run's results on this machine; `copies.here` then finds the other places too."""
        return Results(copies.results_folder(self.folder), Store(copies.store_root(self.store)))
