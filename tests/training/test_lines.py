"""Training with each pair's prompt computed once, against TRL's own trainer, which computes it with each answer."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from refstudy import scoring, token_pairs
from refstudy.measurement import silent
from refstudy.recipes import Lora
from refstudy.training import dpo, head, lines, settings
from tests import tiny
from tests.training.test_dpo import gradients, largest_difference, live_trainer, table_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # TRL 1.16 and peft 0.21 still read transformers' old name
)
PAIRS = 20


def long_pairs(count, seed=0):
    """Pairs whose prompts have several turns, three quarters of all tokens."""
    random = np.random.default_rng(seed)
    turns = [
        {"role": role, "content": tiny.sentence(random, int(random.integers(45, 60)))} for role in ("user", "assistant", "user")
    ]
    return [
        dataclasses.replace(pair, messages=[*turns[:-1], {"role": "user", "content": tiny.sentence(random, 10 + row)}])
        for row, pair in enumerate(tiny.pairs(count, seed))
    ]


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def pairs(words):
    return token_pairs.tokenise(long_pairs(PAIRS), words, max_length=240)


@pytest.fixture(scope="module")
def policy(words):
    return tiny.llama(words)


@pytest.fixture(scope="module")
def reference(words):
    return tiny.llama(words, seed=1)


@pytest.fixture(scope="module")
def table(reference, words, pairs):
    return scoring.score_pairs(reference, words, pairs).table


@pytest.fixture
def met(monkeypatch):
    """The tokens that models' embeddings were given, one shape after another."""
    seen, own = [], torch.nn.Embedding.forward

    def watched(embedding, ids):
        seen.append(tuple(ids.shape))
        return own(embedding, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", watched)
    return seen


def run(policy, words, pairs, table, **changes):
    training = tiny.training(**changes)
    return dpo.train(
        copy.deepcopy(policy), words, dpo.Rows(pairs, table), beta=0.5, seed=0, training=training, emit=silent, log_every=1
    )


def run_plain(monkeypatch, *arguments, **changes):
    with monkeypatch.context() as patched:
        patched.setattr(lines, "fit", lambda *_: False)
        return run(*arguments, **changes)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradients_equal_those_of_an_unmodified_trainer(policy, reference, words, pairs, table, beta, tmp_path):
    live = live_trainer(policy, reference, words, pairs, beta, tmp_path)
    ours = table_trainer(policy, words, pairs, table, beta, tmp_path)
    live_loss, live_gradients = gradients(live)
    with settings.answers_alone(), head.whole(), ours.on_lines(dpo.Rows(pairs, table), tiny.training()):
        assert "forward" in vars(ours.model.base_model)
        our_loss, our_gradients = gradients(ours, num_items_in_batch=8)
    assert "forward" not in vars(ours.model.base_model)
    assert our_loss == pytest.approx(live_loss, abs=1e-5)
    assert abs(our_loss - np.log(2)) > 1e-2
    assert largest_difference(our_gradients, live_gradients) < 1e-5


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_short_run_ends_where_an_unmodified_trainer_ends(policy, reference, words, pairs, table, beta, tmp_path):
    live = live_trainer(policy, reference, words, pairs[:16], beta, tmp_path, epochs=3)
    live_loss = live.train().training_loss
    start = copy.deepcopy(policy)
    trained = dpo.train(
        start, words, dpo.Rows(pairs[:16], table), beta=beta, seed=0, training=tiny.training(epochs=3), emit=silent, log_every=1
    )
    assert trained.final["train_loss"] == pytest.approx(live_loss, abs=1e-5)
    ours, theirs = (dict(model.named_parameters()) for model in (trained.model, live.model))
    assert largest_difference(ours, theirs) < 1e-4
    assert largest_difference(ours, dict(policy.named_parameters())) > 1e-3


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox", "gpt2"])
def test_gradients_and_losses_of_other_architectures_equal_those_on_plain_rows(kind, words, pairs, table, monkeypatch, tmp_path):
    """Weights are not compared: Adam makes a step of the learning rate out of the rounding of a gradient that is 0, such as that of
    a bias of all keys."""
    policy = tiny.other_architecture(kind, words)
    plain, laid = (table_trainer(policy, words, pairs, table, 0.5, tmp_path) for _ in range(2))
    with settings.answers_alone(), head.whole():
        _, plain_gradients = gradients(plain, num_items_in_batch=8)
        with laid.on_lines(dpo.Rows(pairs, table), tiny.training()):
            _, our_gradients = gradients(laid, num_items_in_batch=8)
    assert largest_difference(our_gradients, plain_gradients) < 1e-5
    plain_run, our_run = run_plain(monkeypatch, policy, words, pairs, table), run(policy, words, pairs, table)
    assert [each["loss"] for each in our_run.history] == pytest.approx([each["loss"] for each in plain_run.history], abs=1e-5)
    assert our_run.final == pytest.approx(plain_run.final, abs=1e-4)


def test_prompts_are_met_once_and_padding_never(policy, words, pairs, table, met):
    run(policy, words, pairs, table)
    once = [len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs]
    steps = [shape for shape in met if shape[0] == 1][-3:]
    assert len(steps) == 3
    assert 0.97 * sum(once) < sum(tokens for _, tokens in steps) <= sum(once)


def test_short_pairs_end_where_plain_rows_end(policy, words, monkeypatch, met):
    short = token_pairs.tokenise(tiny.pairs(PAIRS), words, max_length=48)
    table = scoring.score_pairs(policy, words, short).table
    plain = run_plain(monkeypatch, policy, words, short, table, epochs=3)
    assert met[-1][0] == 8, "the last step has four pairs"
    ours = run(policy, words, short, table, epochs=3)
    assert met[-1][0] == 1
    assert [each["loss"] for each in ours.history] == pytest.approx([each["loss"] for each in plain.history], abs=1e-5)
    assert largest_difference(*(dict(each.model.named_parameters()) for each in (ours, plain))) < 1e-4


def test_micro_batches_of_plain_rows_are_sorted_by_length_within_their_step(policy, words, monkeypatch, met):
    short = token_pairs.tokenise(tiny.pairs(16), words, max_length=48)
    table = scoring.score_pairs(policy, words, short).table
    met.clear()
    run_plain(monkeypatch, policy, words, short, table, micro_batch=2)
    widths = [width for rows, width in met if rows == 4]
    assert widths[:4] == sorted(widths[:4], reverse=True)
    assert widths[4:] == sorted(widths[4:], reverse=True)
    assert len(widths) == 8
    assert len(set(widths)) > 2


def test_training_holds_few_logits_whole(policy, words, pairs, table, monkeypatch):
    called, own = [], head._Head.apply
    monkeypatch.setattr(head._Head, "apply", staticmethod(lambda *given: called.append(len(given[0])) or own(*given)))
    run(policy, words, pairs, table)
    assert len(called) == 3
    assert sum(called) == sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)


