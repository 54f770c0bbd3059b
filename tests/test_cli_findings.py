"""`refstudy findings` as a user types it."""

import json
import sys

import pytest

from refstudy import cli
from tests.analysis import studies

KEYS = {"finding", "policy", "reference", "decision", "statistic", "low", "high", "n_replicates"}


def _run(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr)"""
    monkeypatch.setattr(sys, "argv", ["refstudy", "findings", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as caught:
        code = caught.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def _truth(world, name, beta, seed):
    return 0.6 + (world * len(name) % 5) / 100 - abs(beta - 0.3) / 1000, 18.0


def test_findings_published_is_json_and_nothing_else(monkeypatch, capsys):
    code, out, err = _run(monkeypatch, capsys, "--published", "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert set(rows[0]) >= KEYS
    assert {row["policy"] for row in rows} == {"mistral-7b", "tulu-2-7b", "qwen2-1.5b"}


def test_findings_of_several_folders_are_one_study(monkeypatch, capsys, tmp_path):
    folders = [studies.build(tmp_path / f"w{world}", _truth, worlds=(world,)) for world in (201, 202, 203)]
    code, out, _ = _run(monkeypatch, capsys, *folders, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["n_replicates"] for row in rows if row["finding"] == "length_explosion"] == [3]
    assert {row["source"] for row in rows} == {"study"}


def test_findings_without_json_are_sentences(monkeypatch, capsys, tmp_path):
    code, out, _ = _run(monkeypatch, capsys, studies.build(tmp_path / "study", _truth), "--published")
    assert code == 0
    assert "stronger_reference_helps (confirmatory)" in out
    assert "  undecided: small: " in out
    assert "  reproduced: mistral-7b: " in out


@pytest.mark.parametrize(("arguments", "message"), [((), "nothing to judge"), (("absent",), "absent is no folder of a sweep")])
def test_findings_of_nothing_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, message):
    code, out, err = _run(monkeypatch, capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
