"""A cluster whose head is gone: seen by its port, and the run ends although its main thread hears nothing."""

import json
import socket
import subprocess
import sys
import time

from refstudy import session
from tests.stub import ROOT

DEAF = """
import sys, time
from pathlib import Path
from refstudy import guard, runs, spec
from refstudy.processes import Interrupts
from refstudy.progress import Board
guard.DEAF_S = 0.3
signals, folder = Interrupts(), Path(sys.argv[1])
watch = guard.Guard(runs.Run(folder), Board(folder), spec.LimitsEntry(), spec.Price(), runs.Used(), signals)
watch.watch_cluster(lambda: "the loss of it", lambda why: print("stopped by", why, flush=True) or 3)
with signals, watch:
    watch.may_end = True
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            print("heard, and passed over", flush=True)
"""


def test_run_whose_main_thread_waits_for_a_lost_cluster_is_ended_from_beside_it(tmp_path):
    ended = subprocess.run([sys.executable, "-c", DEAF, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout.splitlines() == ["heard, and passed over", "stopped by the loss of it"]
    (run,) = (json.loads(file.read_bytes()) for file in (tmp_path / "runs").glob("*.json"))
    assert (run["state"], run["why"]) == ("ended", "was stopped by the loss of it")


def seen(head: session.Head, until: bool) -> str | None:
    """What is told of the head once it is seen as lost, or not, as `until` says."""
    end = time.monotonic() + 20
    while (head.loss() is not None) is not until and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.05)
    return head.loss()


def test_head_counts_as_lost_once_its_port_has_not_answered_for_a_while(monkeypatch):
    monkeypatch.setattr(session, "ASK_HEAD_EVERY_S", 0.02)
    monkeypatch.setattr(session, "HEAD_AWAY_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        head = session.Head(f"127.0.0.1:{port}")
        assert seen(head, until=False) is None
    words = f"the loss of the cluster's head (no answer at 127.0.0.1:{port} for 0.5 s; start the cluster again)"
    assert seen(head, until=True) == words
    with socket.create_server(("127.0.0.1", port)):
        assert seen(head, until=False) is None
