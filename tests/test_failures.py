"""Processes that die while a sweep runs, and two drivers on one folder: each cell is there once, nothing finished is made again."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from refstudy import records, results
from tests.stub import BETAS, ROOT, done, ended, noted, opened, started, wait_for_cells


def kill(process: subprocess.Popen[str]) -> None:
    """Ends it without a word; Ray's own processes end with it."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def finished(at) -> dict[str, bytes]:
    """The records that say done, to the byte."""
    files = [records.record_path(at.folder, record["cell_id"]) for record in done(at)]
    return {file.stem: file.read_bytes() for file in files}


def assert_each_once(at, cells) -> None:
    """Every cell has its record and all its artefacts, and none of these was made twice."""
    assert sorted(record["cell_id"] for record in done(at)) == sorted(cell.id for cell in cells)
    assert results.pending(at, cells, again=True) == []
    assert records.scan(at.folder).faults == []
    assert {line for line, count in noted(at).items() if count > 1 and not line.startswith("trial")} == set()


@pytest.mark.parametrize(("kills", "seeds"), [(2, "[0]"), pytest.param(20, "[0, 1, 2, 3]", marks=pytest.mark.long)])
def test_driver_killed_at_random_times_loses_and_repeats_nothing(tmp_path, kills, seeds):
    """A record that says done stays as it is to the byte, whatever follows. The times are drawn, from the begin of a cell on."""
    seeds = f"axes.seed={seeds}"
    times, (_, at, cells) = random.Random(0), opened(tmp_path, BETAS, seeds)
    for _ in range(kills):
        before = finished(at)
        process = started(tmp_path, seeds)
        begun = len(list((at.folder / "cells").glob("*.json")))
        end = time.monotonic() + 120
        while len(list((at.folder / "cells").glob("*.json"))) <= begun and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(times.uniform(0, 1.0))
        assert process.poll() is None  # cells are left
        kill(process)
        after = finished(at)
        assert {cell: after.get(cell) for cell in before} == before
    code, line = ended(started(tmp_path, seeds))
    assert code == 0, line
    assert_each_once(at, cells)
    assert {cell: finished(at)[cell] for cell in after} == after


def test_two_drivers_at_once_share_a_sweep_and_the_one_that_lives_ends_what_the_other_began(tmp_path):
    """Both begin at the same time; one is killed while its cells run, and the other takes them over."""
    _, at, cells = opened(tmp_path, BETAS)
    one, other = started(tmp_path), started(tmp_path)
    end = time.monotonic() + 120
    while len(list((at.folder / "runs").glob("*.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert {json.loads(file.read_bytes())["process"]["pid"] for file in (at.folder / "runs").glob("*.json")} == {one.pid, other.pid}
    wait_for_cells(at, len(done(at)) + 1, one)
    kill(one)
    code, line = ended(other)
    assert code == 0, line
    assert_each_once(at, cells)


FULL = """
import resource, signal, sys
from refstudy import records
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
records.write_record(sys.argv[1], {"cell_id": "a", "status": "done", "reason": "x" * 5000})
"""


def test_full_disk_while_a_record_is_written_keeps_the_record_before(tmp_path):
    """The kernel refuses the bytes beyond a limit on the size of files, as it does on a full disk."""
    records.write_record(tmp_path, {"cell_id": "a", "status": "failed"})
    before = records.record_path(tmp_path, "a").read_bytes()
    full = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert "a.json cannot be written: File too large; free space or make the folder writable" in full.stderr
    assert records.record_path(tmp_path, "a").read_bytes() == before
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["a.json"]
