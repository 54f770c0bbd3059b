"""Cells handed to Tune as they become ready: those of one reference train while another is still scored.

Invariant: a cell is handed out once, after all that it and the cells it is judged against need; cells keep their order otherwise.
Machines go first to what cells share. A Tuner whose cells are over ends, though others wait: the workers that it keeps would be in
the way of what these wait for.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.search_algorithm import SearchAlgorithm

from refstudy import plan
from refstudy.grid import Cell
from refstudy.tasks import Making


class Waiting:
    """The cells of a run that have not begun."""

    def __init__(self, cells: Iterable[Cell], making: Making, is_stopped: Callable[[], bool]) -> None:
        """`is_stopped`: whether no cell shall begin any more."""
        self._making, self._is_stopped = making, is_stopped
        self._needs = {cell.id: making.schedule.open_below(plan.trial_goals(cell)) for cell in cells}

    def __iter__(self) -> Iterator[str]:
        """Their ids."""
        return iter(list(self._needs))

    def ready(self) -> str | None:
        """The id of the next cell that can begin; None: none can now. Lets the making go on."""
        self._making.go_on(0.0)
        if not self._making.is_under_way or self._is_stopped():
            return None
        return next((cell for cell, needs in self._needs.items() if self._making.schedule.is_made(needs)), None)

    def begin(self, cell: str) -> None:
        del self._needs[cell]


class Feed(SearchAlgorithm):
    """Hands one Tuner the trials of the cells that can begin while it runs."""

    def __init__(self, waiting: Waiting, at_once: int | None) -> None:
        """`at_once`: so many trials at a time at most; None: as many as there is room for."""
        self._waiting, self._at_once = waiting, at_once
        self._trials: dict[str, Trial] = {}
        self._live: set[str] = set()
        self.begun: set[str] = set()
        """Ids of the cells handed out."""

    def add_configurations(self, experiments: Any) -> None:
        """Tune's own list of trials, one for each cell that waits."""
        grid = BasicVariantGenerator()
        grid.add_configurations(experiments)
        self._trials = {trial.config["cell"]: trial for trial in iter(grid.next_trial, None)}

    @property
    def total_samples(self) -> int:
        return len(self._trials)

    def next_trial(self) -> Trial | None:
        """The trial of the next cell that can begin; None: none can now, or at all once the Tuner's cells are over."""
        cell = self._waiting.ready()
        if cell is None:
            self._finished = self._finished or not self._live  # only here: Tune asks twice in one step, and must hear the same
            return None
        if self._finished or (self._at_once is not None and len(self._live) >= self._at_once):
            return None
        self._waiting.begin(cell)
        self.begun.add(cell)
        trial = self._trials[cell]
        self._live.add(trial.trial_id)
        return trial

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._live.discard(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray's own state is thrown away, and this would draw the whole run into it."""
        return {}
