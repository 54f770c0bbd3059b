"""Evaluation sets in trials: what they make, what they do not make again, and what is recorded of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from refstudy import alone, artefacts, cost, explain, grid, make, plan, policies, records, results
from refstudy.errors import DataError
from refstudy.grid import Cell
from refstudy.identity import fingerprint
from refstudy.judges import judging
from refstudy.records import Record
from refstudy.results import Results
from tests import sweeps

INSTRUCTIONS = ("Name a river.", "Why is bread good?", "Write a letter to winter.")
ALPACA = (
    "eval.alpaca={prompts: {kind: file, path: alpaca.json}, generate: {max_new_tokens: 6, temperature: 0.5}, system: Be brief.}"
)
CHOSEN = "eval.chosen={prompts: {kind: held_out}, baseline: {kind: chosen}}"


class Bench:
    """A tiny sweep whose artefacts are shared by the tests of this module; counts what is trained and answered."""

    def __init__(self, folder: Path) -> None:
        self.file, self.folder = sweeps.write(folder), folder
        rows = [{"instruction": text, "output": f"{text} Indeed.", "generator": "g", "dataset": "d"} for text in INSTRUCTIONS]
        (folder / "alpaca.json").write_text(json.dumps(rows))
        (folder / "two.json").write_text(json.dumps(rows[:2]))

    def cells(self, *assignments: str, name: str = "tiny") -> tuple[grid.Sweep, list[Cell], Results]:
        sweep = grid.read(self.file, ["wandb.enabled=false", "axes.reference=[self]", *assignments])
        return sweep, grid.cells(sweep), results.place(sweep, self.folder / "results" / name, None)

    def run(self, *assignments: str, number: int = 0) -> tuple[Record, Cell, Results]:
        sweep, cells, at = self.cells(*assignments)
        return alone.run_cell(cells[number], at, sweep, cells, again=False), cells[number], at


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the costly functions was called."""
    calls = Counter[str]()

    def counting(module: Any, name: str) -> None:
        whole = getattr(module, name)

        def counted(*arguments: Any, **settings: Any) -> Any:
            calls[name] += 1
            return whole(*arguments, **settings)

        monkeypatch.setattr(module, name, counted)

    for module, name in ((policies.dpo, "train"), (make.generation, "drawn"), (judging.reward_model, "judge")):
        counting(module, name)
    return calls


def test_cell_of_two_sets_trains_once_and_records_both(bench: Bench, made: Counter[str]) -> None:
    record, cell, at = bench.run(ALPACA, CHOSEN, "axes.beta=[0.9]")
    assert record["status"] == "done", record["error"]
    assert (made["train"], made["judge"]) == (1, 3)
    assert made["drawn"] == 4, "baseline and policy on the own prompts and on alpaca; held-out prompts are the own ones"
    assert records.read_record(records.record_path(at.folder, cell.id))["evaluations"] == record["evaluations"]
    alpaca, chosen = record["evaluations"]["alpaca"], record["evaluations"]["chosen"]
    (row,) = (each for each in records.status_rows(at.folder) if each["cell_id"] == cell.id)
    assert row["win_rate_on_sets"] == {name: record["evaluations"][name]["measures"]["win_rate"] for name in ("alpaca", "chosen")}
    assert alpaca["measures"]["prompts"] == 3
    assert alpaca["measures"]["length_tokens_mean"] <= 6
    assert 0 < alpaca["measures"]["win_rate"] < 1
    assert chosen["recipes"]["completions"] == record["recipes"]["completions"]
    assert chosen["measures"]["length_tokens_mean"] == record["measures"]["length_tokens_mean"]
    assert chosen["measures"]["length_ratio"] != record["measures"]["length_ratio"]
    assert "kl_start_nats" not in alpaca["measures"]
    assert "kl_start_nats" in record["measures"]
    assert record["phases_s"]["evaluate"] > 0
    assert "Be brief." in json.dumps(alpaca["recipe"])


def test_chosen_answers_are_counted_in_the_policys_tokens(bench: Bench) -> None:
    _, cell, at = bench.run(ALPACA, CHOSEN, "axes.beta=[0.9]")
    of = cell.evaluations[1].verdicts
    prompts = artefacts.read_prompts(of.candidate.prompts, at.store)
    answers = artefacts.read_completions(of.baseline, at.store)
    assert [each.text for each in answers] == [prompt.meta["chosen"] for prompt in prompts]
    assert all(each.terminated and each.logp_sum_nats is None and len(each.token_ids) > 1 for each in answers)


def test_record_without_sets_is_the_same_to_the_byte_after_sets_were_made_and_dropped(bench: Bench) -> None:
    _, cell, at = bench.run("axes.beta=[0.8]")
    path = records.record_path(at.folder, cell.id)
    before = path.read_bytes()
    assert "evaluations" not in json.loads(before)
    assert grid.cells(bench.cells("axes.beta=[0.8]", ALPACA)[0])[0].id == cell.id
    assert bench.run("axes.beta=[0.8]")[0] == json.loads(before)
    assert path.read_bytes() == before


def test_set_on_a_kept_policy_trains_nothing_and_keeps_the_times(bench: Bench, made: Counter[str]) -> None:
    first, _, _ = bench.run("keep=full", "axes.beta=[0.7]")
    made.clear()
    sweep, cells, at = bench.cells("keep=full", "axes.beta=[0.7]", ALPACA)
    assert cost.estimate(sweep, cells, at).retrained_for == {}
    assert explain.work(cells[0], at.store) == "generate, judge and record: its policy was kept"
    record, _, _ = bench.run("keep=full", "axes.beta=[0.7]", ALPACA)
    assert record["status"] == "done", record["error"]
    assert made == {"drawn": 1, "judge": 1}, "alpaca's baseline was answered for another beta before"
    assert record["measures"] == first["measures"]
    assert record["phases_s"]["train"] == first["phases_s"]["train"]
    assert record["duration_s"] > first["duration_s"]


