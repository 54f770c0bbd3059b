"""A sweep on a Ray cluster without a shared file system: two nodes with caches of their own, results at an s3:// address."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refstudy import session
from tests import object_server, ray_nodes, sweeps
from tests.object_server import ROOT, keys

HEAD = "127.0.0.2"


def node(endpoint: str, cache: Path, *arguments: str):
    """A Ray node with a cache of its own."""
    return ray_nodes.node(cache.parent, object_server.settings(endpoint, cache) | ray_nodes.token(cache.parent), *arguments)


@contextmanager
def cluster(endpoint: str, folder: Path, *of_second: str) -> Iterator[tuple[str, ray_nodes.Node, ray_nodes.Node]]:
    """(the address of a head that makes nothing, two nodes of one core each, the second one's arguments being `of_second`)."""
    address = f"{HEAD}:{ray_nodes.free_port(HEAD)}"
    limits = ("--object-store-memory", str(session.OBJECT_STORE_BYTES))
    first = ("--head", "--node-ip-address", HEAD, "--port", address.split(":")[1], "--num-cpus", "0")
    joins = ("--address", address, *limits, "--num-cpus", "1", "--node-ip-address")
    with node(endpoint, folder / "head", *first, "--include-dashboard", "false", *limits):
        assert ray_nodes.listens(HEAD, int(address.split(":")[1]))
        with node(endpoint, folder / "one", *joins, "127.0.0.3") as one:
            one.joined()
            with node(endpoint, folder / "two", *joins, "127.0.0.4", *of_second) as two:
                two.joined()
                yield address, one, two


def wait_for_key(part: str, endpoint: str, url: str, within_s: float = 200) -> None:
    end = time.monotonic() + within_s
    while not [key for key in keys(endpoint, url.split("/")[2]) if part in key] and time.monotonic() < end:
        time.sleep(0.5)


@pytest.mark.long
def test_sweep_runs_on_nodes_that_share_nothing_but_an_address(tmp_path):
    """Two real cells: the head makes nothing, and both nodes work. The data file lies where the driver runs and nowhere else, as
    far as workers can tell: it is gone once they begin. Then the same command again, which finds nothing to do, and findings from
    a third cache."""
    file = sweeps.write(tmp_path / "driver", betas=(1.0,))
    with object_server.serving() as endpoint:
        url = f"s3://{object_server.bucket(endpoint)}/results/tiny"
        with cluster(endpoint, tmp_path, "--resources", json.dumps({"big": 1})) as (address, _, _):
            cache = tmp_path / "driver-cache"
            told = object_server.settings(endpoint, cache) | ray_nodes.token(tmp_path)
            command = [
                *(sys.executable, "-m", "refstudy", "run", str(file), "--address", address, "--results", url),
                *("--set", "references.cross.resources={shards: 2, custom: {big: 0.5}}", "--set", "wandb.enabled=true"),
            ]
            environment = os.environ | told
            run = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            data = file.with_name("pairs.jsonl")
            wait_for_key("/scratch-", endpoint, url)
            data.rename(data.with_suffix(".away"))
            output, errors = run.communicate(timeout=400)
            data.with_suffix(".away").rename(data)
            assert run.returncode == 0, output + errors
            assert output.splitlines()[-1] == f"{url}/report.html"
            again = subprocess.run(command, env=os.environ | told, cwd=ROOT, capture_output=True, text=True, timeout=300)
            assert again.stdout.splitlines() == [f"{url}/report.html"]
        made = {name: [path.name for path in (tmp_path / name).rglob("recipe.json")] for name in ("head", "one", "two")}
        assert (made["head"], bool(made["one"]), bool(made["two"])) == ([], True, True)
        stored = keys(endpoint, url.split("/")[2])
        done = [json.loads(body) for key, body in stored.items() if "/tiny/cells/" in key]
        assert [record["status"] for record in done] == ["done"] * 2
        assert not [key for key in stored if ".progress" in key or "/claims/" in key or "/partial/" in key]
        assert [key for key in stored if "/wandb/" in key]
        assert stored["results/tiny/report.html"].startswith(b"<!doctype html>")
        assert not [key for key, body in stored.items() if object_server.SECRET.encode() in body]
        status = subprocess.run(
            [sys.executable, "-m", "refstudy", "findings", url, "--json"],
            env=os.environ | object_server.settings(endpoint, tmp_path / "reader"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert status.returncode == 0, status.stderr
        assert json.loads(status.stdout)


def trained_on(kind: str, caches: list[Path]) -> Path | None:
    """The machine whose cache holds states of a training of that kind."""
    return next((each for each in caches if list((each / "store").rglob(f"{kind}-*.training/step-*"))), None)


@pytest.mark.long
def test_node_that_dies_in_mid_training_costs_an_interval_and_another_goes_on(tmp_path):
    """One cell of 900 steps, whose states are saved every two seconds or so; the node that trains it is killed after two states."""
    file = sweeps.write(tmp_path / "driver", betas=(1.0,))
    with object_server.serving() as endpoint:
        url = f"s3://{object_server.bucket(endpoint)}/results/tiny"
        caches = [tmp_path / "one", tmp_path / "two"]
        with cluster(endpoint, tmp_path) as (address, one, two):
            told = object_server.settings(endpoint, tmp_path / "driver-cache") | ray_nodes.token(tmp_path)
            command = [
                *(sys.executable, "-m", "refstudy", "run", str(file), "--address", address, "--results", url),
                *("--set", "axes.reference=[self]", "--set", "train.epochs=300", "--set", "train.save_every_minutes=0.03"),
                *("--set", "wandb.enabled=false"),
            ]
            run = subprocess.Popen(
                command, env=os.environ | told, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                end = time.monotonic() + 300
                while len(states_of("dpo", endpoint, url)) < 2 and run.poll() is None and time.monotonic() < end:
                    time.sleep(0.1)
                (one if trained_on("dpo", caches) == caches[0] else two).kill()
                there = states_of("dpo", endpoint, url)
                output, errors = run.communicate(timeout=300)
            finally:
                run.kill()
                run.communicate()
            assert run.returncode == 0, output + errors
        stored = keys(endpoint, url.split("/")[2])
        (log,) = [json.loads(body) for key, body in stored.items() if key.endswith("/training.json") and "/training_log-" in key]
        assert log["resumed_at"] == [max(there)]
        assert log["final"]["steps"] > max(there) > 0
        assert [json.loads(body)["status"] for key, body in stored.items() if "/tiny/cells/" in key] == ["done"]
        assert not [key for key in stored if "/partial/" in key]


def states_of(kind: str, endpoint: str, url: str) -> list[int]:
    """The steps of the states of trainings of that kind that are whole at the address."""
    asked = object_server.client(endpoint)
    listed = asked.list_objects_v2(Bucket=url.split("/")[2], Prefix=f"results/store/partial/{kind}-").get("Contents", [])
    found = [each["Key"].split("/")[4] for each in listed if each["Key"].count("/") == 4]
    return [int(name.split("-")[1]) for name in found]
