"""Nobody let in: what a sweep file cannot ask for, and secrets of the environment that stand nowhere.

Further points are shown where their subject is: pickled weights and code of checkpoints in test_models, YAML and names in
test_spec, names of records in test_records, API keys in test_endpoint, test_server and judges/test_llm_faults, the address of the
webhook in test_webhook, the environment of workers in test_driver.
"""

import ast
import os
from pathlib import Path

import pytest

from refstudy import spec, sweepfile
from refstudy.errors import SpecError
from tests.stub import ROOT, ended, opened, started, wait_for_cells

QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"
SECRETS = ("OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "REFSTUDY_WEBHOOK")


@pytest.mark.parametrize("name", ["references.other", "policies.other"])
def test_sweep_file_cannot_ask_for_code_of_a_checkpoint(name):
    entry = f"{name}={{kind: model, model: a/b, trust_remote_code: true}}"
    with pytest.raises(SpecError, match=rf"{name}.trust_remote_code: unknown key"):
        spec.check(sweepfile.override(sweepfile.read(QUICKSTART), [entry]), "sweep.yaml")


def test_nothing_reads_pickles_trusts_code_or_loads_yaml_unsafely():
    """By the calls in the sources: a name that lets code in stands nowhere, save where it is refused by the value False."""
    found = []
    for path in [*(ROOT / "refstudy").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) != "False":
                found.append(f"{path.name}: trust_remote_code")
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("pickle.load", "pickle.loads", "torch.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
                found.append(f"{path.name}: {called}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(f"{path.name}: allow_pickle")
    assert found == []


def test_secrets_of_the_environment_stand_in_no_file_output_or_command_line(tmp_path, monkeypatch):
    """A whole run with keys set; the command lines are those of all processes while cells run. Its mirror in wandb is searched too,
    where that comes up in time; test_tracking_report searches one that surely does."""
    secrets = {name: f"https://never-seen-{number}-of-anybody" for number, name in enumerate(SECRETS)}
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    _, at, _ = opened(tmp_path)
    process = started(tmp_path, "axes.beta=[1]", "axes.reference=[self]", "wandb.enabled=true")
    wait_for_cells(at, 1, process)
    lines = [line for pid in os.listdir("/proc") if pid.isdigit() for line in _command_line(pid)]
    code, last = ended(process)
    assert code == 0, last
    assert any(str(tmp_path).encode() in line for line in lines)
    assert not [line for line in lines if b"never-seen" in line]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"never-seen" in path.read_bytes()]
    assert "never-seen" not in last


def _command_line(pid: str) -> list[bytes]:
    try:
        return [Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []  # ended meanwhile
