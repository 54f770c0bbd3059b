"""A sweep on Ray: tasks make what cells share, Tune runs the missing cells, tasks make what comes after them.

Invariant: the store and the records are the truth, Ray's own state is thrown away. Whatever ends this process, the same command
goes on where it stopped. Only this module, `tasks`, `feed`, `together` and `session` import ray.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray import tune

from refstudy import copies, demand, errors, guard, objects, plan, records, results, room, runs, session, spec, together, tracking
from refstudy.errors import RefstudyError, StoreError
from refstudy.feed import Feed, Waiting
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.processes import Interrupts
from refstudy.progress import Board, Display, Item, Reporter, stage_of
from refstudy.recipes import Recipe
from refstudy.records import Record
from refstudy.results import Results
from refstudy.schedule import Schedule
from refstudy.store import Store
from refstudy.tasks import RETRIES, Making, Tasks, error_of
from refstudy.work import Job, Work, work_of

LOOK_EVERY_S = 1.0
INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM, as shells have it."""
STOPPED = 3
"""Exit code where a limit of the sweep, `refstudy stop` or the loss of the cluster ended the run before all cells were finished."""


def run_sweep(
    sweep: Sweep,
    at: Results,
    cells: list[Cell],
    *,
    address: str | None = None,
    retry_failed: bool = False,
    work: Work | None = None,
) -> int:
    """Runs the cells that have no finished record, with all that they need and all that is made of them afterwards.

    Returns the exit code: 0 if every cell is done, 1 if some failed, 3 if a limit of the sweep, `refstudy stop` or the loss of the
    cluster's head ended the run, 130 if SIGINT or SIGTERM did. All but `limits.cells` need this to be the main thread.
    """
    guard.check(sweep.spec.limits, sweep.spec.price)
    together.refuse(cells, at)
    results.begin(at, sweep, cells)
    at.store.clear_dead()
    run = runs.Run(at.folder)
    with objects.unhurried(), runs.progress_folder(run, shared=address is not None) as progress:
        board = Board(progress)
        store, folder, shown, stop_file = map(copies.location, (at.store.root, at.folder, progress, run.stop_file))
        job = Job(sweep.name, store, folder, shown, sweep.spec.wandb, work or work_of(sweep.spec.train), stop_file)
        signals = Interrupts()
        watch = guard.Guard(run, board, sweep.spec.limits, sweep.spec.price, runs.used(at.folder), signals)
        try:
            with signals:
                left_out = _Run(sweep, at, cells, job, board, watch).run(address, retry_failed, signals.arm)
        except KeyboardInterrupt:
            objects.hurry()
            _clear_claims(at.store)
            return _say_what_stopped(at, cells, watch.why or signals.by, STOPPED if watch.why else INTERRUPTED)
    code = _say_what_failed(at, [cell for cell in cells if cell.id not in left_out])
    return _say_what_stopped(at, cells, f"limits.cells {sweep.spec.limits.cells}", STOPPED) if left_out else code


def _say_what_stopped(at: Results, cells: list[Cell], why: str, code: int) -> int:
    """The exit code, after a last line about a run that ended before its cells did."""
    try:
        done = len(cells) - len(results.pending(at, cells, again=True))
        told = f"{done} of {len(cells)} cells are done; the same command goes on from here"
    except StoreError as error:
        told = f"{copies.in_words(str(error))}; the same command then goes on from here"
    print(f"stopped by {why}: {told}", flush=True)
    return code


def _say_what_failed(at: Results, cells: list[Cell]) -> int:
    """The exit code, after a last line about cells that are not done."""
    known = _records_of(cells, at)
    failed = [cell for cell in cells if known.get(cell.id, {}).get("status") != "done"]
    if not failed:
        return 0
    error = known.get(failed[0].id, {}).get("error")
    why = f"{error['type']}: {session.first_line(error['message'])}" if error else "it has no record"
    has_passed = all(results.has_passed(known[cell.id]) for cell in failed if cell.id in known)
    do = "the same command runs them again" if has_passed else "run again with --retry-failed"
    print(f"{len(failed)} of {len(cells)} cells failed (first: {failed[0].label}: {why}); {do}", flush=True)
    return 1


