"""What ends a run before its cells are finished: a limit of the sweep, somebody's `refstudy stop`, or the loss of its cluster.

Invariant: a run is ended here as a signal ends it, so that there is one way to stop and to go on. No measure of a cell decides.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from refstudy import spec
from refstudy.errors import SpecError
from refstudy.processes import Interrupts
from refstudy.progress import Board, Item
from refstudy.runs import Run, Used

LOOK_EVERY_S = 0.5
WRITE_EVERY_S = 5.0
DEAF_S = 10.0
"""How long the main thread has to end by itself once the cluster is lost."""


def check(limits: spec.LimitsEntry, price: spec.Price) -> None:
    """Refuses a limit of cost where nothing costs anything."""
    if limits.cost is not None and not price.device_hour:
        raise SpecError(f"limits.cost: got {limits.cost:g}, but price.device_hour is 0; declare what a device costs in an hour")


def reached(limits: spec.LimitsEntry, price: spec.Price, used: Used) -> str | None:
    """Which limit of time or cost is reached, in words; None: none."""
    if limits.hours is not None and used.hours >= limits.hours:
        return f"limits.hours {limits.hours:g} ({used.hours:.3g} hours of work)"
    cost = used.device_hours * price.device_hour
    if limits.cost is not None and cost >= limits.cost:
        return f"limits.cost {limits.cost:g} ({cost:.3g} for {used.device_hours:.3g} device-hours)"
    return None


class Guard:
    """Keeps the account of a run on a thread of its own, and interrupts the main thread where the run should end."""

    def __init__(
        self, run: Run, board: Board, limits: spec.LimitsEntry, price: spec.Price, before: Used, interrupts: Interrupts
    ) -> None:
        """`before`: what earlier runs used; `interrupts` turns the signal that is sent from here into the run's end."""
        self.interrupts = interrupts
        self.run, self.board, self.limits, self.price, self.before = run, board, limits, price, before
        self.used = Used()
        self.why: str | None = None
        """Which limit or request ended the run, in words."""
        self.ends_idle = False
        """Whether the run may be interrupted, once it was asked to stop after its cells, because nothing is under way."""
        self.may_end = False
        """Whether the main thread listens by now; a signal before that could end it without a word."""
        self._loss: Callable[[], str | None] = lambda: None
        self._tell: Callable[[str], int] = lambda why: 1
        self._idle_looks = 0
        self._looked_at = self._wrote_at = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> Self:
        self.run.write(self.used)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._count()
        if kind is KeyboardInterrupt:
            self.why = self.why or self._asked()
        by = self.why or self.interrupts.by
        ended = None if error is None else f"was stopped by {by}" if by else f"failed: {error}"
        self.run.write(self.used, "ended", ended)
        self.run.close()

    def watch_cluster(self, loss: Callable[[], str | None], tell: Callable[[str], int]) -> None:
        """Ends the run where `loss` says in words that its cluster is lost; `tell` says so last, and gives the exit code."""
        self._loss, self._tell = loss, tell

    def end_if_spent(self) -> None:
        """Ends a run that may not even begin: earlier ones have used all that the limits allow."""
        self.why = reached(self.limits, self.price, self.before)
        if self.why is not None:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._count()
            if time.monotonic() - self._wrote_at > WRITE_EVERY_S:
                self._wrote_at = time.monotonic()
                self.run.write(self.used)
            if self.may_end:
                with contextlib.suppress(OSError):
                    self._look()

    def _count(self) -> None:
        """Adds the time since the last look, on the devices of what is under way."""
        now = time.monotonic()
        hours, self._looked_at = (now - self._looked_at) / 3600, now
        self.used += Used(hours, hours * sum(each.devices for each in self._under_way()))

    def _look(self) -> None:
        if lost := self._loss():
            self._abandon(lost)
            return
        why, request = reached(self.limits, self.price, self.before + self.used), self.run.request()
        if why is None and request is not None:
            if request.after_cells and not self._is_idle():
                return
            why = self._asked()
        if why is not None:
            self.why = why
            self._over.set()
            os.kill(os.getpid(), signal.SIGTERM)

    def _abandon(self, why: str) -> None:
        """Ends the run as a signal does, or, where the main thread does not hear it, the process: Ray's own calls may wait for a
        minute for what is lost, and then end it without a word."""
        self.why = why
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(DEAF_S):
            self.run.write(self.used, "ended", f"was stopped by {why}")
            os._exit(self._tell(why))

    def _is_idle(self) -> bool:
        """Whether nothing was under way at two looks, one after another: a cell may begin as the request is made."""
        idle = self.ends_idle and not self._under_way()
        self._idle_looks = self._idle_looks + 1 if idle else 0
        return self._idle_looks > 2

    def _asked(self) -> str | None:
        request = self.run.request()
        return None if request is None else "refstudy stop --after-cells" if request.after_cells else "refstudy stop"

    def _under_way(self) -> list[Item]:
        return [each for each in list(self.board.items.values()) if each.state == "running"]
