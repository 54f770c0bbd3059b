"""Ray nodes on addresses of this machine, each with an environment of its own, ended or killed by process id."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from refstudy import session
from tests.stub import ROOT

MARK = "REFSTUDY_TEST_NODE"


@dataclass
class Node:
    """A node under way: `ray start`, and all that it started."""

    process: subprocess.Popen[bytes]
    mark: str
    """A word in the environment of each of its processes, which tells them from all others."""

    def pids(self) -> list[int]:
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.runs(pid)]

    def runs(self, pid: int) -> bool:
        """Whether the process is one of this node's."""
        try:
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def joined(self, within_s: float = 120) -> None:
        """Waits until the last of the node's own processes is up: of two that join at once, one may time out."""
        end = time.monotonic() + within_s
        while not (is_up := any("RuntimeEnvAgent" in command for command in self._commands())) and time.monotonic() < end:
            time.sleep(0.5)
        assert is_up, f"the node did not join within {within_s:g} s"

    def _commands(self) -> list[str]:
        """The command lines of what it started; such as change their own lose the mark in their environment."""
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(" ".join(each.cmdline()))
        return found

    def kill(self) -> None:
        """Ends the node as a power cut does: every process by SIGKILL, until none is left."""
        end = time.monotonic() + 30
        while (left := self.pids()) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait(30)


@contextlib.contextmanager
def node(folder: Path, settings: Mapping[str, str], *arguments: str) -> Iterator[Node]:
    """A Ray node, `arguments` being those of `ray start`; all of it is gone after the block."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *arguments]
    if not Path(command[0]).exists():
        command[:1] = [sys.executable, "-m", "ray.scripts.scripts"]
    mark = uuid.uuid4().hex
    told = os.environ | session.RAY_SETTINGS | settings | {"PYTHONPATH": str(ROOT), MARK: mark}
    process = subprocess.Popen(
        command, env=told, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    started = Node(process, mark)
    try:
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        started.kill()


def token(folder: Path) -> dict[str, str]:
    """What all processes of a cluster must have: a token of its own, kept in the folder."""
    file = folder / "token"
    if not file.exists():
        file.write_text(secrets.token_hex(32))
        file.chmod(0o600)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}


def free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


def listens(address: str, port: int, within_s: float = 90) -> bool:
    """Waits until somebody listens there; whether somebody does."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with socket.socket() as asked:
            if asked.connect_ex((address, port)) == 0:
                return True
        time.sleep(0.5)
    return False
