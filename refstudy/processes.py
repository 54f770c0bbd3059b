"""Processes: which one made a file and whether it still lives, on which claims and running records rest, and how one is stopped.

Invariant: a process is called dead only where that is certain; heartbeats decide about processes of other hosts.
"""

import contextlib
import functools
import gc
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

BEAT_S = 10.0
"""Seconds between two heartbeats."""

MISSED_BEATS = 3
"""So many beats without a sign, and the process counts as dead."""

Life = Literal["alive", "dead", "unknown"]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """No garbage is looked for among what is imported while the context lasts, nor ever after: a quarter of the time that heavy
    libraries take to import, and 0.3 s of each later collection."""
    was_enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > known:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def this_process() -> dict[str, Any]:
    """This process as JSON: pid, host and start time, which tells it from a later process with the same pid."""
    return {"pid": os.getpid(), "host": host(), "started": _start_ticks(os.getpid())}


def life(process: dict[str, Any]) -> Life:
    """Whether a process that `this_process` described is alive; unknown if it ran on another host, or before a reboot."""
    pid = process.get("pid")
    if process.get("host") != host() or type(pid) is not int or pid <= 0:
        return "unknown"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass  # somebody else's process: alive
    except OverflowError:
        return "dead"
    started = _start_ticks(pid)
    return "dead" if _is_zombie(pid) or (started is not None and started != process.get("started")) else "alive"


def keeps(process: dict[str, Any], file: Path) -> bool:
    """Whether the process that keeps `file` by a heartbeat counts as alive: for certain, or by the file's last beat."""
    known = life(process)
    if known != "unknown":
        return known == "alive"
    try:
        return _silence_s(file) < MISSED_BEATS * BEAT_S
    except FileNotFoundError:
        return False  # given up just now


class Heartbeat:
    """Calls `beat` every `every_s` seconds on a daemon thread until stopped, or until `beat` raises FileNotFoundError.

    Any other OSError, such as that of a file server which is away for a moment, costs one beat.
    """

    def __init__(self, beat: Callable[[], None], every_s: float = BEAT_S) -> None:
        self._beat = beat
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                self._beat()
            except FileNotFoundError:
                return  # taken over, or the folder was removed
            except OSError:
                continue


class Interrupts:
    """Turns the first SIGINT or SIGTERM into KeyboardInterrupt while its `with` block lasts, and ignores further ones."""

    def __init__(self) -> None:
        self.by = ""
        """The signal that came; what is raised may lose its name on the way through Ray."""
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM) if is_main}

    def arm(self) -> None:
        """Takes the signals; again where a library has put handlers of its own in between."""
        for each in self._before:
            signal.signal(each, self._interrupt)

    def __enter__(self) -> Self:
        self.arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.by = signal.Signals(number).name
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt


def _silence_s(file: Path) -> float:
    """Seconds since the last beat in `file`, by the clock that beats are written with: the file system's.

    It is read off a file made beside it; this machine's own clock, which may differ, serves where none can be made.
    """
    probe = file.with_name(f".clock-{uuid.uuid4().hex}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:
        now = time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return now - file.stat().st_mtime


@functools.cache
def host() -> str:
    """This host until its next restart: name and boot id, since two machines of a cluster can share a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


def _start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the process' start (field 22 of /proc/PID/stat); None where there is no /proc."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def _is_zombie(pid: int) -> bool:
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] in ("Z", "X")


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; the second, in brackets, may hold blanks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