class _Run:
    """One run of a sweep on a Ray cluster."""

    def __init__(self, sweep: Sweep, at: Results, cells: list[Cell], job: Job, board: Board, watch: guard.Guard) -> None:
        self.sweep, self.at, self.cells, self.job, self.board, self.guard = sweep, at, cells, job, board, watch
        self.stop_file = copies.here(job.stop_file)
        self.display = Display(board)
        self.tasks = Tasks(sweep, cells, job, board, self.display)
        self._asked, self._looked_at = False, 0.0

    def run(self, address: str | None, retry_failed: bool, arm: Callable[[], None]) -> set[str]:
        """Runs all that is missing and allowed; returns the ids of the cells that `limits.cells` leaves to a later run."""
        self.at.store.clear_states(cell.dpo for cell in self.cells if not plan.trains(cell, self.at.store))
        missing = results.pending(self.at, self.cells, again=retry_failed)
        pending = self._allowed(missing)
        left_out = {cell.id for cell in missing} - {cell.id for cell in pending}
        shared = plan.shared(pending, self.at.store)
        self._expect(pending, shared)
        if not pending and not plan.reference_passes(self.cells, self.at.store):
            return left_out  # nothing to do: no need to start Ray
        self.guard.end_if_spent()
        ray_at = session.connected(address, demand.asked(self.sweep, self.cells))
        with self.guard, objects.hurried_by_errors(), ray_at, self.display, objects.hurried_by_errors():
            arm()  # ray.init put a handler of its own on SIGTERM
            if address and not address.startswith("ray://"):
                self.guard.watch_cluster(session.Head().loss, lambda why: _say_what_stopped(self.at, self.cells, why, STOPPED))
            self.guard.may_end = True
            self.display.say(
                f"{self.sweep.name}: {len(pending)} of {len(self.cells)} cells to run, {len(shared)} artefacts to make"
            )
            for each in room.warnings(self.sweep, pending, shared, self.at.store, *session.machines(address)):
                self.display.say(f"warning: {each}")
            self._make_and_try(pending, self._without_files(shared))
            self._pass_references()
        return left_out

    def _allowed(self, missing: list[Cell]) -> list[Cell]:
        """As many of the cells as `limits.cells` still allows, those first against whose answers others are judged."""
        limit, finished = self.sweep.spec.limits.cells, len(self.cells) - len(missing)
        ordered = plan.rivals_first(missing)
        return ordered if limit is None else ordered[: max(0, limit - finished)]

    def _is_asked(self) -> bool:
        """Whether the run is to stop after the cells that are under way, as of the last second: at an address, to look is a
        request, and Tune asks ten times a second."""
        if not self._asked and time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._asked = runs.is_asked(self.stop_file)
            self._looked_at = time.monotonic()
        return self._asked

    def _end_if_asked(self) -> None:
        """Ends the run where it was asked to stop after its cells, and none is under way."""
        if self._asked or runs.is_asked(self.stop_file):
            raise KeyboardInterrupt

    def _expect(self, pending: list[Cell], shared: list[Recipe]) -> None:
        """Puts all that is known of the run on the board."""
        self.board.add(
            Item(fingerprint(each), stage_of(each), plan.title(each), devices=demand.devices(self.tasks.asked(each)))
            for each in shared
        )
        known = _records_of(self.cells, self.at)
        waiting = {cell.id for cell in pending}
        self.board.add(_cell_item(cell, {} if cell.id in waiting else known.get(cell.id, {})) for cell in self.cells)

    def _without_files(self, shared: list[Recipe]) -> list[Recipe]:
        """What is left for workers: at an address, texts from files of this machine are made here, since others may lack these."""
        if copies.of(self.at.store.root) is None:
            return shared
        given = {fingerprint(each) for each in shared if plan.is_from_file(each)}
        for each in shared:
            if fingerprint(each) in given:
                report = Reporter(self.board.folder, fingerprint(each))
                self.job.work.make([each], self.at.store, report)
                report.end("done")
        return [each for each in shared if fingerprint(each) not in given]

    def _make_and_try(self, pending: list[Cell], shared: list[Recipe]) -> None:
        """Makes what the cells share, and runs the trial of each as soon as all is there that it needs."""
        making = Making(self.tasks, shared, self._is_asked)
        waiting = Waiting(pending, making, self._is_asked)
        while True:
            while not making.is_over and waiting.ready() is None:
                making.go_on(1.0)
            self._end_if_asked()
            if waiting.ready() is None:
                break
            self._try([cell for cell in pending if cell.id in set(waiting)], waiting)
        self._refuse_hopeless(pending, making.schedule)
        self._fail_unmade(pending, making.schedule)

    def _fail_unmade(self, pending: list[Cell], schedule: Schedule) -> None:
        """Lets cells that lack what could not be made become failed records that name it."""
        for cell in pending:
            failure = schedule.failure_below(plan.trial_goals(cell))
            if failure is not None:
                self._record_failure(cell, failure.error, f"{plan.title(failure.recipe)} could not be made: ")

    def _refuse_hopeless(self, pending: list[Cell], schedule: Schedule) -> None:
        """Raises the fault of the sweep file, its data or models by which no cell can run, if there is one."""
        failures = [schedule.failure_below(plan.trial_goals(cell)) for cell in pending]
        first = next((each for each in failures if each is not None), None)
        if first is not None and all(each is not None and _is_ours(each.error) for each in failures):
            raise RefstudyError(f"{plan.title(first.recipe)} cannot be made: {first.error['message']}")

    def _try(self, cells: list[Cell], waiting: Waiting) -> None:
        """Runs the trials of waiting cells under one Tuner, as they become ready; deaths beyond RETRIES become failed records."""
        resources, before = cells[0].resources, _records_of(cells, self.at)
        feed = Feed(waiting, _at_once(resources))
        trainable = tune.with_parameters(_trainable, job=self.job, cells={cell.id: cell for cell in cells})
        with tempfile.TemporaryDirectory(prefix="refstudy-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(trainable, _of_trial(resources)),
                param_space={"cell": tune.grid_search([cell.id for cell in cells])},
                tune_config=tune.TuneConfig(search_alg=feed, reuse_actors=True),
                run_config=tune.RunConfig(
                    name="cells", storage_path=scratch, verbose=0, failure_config=tune.FailureConfig(max_failures=RETRIES)
                ),
            )
            self.guard.ends_idle = True
            ended = tuner.fit()
            self.guard.ends_idle = False
        self._end_if_asked()
        told = [ended[number].metrics or {} for number in range(len(ended))]
        unwritten = {each["cell"]: each["failure"] for each in told if "failure" in each}
        begun = [cell for cell in cells if cell.id in feed.begun]
        self._record_silent(begun, before, unwritten, [str(error) for error in ended.errors])

    def _record_silent(self, ready: list[Cell], before: Mapping[str, Record], unwritten: dict[str, Any], deaths: list[str]) -> None:
        """Fails the cells that ended without a record: by an error that is known here, else by the death of their process.

        A record from `before` is one only if what it speaks of is there.
        """
        now = _records_of(ready, self.at)
        for cell in ready:
            record = now.get(cell.id, {})
            is_new = record != before.get(cell.id) or plan.is_made(cell, self.at.store)
            if record.get("status") in ("done", "failed") and is_new:
                continue
            if cell.id in unwritten:
                self._record_failure(cell, unwritten[cell.id])
            else:
                last = session.last_line(deaths[0]) if deaths else "Ray gave no reason"
                message = f"its process ended {RETRIES + 1} times without a record, perhaps for want of memory ({last})"
                self._record_failure(cell, {"type": "WorkerDied", "message": message, "traceback": "\n".join(deaths)[:20_000]})

    def _pass_references(self) -> None:
        """Makes what comes after the cells, one task for each group that loads the same reference."""
        groups = plan.reference_passes(self.cells, self.at.store)
        keys = [f"pass-{number}" for number in range(len(groups))]
        titles = [f"answers as seen by {plan.title(demand.loaded(group[-1]))}" for group in groups]
        self.board.add(
            Item(key, "references", title, devices=demand.devices(self.tasks.asked(group[-1])))
            for key, title, group in zip(keys, titles, groups, strict=True)
        )
        tasks = {self.tasks.start(key, group): key for key, group in zip(keys, groups, strict=True)}
        while tasks:
            ready, _ = ray.wait(list(tasks), timeout=1.0)
            for task in ready:
                self.tasks.outcome(task, tasks.pop(task))

    def _record_failure(self, cell: Cell, error: dict[str, Any], why: str = "") -> None:
        fields = results.heading(cell) | {"status": "failed", "error": error | {"message": why + error["message"]}}
        records.write_record(self.at.folder, fields | {"duration_s": 0.0, "finished_at": records.now()})
        self.display.fail(cell.id, f"{why}{error['type']}: {error['message']}")


