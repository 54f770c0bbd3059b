"""Looks at a policy in training: they change nothing of it, and choose the checkpoint that they say."""

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from refstudy import divergence, generation, scoring, token_pairs
from refstudy.errors import TrainingError
from refstudy.measurement import Measurement, Stop, silent
from refstudy.recipes import Lora, Sampling
from refstudy.training import dpo, settings
from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # TRL 1.16 and peft 0.21 still read transformers' old name
)
DROPPING = Lora(rank=4, alpha=8.0, dropout=0.5, target="all-linear")


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def policy(words):
    return tiny.llama(words)


@pytest.fixture(scope="module")
def reference(words):
    return tiny.llama(words, seed=1)


@pytest.fixture(scope="module")
def pairs(words):
    return token_pairs.tokenise(tiny.pairs(20), words, max_length=48)


@pytest.fixture(scope="module")
def table(reference, words, pairs):
    return scoring.score_pairs(reference, words, pairs).table


@pytest.fixture(scope="module")
def turned(reference, words):
    """Validation pairs whose worse answer is called the chosen one, so that training makes their loss grow."""
    held_out = [
        dataclasses.replace(
            each, chosen=each.rejected, rejected=each.chosen, chosen_ids=each.rejected_ids, rejected_ids=each.chosen_ids
        )
        for each in token_pairs.tokenise(tiny.pairs(8), words, max_length=48)
    ]
    return dpo.Validation(held_out, scoring.score_pairs(reference, words, held_out).table)


def run(policy, words, pairs, table, emit=silent, **options):
    changes = {name: options.pop(name) for name in list(options) if name not in ("along", "checkpoint", "validation")}
    training = tiny.training(**changes)
    start = copy.deepcopy(policy)
    return dpo.train(start, words, dpo.Rows(pairs, table), beta=0.5, seed=0, training=training, emit=emit, log_every=1, **options)


def weights(trained):
    return {name: weight.detach().clone() for name, weight in trained.model.named_parameters()}


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def fixed(values):
    """A look that says one value after another of the win rate."""
    left = list(values)
    return dpo.Along(lambda policy: {"win_rate": left.pop(0)} if left[0] is not None else {}, every=1)


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": DROPPING, "precision": "bf16", "checkpointing": True, "learning_rate": 1e-2, "micro_batch": 4}],
    ids=["full fp32", "lora with dropout, bf16, checkpointing"],
)
def test_evaluations_along_training_change_no_bit_of_the_policy(policy, words, pairs, table, changes):
    """The look draws from all global random numbers, generates, and computes the KL, as a real one does and worse."""
    prompts = tiny.prompts(3)
    seen = []

    def look(trained):
        torch.rand(7), np.random.rand(7), random.random()
        answers = generation.generate(trained, words, prompts, Sampling(max_new_tokens=6, temperature=1.0, top_p=1.0, seed=0))
        kl = divergence.kl_nats(trained, policy, words, prompts, answers)
        seen.append((trained.training, float(kl.kl_nats.sum())))
        return {"win_rate": 0.5}

    plain = run(policy, words, pairs, table, **changes)
    watched = run(policy, words, pairs, table, along=dpo.Along(look, every=2), **changes)
    assert [row["step"] for row in watched.along] == [2, 3]
    assert [training for training, _ in seen] == [False] * 2
    assert all(kl > 0 for _, kl in seen), "the look must see the policy move, adapters and all"
    assert watched.history == plain.history
    assert watched.final == plain.final
    assert_same_bits(weights(watched), weights(plain))


def test_look_sees_what_the_finished_policy_is(policy, words, pairs, table):
    """The last look's log-probs are those of the policy that training gives back."""
    ids, seen = torch.tensor([[5, 6, 7]]), []
    along = dpo.Along(lambda trained: seen.append(trained(ids).logits.detach()) or {}, every=0)
    trained = run(policy, words, pairs, table, along=along)
    assert len(seen) == 3, "a tenth of three steps is every step"
    assert torch.equal(seen[-1], trained.model(ids).logits)
    assert not torch.equal(seen[0], seen[-1])


