"""Evaluations along a trial's training: what they measure, what is kept of them, and what an alarm does."""

from pathlib import Path
from typing import Any

import pytest

from refstudy import alone, artefacts, data, grid, make, plan, policies, recipes, records, results, shelf, table
from refstudy.errors import DataError
from refstudy.grid import Cell
from refstudy.measures import cell as cell_measures
from refstudy.measures import names
from refstudy.recipes import OtherPrompts
from refstudy.records import Record
from refstudy.results import Results
from refstudy.texts import Prompt
from tests import sweeps
from tests.test_webhook import VARIABLE, serving

ALONG = "along={every_steps: 2, prompts: 3}"
LONG = 'alarms=[{limit: "length_ratio > 0.01", stop: true}]'


class Bench:
    def __init__(self, folder: Path) -> None:
        self.file, self.folder = sweeps.write(folder), folder

    def run(self, *assignments: str, again: bool = False) -> tuple[Record, Cell, Results]:
        settings = ["wandb.enabled=false", "axes.reference=[self]", "axes.beta=[0.1]", "train.batch_pairs=4", *assignments]
        sweep = grid.read(self.file, settings)
        cells = grid.cells(sweep)
        at = results.place(sweep, self.folder / "results" / "tiny", None)
        return alone.run_cell(cells[0], at, sweep, cells, again), cells[0], at


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("along"))


def test_curve_of_a_trial_is_what_the_kept_policy_measures_and_its_answers_are_those_without(bench: Bench) -> None:
    """The last row, evaluated while training, equals the measures of the finished policy, loaded again, on the same prompts."""
    plain, cell, at = bench.run()
    assert plain["status"] == "done", plain["error"]
    assert plain["along"] == []
    before = artefacts.read_completions(cell.completions, at.store)
    record, cell, at = bench.run(ALONG, "keep=full", again=True)
    assert record["status"] == "done", record["error"]
    assert artefacts.read_completions(cell.completions, at.store) == before
    assert cell.curve is not None
    curve = record["along"]
    assert curve == artefacts.read_along(cell.curve, at.store)
    assert [row["step"] for row in curve] == [2, 4, 5]
    assert set(curve[0]) <= {"step", "epoch", *names.ALONG}
    assert measured(cell, at) == pytest.approx({name: curve[-1][name] for name in measured(cell, at)}, abs=1e-9)
    assert record["recipes"]["along_curve"] == at.store.path(cell.curve).name


def measured(cell: Cell, at: Results) -> dict[str, float]:
    """The measures of an evaluation along training, made step by step as those of a finished cell are."""
    assert cell.along is not None
    answers = recipes.Completions(source=cell.dpo, prompts=cell.along.baseline.prompts, sampling=cell.along.sampling)
    verdicts = recipes.Verdicts(candidate=answers, baseline=cell.along.baseline, judge=cell.along.judge)
    divergence = recipes.Divergence(completions=answers, reference=cell.dpo.start)
    make.make_all((answers, verdicts, divergence), at.store)
    found = cell_measures.measure(
        prompts=artefacts.read_prompts(answers.prompts, at.store),
        candidates=artefacts.read_completions(answers, at.store),
        baselines=artefacts.read_completions(cell.along.baseline, at.store),
        verdicts=artefacts.read_verdicts(verdicts, at.store),
        divergences=artefacts.read_divergence(divergence, at.store),
        training={},
    )
    return {name: value for name, value in found.items() if name in names.ALONG}


def test_evaluations_along_training_ask_nothing_that_the_evaluation_asks(bench: Bench) -> None:
    _, cell, at = bench.run(ALONG)
    assert cell.along is not None
    own = {each.messages[0]["content"] for each in artefacts.read_prompts(cell.along.baseline.prompts, at.store)}
    evaluation = {each.messages[0]["content"] for each in artefacts.read_prompts(cell.completions.prompts, at.store)}
    assert len(own) == 3
    assert not own & evaluation


def test_finished_cell_is_left_alone_when_along_is_added(bench: Bench) -> None:
    first, _, _ = bench.run("axes.beta=[0.2]")
    second, cell, at = bench.run("axes.beta=[0.2]", ALONG)
    assert second["finished_at"] == first["finished_at"]
    assert plan.shared([cell], at.store) == []


