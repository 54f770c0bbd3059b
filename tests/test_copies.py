"""Results at an s3:// address: what is written stands there, what is read comes from there, and all else works on paths."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refstudy import copies, driver, objects, processes, records, results, runs
from refstudy.errors import SpecError, StoreAway, StoreError
from tests import object_server, stub
from tests.object_server import Proxy, keys
from tests.test_depot import object_client


@pytest.fixture
def url(bucket_url):
    """The address of a sweep's results in a new bucket."""
    return f"{bucket_url}/results/tiny"


@pytest.fixture
def elsewhere(url, monkeypatch):
    """The same results in two processes: one's copy, and another's."""
    here = copies.results_folder(url)
    known = dict(copies._copies)
    monkeypatch.setattr(copies, "_folder_of", lambda url: None)
    there = copies.results_folder(url)
    assert here != there
    yield here, there
    copies._copies.clear()
    copies._copies.update(known)


def test_record_written_in_one_process_is_read_in_another_and_its_newer_state_too(elsewhere, endpoint, url):
    here, there = elsewhere
    records.write_record(here, {"cell_id": "a", "status": "failed"})
    assert [record["status"] for record in records.read_records(there)] == ["failed"]
    records.write_record(here, {"cell_id": "a", "status": "done"})
    assert [record["status"] for record in records.read_records(there)] == ["done"]
    assert set(keys(endpoint, url.split("/")[2])) == {"results/tiny/cells/a.json"}
    copies.remove(records.record_path(here, "a"))
    assert records.read_records(there) == []


def test_running_record_counts_while_its_process_beats_and_as_planned_after_three_beats(elsewhere, monkeypatch):
    """Its process is of another machine, as far as this one can tell."""
    here, there = elsewhere
    monkeypatch.setattr(processes, "BEAT_S", 2.0)
    monkeypatch.setattr(processes, "life", lambda process: "unknown")
    with records.running(here, {"cell_id": "a"}):
        assert records.read_records(there)[0]["status"] == "running"
        time.sleep(7.2)
        assert records.read_records(there)[0]["status"] == "planned"
        copies.touch(records.record_path(here, "a"))
        assert records.read_records(there)[0]["status"] == "running"
    assert records.read_records(there) == []


def test_sign_of_life_never_brings_an_older_record_back(elsewhere):
    here, there = elsewhere
    records.write_record(here, {"cell_id": "a", "status": "running"})
    path = records.record_path(here, "a")
    beating = processes.Heartbeat(lambda: copies.touch(path), every_s=0.001)
    for number in range(20):
        records.write_record(here, {"cell_id": "a", "status": "failed", "duration_s": number})
    beating.stop()
    assert records.read_records(there)[0]["duration_s"] == 19


def test_run_is_asked_to_stop_from_another_machine(elsewhere):
    here, there = elsewhere
    records.write_sweep(here, {"cells": []})
    run = runs.Run(here)
    run.write(runs.Used(hours=0.5))
    assert run.request() is None
    assert runs.used(there) == runs.Used(hours=0.5)
    assert "asked to stop once the trials under way have ended" in runs.stop(there, after_cells=True)
    assert run.request() == runs.Request(after_cells=True)
    run.close()
    assert run.request() is None


def test_files_of_a_report_are_put_there_and_only_those_that_changed(elsewhere, endpoint, url, monkeypatch):
    here, _ = elsewhere
    (here / "figures").mkdir()
    (here / "report.html").write_text("<p>")
    (here / "figures" / "one.png").write_bytes(b"\x89")
    (here / ".half").write_text("x")
    copies.push(here)
    assert set(keys(endpoint, url.split("/")[2])) == {"results/tiny/report.html", "results/tiny/figures/one.png"}
    sent = []
    monkeypatch.setattr("refstudy.objects.Objects.upload", lambda self, path, key: sent.append(key))
    (here / "report.html").write_text("<p>new")
    copies.push(here)
    assert sent == ["report.html"]


def test_report_of_a_reader_never_brings_an_older_sweep_back(elsewhere, endpoint, url):
    """What was read and not changed since is not written; what was read and changed is."""
    here, there = elsewhere
    records.write_sweep(here, {"cells": [], "name": "first"})
    records.write_json(here / "difficulty_sweep.json", {"kept": 1})
    copies.refresh(there, deep=False)
    records.write_sweep(here, {"cells": [], "name": "second"})
    (there / "difficulty_sweep.json").write_text('{"kept": 2}')
    copies.push(there)
    stored = keys(endpoint, url.split("/")[2])
    assert json.loads(stored["results/tiny/sweep.json"])["name"] == "second"
    assert json.loads(stored["results/tiny/difficulty_sweep.json"]) == {"kept": 2}


