"""Real cells on a Ray cluster of a head and three nodes that share a folder: nodes and heads die as by a power cut."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from refstudy import alone, artefacts, grid, records, results, session
from refstudy.grid import Cell
from refstudy.results import Results
from tests import ray_nodes, sweeps
from tests.ray_nodes import Node
from tests.stub import ROOT

HEAD, NODES = "127.0.0.12", ("127.0.0.13", "127.0.0.14", "127.0.0.15")
SETTINGS = ["wandb.enabled=false", "train.batch_pairs=4", "train.epochs=25", "train.save_every_minutes=0.005"]
"""Cells of 175 steps: some seconds of training, saved every third of a second."""


def opened(folder: Path) -> tuple[grid.Sweep, Results, list[Cell]]:
    sweep = grid.read(sweeps.write(folder), SETTINGS)
    return sweep, results.place(sweep, folder / "results" / "tiny", None), grid.cells(sweep)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The measures of every cell, run one after another in this process."""
    sweep, at, cells = opened(tmp_path_factory.mktemp("undisturbed"))
    return {cell.id: alone.run_cell(cell, at, sweep, cells, False)["measures"] for cell in cells}


@contextlib.contextmanager
def cluster(folder: Path, port: int) -> Iterator[tuple[Node, list[Node]]]:
    """(the head, which runs no trial, three nodes of one core, of which the last has what the cross reference asks for)."""
    told, limits = ray_nodes.token(folder), ("--object-store-memory", str(session.OBJECT_STORE_BYTES))
    first = ("--head", "--node-ip-address", HEAD, "--port", str(port), "--num-cpus", "0", "--include-dashboard", "false")
    joins = ("--address", f"{HEAD}:{port}", "--num-cpus", "1", *limits)
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(ray_nodes.node(folder, told, *first, *limits))
        assert ray_nodes.listens(HEAD, port)
        nodes = []
        for each in NODES:
            own = ("--resources", json.dumps({"big": 1})) if each == NODES[-1] else ()
            nodes.append(stack.enter_context(ray_nodes.node(folder, told, *joins, "--node-ip-address", each, *own)))
            nodes[-1].joined()
        yield head, nodes


@contextlib.contextmanager
def driver(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """`refstudy run` at the cluster, killed with the block if it has not ended by then."""
    command = [
        *(sys.executable, "-m", "refstudy", "run", str(folder / "tiny.yaml"), "--address", f"{HEAD}:{port}"),
        *("--results", str(folder / "results" / "tiny"), "--set", "references.cross.resources={shards: 2, custom: {big: 0.5}}"),
        *(part for each in SETTINGS for part in ("--set", each)),
    ]
    told = os.environ | ray_nodes.token(folder)
    run = subprocess.Popen(command, env=told, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def training(at: Results, cells: list[Cell]) -> dict[str, int]:
    """The process of each cell that trains now and has saved a state."""
    known = {each["cell_id"]: each for each in records.read_records(at.folder) if each["status"] == "running"}
    saved = [cell for cell in cells if cell.id in known and list(at.store.training(cell.dpo).glob("step-*"))]
    return {cell.id: known[cell.id]["provenance"]["process"]["pid"] for cell in saved}


def wait_until_trained_by(at: Results, cells: list[Cell], nodes: list[Node], run: subprocess.Popen[str]) -> tuple[Node, str]:
    """(the node, the cell) of which the one trains the other."""
    end = time.monotonic() + 400
    while time.monotonic() < end and run.poll() is None:
        for cell, pid in training(at, cells).items():
            for each in nodes:
                if each.runs(pid):
                    return each, cell
        time.sleep(0.1)
    raise AssertionError(f"no cell trained on a node: {run.communicate(timeout=60)[0] if run.poll() is not None else 'in time'}")


def made(at: Results) -> dict[str, bytes]:
    """Records that say done and manifests of artefacts, to the byte."""
    done = [records.record_path(at.folder, each["cell_id"]) for each in records.read_records(at.folder) if each["status"] == "done"]
    return {str(file): file.read_bytes() for file in [*done, *at.store.root.glob("[!mt]*/*/manifest.json")]}


def assert_each_once(at: Results, cells: list[Cell], undisturbed: dict[str, dict[str, float]]) -> None:
    done = {each["cell_id"]: each for each in records.read_records(at.folder)}
    assert {cell: each["status"] for cell, each in done.items()} == dict.fromkeys([cell.id for cell in cells], "done")
    assert {cell: each["measures"] for cell, each in done.items()} == undisturbed
    assert results.pending(at, cells, again=True) == []
    assert [each.name for part in ("partial", "claims", "making") for each in (at.store.root / part).glob("*")] == []


@pytest.mark.long
def test_cells_of_a_node_that_dies_go_on_on_another_in_the_same_run(tmp_path, undisturbed):
    _, at, cells = opened(tmp_path)
    port = ray_nodes.free_port(HEAD)
    with cluster(tmp_path, port) as (_, nodes), driver(tmp_path, port) as run:
        node, cell = wait_until_trained_by(at, cells, nodes[:2], run)
        node.kill()
        before = made(at)
        output, _ = run.communicate(timeout=560)
    assert run.returncode == 0, output
    assert {file: content for file, content in made(at).items() if file in before} == before
    assert_each_once(at, cells, undisturbed)
    (log,) = [artefacts.read_log(each.log, at.store) for each in cells if each.id == cell]
    assert log["resumed_at"], "it began anew"


@pytest.mark.long
def test_sweep_whose_head_dies_ends_in_words_and_goes_on_on_a_new_cluster_by_the_same_command(tmp_path, undisturbed):
    _, at, cells = opened(tmp_path)
    port = ray_nodes.free_port(HEAD)
    with cluster(tmp_path, port) as (head, nodes), driver(tmp_path, port) as run:
        wait_until_trained_by(at, cells, nodes, run)
        head.kill()
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 3, output
    lost = f"stopped by the loss of the cluster's head (no answer at {HEAD}:{port} for 30 s; start the cluster again): "
    (line,) = [line for line in output.splitlines() if line.startswith(lost)]
    assert line.endswith(" of 4 cells are done; the same command goes on from here")
    before = made(at)
    with cluster(tmp_path, port), driver(tmp_path, port) as run:
        output, _ = run.communicate(timeout=560)
    assert run.returncode == 0, output
    assert {file: content for file, content in made(at).items() if file in before} == before
    assert_each_once(at, cells, undisturbed)
    assert list(at.folder.glob(".progress-*")) == []
