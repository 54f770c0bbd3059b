"""Trainings that are cut off: the next process goes on, and what comes out is what comes out of one that was not, bit for bit."""

import json
import random
import shutil

import pytest
import torch

from refstudy.measurement import Measurement
from refstudy.recipes import Lora
from refstudy.training.saves import Saving
from tests.training import cut_off
from tests.training.cut_off import ALWAYS, STEPS, Case, in_process, numbers, weights

DROPPING = Lora(rank=4, alpha=8.0, dropout=0.5, target="all-linear")
CASES = {
    "full, lowest validation loss": Case("lowest_validation_loss"),
    "lora with dropout, micro batches, judged along": Case(
        "best_judged", along=True, changes={"lora": DROPPING, "micro_batch": 4, "learning_rate": 1e-2}
    ),
    "bf16, checkpointing, watched along": Case(along=True, changes={"precision": "bf16", "checkpointing": True}),
}


class Died(Exception):
    """Stands for the end of a process, where nothing depends on how it comes."""


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def until(step):
    """An emit that ends training at the first measurement of a step that is told for the first time."""
    seen: list[Measurement] = []

    def emit(measurement):
        seen.append(measurement)
        if measurement.step >= step and "loss" in measurement.values:
            raise Died

    return emit


def words_of(case, saving):
    """(the training, what it told in words)."""
    told: list[str] = []
    return cut_off.train(case, saving, lambda each: told.extend(each.alarms)), told


@pytest.fixture(scope="module")
def plain():
    return cut_off.train(Case())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_training_killed_at_random_times_ends_as_one_that_was_not(case, tmp_path):
    """SIGKILL, three times, shortly after random steps: within later steps, evaluations and saves. Drawn anew by each run."""
    drawn, undisturbed = random.SystemRandom(), cut_off.train(case)
    begun_at = [0]
    while len(begun_at) < 4 and begun_at[-1] < STEPS:
        in_process(tmp_path, case, kill_at=(begun_at[-1] + drawn.randint(1, 2), drawn.uniform(0, 0.03)))
        begun_at.append(max(cut_off.saved_steps(tmp_path)))
    ended = in_process(tmp_path, case)
    assert ended.code == 0
    assert ended.words == []
    assert ended.resumed_at == begun_at[1:]
    assert ended.numbers == json.loads(json.dumps(numbers(undisturbed)))
    assert undisturbed.final["steps"] == STEPS
    assert_same_bits(ended.weights, weights(undisturbed))


def test_times_of_training_are_those_of_all_processes_whose_work_stands(plain, tmp_path):
    with pytest.raises(Died):
        cut_off.train(Case(), Saving(tmp_path, ALWAYS), until(10))
    (last,) = [each for each in tmp_path.iterdir() if "000000009" in each.name]
    spent_s = json.loads((last / "state.json").read_text())["parts"]["loop"]["spent_s"]
    trained = cut_off.train(Case(), Saving(tmp_path, ALWAYS))
    assert trained.resumed_at == [9]
    assert trained.phases_s["train"] > spent_s > 0


def test_what_was_told_before_is_told_again_in_its_order(tmp_path):
    """Whoever listens to the new process alone misses nothing: the curve is whole, and alarms know what they have seen."""
    case, told, again = Case(along=True), [], []
    cut_off.train(case, None, told.append)
    with pytest.raises(Died):
        cut_off.train(case, Saving(tmp_path, ALWAYS), until(10))
    cut_off.train(case, Saving(tmp_path, ALWAYS), again.append)
    assert again == told


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda state: (state / "weights.00000.safetensors").write_bytes(b""), "weights.00000.safetensors is torn"),
        (lambda state: flip(state / "optimizer.00000.safetensors"), "optimizer.00000.safetensors is torn"),
        (lambda state: flip(state / "state.json"), "state.json is torn"),
        (lambda state: (state / "seal.json").write_text("[]"), "it is torn"),
        (lambda state: (state / "seal.json").write_text("{}"), "state.json is torn"),
        (lambda state: (state / "trainer_state.json").unlink(), "it is torn"),
        (lambda state: shutil.rmtree(state), None),
    ],
)
def test_torn_state_is_named_and_training_goes_on_from_the_one_before(plain, tmp_path, damage, why):
    with pytest.raises(Died):
        cut_off.train(Case(), Saving(tmp_path, ALWAYS), until(5))
    before, last = sorted(tmp_path.glob("step-*"))
    assert (before.name[:14], last.name[:14]) == ("step-000000003", "step-000000004")
    damage(last)
    trained, words = words_of(Case(), Saving(tmp_path, ALWAYS))
    expected = [f"a saved state of training cannot be used ({last.name}: {why}); training goes on from step 3"]
    assert words == (expected if why else [])
    assert trained.resumed_at == [3]
    assert numbers(trained) == numbers(plain)
    assert_same_bits(weights(trained), weights(plain))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_training_whose_states_are_all_torn_begins_anew(plain, tmp_path):
    with pytest.raises(Died):
        cut_off.train(Case(), Saving(tmp_path, ALWAYS), until(5))
    for each in tmp_path.iterdir():
        flip(each / "state.json")
    trained, words = words_of(Case(), Saving(tmp_path, ALWAYS))
    assert [each.rpartition("; ")[2] for each in words] == ["training goes on from its beginning"] * 2
    assert trained.resumed_at == []
    assert numbers(trained) == numbers(plain)


