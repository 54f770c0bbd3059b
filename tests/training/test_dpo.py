import copy
import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from refstudy import chat, scoring, token_pairs
from refstudy.errors import TableError, TrainingError
from refstudy.measurement import Measurement, Stop, silent
from refstudy.recipes import Lora
from refstudy.training import dpo, settings
from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # TRL 1.16 and peft 0.21 still read transformers' old name
)
PAIRS = 20
BETAS = [0.1, 2.0]


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
    return token_pairs.tokenise(tiny.pairs(PAIRS), words, max_length=48)


@pytest.fixture(scope="module")
def table(reference, words, pairs):
    return scoring.score_pairs(reference, words, pairs).table


def run(policy, words, pairs, table, emit=silent, beta=0.5, validation=None, log_every=1, **changes):
    start = copy.deepcopy(policy)
    training = tiny.training(**changes)
    return dpo.train(
        start,
        words,
        dpo.Rows(pairs, table),
        beta=beta,
        seed=0,
        training=training,
        emit=emit,
        validation=validation,
        log_every=log_every,
    )


def live_trainer(policy, reference, words, pairs, beta, folder, **changes):
    """TRL's own trainer with its own tokenisation of the same text and a reference in memory."""
    text = [
        {"prompt": words.decode(p.prompt_ids), "chosen": words.decode(p.chosen_ids), "rejected": words.decode(p.rejected_ids)}
        for p in pairs
    ]
    config = DPOConfig(**settings.arguments(tiny.training(**changes), 0, str(folder), 1, len(pairs)), beta=beta, max_length=None)
    rows = Dataset.from_list(text)
    return DPOTrainer(copy.deepcopy(policy), copy.deepcopy(reference), config, train_dataset=rows, processing_class=words)


def table_trainer(policy, words, pairs, table, beta, folder, **changes):
    arguments = settings.arguments(tiny.training(**changes), 0, str(folder), 1, len(pairs))
    config = DPOConfig(**arguments, beta=beta, max_length=None, precompute_ref_log_probs=True)
    return dpo.TableDPOTrainer(
        model=copy.deepcopy(policy), args=config, train_dataset=dpo.Rows(pairs, table), processing_class=words
    )


