"""Bad input: one clear message, exit code 2, no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from refstudy import cli, records
from tests import sweeps

ALPACA_EVAL = Path(__file__).parents[2] / "shared" / "data" / "alpaca_eval"
QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"


def run(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command, as the installed script runs it."""
    monkeypatch.setattr(sys, "argv", ["refstudy", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    code = caught.value.code
    return (0 if code is None else int(code)), out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "absent.yaml"], "absent.yaml does not exist"),
        (["plan", QUICKSTART, "--set", "trian.epochs=1"], "trian: unknown key; did you mean train?"),
        (["plan", QUICKSTART, "--set", "axes.reference=[nobody]"], "'nobody' is no entry of references"),
        (["plan", QUICKSTART, "--set", "axes.beta=[0]"], "axes.beta.0: got 0; expected a number above 0"),
        (["plan", QUICKSTART, "--set", "axes.beta=[-3]"], "axes.beta.0: got -3"),
        (["plan", QUICKSTART, "--set", "axes.beta=[often]"], "axes.beta.0: got 'often'"),
        (["plan", QUICKSTART, "--set", "axes.beta"], "is no assignment; expected path=value"),
        (["trial", QUICKSTART, "--cell", "zz"], "no cell of the sweep has an id that begins with 'zz'"),
        (["status", "absent-folder"], "absent-folder is no folder"),
        (["status", "."], "is no folder of a sweep"),
        (["report", "absent-folder"], "no folder of a sweep"),
        (["watch", "absent-folder"], "no folder of a sweep"),
        (["gate", "absent-folder", "--save", "gate.json"], "no folder of a sweep"),
        (["gate", "absent-folder"], "gate has nothing to do"),
        (["gate", "absent-folder", "--limit", "win_rate=0.6"], "limit 'win_rate=0.6' cannot be read"),
        (["compare", "absent-folder:a", "absent-folder:b"], "absent-folder:a is no file, checkpoint or cell"),
        (["import", "absent-folder", "--name", "x"], "no folder of a sweep"),
        (["explain", "zz", "--set", "name=x"], "say which with --sweep"),
        (["plan", QUICKSTART, "--set", "references.self={kind: model, model: ./nowhere}"], "checkpoint ./nowhere does not exist"),
        (["plan", QUICKSTART.with_name("real_text.yaml"), "--set", "data.path=nowhere.jsonl"], "nowhere.jsonl does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str | Path], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.startswith("refstudy: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def test_checkpoint_without_a_tokenizer_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    entry = f"references.self={{kind: model, model: {tmp_path}}}"
    code, _, err = run("plan", QUICKSTART, "--set", entry, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "has no tokenizer" in err


@pytest.mark.parametrize("line", ["", "{", "[1]", '{"prompt": "a"}', '{"prompt": 3, "chosen": "a", "rejected": "b"}'])
def test_malformed_data_line_is_named(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A trial reaches the data; the last line of the file is the bad one, or the file is empty."""
    sweep = sweeps.write(tmp_path, count=30 if line else 1)
    if line:
        with open(tmp_path / "pairs.jsonl", "a") as file:
            file.write(line + "\n")
    else:
        (tmp_path / "pairs.jsonl").write_text("")
    cell = json.loads(json.dumps([each.id for each in _cells(sweep)]))[0]
    arguments = ("trial", sweep, "--cell", cell, "--results", tmp_path / "r" / "tiny")
    code, _, err = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "pairs.jsonl" in err
    assert "line 31" in err if line else "empty" in err
    assert "Traceback" not in err


def test_prompt_longer_than_max_length_is_refused_with_the_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sweep = sweeps.write(tmp_path)
    settings = ("--set", "train.max_length=4", "--results", tmp_path / "r" / "tiny")
    cell = _cells(sweep, "train.max_length=4")[0].id
    code, _, err = run("trial", sweep, "--cell", cell, *settings, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "pair '" in err
    assert "train.max_length 4" in err


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="/proc, which refuses folders even to root, is Linux's")
def test_unwritable_results_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sweep = sweeps.write(tmp_path)
    cell = _cells(sweep)[0].id
    code, _, err = run("trial", sweep, "--cell", cell, "--results", "/proc/no/results", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_status_shows_a_reason_that_looks_like_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = {"type": "ModelError", "message": "the template writes [/INST] [bold] :smile:", "traceback": ""}
    records.write_record(tmp_path, {"cell_id": "a1", "status": "failed", "error": error})
    code, out, _ = run("status", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert "the template writes [/INST] [bold] :smile:" in out


def test_trial_of_an_unknown_cell_is_answered_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['refstudy', 'trial', sys.argv[1], '--cell', 'zz']\n"
        "from refstudy import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(QUICKSTART)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert "begins with 'zz'" in done.stderr


def test_explain_says_that_a_failed_cell_needs_to_be_retried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sweep = sweeps.write(tmp_path)
    cell = _cells(sweep)[0]
    records.write_record(tmp_path / "r", {"cell_id": cell.id, "status": "failed", "error": {"type": "E", "message": "m"}})
    _, out, _ = run("explain", cell.id, "--sweep", sweep, "--results", tmp_path / "r", monkeypatch=monkeypatch, capsys=capsys)
    assert "It failed, and would run only with --retry-failed: it would then train" in out


def test_help_of_every_command_shows_an_example() -> None:
    runner = CliRunner()
    names = list(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert set(names) >= {"plan", "run", "trial", "status", "explain", "export", "report", "compare", "gate", "watch", "import"}
    for name in names:
        told = runner.invoke(cli.app, [name, "--help"])
        assert told.exit_code == 0
        assert "Example: refstudy" in told.output


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the published annotations are not beside the project")
def test_alpaca_eval_prints_the_published_models_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: ALPACA_EVAL / name for name in ("annotations.csv.gz", "instruction_difficulty.csv", "df_gamed_surrogate.csv.gz")}
    annotations, difficulty, gamed = files.values()
    monkeypatch.setattr(
        sys, "argv", ["refstudy", "alpaca-eval", str(annotations), "--difficulty", str(difficulty), "--gamed", str(gamed), "--json"]
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 10
    assert all(set(row) == {"model", "win_rate", "standard_error", "lc_win_rate", "lc_interval"} for row in rows)
    assert all(row["lc_interval"][0] < row["lc_win_rate"] < row["lc_interval"][1] for row in rows)


def _cells(sweep: Path, *assignments: str) -> list:
    from refstudy import grid

    return grid.cells(grid.read(sweep, list(assignments)))