def test_window_keeps_plain_rows(words, pairs, table):
    assert not lines.fit(tiny.other_architecture("mistral", words), dpo.Rows(pairs, table), tiny.training())


def test_dropout_of_a_lora_keeps_plain_rows(policy, words, pairs, table):
    for rate, on_lines in ((0.0, True), (0.1, False)):
        lora = Lora(rank=4, alpha=8.0, dropout=rate, target="all-linear")
        assert lines.fit(policy, dpo.Rows(pairs, table), tiny.training(lora=lora)) is on_lines


def test_dropout_of_the_attention_keeps_plain_rows(policy, words, pairs, table):
    dropping = copy.deepcopy(policy)
    for layer in dropping.model.layers:
        layer.self_attn.attention_dropout = 0.2
    assert not lines.fit(dropping.train(), dpo.Rows(pairs, table), tiny.training())


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 2},
        {"checkpointing": True},
        {"lora": Lora(rank=4, alpha=8.0, dropout=0.0, target="all-linear"), "learning_rate": 1e-2},
    ],
)
def test_settings_of_training_hold_on_lines(changes, policy, words, pairs, table, monkeypatch):
    plain = run_plain(monkeypatch, policy, words, pairs, table, epochs=2, **changes)
    laid = run(policy, words, pairs, table, epochs=2, **changes)
    ours, theirs = (dict(each.model.named_parameters()) for each in (laid, plain))
    assert largest_difference(ours, theirs) < 1e-4
    assert laid.final == pytest.approx(plain.final, abs=1e-4)


def test_bf16_on_lines_is_near_bf16_on_plain_rows(policy, words, pairs, table, monkeypatch):
    plain = run_plain(monkeypatch, policy, words, pairs, table, precision="bf16")
    laid = run(policy, words, pairs, table, precision="bf16")
    assert laid.final["loss"] == pytest.approx(plain.final["loss"], rel=0.05)
    assert {weight.dtype for weight in laid.model.parameters()} == {torch.float32}


def test_looks_along_training_see_an_ordinary_policy(policy, words, pairs, table):
    seen = []

    def look(model):
        ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
        seen.append((model.config._attn_implementation, model(ids).logits.shape, model.generate(ids, max_new_tokens=2).shape))
        return {}

    training = tiny.training()
    unwatched = run(policy, words, pairs, table)
    watched = dpo.train(
        copy.deepcopy(policy),
        words,
        dpo.Rows(pairs, table),
        beta=0.5,
        seed=0,
        training=training,
        emit=silent,
        log_every=1,
        along=dpo.Along(look, every=1),
    )
    assert seen == [("sdpa", (2, 3, len(words)), (2, 5))] * 3
    assert largest_difference(*(dict(each.model.named_parameters()) for each in (watched, unwatched))) == 0
    assert watched.model.config._attn_implementation == "sdpa"
    assert "forward" not in vars(watched.model.base_model)