# On workers -------------------------------------------------------------------------------------------------------------------


def _trainable(config: dict[str, Any], job: Job, cells: Mapping[str, Cell]) -> None:
    """The function that Tune runs for each cell."""
    cell = cells[config["cell"]]
    job.opened()  # from here on this process knows the places of the run
    if runs.is_asked(copies.here(job.stop_file)):
        tune.report({"done": False})
        return
    try:
        record = _tried(cell, job) if cell.resources.workers == 1 else together.run(cell, job, _tried)
    except StoreError as error:  # no record can be written: the run says so, if it can by then
        tune.report({"done": False, "cell": cell.id, "failure": error_of(error)})
        return
    if cell.resources.workers > 1:
        Reporter(copies.here(job.progress), cell.id).end(record["status"], _shown(record))  # where the first worker could not
    tune.report({"done": record["status"] == "done"})


def _tried(cell: Cell, job: Job) -> Record:
    """The record of a trial in this process, which is mirrored and shown while it runs."""
    from refstudy import reference_compatibility  # reads tables, which the run itself never does

    at = job.opened()
    report, store = Reporter(copies.here(job.progress), cell.id), at.store
    record = tracking.mirrored(
        results.heading(cell),
        lambda emit: job.work.trial(cell, store, at.folder, emit),
        lambda: tracking.sample_answers(cell, store),
        lambda: reference_compatibility.tracked(cell, store),
        report,
        job.sweep,
        at.folder,
        job.wandb,
    )
    report.end(record["status"], _shown(record))
    return record


