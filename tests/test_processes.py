import errno
import gc
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refstudy import processes
from refstudy.processes import BEAT_S, MISSED_BEATS, Heartbeat, Interrupts, keeps, life, this_process


def test_this_process_is_alive_and_an_earlier_one_of_the_same_pid_dead():
    me = this_process()
    assert life(me) == "alive"
    assert life({**me, "started": me["started"] - 1}) == "dead"


def test_ended_process_is_dead_also_while_nobody_has_waited_for_it():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    about = {**this_process(), "pid": child.pid, "started": processes._start_ticks(child.pid)}
    assert life(about) == "alive"
    child.kill()
    end = time.monotonic() + 10
    while life(about) != "dead" and time.monotonic() < end:
        time.sleep(0.01)
    assert life(about) == "dead"  # a zombie until it is waited for
    child.wait()
    assert life(about) == "dead"


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"pid": "1"}, {"pid": None}, {"pid": -1}])
def test_process_of_which_nothing_is_certain_is_unknown(change):
    assert life({**this_process(), **change}) == "unknown"
    assert life({}) == "unknown"


def beat_before(file: Path, seconds: float) -> Path:
    file.touch()
    at = time.time() - seconds
    os.utime(file, (at, at))
    return file


def test_unknown_process_keeps_its_file_for_three_beats(tmp_path):
    elsewhere = {"pid": 1, "host": "elsewhere", "started": 1}
    assert keeps(elsewhere, beat_before(tmp_path / "fresh", MISSED_BEATS * BEAT_S - 1))
    assert not keeps(elsewhere, beat_before(tmp_path / "old", MISSED_BEATS * BEAT_S + 1))
    assert not keeps(elsewhere, tmp_path / "released")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fresh", "old"]


def test_process_of_this_host_keeps_its_file_by_its_life_alone(tmp_path):
    old = beat_before(tmp_path / "old", 1e6)
    assert keeps(this_process(), old)
    assert not keeps({**this_process(), "started": -1}, beat_before(tmp_path / "fresh", 0))


def test_beats_are_read_by_the_clock_of_the_file_system_not_of_this_machine(tmp_path, monkeypatch):
    """A clock that runs an hour ahead of the file server's makes no process of another host dead."""
    file, real = beat_before(tmp_path / "fresh", 0), time.time
    monkeypatch.setattr(processes.time, "time", lambda: real() + 3600)
    assert keeps({"pid": 1, "host": "elsewhere", "started": 1}, file)


def test_heartbeat_beats_until_stopped_and_ends_when_its_file_is_gone():
    beats = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 3:
            raise FileNotFoundError

    heartbeat = Heartbeat(beat, every_s=0.005)
    heartbeat._thread.join(10)
    assert len(beats) == 3
    stopped = Heartbeat(beat, every_s=0.005)
    stopped.stop()
    stopped._thread.join(10)
    assert not stopped._thread.is_alive()


def test_heartbeat_goes_on_after_a_moment_without_its_file_server():
    beats = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 2:
            raise OSError(errno.ESTALE, "Stale file handle")
        if len(beats) == 4:
            raise FileNotFoundError

    Heartbeat(beat, every_s=0.005)._thread.join(10)
    assert len(beats) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_interrupts_and_further_ones_do_not(number):
    before = signal.getsignal(number)
    went_on = False
    with Interrupts() as interrupts:
        signal.signal(number, signal.SIG_IGN)  # as a library does that puts its own handler there
        interrupts.arm()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        went_on = True
    assert went_on
    assert interrupts.by == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_no_garbage_is_looked_for_while_importing_nor_among_what_was_imported(tmp_path, monkeypatch):
    (tmp_path / "imported_here.py").write_text("KEPT = [[] for _ in range(1000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    gc.unfreeze()
    try:
        with processes.importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0, "nothing was imported"
        with processes.importing():
            importlib.import_module("imported_here")
        assert gc.isenabled()
        assert gc.get_freeze_count() >= 1000
    finally:
        gc.unfreeze()
        sys.modules.pop("imported_here", None)
