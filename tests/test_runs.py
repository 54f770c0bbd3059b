"""What runs leave in a sweep's folder, and what later ones remove of it."""

import os
import subprocess
import sys
import time

import pytest

from refstudy import copies, runs
from tests import object_server
from tests.stub import ROOT

KILLED = """
import os, signal, sys
from refstudy import copies, runs
run = runs.Run(copies.results_folder(sys.argv[1]))
run.write(runs.Used())
with runs.progress_folder(run, shared=True) as folder:
    (folder / "cell.json").write_text("{}")
    copies.write(folder / "cell.json", b"{}")
    print(folder.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(place: str) -> str:
    """The name of the folder that a run left there which was killed in its midst."""
    command = [sys.executable, "-c", KILLED, place]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100).stdout.strip()


def test_progress_of_a_killed_run_goes_with_the_next_and_that_of_a_living_one_stays(tmp_path):
    left = killed(str(tmp_path))
    assert (tmp_path / left / "cell.json").exists()
    assert runs.last_in_words(tmp_path).startswith("the last run was killed after ")
    other = runs.Run(tmp_path)
    other.write(runs.Used())
    with runs.progress_folder(other, shared=True) as living:
        assert not (tmp_path / left).exists()
        with runs.progress_folder(runs.Run(tmp_path), shared=True) as own:
            assert sorted(tmp_path.glob(".progress-*")) == sorted([living, own])
    assert list(tmp_path.glob(".progress-*")) == []


@pytest.mark.parametrize(("age_s", "stays"), [(0, True), (2 * runs.FRESH_S, False)])
def test_progress_of_which_no_run_tells_stays_while_it_may_be_of_one_that_begins(tmp_path, age_s, stays):
    folder = tmp_path / ".progress-abc"
    folder.mkdir()
    os.utime(folder, (time.time() - age_s,) * 2)
    with runs.progress_folder(runs.Run(tmp_path), shared=False) as own:
        assert own.is_dir()
        assert not own.is_relative_to(tmp_path)
        assert folder.exists() is stays
    assert not own.exists()


def test_progress_that_a_killed_run_left_at_an_address_goes_with_the_next(tmp_path, monkeypatch):
    with object_server.serving() as endpoint:
        for name, value in object_server.settings(endpoint, tmp_path).items():
            monkeypatch.setenv(name, value)
        bucket = object_server.bucket(endpoint)
        left = killed(f"s3://{bucket}/results/tiny")
        assert f"results/tiny/{left}/cell.json" in object_server.keys(endpoint, bucket)
        with runs.progress_folder(runs.Run(copies.results_folder(f"s3://{bucket}/results/tiny")), shared=True):
            assert [key for key in object_server.keys(endpoint, bucket) if ".progress" in key] == []