def gradients(trainer, **options):
    """(loss, gradient of every weight) of the trainer's first batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch, **options)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in trainer.model.named_parameters()}


def largest_difference(ours, theirs):
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs)


@pytest.mark.parametrize("beta", BETAS)
def test_loss_and_gradients_equal_a_live_reference(policy, reference, words, pairs, table, beta, tmp_path):
    live = live_trainer(policy, reference, words, pairs, beta, tmp_path)
    ours = table_trainer(policy, words, pairs, table, beta, tmp_path)
    assert ours.ref_model is None
    live_loss, live_gradients = gradients(live)
    our_loss, our_gradients = gradients(ours, num_items_in_batch=8)
    assert our_loss == pytest.approx(live_loss, abs=1e-5)
    assert abs(our_loss - np.log(2)) > 1e-2
    assert largest_difference(our_gradients, live_gradients) < 1e-5


@pytest.mark.parametrize("beta", BETAS)
def test_whole_run_ends_where_a_live_reference_ends(policy, reference, words, pairs, table, beta, tmp_path):
    live = live_trainer(policy, reference, words, pairs[:16], beta, tmp_path, epochs=3)
    live_loss = live.train().training_loss
    trained = run(policy, words, pairs[:16], table, beta=beta, epochs=3)
    assert trained.final["train_loss"] == pytest.approx(live_loss, abs=1e-5)
    ours, theirs = (dict(model.named_parameters()) for model in (trained.model, live.model))
    assert largest_difference(ours, theirs) < 1e-4
    assert largest_difference(ours, dict(policy.named_parameters())) > 1e-3


def test_rows_hold_the_tokens_of_pairs_and_the_log_probs_of_the_table(pairs, table):
    found = dpo.Rows(iter(pairs), table)
    assert len(found) == PAIRS
    assert list(found) == [
        {
            "prompt_ids": pair.prompt_ids,
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
            "ref_chosen_logps": table.chosen_logp_sum[row],
            "ref_rejected_logps": table.rejected_logp_sum[row],
        }
        for row, pair in enumerate(pairs)
    ]


def test_shuffled_table_gives_the_same_run(policy, words, pairs, table):
    order = np.random.default_rng(0).permutation(PAIRS)
    shuffled = dataclasses.replace(
        table,
        pair_ids=[table.pair_ids[row] for row in order],
        chosen_logp_sum=table.chosen_logp_sum[order],
        rejected_logp_sum=table.rejected_logp_sum[order],
        bytes_sha256=[table.bytes_sha256[row] for row in order],
    )
    assert run(policy, words, pairs, shuffled).history == run(policy, words, pairs, table).history


def test_table_that_lacks_a_pair_is_refused(policy, words, pairs, table):
    with pytest.raises(TableError, match="lacks 1 of 20 pairs"):
        run(policy, words, pairs, dataclasses.replace(table, pair_ids=["another", *table.pair_ids[1:]]))


def test_another_reference_changes_the_run(policy, words, pairs, table):
    own = scoring.score_pairs(policy, words, pairs).table
    first = run(policy, words, pairs, own).history[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert run(policy, words, pairs, table).history[0]["loss"] != pytest.approx(first["loss"], abs=1e-2)


def test_micro_batches_give_the_same_run_also_with_a_ragged_last_step(policy, words, pairs, table):
    """19 pairs in steps of 8, 8 and 3: with micro batches of 2 (2 and 1 at the end) or 4 each pair still counts once."""
    whole = run(policy, words, pairs[:19], table, epochs=2)
    for micro in (2, 4):
        parts = run(policy, words, pairs[:19], table, epochs=2, micro_batch=micro)
        assert parts.final["steps"] == whole.final["steps"]
        assert [each["gradient_norm"] for each in parts.history] == pytest.approx(
            [each["gradient_norm"] for each in whole.history], rel=1e-3
        )
        ours, theirs = (dict(each.model.named_parameters()) for each in (parts, whole))
        assert largest_difference(ours, theirs) < 1e-4


def test_micro_batch_that_does_not_divide_the_batch_is_refused(policy, words, pairs, table):
    with pytest.raises(TrainingError, match="micro_batch is 3; expected a divisor"):
        run(policy, words, pairs, table, micro_batch=3)


def test_stop_ends_training_and_keeps_its_reason(policy, words, pairs, table):
    seen: list[Measurement] = []

    def stop_at_two(measurement: Measurement) -> Stop | None:
        seen.append(measurement)
        return Stop("length alarm") if measurement.step == 2 else None

    trained = run(policy, words, pairs, table, emit=stop_at_two, epochs=5)
    assert (trained.stopped, trained.final["steps"]) == ({"step": 2, "reason": "length alarm"}, 2)
    assert [(each.stage, each.step, each.of) for each in seen] == [("train", 1, 15), ("train", 2, 15)]


def test_history_holds_the_curves_and_final_the_last_visits(policy, words, pairs, table):
    trained = run(policy, words, pairs, table, epochs=30, learning_rate=3e-3)
    assert {"step", "epoch", "loss", "reward_margin", "reward_accuracy", "policy_accuracy"} <= set(trained.history[0])
    assert trained.final["loss"] < trained.history[0]["loss"]
    assert trained.final["reward_accuracy"] > 0.9
    assert 0 <= trained.final["policy_accuracy"] <= 1
    assert set(trained.phases_s) == {"prepare", "train", "validate"}


def test_last_visits_of_a_frozen_policy_equal_its_scores(policy, words, pairs, table):
    """With a learning rate of 0 every visit sees the start policy, so the running values are the exact ones."""
    trained = run(policy, words, pairs, table, epochs=2, learning_rate=0.0)
    own = scoring.score_pairs(policy, words, pairs).table
    expected = dpo.metrics(own.chosen_logp_sum, own.rejected_logp_sum, table.chosen_logp_sum, table.rejected_logp_sum, beta=0.5)
    for name, value in expected.items():
        assert trained.final[name] == pytest.approx(value, abs=1e-4)


def test_validation_pairs_are_measured_under_the_finished_policy(policy, reference, words, pairs, table):
    held_out = token_pairs.tokenise(tiny.pairs(8, seed=9), words, max_length=48)
    scored = scoring.score_pairs(reference, words, held_out).table
    trained = run(policy, words, pairs, table, validation=dpo.Validation(held_out, scored))
    own = scoring.score_pairs(trained.model, words, held_out).table
    expected = dpo.metrics(own.chosen_logp_sum, own.rejected_logp_sum, scored.chosen_logp_sum, scored.rejected_logp_sum, 0.5)
    assert {name: trained.final[f"validation_{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_metrics_of_two_pairs_match_hand_calculation():
    """Margins at beta 0.5: 0.5 ((-1 + 2) - (-3 + 3)) = 0.5 and 0.5 ((-4 + 3) - (-2 + 2)) = -0.5; losses ln(1 + e^-0.5) = 0.474077
    and ln(1 + e^0.5) = 0.974077, mean 0.724077; the policy ranks the first pair right (-1 > -3) and the second wrong (-4 < -2)."""
    found = dpo.metrics(np.array([-1.0, -4.0]), np.array([-3.0, -2.0]), np.array([-2.0, -3.0]), np.array([-3.0, -2.0]), beta=0.5)
    assert found["loss"] == pytest.approx(0.724077, abs=1e-6)
    assert (found["reward_margin"], found["reward_accuracy"], found["policy_accuracy"]) == (0.0, 0.5, 0.5)


def test_loss_that_is_not_a_number_names_step_beta_and_rate(policy, words, pairs, table):
    broken = copy.deepcopy(policy)
    with torch.no_grad():
        broken.lm_head.weight[5] = float("nan")
    with pytest.raises(TrainingError, match=r"loss is nan at step 1 \(beta 0.5, learning rate 0.001\)"):
        run(broken, words, pairs, table)


def test_lora_trains_adapters_alone_and_merges_into_an_ordinary_model(policy, words, pairs, table):
    lora = Lora(rank=4, alpha=8.0, dropout=0.0, target="all-linear")
    trained = run(policy, words, pairs, table, lora=lora, epochs=3, learning_rate=1e-2)
    assert trained.history[0]["loss"] == pytest.approx(run(policy, words, pairs, table).history[0]["loss"], abs=1e-5)
    assert trained.final["loss"] < trained.history[0]["loss"]
    turn = [chat.Turn(pairs[0].prompt_ids, pairs[0].chosen_ids)]
    adapted = scoring.answer_logps(trained.model, turn, words.pad_token_id)[0]
    merged = trained.model.merge_and_unload()
    assert scoring.answer_logps(merged, turn, words.pad_token_id)[0] == pytest.approx(adapted, abs=1e-3)
    assert scoring.answer_logps(policy, turn, words.pad_token_id)[0] != pytest.approx(adapted, abs=1e-2)


def test_bf16_computes_near_fp32_and_leaves_fp32_weights(policy, words, pairs, table):
    exact, rounded = (run(policy, words, pairs, table, precision=precision) for precision in ("fp32", "bf16"))
    assert rounded.final["loss"] == pytest.approx(exact.final["loss"], rel=0.05)
    assert rounded.final["loss"] != exact.final["loss"]
    assert {weight.dtype for weight in rounded.model.parameters()} == {torch.float32}
    assert rounded.model(torch.tensor([[5, 6, 7]])).logits.dtype == torch.float32


def test_checkpointed_activations_give_the_same_run(policy, words, pairs, table):
    plain, checkpointed = (run(policy, words, pairs, table, checkpointing=each) for each in (False, True))
    assert largest_difference(*(dict(each.model.named_parameters()) for each in (plain, checkpointed))) < 1e-5


def test_dropout_of_a_lora_is_kept(policy, words, pairs, table):
    plain, dropping = (
        run(
            policy,
            words,
            pairs,
            table,
            epochs=2,
            lora=Lora(rank=4, alpha=8.0, dropout=rate, target="all-linear"),
            learning_rate=1e-2,
        )
        for rate in (0.0, 0.5)
    )
    assert plain.final["loss"] != pytest.approx(dropping.final["loss"], abs=1e-4)


def test_weights_are_not_hashed(policy, words, pairs, table, tmp_path):
    """TRL's hash of the weights would stand in the trainer."""
    assert table_trainer(policy, words, pairs, table, 0.1, tmp_path)._precompute_model_hash == "the table"


def test_trained_policy_is_an_ordinary_model_again(policy, words, pairs, table):
    trained = run(policy, words, pairs, table)
    assert "forward" not in vars(trained.model)
    assert not trained.model.training
    assert trained.model(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, len(words))
