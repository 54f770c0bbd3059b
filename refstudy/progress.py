"""What a run shows while it works: counts by stage, what is under way, and the cells with their results.

Workers write what they measure into small files; the run reads them. Invariant: nothing here decides anything, and a progress
file that cannot be written or read is passed over.
"""

import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from refstudy import copies, recipes
from refstudy.errors import StoreError
from refstudy.measurement import Measurement
from refstudy.recipes import Recipe
from refstudy.texts import visible

STAGES = ("models", "pairs", "parts", "tables", "cells", "references")
REPORT_EVERY_S, FAR_REPORT_EVERY_S = 0.5, 10.0
"""How often a worker writes at most: into a folder, and to an address."""
POLL_EVERY_S, FAR_POLL_EVERY_S = 0.5, 2.0
LINE_EVERY_S = 20.0
"""Without a terminal: seconds without news after which a line says what is under way."""
STYLES = {"done": "green", "failed": "red", "running": "cyan", "planned": "dim"}


def stage_of(recipe: Recipe) -> str:
    """The stage under which a shared artefact is counted."""
    match recipe:
        case recipes.Pretrained() | recipes.Scratch() | recipes.Sft() | recipes.RewardModel() | recipes.Dpo():
            return "models"
        case recipes.Table():
            return "tables"
        case _:
            return "pairs"


