"""Following a sweep that runs elsewhere: its cells as a live table, and its report written anew as they change.

Invariant: watching only reads records; it can be begun, ended and begun again at any time, and any number may watch.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from refstudy import copies, records, table
from refstudy.texts import visible

POLL_EVERY_S = 1.0
FINISHED = ("done", "failed")

Row = dict[str, Any]


def follow(
    folder: Path, write_report: Callable[[bool], Path], report_every_s: float, poll_every_s: float = POLL_EVERY_S
) -> list[Row]:
    """Shows the sweep's cells until all are finished, and returns their rows; lines where there is no terminal.

    `write_report(True)` is called at once and when cells changed, at most every `report_every_s`; `write_report(False)` at the end,
    also after Ctrl-C: a page that nobody renews should not load itself again.
    """
    console = Console()
    screen = Live(console=console, auto_refresh=False, vertical_overflow="crop") if console.is_terminal else None
    with screen or contextlib.nullcontext():
        view = _View(console, screen)
        report = _Report(write_report, report_every_s, view)
        try:
            while True:
                rows = _rows(folder)
                view.show(rows)
                if all(row["status"] in FINISHED for row in rows):
                    return rows
                report.renew(rows)
                time.sleep(poll_every_s)
        finally:
            report.close()


def line(rows: Sequence[Row]) -> str:
    """How far the sweep is, e.g. `3 of 24 cells finished, 2 running`."""
    counts = Counter(str(row["status"]) for row in rows)
    parts = [f"{counts['done'] + counts['failed']} of {len(rows)} cells finished"]
    parts += [f"{counts[status]} {status}" for status in ("failed", "running") if counts[status]]
    if not counts["running"] and counts["planned"]:
        parts.append("none running")
    return ", ".join(parts)


def within(rows: Sequence[Row], room: int) -> list[Row]:
    """At most `room` rows (3 at least), in their order: running and failed ones first, then those that finished last."""
    urgency = {"running": 0, "failed": 1, "done": 2, "planned": 3}
    latest = sorted(rows, key=lambda row: str(row["finished_at"] or ""), reverse=True)
    kept = sorted(latest, key=lambda row: urgency[row["status"]])[: max(room, 3)]
    return [row for row in rows if row in kept]


class _View:
    """The terminal: a table in place, or a line for each change where there is none."""

    def __init__(self, console: Console, screen: Live | None) -> None:
        self._console, self._screen = console, screen
        self._before: list[Row] | None = None
        self._note = ""

    def show(self, rows: list[Row]) -> None:
        if self._screen is not None:
            shown = table.of_cells(within(rows, self._console.height - 4))
            self._screen.update(Group(Text(f"{line(rows)}   {self._note}", style="bold"), shown), refresh=True)
        elif rows != self._before:
            told = [row for row in rows if row["status"] in FINISHED and row not in (self._before or [])]
            for row in told:
                self._print(_ended(row))
            self._print(line(rows))
        self._before = rows

    def note(self, text: str) -> None:
        """Something about the report: beside the counts, or a line when it is new."""
        if self._screen is None and text != self._note:
            self._print(text)
        self._note = visible(text).replace("\n", " ")

    def _print(self, text: str) -> None:
        print(visible(text).replace("\n", " "), flush=True)


class _Report:
    """The report, written anew when rows changed."""

    def __init__(self, write: Callable[[bool], Path], every_s: float, view: _View) -> None:
        self._write, self._every_s, self._view = write, every_s, view
        self._rows: list[Row] | None = None
        self._at = -float("inf")

    def renew(self, rows: list[Row]) -> None:
        if rows != self._rows and time.monotonic() - self._at >= self._every_s:
            self._rows = rows
            self._make(True)
            self._at = time.monotonic()

    def close(self) -> None:
        self._make(False)

    def _make(self, live: bool) -> None:
        try:
            self._view.note(f"report: {copies.location(self._write(live))}")
        except Exception as error:  # a cell half written now is whole a second later; watching goes on
            self._view.note(f"no new report: {type(error).__name__}: {error}")


def _rows(folder: Path) -> list[Row]:
    """The status rows of the present grid."""
    current = {cell["cell_id"] for cell in records.read_cells(folder) if cell.get("current", True)}
    return [row for row in records.status_rows(folder) if row["cell_id"] in current]


def _ended(row: Row) -> str:
    beta = "" if row["beta"] is None else f" beta={row['beta']:g}"
    parts = [f"{row['policy']} {row['reference']}{beta} seed={row['seed']} {row['status']}"]
    if row["win_rate"] is not None:
        parts.append(f"win rate {row['win_rate']:.3f}")
    if row["length_mean"] is not None:
        parts.append(f"length {row['length_mean']:.1f}")
    return ", ".join([*parts, *([str(row["reason"])[:200]] if row["reason"] else [])])