def test_lowest_validation_loss_keeps_the_policy_of_that_step(policy, words, pairs, table, turned):
    trained = run(policy, words, pairs, table, validation=turned, checkpoint=dpo.Checkpoint("lowest_validation_loss", 1), epochs=2)
    losses = [row["validation_loss"] for row in trained.validations]
    assert [row["step"] for row in trained.validations] == [1, 2, 3, 4, 5, 6]
    assert losses.index(min(losses)) == 0
    assert losses[-1] > losses[0] + 1e-3
    assert trained.final["checkpoint_step"] == 1
    assert trained.final["validation_loss"] == losses[0]
    assert trained.final["steps"] == 6
    first = run(policy, words, pairs, table, emit=lambda each: Stop("enough") if each.stage == "train" else None, epochs=2)
    assert_same_bits(weights(trained), weights(first))


def test_validation_loss_is_that_of_an_unmodified_trainer(policy, reference, words, pairs, table, tmp_path):
    """TRL's own `evaluate` over the held-out text, in two batches of unequal size, with the reference in memory."""
    held_out = token_pairs.tokenise(tiny.pairs(10, seed=9), words, max_length=48)
    ours = dpo.Validation(held_out, scoring.score_pairs(reference, words, held_out).table)
    trained = run(policy, words, pairs[:16], table, validation=ours, checkpoint=dpo.Checkpoint("lowest_validation_loss", 2))
    text = [
        [
            {"prompt": words.decode(p.prompt_ids), "chosen": words.decode(p.chosen_ids), "rejected": words.decode(p.rejected_ids)}
            for p in rows
        ]
        for rows in (pairs[:16], held_out)
    ]
    arguments = settings.arguments(tiny.training(), 0, str(tmp_path), 1, 16)
    config = DPOConfig(**arguments, beta=0.5, max_length=None, per_device_eval_batch_size=6)
    live = DPOTrainer(
        copy.deepcopy(policy), copy.deepcopy(reference), config, train_dataset=Dataset.from_list(text[0]),
        eval_dataset=Dataset.from_list(text[1]), processing_class=words,
    )  # fmt: skip
    live.train()
    assert trained.validations[-1]["validation_loss"] == pytest.approx(live.evaluate()["eval_loss"], abs=1e-5)
    assert trained.validations[-1]["validation_loss"] != pytest.approx(np.log(2), abs=1e-2)


def test_best_judged_keeps_the_first_of_the_highest_win_rates(policy, words, pairs, table):
    along = fixed([0.4, 0.6, 0.6])
    trained = run(policy, words, pairs, table, along=along, checkpoint=dpo.Checkpoint("best_judged"))
    assert trained.final["checkpoint_step"] == 2
    second = run(policy, words, pairs, table, emit=lambda each: Stop("enough") if each.step == 2 else None)
    assert_same_bits(weights(trained), weights(second))
    assert not torch.equal(weights(trained)["lm_head.weight"], weights(run(policy, words, pairs, table))["lm_head.weight"])


def test_best_judged_without_any_verdict_is_refused(policy, words, pairs, table):
    with pytest.raises(TrainingError, match="no look along training gave win_rate"):
        run(policy, words, pairs, table, along=fixed([None] * 3), checkpoint=dpo.Checkpoint("best_judged"))


def test_stop_along_training_ends_it_there(policy, words, pairs, table):
    seen: list[Measurement] = []

    def stop(measurement):
        seen.append(measurement)
        return Stop("length_ratio 3 > 2") if measurement.stage == "along" else None

    trained = run(policy, words, pairs, table, emit=stop, along=fixed([0.5] * 9), epochs=3)
    assert trained.stopped == {"step": 1, "reason": "length_ratio 3 > 2"}
    assert trained.final["steps"] == 1
    assert [(each.stage, each.step, each.of) for each in seen] == [("along", 1, 9), ("train", 1, 9)]


def test_stop_between_two_looks_is_looked_at_and_one_at_the_end_is_none(policy, words, pairs, table):
    along = dpo.Along(lambda trained: {"win_rate": 0.5}, every=3)
    between = run(policy, words, pairs, table, emit=lambda each: Stop("enough") if each.step == 1 else None, along=along)
    assert ([row["step"] for row in between.along], between.stopped) == ([1], {"step": 1, "reason": "enough"})
    end = run(policy, words, pairs, table, emit=lambda each: Stop("too late") if each.stage == "along" else None, along=along)
    assert ([row["step"] for row in end.along], end.stopped) == ([3], None)