class Reporter:
    """An emit for one artefact or cell: the newest measurement in `<folder>/<key>.json`, at most two a second."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._path = folder, folder / f"{key}.json"
        self._written_at, self._every_s = 0.0, REPORT_EVERY_S if copies.of(folder) is None else FAR_REPORT_EVERY_S
        self._state: dict[str, Any] = {"state": "running", "started": time.time(), "stage": "", "step": 0, "of": None}
        self._state["alarms"] = []
        self._write()

    def __call__(self, measurement: Measurement) -> None:
        moved = measurement.stage != self._state["stage"]
        self._state |= {"stage": measurement.stage, "step": measurement.step, "of": measurement.of}
        self._state["alarms"] += measurement.alarms
        if moved or measurement.alarms or time.monotonic() - self._written_at > self._every_s:
            self._write()

    def end(self, state: str, row: dict[str, Any] | None = None) -> None:
        """Writes the last word: "done" or "failed", and what the table of cells shows."""
        self._state |= {"state": state, "ended": time.time(), "row": row or {}}
        self._write()

    def _write(self) -> None:
        self._written_at = time.monotonic()
        temporary = self._folder / f".{self._path.name}.{os.getpid()}"
        with contextlib.suppress(OSError, StoreError):
            content = json.dumps(self._state)
            temporary.write_text(content)
            os.replace(temporary, self._path)
            copies.write(self._path, content.encode(), hasty=True)


@dataclass
class Item:
    """An artefact or a cell of the run."""

    key: str
    stage: str
    title: str
    state: str = "planned"
    """planned, running, done or failed."""
    phase: str = ""
    step: int = 0
    of: int | None = None
    started: float = 0.0
    """Seconds since the epoch, as are all times here."""
    ended: float = 0.0
    row: dict[str, Any] = field(default_factory=dict)
    """Of a cell: beta, reference, win_rate, length_mean."""
    alarms: list[str] = field(default_factory=list)
    """Raised so far, in words."""
    devices: float = 1.0
    """On how many it works: GPUs, or cores where it takes none."""

    @property
    def duration_s(self) -> float:
        return self.ended - self.started

    @property
    def at(self) -> str:
        """Where it is, e.g. `train 40/282`."""
        count = f" {self.step}/{self.of}" if self.of else f" {self.step}" if self.step else ""
        return f"{self.phase}{count}"


class Board:
    """All items of a run, kept up to date from the workers' files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = time.time()
        self.items: dict[str, Item] = {}
        self.width = 1
        """Most cells seen running at once."""
        self._mtimes: dict[str, int] = {}
        self._refreshed_at = -float("inf")

    def add(self, items: Iterable[Item]) -> None:
        new = {item.key: item for item in items if item.key not in self.items}
        self.items = self.items | new  # not in place: other threads go through it

    def fail(self, key: str) -> None:
        """Marks an item as failed whose worker could not say so."""
        item = self.items[key]
        if item.state != "failed":
            item.state, item.ended = "failed", time.time()

    def poll(self) -> list[Item]:
        """Reads what workers wrote since the last call and returns the items that ended."""
        ended = []
        for key, news in self._news():
            item = self.items.get(key)
            if item is None or item.state in ("done", "failed"):
                continue
            item.state, item.phase = news["state"], news["stage"]
            item.step, item.of, item.started = news["step"], news["of"], news["started"]
            item.alarms = news["alarms"]
            if item.state != "running":
                item.ended = news["ended"]
                item.row |= news["row"]
                ended.append(item)
        self.width = max(self.width, len(self.of("cells", "running")))
        return sorted(ended, key=lambda item: item.ended)

    def of(self, stage: str, *states: str) -> list[Item]:
        return [item for item in self.items.values() if item.stage == stage and (not states or item.state in states)]

    def counts(self) -> dict[str, tuple[int, int]]:
        """(ended, all) of each stage that has items."""
        return {stage: (len(self.of(stage, "done", "failed")), len(self.of(stage))) for stage in STAGES if self.of(stage)}

    def cell_s(self) -> float | None:
        """Mean duration of the cells that this run finished; None before the first."""
        known = [item.duration_s for item in self.of("cells", "done") if item.duration_s > 0]
        return statistics.fmean(known) if known else None

    def left_s(self, item: Item, now: float) -> float | None:
        """Seconds that a running cell will about still take: by the cells before it, else by its own steps."""
        elapsed, mean = now - item.started, self.cell_s()
        if mean is not None:
            return max(0.0, mean - elapsed)
        return elapsed * (item.of / item.step - 1) if item.of and item.step else None

    def all_left_s(self, now: float) -> float | None:
        """Seconds until all cells will about be finished; None before the first has."""
        mean = self.cell_s()
        if mean is None:
            return None
        running = sum(max(0.0, mean - (now - item.started)) for item in self.of("cells", "running"))
        return (running + mean * len(self.of("cells", "planned"))) / self.width

    def _news(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if time.monotonic() - self._refreshed_at > FAR_POLL_EVERY_S:
            self._refreshed_at = time.monotonic()
            with contextlib.suppress(StoreError):
                copies.refresh(self.folder, hasty=True)
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    with contextlib.suppress(OSError, ValueError):
                        changed = entry.stat().st_mtime_ns
                        if self._mtimes.get(entry.name) != changed:
                            self._mtimes[entry.name] = changed
                            yield entry.name.removesuffix(".json"), json.loads(Path(entry.path).read_bytes())


class Display:
    """Shows a board on the terminal until the `with` block ends; lines now and then where there is no terminal."""

    def __init__(self, board: Board, console: Console | None = None) -> None:
        self.board = board
        self.console = console or Console()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._lock = threading.Lock()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._spoke_at = time.monotonic()
        self._said: set[tuple[str, str]] = set()
        """Alarms that were shown: of which item, and in what words."""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        self.update()
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line above the table, or among the lines."""
        elapsed = time.time() - self.board.begun
        self.console.print(f"[{elapsed:5.0f} s] {visible(line)}", markup=False, highlight=False, soft_wrap=True)
        self._spoke_at = time.monotonic()

    def fail(self, key: str, why: str) -> None:
        """Marks an item as failed and says so, unless a line about it stands there already: its worker's own last word."""
        self.update()
        item = self.board.items[key]
        if self._live or item.state != "failed":
            self.say(f"{item.title} failed: {why}")
        self.board.fail(key)

    def update(self) -> None:
        """Reads the workers' files and shows what changed."""
        with self._lock:
            ended = self.board.poll()
            for item, words in self._new_alarms():
                self.say(f"ALARM {item.title}: {words}")
            if self._live:
                self._live.update(render(self.board, time.time(), self.console.height), refresh=True)
                return
            for item in ended:
                self.say(ended_line(self.board, item, time.time()))
            if time.monotonic() - self._spoke_at > LINE_EVERY_S:
                self.say(running_line(self.board, time.time()))

    def _new_alarms(self) -> list[tuple[Item, str]]:
        new = [(item, words) for item in self.board.items.values() for words in item.alarms if (item.key, words) not in self._said]
        self._said |= {(item.key, words) for item, words in new}
        return new

    def _run(self) -> None:
        while not self._ending.wait(POLL_EVERY_S):
            self.update()


def ended_line(board: Board, item: Item, now: float) -> str:
    """A line for an item that ended, e.g. `cells 3/24: small self beta=0.1 seed=0 done in 14 s, win rate 0.712, ...`."""
    ended = sum(each.ended <= item.ended for each in board.of(item.stage, "done", "failed"))
    total = len(board.of(item.stage))
    parts = [f"{item.stage} {ended}/{total}: {item.title} {item.state} in {short_s(item.duration_s)}"]
    if item.row.get("win_rate") is not None:
        parts.append(f"win rate {item.row['win_rate']:.3f}")
    if item.row.get("length_mean") is not None:
        parts.append(f"length {item.row['length_mean']:.1f}")
    if item.row.get("reason"):
        parts.append(str(item.row["reason"])[:200])
    left = board.all_left_s(now) if item.stage == "cells" else None
    if left:
        parts.append(f"about {short_s(left)} left")
    return ", ".join(parts)


def running_line(board: Board, now: float) -> str:
    """A line that says what is under way, and for how long."""
    running = [item for item in board.items.values() if item.state == "running"]
    shown = "; ".join(f"{item.title}: {item.at}, {short_s(now - item.started)}" for item in running[:4])
    more = f"; and {len(running) - 4} more" if len(running) > 4 else ""
    return f"under way: {shown or 'nothing yet'}{more}"


def render(board: Board, now: float, height: int) -> RenderableType:
    """Stages with counts, artefacts under way and the table of cells, within `height` lines."""
    counts = board.counts()
    stages = "   ".join(f"{stage} {ended}/{total}" for stage, (ended, total) in counts.items())
    left = board.all_left_s(now)
    about = f"   about {short_s(left)} left" if left else ""
    lines = [Text(f"{short_s(now - board.begun)}   {stages}{about}", style="bold")]
    for item in board.items.values():
        if item.state == "running" and item.stage != "cells":
            lines.append(Text(f"  {item.stage}: {item.title}   {item.at}   {short_s(now - item.started)}", style="cyan"))
    return Group(*lines, _cell_table(board, now, height - len(lines) - 3))


def _cell_table(board: Board, now: float, rows: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("cell", "reference", "beta", "status", "win rate", "length", "time left"):
        table.add_column(heading, justify="left" if heading in ("cell", "reference", "status") else "right", no_wrap=True)
    shown = _within(board.of("cells"), max(rows, 3))
    for item in shown:
        table.add_row(*_cell_row(board, item, now), style=STYLES[item.state])
    hidden = len(board.of("cells")) - len(shown)
    if hidden:
        table.add_row(f"... {hidden} more", style="dim")
    return table


def _within(cells: list[Item], rows: int) -> list[Item]:
    """At most `rows` cells, in their order: running and failed ones first, then the newest results, then planned ones."""
    if len(cells) <= rows:
        return cells
    urgency = {"running": 0, "failed": 1, "done": 2, "planned": 3}
    kept = {item.key for item in sorted(cells, key=lambda item: (urgency[item.state], -item.ended))[:rows]}
    return [item for item in cells if item.key in kept]


def _cell_row(board: Board, item: Item, now: float) -> list[str]:
    row, left = item.row, ""
    if item.state == "running":
        seconds = board.left_s(item, now)
        left = "" if seconds is None else short_s(seconds)
    beta = row.get("beta")
    return [
        item.key[:8],
        str(row.get("reference", "")),
        "" if beta is None else f"{beta:g}",
        f"{item.state} {item.at}" if item.state == "running" else item.state,
        "" if row.get("win_rate") is None else f"{row['win_rate']:.3f}",
        "" if row.get("length_mean") is None else f"{row['length_mean']:.1f}",
        left,
    ]


def short_s(seconds: float) -> str:
    """A duration for people: `14 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
