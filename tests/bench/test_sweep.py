import json
import sys

import pytest

from refstudy import driver
from refstudy.measurement import silent
from refstudy.store import Store
from tests.bench import counting, parts, sweep


def test_command_of_the_bench_counts_what_the_workers_of_a_run_do(tmp_path, monkeypatch):
    """The driver is stood in for; all else is the command's own, and what a worker would be given is called."""

    def run_sweep(read, at, cells, *, work, **_):
        work.warm()
        work.make([], Store(tmp_path / "store"), silent)
        return driver.INTERRUPTED

    monkeypatch.setattr(driver, "run_sweep", run_sweep)
    command = [str(tmp_path / "counts"), "run", str(parts.FULL[0].sweep), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["sweep", *command])
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    assert ended.value.code == driver.INTERRUPTED
    lines = [json.loads(line) for line in (tmp_path / "counts" / counting.COUNTS).read_text().splitlines()]
    assert [each["what"] for each in lines] == ["warm", "make"]
    assert json.loads((tmp_path / "counts" / sweep.RUN).read_text())["run_s"] > 0