def _of_trial(resources: spec.Resources) -> dict[str, float]:
    """What Tune sets aside for a trial: next to nothing where workers of its own do the work, or they would wait for it."""
    if resources.workers > 1:
        return {"cpu": 0, "memory": 1}  # a byte, since Tune takes no empty request
    return {"cpu": resources.cpus, "gpu": resources.gpus, **resources.custom}


def _at_once(resources: spec.Resources) -> int | None:
    """How many trials Tune may begin at once; None: as many as their resources allow."""
    return None if resources.workers == 1 else together.concurrent(resources)


# The end of a run -------------------------------------------------------------------------------------------------------------


def _clear_claims(store: Store, within_s: float = 5.0) -> None:
    """Frees what the ended workers had claimed; they take a moment to die."""
    end = time.monotonic() + within_s
    with contextlib.suppress(StoreError):  # out of reach: they count as dead after three beats
        while store.clear_dead() and time.monotonic() < end:
            time.sleep(0.1)


# Small things -----------------------------------------------------------------------------------------------------------------


def _is_ours(error: dict[str, Any]) -> bool:
    """Whether an error is one that a user can understand and mend."""
    kind = getattr(errors, error["type"], None)
    return isinstance(kind, type) and issubclass(kind, RefstudyError)


def _records_of(cells: Iterable[Cell], at: Results) -> dict[str, Record]:
    wanted = {cell.id for cell in cells}
    return {record["cell_id"]: record for record in records.read_records(at.folder) if record["cell_id"] in wanted}


def _cell_item(cell: Cell, record: Record) -> Item:
    row = {"reference": cell.reference, "beta": cell.beta} | (_shown(record) if record else {})
    finished = record.get("status") in ("done", "failed")
    duration_s = record["duration_s"] or 0.0 if finished else 0.0
    state, devices = record["status"] if finished else "planned", demand.devices(cell.resources)
    return Item(cell.id, "cells", cell.label, state, ended=duration_s, row=row, devices=devices)


def _shown(record: Record) -> dict[str, Any]:
    """What the table of cells shows of a finished record."""
    measures, error = record.get("measures") or {}, record.get("error")
    reason = f"{error['type']}: {error['message']}" if error else record.get("reason")
    return {"win_rate": measures.get("win_rate"), "length_mean": measures.get("length_tokens_mean"), "reason": reason}
