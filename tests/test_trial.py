"""One trial, alone and in this process: what it makes, what it does not make again, and what is left when it fails."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from refstudy import (
    alone,
    artefacts,
    chat,
    checkpoints,
    export,
    grid,
    make,
    models,
    plan,
    policies,
    recipes,
    records,
    results,
    scoring,
    trial,
)
from refstudy.errors import ModelError, StoreError
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.records import Record
from refstudy.results import Results
from tests import sweeps

LORA = "train.lora={rank: 4, alpha: 8.0, dropout: 0.0, target: all-linear}"


class Bench:
    """A tiny sweep whose artefacts are shared by the tests of this module."""

    def __init__(self, folder: Path) -> None:
        self.file, self.folder = sweeps.write(folder), folder

    def cell(self, *assignments: str, reference: str = "self") -> tuple[Sweep, list[Cell], Cell]:
        sweep = grid.read(self.file, ["wandb.enabled=false", *assignments])
        cells = grid.cells(sweep)
        return sweep, cells, next(cell for cell in cells if cell.reference == reference)

    def run(self, *assignments: str, reference: str = "self", again: bool = False) -> tuple[Record, Cell, Results]:
        sweep, cells, cell = self.cell(*assignments, reference=reference)
        at = results.place(sweep, self.folder / "results" / "tiny", None)
        return alone.run_cell(cell, at, sweep, cells, again), cell, at


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("trial"))


def forbid(monkeypatch: pytest.MonkeyPatch, *names: tuple[Any, str]) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("was made again")

    for module, name in names:
        monkeypatch.setattr(module, name, refuse)


def test_trial_records_measures_and_recipes(bench: Bench) -> None:
    record, cell, at = bench.run()
    assert record["status"] == "done", record["error"]
    assert records.read_record(records.record_path(at.folder, cell.id)) == {"schema": 1, "error": None, **record}
    assert record["recipes"]["dpo"] == fingerprint(cell.dpo)
    assert not at.store.has(cell.dpo)
    assert all(at.store.has(goal) for goal in plan.cell_goals(cell))


def test_trial_of_a_new_judge_only_judges(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = bench.run()
    forbid(monkeypatch, (policies.dpo, "train"), (make.generation, "drawn"), (make.divergence, "kl_nats"))
    second, _, _ = bench.run("judge.max_length=100")
    assert second["status"] == "done", second["error"]
    assert second["cell_id"] != first["cell_id"]
    assert second["recipes"]["completions"] == first["recipes"]["completions"]


def test_finished_cell_is_not_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, cell, at = bench.run()
    forbid(monkeypatch, (trial, "run_trial"))
    written = records.read_record(records.record_path(at.folder, cell.id))
    assert bench.run()[0] == written == {"schema": 1, "error": None, **first}


def test_failing_training_becomes_a_failed_record_with_traceback(bench: Bench) -> None:
    record, cell, at = bench.run("train.learning_rate=1e30", "axes.beta=[0.5]")
    assert record["status"] == "failed"
    assert record["error"]["type"] == "TrainingError"
    assert "Traceback" in record["error"]["traceback"]
    assert "learning rate 1e+30" in record["error"]["message"]
    assert not at.store.has(cell.completions)
    assert at.store.claim(cell.verdicts) is not None, "the claim of a failed trial must be free"
    at.store.clear_dead()


def test_trial_on_what_the_store_lacks_is_a_failed_record(bench: Bench, tmp_path: Path) -> None:
    _, _, cell = bench.cell()
    record = trial.run_trial(cell, make.Store(tmp_path / "empty"), tmp_path / "results")
    assert record["status"] == "failed"
    assert record["error"]["type"] == "StoreError"


@pytest.mark.parametrize("keep", ["adapter", "full"])
def test_kept_lora_policy_is_exported_as_it_answered(bench: Bench, keep: str, tmp_path: Path) -> None:
    """The exported checkpoint gives the answers that the trial recorded, drawn again with the same random numbers."""
    record, cell, at = bench.run(LORA, f"keep={keep}", again=True)
    assert record["status"] == "done", record["error"]
    kept = at.store.path(cell.dpo)
    assert (kept / "adapter_config.json").exists() is (keep == "adapter")
    folder = export.export(cell, record, at.store, tmp_path / "policy")
    assert "Cell `" + cell.id in (folder / "README.md").read_text()
    model, tokenizer = models.load(checkpoints.Checkpoint(str(folder)))
    prompts = artefacts.read_prompts(cell.completions.prompts, at.store)
    again = make.generation.generate(model, tokenizer, prompts, cell.completions.sampling)
    recorded = artefacts.read_completions(cell.completions, at.store)
    assert [each.token_ids for each in again] == [each.token_ids for each in recorded]
    start, _ = models.load(checkpoints.checkpoint(cell.dpo.start, at.store))
    moved = [(ours - theirs).abs().max() for ours, theirs in zip(model.parameters(), start.parameters(), strict=True)]
    assert max(moved) > 0
    with pytest.raises(StoreError, match="not empty"):
        export.export(cell, record, at.store, folder)


def test_cells_that_share_a_policy_train_it_once_when_they_run_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two judges of one policy: the second trial begins while the first trains, waits, and only judges."""
    sweep, cells, _ = bench.cell("axes.judge.max_length=[100,192]", "axes.beta=[0.9]", "axes.reference=[self]")
    at = results.place(sweep, bench.folder / "results" / "tiny", None)
    for recipe in plan.shared(cells, at.store):
        make.make(recipe, at.store)
    train, trained = policies.dpo.train, []

    def slow(*arguments: Any, **settings: Any) -> Any:
        trained.append(settings["beta"])
        if len(trained) == 1:
            other.start()
            other.join(1.0)
        return train(*arguments, **settings)

    monkeypatch.setattr(policies.dpo, "train", slow)
    other = threading.Thread(target=trial.run_trial, args=(cells[1], at.store, at.folder))
    trial.run_trial(cells[0], at.store, at.folder)
    other.join(60)
    found = [records.read_record(records.record_path(at.folder, cell.id)) for cell in cells]
    assert [record["status"] for record in found] == ["done", "done"], [record["error"] for record in found]
    assert len(trained) == 1
    assert found[0]["recipes"]["dpo"] == found[1]["recipes"]["dpo"]


