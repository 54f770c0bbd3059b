"""The runs of a sweep: a file for each, with what it used and why it ended, and how a run is asked to stop.

Invariant: a run writes its own file alone, so that several may work at once; a file that cannot be read is passed over. Nothing
here decides which cells are finished: the records do.
"""

import contextlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from refstudy import copies, records
from refstudy.errors import StoreError
from refstudy.processes import keeps, this_process
from refstudy.provenance import now

FOLDER = "runs"
PROGRESS = ".progress-"
FRESH_S = 3600.0
"""A folder for progress of which no run tells may be of one that is about to begin, until it is as old as this."""
WAIT_S = 30.0
"""How long `stop` waits for the end of a run; one on this machine takes about two seconds."""


@dataclass(frozen=True)
class Used:
    """What runs used."""

    hours: float = 0.0
    """Wall time."""
    device_hours: float = 0.0
    """Time of all devices (GPUs, or cores where none are asked for) that worked on models, tables and trials."""

    def __add__(self, other: Self) -> "Used":
        return Used(self.hours + other.hours, self.device_hours + other.device_hours)


@dataclass(frozen=True)
class Request:
    """That a run should stop."""

    after_cells: bool
    """Whether trials under way are brought to their end first."""


class Run:
    """The file of the run in this process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FOLDER / f"{uuid.uuid4().hex[:12]}.json"
        self.stop_file = self.file.with_suffix(".stop")
        self._begun = {"process": this_process(), "started_at": now()}

    def write(self, used: Used, state: str = "running", why: str | None = None) -> None:
        """Says what was used by now, which is a sign of life too; a disk that refuses costs this run's account alone."""
        with contextlib.suppress(StoreError):
            told = {"state": state, "why": why, "used": asdict(used), "written_at": now()}
            records.write_json(self.file, self._begun | told, hasty=state == "running")

    def request(self) -> Request | None:
        """What `stop` asked of this run."""
        if not is_asked(self.stop_file):
            return None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return Request(bool(json.loads(self.stop_file.read_bytes()).get("after_cells")))
        return Request(False)

    def close(self) -> None:
        with contextlib.suppress(StoreError):
            copies.remove(self.stop_file)


@contextlib.contextmanager
def progress_folder(run: Run, shared: bool) -> Iterator[Path]:
    """A folder for what workers tell of their progress: on this machine, or, `shared`, in the sweep's folder for all nodes.

    What killed runs left there is removed.
    """
    at = run.file.parent.parent
    folder = at / f"{PROGRESS}{run.file.stem}" if shared else Path(tempfile.mkdtemp(prefix="refstudy-progress-"))
    _clear_progress(at)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        with contextlib.suppress(StoreError):
            copies.remove_folder(folder)


def _clear_progress(folder: Path) -> None:
    """Removes the progress of runs that are over."""
    afar = {name for name in copies.folders(folder) if name.startswith(PROGRESS)}
    found = afar | {each.name for each in folder.glob(f"{PROGRESS}*")}
    if not found:
        return
    runs = {file.stem: _is_under_way(file, run) for file, run in _runs(folder)}
    for each in (folder / name for name in found):
        if not runs.get(each.name.removeprefix(PROGRESS), _is_fresh(each)):
            copies.remove_folder(each)


def _is_fresh(folder: Path) -> bool:
    """Whether the folder was changed a short while ago. At an address there is none before the file of its run."""
    try:
        return time.time() - folder.stat().st_mtime < FRESH_S
    except FileNotFoundError:
        return False


def is_asked(stop_file: Path) -> bool:
    """Whether the run with this file was asked to stop; a store out of reach does not ask."""
    with contextlib.suppress(StoreError):
        copies.refresh_file(stop_file, hasty=True)
    return stop_file.exists()


def used(folder: Path) -> Used:
    """What all runs of the folder used by now."""
    return sum((_used(each) for _, each in _runs(folder)), Used())


def stop(folder: Path, after_cells: bool) -> str:
    """Asks the runs of the folder that are under way to stop, and says what came of it; StoreError if there is none.

    Without `after_cells` it waits for their end.
    """
    records.read_sweep(folder)
    asked = {file for file, run in _runs(folder) if _is_under_way(file, run)}
    if not asked:
        raise StoreError(f"no run of {folder} is under way; see `refstudy status {folder}`")
    for file in asked:
        records.write_json(file.with_suffix(".stop"), {"after_cells": after_cells, "at": now()})
    if after_cells:
        return (
            f"{_runs_in_words(len(asked))} asked to stop once the trials under way have ended; the same command goes on from there"
        )
    end = time.monotonic() + WAIT_S
    while any(_is_under_way(file, run) for file, run in _runs(folder) if file in asked):
        if time.monotonic() > end:
            return f"{_runs_in_words(len(asked))} asked to stop, and not ended after {WAIT_S:g} s: its machine may be slow or away"
        time.sleep(0.1)
    return f"{_runs_in_words(len(asked))} stopped; the same command goes on from there"


def last_in_words(folder: Path) -> str | None:
    """What the run that began last does or how it ended, in a line; None if there was none."""
    found = sorted(_runs(folder), key=lambda each: str(each[1].get("started_at")))
    if not found:
        return None
    file, run = found[-1]
    hours = _used(run).hours
    if _is_under_way(file, run):
        process = run.get("process") or {}
        return f"a run is under way since {run.get('started_at')} (process {process.get('pid')}), {hours:.2f} hours by now"
    if run.get("state") == "running":
        return f"the last run was killed after {run.get('written_at')}, {hours:.2f} hours; the same command goes on from there"
    why = run.get("why")
    return f"the last run {why or 'came to its end'}, at {run.get('written_at')} after {hours:.2f} hours"


def _runs(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable runs, each with its file."""
    copies.refresh(folder / FOLDER)
    for file in sorted((folder / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            run = json.loads(file.read_bytes())
            if isinstance(run, dict):
                yield file, run


def _is_under_way(file: Path, run: dict[str, Any]) -> bool:
    process = run.get("process")
    return run.get("state") == "running" and keeps(process if isinstance(process, dict) else {}, file)


def _used(run: dict[str, Any]) -> Used:
    found = run.get("used")
    amounts = found if isinstance(found, dict) else {}
    known = {name: amounts.get(name) for name in ("hours", "device_hours")}
    return Used(**{name: float(value) for name, value in known.items() if isinstance(value, int | float) and value >= 0})


def _runs_in_words(count: int) -> str:
    return "the run was" if count == 1 else f"{count} runs were"
