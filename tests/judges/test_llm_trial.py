"""A whole trial judged over HTTP: fails with the server, goes on where it was, and writes the API key nowhere."""

import json
import sys
from pathlib import Path

import pytest

from refstudy import alone, artefacts, cli, grid, judges, plan, records, results
from tests import sweeps, tiny
from tests.judge_server import Judging
from tests.scoring_server import answering, listening

KEY = "sk-very-secret-indeed"


@pytest.fixture(scope="module")
def served():
    words = tiny.tokenizer()
    with listening(Judging(tiny.llama(words), words)) as running:
        yield running


def test_trial_judged_over_http_fails_goes_on_and_tells_no_key(served, tmp_path, monkeypatch, capfd):
    """The server dies after five of the twelve questions, echoing the key; the second run asks the other seven only."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    file, folder = sweeps.write(tmp_path), tmp_path / "results" / "tiny"
    judge = f"{{kind: llm, model: tiny, base_url: '{served.base_url}', key_variable: JUDGE_KEY, concurrency: 1, retries: 0}}"
    settings = ["axes.beta=[1]", "axes.reference=[self]", f"judge={judge}", "judge.top_logprobs=400"]
    sweep = grid.read(file, settings)
    (cell,), at = grid.cells(sweep), results.place(sweep, folder, None)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: Bearer {KEY}"}}).encode()
    served.fault = lambda handler, body: len(served.asked) > 5 and answering(401, echo)(handler, body)
    record = alone.run_cell(cell, at, sweep, [cell], again=False)
    assert record["status"] == "failed"
    assert "Incorrect API key provided: Bearer [API key]" in record["error"]["message"]
    assert "environment variable JUDGE_KEY" in record["error"]["message"]
    served.asked.clear()
    served.fault = lambda handler, body: False
    assert not plan.trains(cell, at.store)
    record = alone.run_cell(cell, at, sweep, [cell], again=False)
    assert record["status"] == "done", record["error"]
    assert len(served.asked) == 12 - 5
    assert record["measures"]["judge_failures"] == 0
    verdicts = artefacts.read_verdicts(cell.verdicts, at.store)
    assert all(0 < row["p"] < 1 and row["read"] == ["logprobs", "logprobs"] for row in verdicts)
    summary = json.loads((at.store.path(cell.verdicts) / judges.SUMMARY).read_text())
    assert (summary["requests"], summary["requests_kept"]) == (7, 5)
    _run(["report", str(folder)], monkeypatch)
    page = (folder / "report.html").read_text()
    assert "Judge" in page
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".wandb"]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in "".join(capfd.readouterr())


def test_verdicts_made_elsewhere_train_nothing(served, tmp_path, monkeypatch):
    """The answers of one trial, exported and judged elsewhere, come back as votes and as AlpacaEval's annotations."""
    file, folder = sweeps.write(tmp_path), tmp_path / "results" / "tiny"
    common = ["axes.beta=[1]", "axes.reference=[self]", "wandb.enabled=false"]
    first = _trial(file, folder, [*common, f"judge={{kind: llm, model: tiny, base_url: '{served.base_url}', top_logprobs: 400}}"])
    outputs = tmp_path / "outputs.json"
    _run(["export", first["cell_id"], "--alpaca-eval", str(outputs), "--results", str(folder)], monkeypatch)
    ours, theirs = (json.loads(path.read_text()) for path in (outputs, tmp_path / "outputs.baseline.json"))
    votes = [
        {"prompt": mine["instruction"], "candidate": mine["output"], "baseline": other["output"], "winner": "tie"}
        for mine, other in zip(ours, theirs, strict=True)
    ]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in votes))
    made = [
        {"instruction": row["prompt"], "output_1": row["baseline"], "output_2": row["candidate"], "preference": 1.75}
        for row in votes
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(made))
    by_votes = _trial(file, folder, [*common, "judge={kind: votes, path: votes.jsonl}"])
    by_annotations = _trial(file, folder, [*common, "judge={kind: alpaca_annotations, path: annotations.json}"])
    assert [each["measures"]["win_rate"] for each in (by_votes, by_annotations)] == [0.5, pytest.approx(0.75)]
    assert {each["recipes"]["completions"] for each in (by_votes, by_annotations)} == {first["recipes"]["completions"]}
    assert len({each["cell_id"] for each in (first, by_votes, by_annotations)}) == 3


def test_judge_whose_answers_cannot_be_read_is_said_by_trial_and_status(served, tmp_path, monkeypatch, capfd):
    file, folder = sweeps.write(tmp_path), tmp_path / "results" / "tiny"
    answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Both have merits."}}]}).encode()
    monkeypatch.setattr(served, "fault", answering(200, answer))
    judge = f"judge={{kind: llm, model: tiny, base_url: '{served.base_url}'}}"
    settings = [argument for each in ("axes.beta=[1]", "axes.reference=[self]", judge) for argument in ("--set", each)]
    (cell,) = grid.cells(grid.read(file, settings[1::2]))
    arguments = ["trial", str(file), "--cell", cell.id, "--results", str(folder), *settings]
    said = []
    for _ in range(2):  # the second finds it finished
        _run(arguments, monkeypatch)
        said.append(capfd.readouterr().out.splitlines()[-1])
    _run(["status", str(folder)], monkeypatch)
    said.append(capfd.readouterr().out)
    assert all("no verdict of the judge on 6 of 6 prompts" in each for each in said), said
    assert not any("win_rate" in each for each in said[:2])
    (row,) = records.status_rows(folder)
    assert row["win_rate"] is None
    assert row["reason"].endswith("no verdict of the judge on 6 of 6 prompts")


def _trial(file: Path, folder: Path, settings: list[str]) -> records.Record:
    sweep = grid.read(file, settings)
    (cell,) = grid.cells(sweep)
    record = alone.run_cell(cell, results.place(sweep, folder, None), sweep, [cell], again=False)
    assert record["status"] == "done", record["error"]
    return record


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["refstudy", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
