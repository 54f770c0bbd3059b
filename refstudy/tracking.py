"""The mirror of cells in wandb: one run a cell, offline unless WANDB_MODE says otherwise. Never a source of results.

Invariant: a trial never fails because of wandb, and waits for it once, at its end, for FINISH_TIMEOUT_S at most. Every call
happens on a thread of its own; the first failure is one warning line, and the rest of that run is silence.
"""

import fnmatch
import functools
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refstudy import artefacts, copies
from refstudy.errors import StoreError
from refstudy.grid import Cell
from refstudy.measurement import Emit, Measurement, Stop
from refstudy.records import Record
from refstudy.spec import WandbEntry
from refstudy.store import Store
from refstudy.texts import told

FINISH_TIMEOUT_S = 30.0
"""How long a finished trial waits for wandb at most; offline runs take hundredths of a second."""

REPORT_TIMEOUT_S = 120.0
"""How long a report, of some 20 MB at most, is waited for."""

INIT_TIMEOUT_S = 20.0

log = logging.getLogger(__name__)

MIRRORED = ("train", "along", "validate")
"""Stages whose measurements become steps of the run."""

CONFIG = ("cell_id", "policy", "reference", "beta", "seed", "settings", "labels", "recipes")

_left_hanging: list[threading.Thread] = []
"""Threads of earlier runs of this process that wandb never gave back."""


def mirrored(
    cell: Record,
    run: Callable[[Emit], Record],
    samples: Callable[[], list[dict[str, Any]]],
    about: Callable[[], dict[str, float]],
    emit: Emit,
    sweep: str,
    folder: Path,
    settings: WandbEntry,
) -> Record:
    """The record of a trial, its measurements passed on to `emit` and, unless wandb is disabled, mirrored as a run.

    `cell` is the record's heading; `samples` gives rows of answers, asked for only when the trial is done; `about` gives numbers
    that are known before training, such as how the reference fits the policy, and is asked for while the trial runs.
    """
    if not settings.enabled:
        return run(emit)
    mirror = Tracker(cell, sweep, folder, settings.project, settings.entity)
    mirror.numbers(about)

    def both(measurement: Measurement) -> Stop | None:
        mirror.emit(measurement)
        return emit(measurement)

    record = run(both)
    if record["status"] == "done":
        mirror.samples(samples)
    mirror.finish(record)
    try:
        copies.push(folder / "wandb")
    except (StoreError, OSError) as error:
        log.warning("the files of wandb stay on this machine (%s); the trial goes on", error)
    return record


class Tracker:
    """The wandb run of one attempt at a cell, or of another `job`.

    `cell` is the cell as JSON; what CONFIG names of it becomes the run's config. Of a job it is the id alone.
    The run's id is the cell's id with the number of the attempt, its group the sweep's name. Files go to `<folder>/wandb`;
    WANDB_PROJECT and WANDB_ENTITY go before `project` and `entity`.
    """

    def __init__(
        self,
        cell: Mapping[str, Any],
        sweep: str,
        folder: Path | str,
        project: str = "refstudy",
        entity: str | None = None,
        job: str | None = None,
        upload_timeout_s: float = FINISH_TIMEOUT_S / 2,
    ) -> None:
        self._job, self._upload_timeout_s = job, upload_timeout_s
        self._project = os.environ.get("WANDB_PROJECT") or project
        self._entity = os.environ.get("WANDB_ENTITY") or entity
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed = False
        self._run: Any = None
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if any(thread.is_alive() for thread in _left_hanging):
            self._fail("an earlier run of this process still hangs in it")
        else:
            self._calls.put(lambda: self._start(dict(cell), sweep, Path(folder)))
            self._thread.start()

    def emit(self, measurement: Measurement) -> None:
        """Mirrors a measurement of training or along it as a step of the run, and alarms; other stages only move the progress."""
        if measurement.stage in MIRRORED:
            values = {f"{measurement.stage}/{name}": value for name, value in measurement.values.items()}
            self._do(lambda: self._run.log(values, step=measurement.step))
        for words in measurement.alarms:
            self._do(functools.partial(self._alert, words))

    def numbers(self, values: Callable[[], Mapping[str, float]]) -> None:
        """Adds numbers to the run's summary."""
        self._do(lambda: self._run.summary.update(dict(values())))

    def samples(self, rows: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Adds the table "samples": a row for each that `rows` gives, the columns those of the first."""
        self._do(lambda: self._log_samples([dict(row) for row in rows()]))

    def report(self, files: Mapping[str, Path], page: str) -> None:
        """Adds a report: its files by their names as one artifact, and the HTML file named `page` as a panel."""
        self._do(lambda: self._log_report(dict(files), page))

    def finish(self, record: Mapping[str, Any], timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Ends the run with the record's measures as its summary; waits `timeout_s` at most."""
        self._do(lambda: self._finish(dict(record)))
        self._calls.put(None)
        if self._failed or not self._thread.is_alive():
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _left_hanging.append(self._thread)
            self._fail(f"no answer for {timeout_s:g} s")

    def _do(self, call: Callable[[], None]) -> None:
        if not self._failed:
            self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._failed:
                continue
            try:
                call()
            except BaseException as error:  # wandb also raises SystemExit and errors of its own
                self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            words = (
                f"take the {self._job} (%s); it is written all the same"
                if self._job
                else "mirror this cell (%s); the trial goes on"
            )
            log.warning("wandb does not " + words, " ".join(reason.split())[:300])

    def _start(self, cell: dict[str, Any], sweep: str, folder: Path) -> None:
        import wandb  # 0.3 s, and not needed where wandb is disabled

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            entity=self._entity,
            dir=str(folder),
            id=f"{cell['cell_id']}-{_attempt(folder, cell['cell_id'])}",
            name=self._job or f"{cell['policy']} {cell['reference']} beta={cell['beta']} seed={cell['seed']}",
            group=sweep,
            job_type=self._job,
            config={name: cell[name] for name in CONFIG if name in cell},
            mode=_mode(),
            reinit="finish_previous",
            settings=_settings(wandb, self._upload_timeout_s),
        )

    def _alert(self, words: str) -> None:
        # By default a second alert within a minute is dropped, and 0 means the default.
        self._run.alert(title="refstudy alarm", text=words, level="WARN", wait_duration=0.001)

    def _log_samples(self, rows: list[dict[str, Any]]) -> None:
        import wandb

        if not rows:
            return
        columns = list(rows[0])
        data: list[Iterable[Any]] = [[row.get(column) for column in columns] for row in rows]
        self._run.log({"samples": wandb.Table(columns=[*columns], data=data)})

    def _log_report(self, files: dict[str, Path], page: str) -> None:
        import wandb

        made = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{self._run.group}", flags=re.ASCII)[:120], type="report")
        for name, path in files.items():
            made.add_file(str(path), name=name)
        self._run.log_artifact(made)
        self._run.log({"report": wandb.Html(files[page], inject=False)})

    def _finish(self, record: dict[str, Any]) -> None:
        about = {name: record.get(name) for name in ("status", "degenerate", "reason", "duration_s")}
        of_sets = {
            f"eval/{name}/{measure}": value
            for name, each in record.get("evaluations", {}).items()
            for measure, value in each["measures"].items()
        }
        self._run.summary.update({**record.get("measures", {}), **of_sets, **about})
        self._run.finish(exit_code=0 if record.get("status") == "done" else 1)