def test_server_that_never_recovers_is_told_in_words_and_the_record_before_stands(elsewhere, endpoint, monkeypatch):
    here, there = elsewhere
    records.write_record(here, {"cell_id": "a", "status": "failed"})
    proxy = Proxy(endpoint)
    monkeypatch.setattr("refstudy.objects._client", object_client(proxy.endpoint))
    proxy.faults = 1000
    with pytest.raises(StoreError, match=r"cells/a.json cannot be written: the server answered 503"):
        records.write_record(here, {"cell_id": "a", "status": "done"})
    proxy.faults = 0
    assert records.read_record(records.record_path(here, "a"))["status"] == "failed"
    assert records.read_records(there)[0]["status"] == "failed"
    proxy.close()


def test_process_that_was_told_to_end_asks_a_silent_server_once_and_takes_its_time_later(elsewhere, endpoint, monkeypatch):
    """Two tries of a quarter of a second stand for those of one and a half."""
    here, _ = elsewhere
    proxy = Proxy(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(objects, "HURRIED", objects.Patience(2, 0.25, 0.25))
    records.write_record(here, {"cell_id": "a", "status": "failed"})
    proxy.late_s = 60.0
    begun, asked = time.monotonic(), proxy.requests
    with objects.unhurried():
        with pytest.raises(KeyboardInterrupt), objects.hurried_by_errors():
            raise KeyboardInterrupt
        for words in ("no answer that can be used", "the server was away a moment ago", "the server was away a moment ago"):
            with pytest.raises(StoreAway, match=words):
                records.read_records(here)
    assert time.monotonic() - begun < 10
    assert proxy.requests - asked == 2
    proxy.late_s = 0.0
    assert [record["status"] for record in records.read_records(here)] == ["failed"]
    proxy.close()


def test_objects_whose_keys_lead_out_of_a_folder_are_passed_over(elsewhere, monkeypatch):
    """Anybody who may write there can name an object so; the server's list is given such names here."""
    here, there = elsewhere
    records.write_record(here, {"cell_id": "a", "status": "failed"})
    plain = objects._is_plain
    names = ["cells/../../../escaped.json", "cells//etc/x.json", "../x", "cells/a.json"]
    assert [plain(name) for name in names] == [False, False, False, True]
    seen = []
    monkeypatch.setattr(objects, "_is_plain", lambda key: seen.append(key) or False)
    assert records.read_records(there) == []
    assert seen == ["cells/a.json"]


def test_server_that_does_not_heed_conditions_is_refused_before_a_sweep_begins(url, endpoint, monkeypatch):
    folder, bucket = copies.results_folder(url), url.split("/")[2]
    copies.refuse_unsafe(folder)
    proxy = Proxy(endpoint)
    monkeypatch.setattr("refstudy.objects._client", object_client(proxy.endpoint))
    proxy.heeds = False
    with pytest.raises(StoreError, match=r"does not heed conditions .* expected one that does"):
        copies.refuse_unsafe(folder)
    proxy.close()
    assert keys(endpoint, bucket) == {}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://", "expected s3://BUCKET/PATH/NAME"),
        ("s3://bucket", "expected s3://BUCKET/PATH/NAME"),
        ("s3://bucket/../x", "expected s3://BUCKET/PATH/NAME"),
        ("s3://bucket//x", "expected s3://BUCKET/PATH/NAME"),
        ("s3://user:secret@bucket/x", "a user or key in it is refused"),
    ],
)
def test_address_that_names_no_place_is_refused_without_what_it_held(address, words):
    with pytest.raises(StoreError, match=words) as told:
        copies.results_folder(address)
    assert "secret" not in str(told.value)


def test_folders_of_dead_processes_are_cleared_and_those_of_living_ones_stay(url, tmp_path):
    cache = tmp_path / "here" / "results"
    dead, alive = (cache / f"{copies._host()}-{pid}-1.x" for pid in (2**22 + 1, os.getpid()))
    other = cache / "0123456789ab-77-1.x"
    for each in (dead, other):
        each.mkdir(parents=True)
    copies._copies.clear()
    mine = copies.results_folder(url)
    assert (dead.exists(), other.exists(), mine.is_dir(), alive.exists()) == (False, True, True, False)
    assert copies.location(mine / "cells" / "a.json") == f"{url}/cells/a.json"
    assert copies.here(f"{url}/cells/a.json") == mine / "cells" / "a.json"
    assert copies.in_words(f"{mine}/x is torn") == f"{url}/x is torn"
    assert copies.location(copies.beside(mine, "store")) == f"{url.rpartition('/')[0]}/store"


def test_path_stands_for_itself_and_needs_no_boto3(tmp_path):
    """What `status` and `plan` of a folder import."""
    records.write_sweep(tmp_path, {"cells": []})
    code = "import sys; from refstudy import cli; cli.status(cli.Path(sys.argv[1])); print('boto3' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=object_server.ROOT)
    assert ended.stdout.splitlines()[-1] == "False", ended.stderr
    assert copies.of(tmp_path) is None
    assert copies.existing(str(tmp_path)) == tmp_path
    assert copies.location(tmp_path) == str(tmp_path)


def command(*arguments: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "refstudy", *arguments],
        capture_output=True,
        text=True,
        cwd=object_server.ROOT,
        env=os.environ | object_server.settings(endpoint, cache),
        timeout=300,
    )


