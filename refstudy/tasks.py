"""Ray tasks that make what cells share and what comes after them, and how far the making is.

Invariant: a task reports its own progress and returns its error as it stands in records; a task whose process died is an error too.
"""

from collections.abc import Callable, Iterable
from typing import Any

import ray

from refstudy import copies, demand, plan, records, session, spec
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.measurement import Emit
from refstudy.progress import Board, Display, Item, Reporter
from refstudy.recipes import Recipe
from refstudy.schedule import Schedule
from refstudy.store import Store
from refstudy.work import Job

RETRIES = 1
"""How often a task or trial is started again after the death of its process; exceptions are never retried."""


class Tasks:
    """The tasks of a run."""

    def __init__(self, sweep: Sweep, cells: Iterable[Cell], job: Job, board: Board, display: Display) -> None:
        self.sweep, self.job, self.board, self.display = sweep, job, board, display
        self._known = demand.by_model(sweep, list(cells))

    def asked(self, recipe: Recipe) -> spec.Resources:
        """What the making of a shared artefact takes."""
        return demand.of(recipe, self._known) or self.sweep.spec.resources.artefact

    def start(self, key: str, wanted: list[Recipe]) -> ray.ObjectRef:
        """The task that makes `wanted`; tables that are scored in shards after tasks that score these, which it waits for."""
        resources = self.asked(wanted[-1])
        options = session.options(resources) | {"max_retries": RETRIES}
        if demand.threads(resources) != demand.threads(self.sweep.spec.resources.trial):  # else workers can be shared with trials
            options["runtime_env"] = {"env_vars": demand.threads(resources)}
        parts = self._shards(key, [each for each in wanted if demand.is_shared_out(each)], resources.shards, options)
        task: ray.ObjectRef = _make_on_worker.options(**options).remote(key, wanted, self.job, *parts)
        return task

    def _shards(self, key: str, shared: list[Recipe], count: int, options: dict[str, Any]) -> list[ray.ObjectRef]:
        """The tasks that score the parts of the tables `shared`; none for one worker, which scores as it makes them."""
        if count == 1 or not shared:
            return []
        keys = [f"{key}-part-{number}" for number in range(count)]
        title = f"log-probs by {plan.title(demand.loaded(shared[-1]))}"
        devices = demand.devices(self.asked(shared[-1]))
        self.board.add(
            Item(each, "parts", f"{title}, part {number} of {count}", devices=devices) for number, each in enumerate(keys, 1)
        )
        score = _score_on_worker.options(**options)
        return [score.remote(each, shared, number, count, self.job) for number, each in enumerate(keys)]

    def outcome(self, task: ray.ObjectRef, key: str) -> dict[str, Any] | None:
        """None if the task made what it should, else its error as it stands in records."""
        try:
            error: dict[str, Any] | None = ray.get(task)
        except ray.exceptions.RayError as death:
            error = {"type": type(death).__name__, "message": session.last_line(death), "traceback": str(death)}
        if error is not None:
            self.display.fail(key, f"{error['type']}: {error['message']}")
            for item in self.board.of("parts", "planned", "running"):
                if item.key.startswith(f"{key}-part-"):
                    self.board.fail(item.key)  # a worker that died cannot say so
        return error

    def warm(self, tasks: int) -> None:
        """Lets as many workers as will soon be busy import at once: the first artefacts are made one after another, and each worker
        would else begin to import when its first task comes. A worker that has a GPU takes one task only."""
        resources = self.sweep.spec.resources
        if not resources.artefact.gpus and demand.threads(resources.artefact) == demand.threads(resources.trial):
            for _ in range(min(tasks, session.slots())):
                _warm_on_worker.options(**session.options(resources.artefact)).remote(self.job)


class Making:
    """What cells share, being made: each artefact as soon as its inputs exist."""

    def __init__(self, tasks: Tasks, shared: list[Recipe], is_stopped: Callable[[], bool]) -> None:
        """`is_stopped`: whether nothing more shall be begun."""
        self.schedule = Schedule(shared)
        self._tasks, self._is_stopped = tasks, is_stopped
        self._running: dict[ray.ObjectRef, Recipe] = {}
        self.is_under_way = not self.schedule.has_next
        """Whether all that can be made now is under way or made: machines that are idle are free for cells."""
        tasks.warm(len(shared))

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way, and nothing more will be begun."""
        return self.schedule.is_over or (not self._running and self._is_stopped())

    def go_on(self, wait_s: float) -> None:
        """Begins what can be begun, and waits so long for some of it to end."""
        if not self.is_under_way and not self._is_stopped():
            while len(self._running) < session.slots() and (recipe := self.schedule.take()) is not None:
                self._running[self._tasks.start(fingerprint(recipe), [recipe])] = recipe
            self.is_under_way = not self.schedule.has_next
        if not self._running:
            return
        ended, _ = ray.wait(list(self._running), timeout=wait_s)
        for task in ended:
            recipe = self._running.pop(task)
            error = self._tasks.outcome(task, fingerprint(recipe))
            if error is None:
                self.schedule.done(recipe)
            else:
                self.schedule.failed(recipe, error)
            self.is_under_way = not self.schedule.has_next


# On workers -------------------------------------------------------------------------------------------------------------------


@ray.remote
def _warm_on_worker(job: Job) -> None:
    job.work.warm()


@ray.remote
def _make_on_worker(key: str, wanted: list[Recipe], job: Job, *parts: dict[str, Any] | None) -> dict[str, Any] | None:
    """Makes artefacts once all `parts` of their tables are scored; returns the error as it stands in records, or None."""
    failure = next((each for each in parts if each is not None), None)
    if failure is not None:
        return failure
    return _reported(key, job, lambda store, report: job.work.make(wanted, store, report))


@ray.remote
def _score_on_worker(key: str, tables: list[Recipe], number: int, of: int, job: Job) -> dict[str, Any] | None:
    """Scores part `number` of `of` of the tables; returns the error as it stands in records, or None."""
    return _reported(key, job, lambda store, report: job.work.score(tables, number, of, store, report))


def _reported(key: str, job: Job, work: Callable[[Store, Emit], None]) -> dict[str, Any] | None:
    """Does the work under a report of its progress; the error as it stands in records, or None."""
    at = job.opened()
    report = Reporter(copies.here(job.progress), key)
    try:
        work(at.store, report)
    except Exception as error:
        report.end("failed", {"reason": f"{type(error).__name__}: {session.first_line(error)}"})
        return error_of(error)
    report.end("done")
    return None


def error_of(error: Exception) -> dict[str, Any]:
    """An error as it stands in records."""
    told: dict[str, Any] = records.failure(error)["error"]
    return told