def test_alarm_that_stops_is_told_everywhere_and_the_cell_is_measured_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []
    train = policies.train_policy

    def trained(cell: Cell, *arguments: Any) -> shelf.Policy:
        policy = train(cell, *arguments)
        seen.extend(row["alarms"] for row in records.status_rows(bench.folder / "results" / "tiny") if row["status"] == "running")
        return policy

    monkeypatch.setattr(policies, "train_policy", trained)
    with serving() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        record, cell, at = bench.run(ALONG, LONG, f"webhook={{variable: {VARIABLE}}}")
    assert record["status"] == "done", record["error"]
    assert record["stopped"]["step"] == 2
    assert record["stopped"]["reason"].startswith("length_ratio ")
    assert [row["step"] for row in record["along"]] == [2]
    assert [each["step"] for each in record["alarms"]] == [2, None]
    assert all(at.store.has(goal) for goal in plan.cell_goals(cell))
    words = [each["words"] for each in record["alarms"]]
    assert seen == [words[:1]], "status shows it while the cell still runs"
    rows = [row for row in records.status_rows(at.folder) if row["cell_id"] == cell.id]
    assert [row["alarms"] for row in rows] == [words]
    assert [each["text"].rpartition(": ")[2].replace("&gt;", ">") for each in server.bodies] == words
    assert "ALARM " + words[0] in capsys.readouterr().out
    table.show_cells(rows)
    assert f"ALARM {cell.id[:8]} self beta=0.1 seed=0: {words[0]}" in capsys.readouterr().out


def test_best_judged_trial_goes_on_with_the_policy_of_that_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluations are made to prefer step 2, where an alarm has stopped the same training: the KL to the start is that of the
    stopped policy, not of the last one."""
    rates = iter([0.9, 0.1, 0.2])
    examination = policies._examination

    def preferring(*arguments: Any) -> Any:
        whole = examination(*arguments)
        see = type(whole).__call__
        monkeypatch.setattr(type(whole), "__call__", lambda self, policy: {**see(self, policy), "win_rate": next(rates)})
        return whole

    monkeypatch.setattr(policies, "_examination", preferring)
    record, cell, at = bench.run(ALONG, "train.checkpoint=best_judged")
    assert record["status"] == "done", record["error"]
    assert record["measures"]["checkpoint_step"] == 2
    assert artefacts.read_log(cell.log, at.store)["final"]["steps"] == 5
    assert [row["win_rate"] for row in record["along"]] == [0.9, 0.1, 0.2]
    monkeypatch.undo()
    kl = {name: bench.run(*settings)[0]["measures"]["kl_start_nats"] for name, settings in RUNS.items()}
    assert record["measures"]["kl_start_nats"] == kl["stopped"] != kl["last"]


RUNS: dict[str, list[str]] = {"stopped": [ALONG, LONG], "last": []}


def test_win_rate_falls_from_its_best_so_far(bench: Bench) -> None:
    """0.5, then 0.7, then 0.6: it fell by 0, 0 and 0.1; an evaluation without any verdict says nothing."""
    examination = policies.along.Examination([], [], shelf.Policy(None, None, "keep"), None, None)  # type: ignore[arg-type]
    falls = [examination._fall(rate) for rate in (0.5, 0.7, None, 0.6)]
    assert [each.get("win_rate_fall") for each in falls] == [0, 0, None, pytest.approx(0.1)]


def test_lowest_validation_loss_of_a_trial_records_its_step_and_curve(bench: Bench) -> None:
    record, cell, at = bench.run("train.checkpoint=lowest_validation_loss", "train.checkpoint_every=2")
    assert record["status"] == "done", record["error"]
    curve = artefacts.read_log(cell.log, at.store)["validations"]
    assert [row["step"] for row in curve] == [2, 4, 5]
    best = min(curve, key=lambda row: row["validation_loss"])
    assert record["measures"]["checkpoint_step"] == best["step"]
    assert record["measures"]["validation_loss"] == pytest.approx(best["validation_loss"], abs=1e-6)


def prompt(text: str, prompt_id: str = "p") -> Prompt:
    return Prompt(prompt_id=prompt_id, messages=[{"role": "user", "content": text}], cluster="c")


def others(count: int | None) -> OtherPrompts:
    source = recipes.Prompts(source=recipes.File(content="0" * 64, path="/a"), count=None)
    return OtherPrompts(of=source, without=source, count=count)


def test_other_prompts_are_distinct_and_none_of_those_left_out() -> None:
    """Case and white space make no other question."""
    of = [prompt("Is it cold?", "a"), prompt("Is it late?", "b"), prompt("is it  LATE?", "c"), prompt("Is it far?", "d")]
    found = data.other_prompts(others(2), of, [prompt("is it cold?")])
    assert [each.prompt_id for each in found] == ["b", "d"]
    assert data.other_prompts(others(None), of, [prompt("is it cold?")]) == found


@pytest.mark.parametrize("count", [3, None])
def test_other_prompts_that_are_too_few_are_refused(count: int | None) -> None:
    of, without = [prompt("Is it cold?")], [prompt("Is it cold?")] if count is None else []
    with pytest.raises(DataError, match=r"distinct ones are left beside those of the evaluation, expected"):
        data.other_prompts(others(count), of, without)