def test_cell_recorded_anew_from_the_store_tells_the_time_of_its_training(bench: Bench) -> None:
    _, cell, at = bench.run("axes.beta=[0.8]")
    took = sum(artefacts.read_log(cell.log, at.store)["phases_s"].values())
    records.record_path(at.folder, cell.id).unlink()
    record, _, _ = bench.run("axes.beta=[0.8]")
    assert record["phases_s"]["train"] == pytest.approx(took, abs=1e-3)
    assert record["duration_s"] >= record["phases_s"]["train"] > 0.01


def test_cell_run_again_over_a_full_store_keeps_the_times_of_its_record(bench: Bench) -> None:
    first, cell, at = bench.run("axes.beta=[0.8]")
    second = trial.run_trial(cell, at.store, at.folder)
    assert {name: second[name] for name in trial.TIMES} == {name: first[name] for name in trial.TIMES}


def test_finished_record_whose_artefacts_are_gone_is_no_finished_cell(bench: Bench) -> None:
    first, cell, at = bench.run("axes.beta=[0.8]")
    at.store.discard(cell.verdicts)
    second, _, _ = bench.run("axes.beta=[0.8]")
    assert plan.is_made(cell, at.store)
    assert second["measures"] == first["measures"]


def test_lost_log_of_a_kept_policy_is_taken_from_beside_its_weights(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cell, at = bench.run("keep=full", "axes.beta=[0.75]")
    log = artefacts.read_log(cell.log, at.store)
    (at.store.path(cell.log) / "training.json").write_text("{")
    records.record_path(at.folder, cell.id).unlink()
    forbid(monkeypatch, (policies.dpo, "train"))
    record, _, _ = bench.run("keep=full", "axes.beta=[0.75]")
    assert record["status"] == "done", record["error"]
    assert artefacts.read_log(cell.log, at.store) == log


def fail(*_: Any, **__: Any) -> Any:
    raise ValueError("a fault of ours")


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [fail, interrupt])
def test_trial_again_that_does_not_come_to_its_end_leaves_the_finished_cell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: Callable[..., Any]
) -> None:
    first, cell, at = bench.run("axes.beta=[0.6]")
    before = {each: each.stat().st_mtime_ns for each in at.store.root.glob("*/*/manifest.json")}
    monkeypatch.setattr(make.generation, "drawn", end)
    if end is fail:
        assert bench.run("axes.beta=[0.6]", again=True)[0]["error"]["message"] == "a fault of ours"
    else:
        with pytest.raises(KeyboardInterrupt):
            bench.run("axes.beta=[0.6]", again=True)
    assert records.read_record(records.record_path(at.folder, cell.id))["measures"] == first["measures"]
    assert {each: each.stat().st_mtime_ns for each in at.store.root.glob("*/*/manifest.json")} == before
    assert list((at.store.root / "making").glob("aside.*")) == []