@pytest.mark.parametrize("other", [{"terms": "another curve"}, {"along": True}])
def test_state_of_other_terms_is_named_and_passed_over(tmp_path, other):
    with pytest.raises(Died):
        cut_off.train(Case(), Saving(tmp_path, ALWAYS, "a curve"), until(5))
    case = Case(along=other.get("along", False))
    trained, words = words_of(case, Saving(tmp_path, ALWAYS, other.get("terms", "a curve")))
    assert trained.resumed_at == []
    assert len(words) == 2
    assert all("it is of a training under other settings or versions" in each for each in words)
    assert {each.name[:14] for each in tmp_path.iterdir()} == {"step-000000011", "step-000000012"}


def test_full_disk_ends_no_training_and_is_told(plain, tmp_path):
    """The kernel refuses the bytes beyond a limit on the size of files, as it does on a full disk; the weights are larger."""
    ended = in_process(tmp_path, Case(), file_bytes=20_000)
    assert ended.code == 0
    assert len(ended.words) == STEPS
    first = "the state of training at step 1 cannot be saved: Error while serializing: I/O error: File too large (os error 27)"
    assert ended.words[0] == f"{first}; training goes on, and is saved again later"
    assert list((tmp_path / "states").iterdir()) == []
    assert_same_bits(ended.weights, weights(plain))


def test_states_are_the_last_two_and_hold_no_pickle(tmp_path):
    cut_off.train(Case(), Saving(tmp_path, ALWAYS))
    assert {each.name[:14] for each in tmp_path.iterdir()} == {"step-000000011", "step-000000012"}
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_policy_that_was_trained_but_not_published_is_not_trained_again(plain, tmp_path):
    cut_off.train(Case(), Saving(tmp_path, ALWAYS))
    again = cut_off.train(Case(), Saving(tmp_path, ALWAYS))
    assert again.resumed_at == [STEPS]
    assert numbers(again) == numbers(plain)
    assert_same_bits(weights(again), weights(plain))


def test_training_that_ends_within_an_epoch_is_resumed_to_its_last_step_and_no_further(tmp_path):
    """2.5 epochs of three steps: eight steps; no state of the last one is kept, from which one step too many would be made."""
    case = Case(changes={"epochs": 2.5})
    undisturbed = cut_off.train(case)
    cut_off.train(case, Saving(tmp_path, ALWAYS))
    again = cut_off.train(case, Saving(tmp_path, ALWAYS))
    assert (undisturbed.final["steps"], again.resumed_at) == (8, [7])
    assert numbers(again) == numbers(undisturbed)
    assert_same_bits(weights(again), weights(undisturbed))


@pytest.mark.parametrize("every_s", [0.0, 900.0])
def test_training_shorter_than_the_interval_saves_nothing(plain, tmp_path, every_s):
    trained = cut_off.train(Case(), Saving(tmp_path / "states", every_s))
    assert list(tmp_path.iterdir()) == []
    assert numbers(trained) == numbers(plain)


def test_fine_tuning_and_reward_model_that_were_cut_off_end_in_the_same_files(tmp_path):
    """Killed by an error at a log; the folders of states stand in for the store's."""
    for train in (cut_off.fine_tune, cut_off.train_reward_model):
        plain, cut = (tmp_path / train.__name__ / each for each in ("plain", "cut"))
        saving = Saving(cut / "states", ALWAYS)
        train(plain, None, lambda each: None)
        with pytest.raises(Died):
            train(cut, saving, until(4))
        told: list[Measurement] = []
        train(cut, saving, told.append)
        assert [each.step for each in told] == [2, 4, 6]
        assert (cut / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
        logs = [json.loads((each / "training.json").read_text()) for each in (cut, plain)]
        assert logs[0]["history"] == logs[1]["history"]
        assert logs[0]["final"] == logs[1]["final"]
