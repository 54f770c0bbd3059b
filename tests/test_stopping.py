"""A run that ends before its cells do: by a signal, `refstudy stop` or a limit; the same command goes on."""

import json
import os
import signal
import time

import pytest
import ray

from refstudy import guard, records, runs, session, spec
from refstudy.errors import SpecError, StoreError
from tests.stub import BETAS, done, ended, noted, opened, run, started, statuses, wait_for_cells


def left_by_nobody(at) -> bool:
    """Whether no claim and nothing half made is left."""
    return not list((at.store.root / "claims").iterdir()) and not list((at.store.root / "making").iterdir())


def test_sweep_stopped_in_every_way_goes_on_to_its_end_with_each_cell_once(tmp_path):
    """SIGINT, SIGTERM, `refstudy stop`, the same after cells, and a limit of cost, one run after another in one folder."""
    _, at, _ = opened(tmp_path, BETAS)
    for signalled in (signal.SIGINT, signal.SIGTERM):
        process = started(tmp_path)
        wait_for_cells(at, len(done(at)) + 1, process)  # under way: a process that only begins dies of it without a word
        sent = time.monotonic()
        process.send_signal(signalled)
        code, line = ended(process)
        took_s = time.monotonic() - sent
        assert took_s < 10
        assert code == 130
        assert line == f"stopped by {signalled.name}: {len(done(at))} of 12 cells are done; the same command goes on from here"
        assert left_by_nobody(at)
    finished, begun_of_finished = done(at), noted(at)  # one of them may have been cut off before, and begun again
    assert finished[0]["provenance"] == {"threads": "1", "malloc": "134217728"}

    process = started(tmp_path)
    wait_for_cells(at, len(done(at)) + 1, process)
    sent = time.monotonic()
    assert runs.stop(at.folder, after_cells=False) == "the run was stopped; the same command goes on from there"
    took_s = time.monotonic() - sent
    assert took_s < 10
    code, line = ended(process)
    assert (code, line.split(":")[0]) == (3, "stopped by refstudy stop")
    assert "the last run was stopped by refstudy stop, at " in runs.last_in_words(at.folder)
    assert left_by_nobody(at)

    process, before = started(tmp_path), len(done(at))
    wait_for_cells(at, before + 1, process)
    runs.stop(at.folder, after_cells=True)
    code, line = ended(process)
    assert (code, line.split(":")[0]) == (3, "stopped by refstudy stop --after-cells")
    begun = [json.loads(file.read_bytes())["status"] for file in (at.folder / "cells").glob("*.json")]
    assert set(begun) == {"done"}  # none was cut off
    assert before < len(begun) < 12

    spent = runs.used(at.folder).device_hours * 3600
    assert spent > 4
    code, line = ended(started(tmp_path, "price.device_hour=3600", f"limits.cost={spent + 0.8}"))
    assert (code, line.split(" (")[0]) == (3, f"stopped by limits.cost {spent + 0.8:g}")
    assert ended(started(tmp_path))[0] == 0
    assert list(statuses(at).values()) == ["done"] * 12
    for record in finished:
        line = f"trial {record['beta']} {record['reference']}"
        assert noted(at)[line] == begun_of_finished[line]
    artefacts = {line: count for line, count in noted(at).items() if not line.startswith("trial")}
    assert set(artefacts.values()) == {1}
    assert not list((at.folder / "runs").glob("*.stop"))


@pytest.fixture(scope="module")
def cluster():
    os.environ.update(session.RAY_SETTINGS)
    told = {"env_vars": session.environment(spec.Resources())}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=told)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_limit_of_cells_runs_so_many_and_a_higher_one_the_rest(tmp_path, capsys):
    code, at, _ = run(tmp_path, "limits.cells=1")
    assert (code, sorted(statuses(at).values())) == (3, ["done", "planned", "planned", "planned"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped by limits.cells 1: 1 of 4 cells are done; ")
    assert run(tmp_path, "limits.cells=1")[0] == 3
    assert len([line for line in noted(at) if line.startswith("trial")]) == 1
    assert run(tmp_path, "limits.cells=4")[0] == 0
    assert list(statuses(at).values()) == ["done"] * 4


def test_run_whose_limit_earlier_ones_have_used_up_begins_nothing(tmp_path, capsys):
    """One hour and two device-hours at 1.5 are used: 3.00 of money."""
    _, at, _ = opened(tmp_path)
    runs.Run(at.folder).write(runs.Used(hours=1.0, device_hours=2.0), "ended")
    for limit, words in (("hours=1", "limits.hours 1 (1 hours of work)"), ("cost=3", "limits.cost 3 (3 for 2 device-hours)")):
        assert run(tmp_path, f"limits.{limit}", "price.device_hour=1.5")[0] == 3
        assert capsys.readouterr().out.startswith(f"stopped by {words}: 0 of 4 cells are done")
    assert len(list((at.folder / "runs").iterdir())) == 1


def test_limit_of_cost_without_a_price_is_refused():
    with pytest.raises(SpecError, match=r"limits.cost: got 3, but price.device_hour is 0; declare"):
        guard.check(spec.LimitsEntry(cost=3.0), spec.Price())


def test_stop_with_no_run_under_way_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no folder of a sweep"):
        runs.stop(tmp_path, after_cells=False)
    records.write_sweep(tmp_path, {"cells": []})
    runs.Run(tmp_path).write(runs.Used(), "ended")
    with pytest.raises(StoreError, match=r"no run of .* is under way"):
        runs.stop(tmp_path, after_cells=False)


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"[]", b"\xff", b'{"used": 3, "process": "x", "state": "running"}', b'{"used": {"hours": "x"}}']
)
def test_torn_file_of_a_run_counts_for_nothing(tmp_path, torn):
    records.write_sweep(tmp_path, {"cells": []})
    runs.Run(tmp_path).write(runs.Used(hours=0.5))
    (tmp_path / "runs" / "torn.json").write_bytes(torn)
    os.utime(tmp_path / "runs" / "torn.json", (0, 0))
    assert runs.used(tmp_path) == runs.Used(hours=0.5)
    assert runs.last_in_words(tmp_path)


def test_killed_run_is_said_to_be_killed_and_a_living_one_to_be_under_way(tmp_path):
    assert runs.last_in_words(tmp_path) is None
    now = runs.Run(tmp_path)
    now.write(runs.Used(hours=0.25))
    assert f"(process {os.getpid()}), 0.25 hours by now" in runs.last_in_words(tmp_path)
    told = json.loads(now.file.read_bytes())
    records.write_json(now.file, told | {"process": told["process"] | {"started": 1}})
    assert runs.last_in_words(tmp_path).startswith("the last run was killed after ")