def test_trial_again_with_other_answers_takes_what_rests_on_the_old_ones_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, cell, at = bench.run("axes.beta=[0.55]")
    _, other, _ = bench.run("axes.beta=[0.55]", "judge.max_length=100")
    scored = recipes.Table(scorer=cell.dpo.table.scorer, texts=cell.completions)
    make.make(scored, at.store)
    bench.run("axes.beta=[0.55]", again=True)
    assert all(at.store.has(each) for each in (scored, other.verdicts)), "the same answers: what rests on them stands"
    drawn = make.generation.drawn

    def otherwise(*arguments: Any, **settings: Any) -> Any:
        found = drawn(*arguments, **settings)
        return replace(found, completions=[replace(each, text=each.text + "!") for each in found.completions])

    monkeypatch.setattr(make.generation, "drawn", otherwise)
    record, _, _ = bench.run("axes.beta=[0.55]", again=True)
    assert record["status"] == "done", record["error"]
    assert "other answers than before: 2 artefacts made of the old ones are removed" in capsys.readouterr().out
    assert not any(at.store.has(each) for each in (scored, other.verdicts))
    assert plan.is_made(cell, at.store)
    assert all(each.text.endswith("!") for each in artefacts.read_completions(cell.completions, at.store))
    assert record["measures"]["length_characters_mean"] == pytest.approx(first["measures"]["length_characters_mean"] + 1)


def test_trial_measures_token_shifts_on_held_out_pairs_as_direct_scoring_gives_them(bench: Bench) -> None:
    record, cell, at = bench.run("keep=full", "axes.beta=[0.65]")
    assert cell.token_shifts is not None
    assert cell.token_shifts.texts == cell.dpo.validation.texts
    assert record["recipes"]["token_shifts"] == fingerprint(cell.token_shifts)
    assert record["phases_s"]["token_shifts"] > 0
    found = pq.read_table(at.store.path(cell.token_shifts) / artefacts.TOKEN_SHIFTS).to_pydict()
    pairs = artefacts.read_token_pairs(cell.token_shifts.texts, at.store)
    assert found["token_id"] == [token for pair in pairs for token in pair.chosen_ids]
    model, tokenizer = models.load(checkpoints.checkpoint(cell.dpo, at.store))
    turns = [chat.Turn(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    kept = np.concatenate(scoring.answer_logps(model, turns, tokenizer.pad_token_id))
    assert found["after_nats"] == pytest.approx(kept, abs=1e-5)
    assert np.abs(np.subtract(found["after_nats"], found["before_nats"])).max() > 1e-3


def test_second_trial_of_a_worker_has_the_starts_log_probs_of_the_first(bench: Bench) -> None:
    """To the byte, and without a pass of its own."""
    found = []
    for beta in (0.35, 0.36):
        passes = make._before.cache_info().misses
        _, cell, at = bench.run(f"axes.beta=[{beta}]")
        assert cell.token_shifts is not None
        found.append(pq.read_table(at.store.path(cell.token_shifts) / artefacts.TOKEN_SHIFTS).to_pydict())
    assert make._before.cache_info().misses == passes
    assert found[0]["before_nats"] == found[1]["before_nats"]
    assert found[0]["after_nats"] != found[1]["after_nats"]


def test_finished_cell_without_token_shifts_is_not_run_again_for_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured beside the record changes no cell, and is made only when a policy is trained anyway."""
    first, cell, at = bench.run("measure.token_shifts=0", "axes.beta=[0.45]")
    assert first["status"] == "done", first["error"]
    assert cell.token_shifts is None
    assert "token_shifts" not in first["recipes"]
    forbid(monkeypatch, (trial, "run_trial"), (policies.dpo, "train"))
    second, asked, _ = bench.run("axes.beta=[0.45]")
    assert second == {"schema": 1, "error": None, **first}
    assert asked.id == cell.id
    assert not at.store.has(asked.token_shifts)
    assert results.pending(at, [asked], again=True) == []


def test_shared_artefact_that_fails_is_a_failed_record_that_names_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make.sft, "train", fail)
    record, cell, at = bench.run("policies.small.sft.learning_rate=0.002")
    assert record["error"]["message"].startswith("SFT of pretrained llama 16x1 could not be made: a fault of ours")
    assert records.read_record(records.record_path(at.folder, cell.id))["status"] == "failed"


def test_shared_artefact_that_the_user_can_mend_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("no chat template")

    monkeypatch.setattr(make.sft, "train", refuse)
    with pytest.raises(ModelError, match="no chat template"):
        bench.run("policies.small.sft.learning_rate=0.003")


def test_export_of_a_policy_that_was_not_kept_says_how(bench: Bench, tmp_path: Path) -> None:
    record, cell, at = bench.run()
    with pytest.raises(StoreError, match="keep: full"):
        export.export(cell, record, at.store, tmp_path / "policy")


def test_full_fine_tuning_kept_whole_can_be_loaded(bench: Bench) -> None:
    record, cell, at = bench.run("keep=full", "axes.beta=[0.7]")
    assert record["status"] == "done", record["error"]
    model, _ = models.load(checkpoints.checkpoint(cell.dpo, at.store))
    assert all(torch.isfinite(each).all() for each in model.parameters())
    assert json.loads((at.store.path(cell.dpo) / "training.json").read_text())["history"]
