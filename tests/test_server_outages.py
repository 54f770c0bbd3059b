"""The servers of a judge and of a reference, and wandb's, gone while a run of the driver works with them."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from refstudy import alone, driver, grid, records, results, work
from refstudy.identity import kind
from refstudy.results import Results
from refstudy.store import Store
from tests import sweeps, tiny
from tests.judge_server import Judging
from tests.scoring_server import Handler, Listener, Served
from tests.stub import ROOT

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

COMMON = ["axes.beta=[1, 0.1]", "axes.reference=[self, served]", "judge.top_logprobs=400", "resources.trial.cpus=2"]
"""Four cells, one after another."""
MAIN = "import sys; from tests import test_server_outages; test_server_outages.main(sys.argv[1:])"


def main(arguments: list[str]) -> None:
    """Runs the sweep in a folder with real work; every artefact that is published leaves a line in the folder's log."""
    folder, settings = Path(arguments[0]), arguments[1:]
    sweep, at, cells = opened(folder, settings)
    of = work.work_of(sweep.spec.train)
    told = work.Work(
        make=functools.partial(noted, of.make, folder / "log"),
        trial=functools.partial(noted, of.trial, folder / "log"),
        score=of.score,
        warm=of.warm,
    )
    sys.exit(driver.run_sweep(sweep, at, cells, work=told))


def noted(do: Callable[..., Any], log: Path, *arguments: Any) -> Any:
    """Does the work, and notes what it publishes; of two makers the one that comes late would be noted too."""
    publish = Store.publish

    def published(self: Store, claim: Any) -> Path:
        with open(log, "a") as file:
            file.write(f"{kind(claim.recipe)} {claim.folder.name.partition('.')[0]}\n")
        return publish(self, claim)

    Store.publish = published  # type: ignore[method-assign]
    try:
        return do(*arguments)
    finally:
        Store.publish = publish  # type: ignore[method-assign]


def opened(folder: Path, settings: list[str]) -> tuple[grid.Sweep, Results, list[grid.Cell]]:
    sweep = grid.read(folder / "tiny.yaml", settings)
    return sweep, results.place(sweep, folder / "results" / "tiny", None), grid.cells(sweep)


def started(folder: Path, settings: list[str], **environment: str) -> subprocess.Popen[str]:
    """The sweep under way in a process of its own."""
    command, told = [sys.executable, "-c", MAIN, str(folder), *settings], os.environ | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=told)


class Switched:
    """A server that can be turned off, so that nobody listens at its port, and on again."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._listener: Listener | None = None
        self._port = 0
        self.turn_on()

    def turn_on(self) -> None:
        self._listener = Listener(("127.0.0.1", self._port), Handler)
        self._listener.served = self.served
        self._port = self._listener.server_address[1]
        self.served.base_url = f"http://127.0.0.1:{self._port}/v1"
        threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def turn_off(self) -> None:
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None

    def wait_until_asked(self, count: int, run: subprocess.Popen[str]) -> None:
        wait_until(lambda: len(self.served.asked) >= count, run)


def wait_until(is_so: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not is_so() and time.monotonic() < end and run.poll() is None:
        time.sleep(0.02)
    assert is_so(), run.communicate(timeout=60) if run.poll() is not None else "it did not come to that in time"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Switched, Switched, list[str]]]:
    """(the judge, the reference, the settings that name both), the sweep's file beside them."""
    words = tiny.tokenizer()
    words.save_pretrained(tmp_path / "words")
    sweeps.write(tmp_path)
    judge, reference = Switched(Judging(tiny.llama(words), words)), Switched(Served(tiny.llama(words, seed=1), words))
    entry = f"{{kind: server, model: far, base_url: '{reference.served.base_url}', tokenizer: {tmp_path / 'words'}}}"
    settings = [
        f"references.served={entry}",
        f"judge={{kind: llm, model: tiny, base_url: '{judge.served.base_url}', concurrency: 1}}",
        *COMMON,
    ]
    yield judge, reference, settings
    judge.turn_off()
    reference.turn_off()


def undisturbed(folder: Path, settings: list[str]) -> dict[str, dict[str, float]]:
    """The measures of every cell of the sweep with both servers there, run one after another in this process."""
    sweep, at, cells = opened(folder, [*settings, "wandb.enabled=false"])
    aside = results.place(sweep, folder / "undisturbed" / "tiny", None)
    assert aside.store.root != at.store.root
    return {cell.id: alone.run_cell(cell, aside, sweep, cells, False)["measures"] for cell in cells}


def of_status(at: Results, status: str) -> list[records.Record]:
    return [each for each in records.read_records(at.folder) if each["status"] == status]