def test_set_on_a_policy_that_was_not_kept_trains_it_again_and_plan_says_so(bench: Bench, made: Counter[str]) -> None:
    first, _, _ = bench.run("axes.beta=[0.6]")
    made.clear()
    sweep, cells, at = bench.cells("axes.beta=[0.6]", ALPACA, CHOSEN)
    estimate = cost.estimate(sweep, cells, at)
    assert (estimate.retrained_for, estimate.to_train) == ({"alpaca": 1}, 1)
    assert estimate.sets_missing == {"alpaca": {"to_answer": 1, "to_judge": 1}, "chosen": {"to_answer": 0, "to_judge": 1}}
    words = (
        "evaluation set alpaca: cells to answer it 1, to judge 1, to train again for their answers to it alone 1: their policies"
    )
    assert words in estimate.as_text()
    assert "train again, since its policy was not kept, to answer evaluation set alpaca" in explain.work(cells[0], at.store)
    record, _, _ = bench.run("axes.beta=[0.6]", ALPACA, CHOSEN)
    assert record["status"] == "done", record["error"]
    assert (made["train"], made["drawn"]) == (1, 1)
    assert record["measures"] == first["measures"]
    assert not results.pending(at, cells, again=True)


def test_set_on_answers_that_exist_trains_nothing_though_nothing_was_kept(bench: Bench, made: Counter[str]) -> None:
    bench.run("axes.beta=[0.5]")
    made.clear()
    record, _, _ = bench.run("axes.beta=[0.5]", CHOSEN)
    assert record["status"] == "done", record["error"]
    assert made == {"judge": 1}


@pytest.mark.parametrize(
    "change",
    [
        "eval.alpaca.judge={kind: reward_model, start: START, max_length: 100}",
        "eval.alpaca.baseline={kind: file, path: alpaca.json}",
    ],
)
def test_new_judge_or_baseline_of_a_set_trains_and_answers_nothing(bench: Bench, made: Counter[str], change: str) -> None:
    first, _, _ = bench.run(ALPACA, CHOSEN, "axes.beta=[0.9]")
    made.clear()
    start = json.dumps(sweeps.document()["judge"]["start"])
    record, _, _ = bench.run(ALPACA, CHOSEN, "axes.beta=[0.9]", change.replace("START", start))
    assert record["status"] == "done", record["error"]
    assert made == {"judge": 1}
    assert record["measures"] == first["measures"]
    assert record["evaluations"]["chosen"] == first["evaluations"]["chosen"]
    assert record["evaluations"]["alpaca"]["recipes"]["completions"] == first["evaluations"]["alpaca"]["recipes"]["completions"]
    assert record["evaluations"]["alpaca"]["recipes"]["verdicts"] != first["evaluations"]["alpaca"]["recipes"]["verdicts"]


def test_answers_of_a_file_that_lack_prompts_are_refused(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"1 of 3 prompts have no answer in the file \(first: '\w+', 'Write a letter to winter.'\)"):
        bench.run(ALPACA, "eval.alpaca.baseline={kind: file, path: two.json}", "axes.beta=[0.9]")


def test_baseline_model_answers_as_its_entry_says(bench: Bench) -> None:
    start = json.dumps({**sweeps.document()["policies"]["small"], "seed": 3})
    record, cell, at = bench.run(ALPACA, f"eval.alpaca.baseline={start}", "axes.beta=[0.9]")
    assert record["status"] == "done", record["error"]
    baseline = cell.evaluations[0].verdicts.baseline
    assert baseline.source != cell.dpo.start
    assert baseline.sampling.system == "Be brief."
    assert len(artefacts.read_completions(baseline, at.store)) == 3


def test_cell_as_baseline_is_trained_where_it_is_missing_and_once(bench: Bench, made: Counter[str]) -> None:
    against = (ALPACA, "eval.alpaca.baseline={kind: cell, reference: self, beta: 0.3}", "axes.beta=[0.4, 0.3]")
    record, cell, _ = bench.run(*against)
    assert record["status"] == "done", record["error"]
    assert made["train"] == 2
    rival, rival_cell, _ = bench.run(*against, number=1)
    assert rival["status"] == "done", rival["error"]
    assert made["train"] == 2
    assert cell.evaluations[0].verdicts.baseline == rival_cell.evaluations[0].completions
    assert rival["evaluations"]["alpaca"]["measures"]["win_rate"] == 0.5
    assert rival["evaluations"]["alpaca"]["measures"]["tie_share"] == 1.0
    assert [each.beta for each in plan.rivals_first(bench.cells(*against)[1])] == [0.3, 0.4]


def test_finished_cell_whose_set_got_another_name_is_only_recorded_anew(bench: Bench, made: Counter[str]) -> None:
    first, cell, _ = bench.run(ALPACA, CHOSEN, "axes.beta=[0.9]")
    made.clear()
    renamed = ALPACA.replace("eval.alpaca", "eval.other")
    _, cells, at = bench.cells(renamed, "axes.beta=[0.9]")
    assert results.pending(at, cells, again=False) == cells
    record, _, _ = bench.run(renamed, "axes.beta=[0.9]")
    assert made == {}
    assert list(record["evaluations"]) == ["other"]
    assert record["evaluations"]["other"]["measures"] == first["evaluations"]["alpaca"]["measures"]
    assert fingerprint(cell.verdicts) == record["cell_id"]
