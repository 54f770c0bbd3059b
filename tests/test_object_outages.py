"""The server of an object store gone while a sweep runs: the run ends in words, or by its signal, and the same command goes on."""

import json
import signal
import subprocess
import time

import pytest

from tests import object_server, stub
from tests.object_server import Proxy, keys

RUN = """
import json, sys
from pathlib import Path
from refstudy import copies, grid, results
from refstudy.driver import run_sweep
from refstudy.errors import RefstudyError
from refstudy.work import Work
from tests import stub
try:
    sweep = grid.read(Path(sys.argv[1]), [stub.BETAS])
    at, cells = results.place(sweep, copies.results_folder(sys.argv[2]), None), grid.cells(sweep)
    at.store.root.mkdir(parents=True, exist_ok=True)
    (at.store.root / "behaviour.json").write_text(json.dumps({"sleep_s": 0.3}))
    sys.exit(run_sweep(sweep, at, cells, address=sys.argv[3] or None, work=Work(stub.make, stub.trial, stub.score)))
except RefstudyError as error:
    print(f"refstudy: {error}", file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def endpoint():
    with object_server.serving() as address:
        yield address


@pytest.fixture
def sweep(endpoint, tmp_path):
    """(what starts the stub sweep over the server at an address, its bucket)."""
    file, bucket = tmp_path / "stub.yaml", object_server.bucket(endpoint)
    file.write_text(stub.SWEEP)

    def started(at: str) -> subprocess.Popen[str]:
        url = f"s3://{bucket}/results/stub"
        return object_server.started(RUN, str(file), url, "", endpoint=at, cache=tmp_path / "cache")

    return started, bucket


def done(endpoint: str, bucket: str) -> dict[str, bytes]:
    """The records that say done, to the byte, as they stand at the server."""
    found = {key: body for key, body in keys(endpoint, bucket).items() if "/cells/" in key}
    return {key: body for key, body in found.items() if json.loads(body)["status"] == "done"}


def wait_for(endpoint: str, bucket: str, count: int, run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while len(done(endpoint, bucket)) < count and time.monotonic() < end and run.poll() is None:
        time.sleep(0.3)
    assert run.poll() is None, run.communicate()


def assert_goes_on(started, endpoint: str, bucket: str, tmp_path) -> None:
    """The same command, the server being well: each cell once, and nothing that was finished is made again."""
    before = done(endpoint, bucket)
    run = started(endpoint)
    output, errors = run.communicate(timeout=400)
    assert run.returncode == 0, output + errors
    after = done(endpoint, bucket)
    assert len(after) == 12
    assert {key: after[key] for key in before} == before
    (log,) = (tmp_path / "cache").rglob("log")
    artefacts = [line for line in log.read_text().splitlines() if not line.startswith("trial")]
    assert len(set(artefacts)) == len(artefacts) > 10
    left = [key for key in keys(endpoint, bucket) if "/claims/" in key or "/partial/" in key or "/.progress" in key]
    assert left == []


@pytest.mark.long
@pytest.mark.parametrize("way", ["refuses", "silent"])
def test_sigint_while_the_server_is_gone_stops_within_seconds(sweep, endpoint, tmp_path, way):
    """A server that refuses connections, and one that takes requests and never answers."""
    (started, bucket), proxy = sweep, Proxy(endpoint)
    run = started(proxy.endpoint)
    wait_for(endpoint, bucket, 1, run)
    if way == "refuses":
        proxy.is_gone = True
        proxy.close()
    proxy.late_s = 3600.0 if way == "silent" else 0.0
    time.sleep(4)
    sent = time.monotonic()
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=120)
    took_s = time.monotonic() - sent
    assert "Traceback" not in errors, errors
    assert run.returncode == 130
    assert took_s < 10
    assert output.splitlines()[-1].startswith(f"stopped by SIGINT: s3://{bucket}/results/")
    assert " cannot be " in output.splitlines()[-1]
    assert output.splitlines()[-1].endswith("; the same command then goes on from here")
    assert_goes_on(started, endpoint, bucket, tmp_path)


@pytest.mark.long
def test_server_away_for_a_moment_costs_nothing_and_for_longer_ends_the_run_in_words(sweep, endpoint, tmp_path):
    """Five seconds without a server while cells run, then none any more."""
    (started, bucket), proxy = sweep, Proxy(endpoint)
    run = started(proxy.endpoint)
    wait_for(endpoint, bucket, 1, run)
    proxy.is_gone = True
    time.sleep(5)
    proxy.is_gone = False
    wait_for(endpoint, bucket, len(done(endpoint, bucket)) + 1, run)
    records = [json.loads(body) for key, body in keys(endpoint, bucket).items() if "/cells/" in key]
    assert not [each for each in records if each["status"] == "failed"]
    proxy.is_gone = True
    proxy.close()
    output, errors = run.communicate(timeout=500)
    assert run.returncode == 2, output + errors
    (line,) = [line for line in errors.splitlines() if line.startswith("refstudy: ")]
    assert "no answer that can be used" in line
    assert line.endswith("; after 6 tries at most; check the network and AWS_ENDPOINT_URL, and run again")
    assert "Traceback" not in errors
    assert_goes_on(started, endpoint, bucket, tmp_path)
