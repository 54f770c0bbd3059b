"""Watching a sweep while another process adds records to it."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from refstudy import records, watch
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 4, "prompts_each": 2}
REFRESH = '<meta http-equiv="refresh" content="1">'
LIMIT_S = 60.0


def sweep(root: Path) -> Path:
    """Four cells, two of which have not run yet."""
    return synthetic.build(root, **SMALL, broken=("planned", "planned"))[0]


def finish(folder: Path, cell_id: str, **changes: object) -> None:
    """Writes the record of a cell as a trial would: with what another cell of the sweep gave."""
    planned = {cell["cell_id"]: cell for cell in records.read_cells(folder)}[cell_id]
    other = records.read_record(folder / "cells" / "c0003.json")
    named = {name: planned[name] for name in ("cell_id", "policy", "reference", "beta", "seed", "settings")}
    records.write_record(folder, {**other, **named, **changes})


def started(folder: Path, output: object = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "refstudy", "watch", str(folder), "--every", "1", "--store", str(folder.parent / "store")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    return subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment, preexec_fn=hears_interrupts
    )


def hears_interrupts() -> None:
    """What a shell starts in the background ignores them, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(page: Path, text: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not (page.is_file() and text in page.read_text(encoding="utf-8")):
        assert time.monotonic() < end, f"{page} never held {text!r}"
        time.sleep(0.1)


def test_watch_renews_the_report_and_ends_when_all_cells_are_finished(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    page = folder / "report.html"
    process = started(folder)
    until(page, REFRESH)
    assert page.read_text(encoding="utf-8").count('<tr class="planned">') == 2
    finish(folder, "c0000")
    end = time.monotonic() + LIMIT_S
    while page.read_text(encoding="utf-8").count('<tr class="planned">') != 1:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert process.poll() is None
    finish(folder, "c0001")
    out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, out
    assert "2 of 4 cells finished, none running" in out
    assert "small self beta=1 seed=0 done, win rate" in out
    assert "4 of 4 cells finished" in out
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")


def test_watch_of_a_sweep_with_a_failed_cell_exits_1(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    finish(folder, "c0000", status="failed", error={"type": "E", "message": "\x1b[2J gone", "traceback": ""})
    finish(folder, "c0001")
    process = started(folder)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1, out
    assert "4 of 4 cells finished, 1 failed" in out
    assert "E: <U+001B>[2J gone" in out


def drain(terminal: int, into: list[bytes]) -> None:
    """Reads a terminal until its other side is closed."""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65536):
            into.append(part)


def test_watch_on_a_terminal_shows_the_table_and_ends_cleanly_on_interrupt(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    ours, theirs = pty.openpty()
    process, shown = started(folder, theirs), list[bytes]()
    os.close(theirs)
    reader = threading.Thread(target=drain, args=(ours, shown))  # a terminal that nobody reads fills up, and stops who writes to it
    reader.start()
    until(folder / "report.html", REFRESH)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LIMIT_S) == 130
    reader.join(timeout=LIMIT_S)
    os.close(ours)
    text = b"".join(shown).decode()
    assert "2 of 4 cells finished" in text
    assert "larger-same" in text
    assert "Traceback" not in text
    assert 'http-equiv="refresh"' not in (folder / "report.html").read_text(encoding="utf-8")


def test_follow_goes_on_when_a_report_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep(tmp_path)
    asked = []

    def write(live: bool) -> Path:
        asked.append(live)
        finish(folder, "c0000")
        finish(folder, "c0001")
        raise OSError("disk full")

    rows = watch.follow(folder, write, report_every_s=0.0, poll_every_s=0.01)
    assert [row["status"] for row in rows] == ["done"] * 4
    assert asked == [True, False]
    assert "no new report: OSError: disk full" in capsys.readouterr().out


def test_report_waits_until_it_is_due(tmp_path: Path) -> None:
    """Two changes within the hour make one report, and one at the end."""
    folder = sweep(tmp_path)
    asked = []

    def write(live: bool) -> Path:
        asked.append(live)
        return folder

    changes = iter([lambda: finish(folder, "c0000"), lambda: finish(folder, "c0001")])

    def sleep(_: float) -> None:
        next(changes)()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch.time, "sleep", sleep)
        watch.follow(folder, write, report_every_s=3600.0)
    assert asked == [True, False]


def test_within_keeps_what_matters_in_order() -> None:
    statuses = ["planned", "done", "failed", "running", "done", "planned"]
    rows = [{"cell_id": str(n), "status": status, "finished_at": f"2026-01-0{n + 1}"} for n, status in enumerate(statuses)]
    assert [row["cell_id"] for row in watch.within(rows, 3)] == ["2", "3", "4"]
    assert watch.within(rows, 10) == rows