def upload_report(sweep: str, report: Path, settings: WandbEntry) -> None:
    """Adds a written report to the sweep's project and group: the page, its Markdown and the PNGs of its figures.

    A run of its own, of the job type "report"; offline unless WANDB_MODE says otherwise. A failure is one warning.
    """
    files = [report, report.with_suffix(".md"), *sorted((report.parent / "figures").glob("*.png"))]
    about = {"cell_id": time.strftime("report-%Y%m%d-%H%M%S", time.gmtime())}
    mirror = Tracker(about, sweep, report.parent, settings.project, settings.entity, "report", REPORT_TIMEOUT_S / 2)
    mirror.report({str(path.relative_to(report.parent)): path for path in files if path.is_file()}, report.name)
    mirror.finish({"status": "done"}, REPORT_TIMEOUT_S)
    copies.push(report.parent / "wandb")


def _mode() -> Any:
    """WANDB_MODE if it is set, else offline."""
    return os.environ.get("WANDB_MODE") or "offline"


def _settings(wandb: Any, finish_timeout_s: float) -> Any:
    """Quiet, and without what could carry a secret or cost time: console output, command line, host, code, package list."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=finish_timeout_s,
    )


def _attempt(folder: Path, cell_id: str) -> int:
    """1 for the cell's first run in `folder`; a run id used twice can hang wandb, so each attempt takes the next."""
    names = {path.name for path in (folder / "wandb").iterdir()} if (folder / "wandb").is_dir() else set()
    runs = fnmatch.filter(names | copies.folders(folder / "wandb"), f"*run-*-{cell_id}-*")
    suffixes = (name.rpartition("-")[2] for name in runs)
    return 1 + max((int(suffix) for suffix in suffixes if suffix.isdigit()), default=0)


def sample_answers(cell: Cell, store: Store, count: int = 8) -> list[dict[str, Any]]:
    """The first `count` prompts of a finished cell with its answer, the baseline's, and p that its own is better."""
    prompts = artefacts.read_prompts(cell.completions.prompts, store)[:count]
    answers = {each.prompt_id: told(each) for each in artefacts.read_completions(cell.completions, store)}
    baseline = {each.prompt_id: told(each) for each in artefacts.read_completions(cell.verdicts.baseline, store)}
    p = {row["prompt_id"]: row["p"] for row in artefacts.read_verdicts(cell.verdicts, store)}
    return [
        {
            "prompt": each.turns[-1] if each.turns else each.messages[-1]["content"],
            "answer": answers.get(each.prompt_id),
            "baseline": baseline.get(each.prompt_id),
            "p": p.get(each.prompt_id),
        }
        for each in prompts
    ]


def wait_for_quiet(timeout_s: float) -> None:
    """Waits until runs that were left hanging have ended, for tests and for the end of a process."""
    end = time.monotonic() + timeout_s
    for thread in _left_hanging:
        thread.join(max(0.0, end - time.monotonic()))