def test_trials_of_several_workers_are_refused_where_these_share_no_folder(url, endpoint, tmp_path):
    sweep, at, cells = stub.opened(tmp_path, "resources.trial={workers: 2}")
    with pytest.raises(SpecError, match=r"resources.trial.workers is 2, and the results are at s3://.*; give --results a path"):
        driver.run_sweep(sweep, results.Results(copies.results_folder(url), at.store), cells)
    assert not [key for key in keys(endpoint, url.split("/")[2]) if key.endswith(records.SWEEP)]


def test_command_at_an_address_without_a_sweep_says_so_in_one_line(url, endpoint, tmp_path):
    told = command("status", url, endpoint=endpoint, cache=tmp_path / "x")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(f"refstudy: {url} is no folder of a sweep")


def test_command_without_a_server_says_so_in_one_line(url, tmp_path):
    """Nothing listens on port 9 of this machine."""
    told = command("status", url, endpoint="http://127.0.0.1:9", cache=tmp_path / "x")
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert "no answer that can be used (EndpointConnectionError)" in told.stderr
    assert object_server.SECRET not in told.stderr


RUN = """
import json, sys
from pathlib import Path
from refstudy import copies, grid, results
from refstudy.driver import run_sweep
from refstudy.work import Work
from tests import stub
sweep = grid.read(Path(sys.argv[1]), [stub.BETAS])
at, cells = results.place(sweep, copies.results_folder(sys.argv[2]), None), grid.cells(sweep)
at.store.root.mkdir(parents=True, exist_ok=True)
(at.store.root / "behaviour.json").write_text(json.dumps({"sleep_s": 0.3}))
sys.exit(run_sweep(sweep, at, cells, work=Work(stub.make, stub.trial, stub.score)))
"""


def test_sweep_whose_driver_is_killed_goes_on_from_another_machine_with_each_cell_once(url, endpoint, tmp_path):
    """Twelve cells; SIGKILL once two are done; then from another cache; and the status from a third."""
    from tests import stub

    file = tmp_path / "stub.yaml"
    file.write_text(stub.SWEEP)
    bucket = url.split("/")[2]
    first = object_server.started(RUN, str(file), url, endpoint=endpoint, cache=tmp_path / "first")
    end = time.monotonic() + 240
    while len(done(endpoint, bucket)) < 2 and time.monotonic() < end and first.poll() is None:
        time.sleep(0.3)
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in os.listdir("/proc") if pid.isdigit() and _reads(pid)]
    first.kill()
    told = first.communicate(timeout=60)
    assert first.returncode == -9, told
    before = done(endpoint, bucket)
    assert 2 <= len(before) < 12
    second = object_server.started(RUN, str(file), url, endpoint=endpoint, cache=tmp_path / "second")
    output, errors = second.communicate(timeout=300)
    assert second.returncode == 0, output + errors
    after = done(endpoint, bucket)
    assert len(after) == 12
    assert {key: after[key] for key in before} == before
    logs = [file.read_text() for cache in ("first", "second") for file in (tmp_path / cache).rglob("log")]
    artefacts = [line for log in logs for line in log.splitlines() if not line.startswith("trial")]
    assert len(artefacts) > 10
    assert len(set(artefacts)) == len(artefacts)
    third = command("status", url, "--json", endpoint=endpoint, cache=tmp_path / "third")
    assert [row["status"] for row in json.loads(third.stdout)] == ["done"] * 12
    stored = keys(endpoint, bucket)
    assert {key.split("/")[2] for key in stored if "/store/" in key and "/.progress" not in key} <= {"manifests", "artefacts"}
    for text in [*stored.values(), *lines, output.encode(), errors.encode()]:
        assert object_server.SECRET.encode() not in text
    assert b"/here" not in stored["results/tiny/sweep.json"]
    assert json.loads(stored["results/tiny/sweep.json"])["store"] == f"s3://{bucket}/results/store"


@pytest.mark.long
def test_sweep_over_a_server_that_is_slow_and_refuses_every_tenth_request_comes_to_its_end(url, endpoint, tmp_path):
    from tests import stub

    file, proxy = tmp_path / "stub.yaml", Proxy(endpoint)
    file.write_text(stub.SWEEP)
    proxy.every, proxy.late_s = 10, 0.02
    run = object_server.started(RUN, str(file), url, endpoint=proxy.endpoint, cache=tmp_path / "first")
    output, errors = run.communicate(timeout=500)
    assert run.returncode == 0, output + errors
    assert proxy.requests > 500
    assert len(done(endpoint, url.split("/")[2])) == 12
    proxy.close()


def done(endpoint: str, bucket: str) -> dict[str, bytes]:
    """The records that say done, to the byte, as they stand at the server."""
    found = {key: body for key, body in keys(endpoint, bucket).items() if "/cells/" in key}
    return {key: body for key, body in found.items() if json.loads(body)["status"] == "done"}


def _reads(pid: str) -> bool:
    return os.access(f"/proc/{pid}/cmdline", os.R_OK) and Path(f"/proc/{pid}/cmdline").exists()
