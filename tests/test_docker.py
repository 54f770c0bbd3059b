"""Images and manifests: what can be told of them without a registry or a cluster."""

import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from refstudy import cli

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
MANIFESTS = {"raycluster": lambda document: document["spec"], "rayjob": lambda document: document["spec"]["rayClusterSpec"]}


def read(name):
    return yaml.safe_load((DOCKER / f"{name}.yaml").read_text(encoding="utf-8"))


def pods(name):
    """The pod specifications of a manifest, the head's first."""
    spec = MANIFESTS[name](read(name))
    return [each["template"]["spec"] for each in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def pinned(package):
    return re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_cluster_file_is_one_that_ray_takes():
    config = read("cluster")
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="worker_start_commands"):
        validate_config(prepare_config({**config, "worker_start_commands": []}))


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_run_as_a_user_without_rights(name):
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("name", MANIFESTS)
def test_storage_lies_outside_every_pod(name):
    claim = read("storage")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(name):
        assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}]
        assert [container["volumeMounts"] for container in pod["containers"]] == [[{"mountPath": "/shared", "name": "shared"}]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_cluster_has_three_nodes_of_the_pinned_ray_and_trials_stay_off_the_head(name):
    spec = MANIFESTS[name](read(name))
    assert 1 + sum(group["replicas"] for group in spec["workerGroupSpecs"]) == 3
    assert spec["rayVersion"] == pinned("ray")
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_job_starts_a_sweep_that_the_image_holds_with_options_that_exist():
    program, command, sweep, *options = read("rayjob")["spec"]["entrypoint"].split()
    known = {option for each in _parameters(command) for option in each.opts}
    assert program == "refstudy"
    assert (ROOT / Path(sweep).relative_to("/opt/refstudy")).is_file()
    assert {each for each in options if each.startswith("--")} <= known
    assert all(each.startswith("/shared/") for each in options[3::2])


def _parameters(command):
    import typer

    return typer.main.get_command(cli.app).commands[command].params


def test_images_run_as_a_user_and_install_exact_versions():
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    targets = [line.split()[-1] for line in lines if line.startswith("FROM")]
    assert targets[-2:] == ["cpu", "cuda"]
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"] * 2
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in line for line in installs)