def assert_each_once(folder: Path, settings: list[str]) -> None:
    _, at, cells = opened(folder, settings)
    assert {each["cell_id"]: each["measures"] for each in of_status(at, "done")} == undisturbed(folder, settings)
    assert results.pending(at, cells, again=True) == []
    assert {line: count for line, count in Counter((folder / "log").read_text().splitlines()).items() if count > 1} == {}
    assert [
        each for part in ("partial", "claims", "making") for each in (at.store.root / part).glob("[!l]*")
    ] == []  # but for what the judge said, for other cells


@pytest.mark.long
def test_outages_shorter_than_the_retries_and_no_wandb_at_all_fail_no_cell(servers, tmp_path):
    """Both servers are gone for four seconds each, in the middle of their work; wandb's address is one where nobody listens."""
    judge, reference, settings = servers
    settings = [*settings, "judge.retries=8", "references.served.retries=8"]
    online = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    run = started(tmp_path, settings, **online)
    for server, count in ((reference, 12), (judge, 5)):
        server.wait_until_asked(count, run)
        server.turn_off()
        time.sleep(4)
        server.turn_on()
    output, errors = run.communicate(timeout=560)
    assert run.returncode == 0, output + errors
    assert "0" * 40 not in output + errors
    assert_each_once(tmp_path, settings)


@pytest.mark.long
def test_longer_outages_fail_their_cells_in_words_and_the_same_command_makes_just_these(servers, tmp_path):
    """The reference's server goes away while it scores, the judge's during its first cell; that one comes back in the run."""
    judge, reference, settings = servers
    settings = [*settings, "judge.retries=1", "references.served.retries=1", "wandb.enabled=false"]
    _, at, _ = opened(tmp_path, settings)
    run = started(tmp_path, settings)
    reference.wait_until_asked(12, run)
    reference.turn_off()
    judge.wait_until_asked(5, run)
    judge.turn_off()
    wait_until(lambda: any(each["reference"] == "self" for each in of_status(at, "failed")), run)
    judge.turn_on()
    output, errors = run.communicate(timeout=560)
    assert run.returncode == 1, output + errors
    done, failed = of_status(at, "done"), {each["reference"]: each["error"] for each in of_status(at, "failed")}
    assert [each["reference"] for each in done] == ["self"]
    assert sorted(each["reference"] for each in of_status(at, "failed")) == ["self", "served", "served"]
    assert {name: error["type"] for name, error in failed.items()} == {"self": "JudgeAway", "served": "ServerAway"}
    gone = "cannot be reached or broke off ('[Errno 111] Connection refused'), 2 times; start the server or mend base_url"
    assert all(gone in error["message"] for error in failed.values()), failed
    assert f"{reference.served.base_url}/completions" in failed["served"]["message"]
    assert "reference table of" in failed["served"]["message"]
    assert f"{judge.served.base_url}/chat/completions" in failed["self"]["message"]
    assert output.splitlines()[-1].startswith("3 of 4 cells failed (first: ")
    assert output.splitlines()[-1].endswith("; the same command runs them again")
    before = {each["cell_id"]: records.record_path(at.folder, each["cell_id"]).read_bytes() for each in done}
    reference.turn_on()
    known = len(judge.served.asked)
    run = started(tmp_path, settings)
    output, errors = run.communicate(timeout=560)
    assert run.returncode == 0, output + errors
    assert " 3 of 4 cells to run" in output
    assert {cell: records.record_path(at.folder, cell).read_bytes() for cell in before} == before
    assert len(judge.served.asked) - known < 3 * 12, "what the judge had said was asked again"
    assert_each_once(tmp_path, settings)


@pytest.mark.long
def test_two_drivers_at_once_make_nothing_twice_while_the_judge_is_gone(servers, tmp_path):
    """The judge goes away while both run, until a cell has failed; then either run again, at the same time too."""
    judge, _, settings = servers
    settings = [*settings, "judge.retries=1", "wandb.enabled=false", "resources.trial.cpus=1"]
    _, at, cells = opened(tmp_path, settings)
    for ends_well in (False, True):
        runs = [started(tmp_path, settings), started(tmp_path, settings)]
        with contextlib.ExitStack() as stack:
            for each in runs:
                stack.callback(each.kill)
            if not ends_well:
                judge.wait_until_asked(5, runs[0])
                judge.turn_off()
                wait_until(lambda: bool(of_status(at, "failed")), runs[0])
                judge.turn_on()
            told = [each.communicate(timeout=560) for each in runs]
        assert all(each.returncode in ((0,) if ends_well else (0, 1)) for each in runs), told
    assert len(cells) == 4
    assert_each_once(tmp_path, settings)
    assert json.loads(records.record_path(at.folder, cells[0].id).read_bytes())["status"] == "done"
