"""Prompts read once against prompts read with each answer, on tiny real models."""

import logging

import numpy as np
import pytest
import torch

from refstudy import chat, divergence, line_attention, scoring, shared_prompt
from refstudy.texts import Completion, Prompt
from tests import tiny

SHARING = ["llama", "qwen2", "gpt_neox", "gpt2", "olmo2", "phi3"]
EXACT_NATS = 1e-5


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


def built(kind, words):
    return tiny.llama(words) if kind == "llama" else tiny.other_architecture(kind, words)


def turns_of(prompts, answers=2, seed=0, known=300):
    """Random turns, `answers` a prompt, of `prompts` prompts of 90 to 110 tokens; the answers have 1 to 40."""
    random = np.random.default_rng(seed)
    asked = [random.integers(5, known, int(random.integers(90, 111))).tolist() for _ in range(prompts)]
    return [
        chat.Turn(prompt, random.integers(5, known, int(random.integers(1, 41))).tolist())
        for _ in range(answers)
        for prompt in asked
    ]


def one_by_one(model, turns):
    with torch.no_grad():
        rows = [torch.tensor([turn.prompt_ids + turn.answer_ids]) for turn in turns]
        logps = [model(row).logits[0].double().log_softmax(-1) for row in rows]
    return [
        np.array([logps[row][len(turn.prompt_ids) + place - 1, token] for place, token in enumerate(turn.answer_ids)])
        for row, turn in enumerate(turns)
    ]


@pytest.fixture
def met(monkeypatch):
    """How many tokens the embedding was given, one forward pass after another."""
    seen, own = [], torch.nn.Embedding.forward

    def watched(embedding, ids):
        seen.append(ids.numel())
        return own(embedding, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", watched)
    return seen


@pytest.mark.parametrize("kind", SHARING)
def test_log_probs_equal_those_of_rows_alone(kind, words, met):
    model, turns = built(kind, words), turns_of(5)
    found = scoring.answer_logps(model, turns, words.pad_token_id, batch_tokens=400)
    assert max(met[-3:]) <= 400, "lines, of a few families each"
    for ours, alone in zip(found, one_by_one(model, turns), strict=True):
        assert np.abs(ours - alone).max() < EXACT_NATS


def test_bf16_model_is_scored_on_lines(words):
    model, turns = tiny.llama(words).to(torch.bfloat16), turns_of(5)
    together = shared_prompt.couples(turns)
    assert shared_prompt.obstacle(model, turns, together) == ""
    found = scoring.answer_logps(model, turns, words.pad_token_id)
    for ours, alone in zip(found, one_by_one(model, turns), strict=True):
        assert np.abs(ours - alone).mean() < shared_prompt.COARSE_NATS


def test_each_prompt_is_met_once(words, met):
    model, turns = tiny.llama(words), turns_of(6)
    shared_prompt.obstacle(model, turns, shared_prompt.couples(turns))
    met.clear()
    scoring.answer_logps(model, turns, words.pad_token_id)
    assert sum(met) == sum(len(turn.prompt_ids) for turn in turns[:6]) + sum(len(turn.answer_ids) for turn in turns)


def test_scores_do_not_depend_on_what_shares_a_batch(words):
    model, turns = tiny.llama(words), turns_of(6)
    together, apart = (scoring.answer_logps(model, turns, words.pad_token_id, batch_tokens=each) for each in (10_000, 1))
    for ours, alone in zip(together, apart, strict=True):
        assert np.abs(ours - alone).max() < EXACT_NATS


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mistral", "its attention takes sliding_window"),
        ("gemma3_text", "layers of sliding_attention"),
        ("gemma2", "'eager', not by sdpa"),
        ("bloom", "'eager', not by sdpa"),
        ("falcon", "nats a token off"),
    ],
)
def test_model_that_cannot_reads_prompts_with_each_answer_and_says_so_once(kind, reason, words, caplog):
    """A window, caps, ALiBi, and Falcon, whose attention is its own, scored as they always were."""
    shared_prompt._tell.cache_clear()
    model, turns = built(kind, words), turns_of(3)
    with caplog.at_level(logging.WARNING, logger=shared_prompt.__name__):
        found = scoring.answer_logps(model, turns, words.pad_token_id)
        scoring.answer_logps(model, turns, words.pad_token_id)
    assert [reason in each.message for each in caplog.records] == [True]
    for ours, alone in zip(found, one_by_one(model, turns), strict=True):
        assert np.abs(ours - alone).max() < 2e-5


def test_model_whose_tokens_see_the_other_answer_is_found_out(words, monkeypatch):
    model, turns = tiny.llama(words), turns_of(3)

    def leaking(module, query, key, value, attention_mask, line=None, **others):
        return line_attention.sdpa_attention_forward(module, query, key, value, None, **others)

    with monkeypatch.context() as patched:
        patched.setitem(line_attention.AttentionInterface._global_mapping, line_attention.NAME, leaking)
        assert "nats a token off" in shared_prompt.obstacle(model, turns, shared_prompt.couples(turns))


def test_kl_of_answers_to_long_prompts_equals_that_on_plain_rows(words, monkeypatch, met):
    random = np.random.default_rng(0)
    policy, reference = (tiny.llama(words, seed=seed, context=512) for seed in (0, 1))
    asked = [[{"role": "user", "content": tiny.sentence(random, 150 + row)}] for row in range(4)]
    prompts = [Prompt(prompt_id=f"p{row}", messages=each, cluster="c") for row, each in enumerate(asked)]
    drawn = [random.integers(5, 300, length).tolist() for length in (0, 3, 7, 12)]
    answers = [
        Completion(prompt_id=prompt.prompt_id, text="", token_ids=ids, terminated=False, logp_sum_nats=None)
        for prompt, ids in zip(prompts, drawn, strict=True)
    ]
    on_lines = divergence.kl_nats(policy, reference, words, prompts, answers).kl_nats
    met_on_lines = met[-1]
    monkeypatch.setattr(shared_prompt, "LEAST_TOKENS", 10_000)
    plain = divergence.kl_nats(policy, reference, words, prompts, answers).kl_nats
    assert on_lines == pytest.approx(plain, abs=1e-4)
    assert on_lines[0] == 0
    assert met_on_lines < met[-1], "lines have no padding"


def test_rule_speaks_of_the_texts_alone():
    """Two answers of 20 tokens to a prompt of 88 make 128 tokens, to one of 87 make 127; families of 1 and of 255 are 128 each."""
    assert _pays(88, 20)
    assert not _pays(87, 20)
    assert shared_prompt.pays([chat.Turn([1] * 127, [2])], [(0,)])
    assert shared_prompt.pays([chat.Turn([1], []), chat.Turn([2] * 250, [3] * 5)], [(0,), (1,)])
    assert not shared_prompt.pays([], [])


def _pays(prompt, answer):
    turns = [chat.Turn([1] * prompt, [2] * answer), chat.Turn([1] * prompt, [3] * answer)]
    return shared_prompt.pays(turns, shared_prompt.couples(turns))


def test_couples_are_two_turns_of_one_prompt():
    prompts = [[1], [2], [1], [3], [1], [2]]
    assert shared_prompt.couples([chat.Turn(ids, [9]) for ids in prompts]) == [(0, 2), (1, 5), (3,), (4,)]


def test_batches_of_families_keep_the_budgets():
    turns = [chat.Turn([number] * 5, [2] * 5) for number in (1, 1, 2, 2, 3, 3)]
    together = shared_prompt.couples(turns)
    assert list(scoring.family_batches(turns, together, 30, vocabulary=10)) == [[(0, 1), (2, 3)], [(4, 5)]]
    many = scoring.LOGIT_VALUES // 20
    assert list(scoring.family_batches(turns, together, 1000, vocabulary=many)) == [[(0, 1), (2, 3)], [(4, 5)]]


def test_families_are_all_answers_to_a_prompt_up_to_the_budget():
    """Prompts of 10 tokens, answers of 5: three answers and the prompt are 25 tokens, four are 30."""
    turns = [chat.Turn([prompt] * 10, [9] * 5) for prompt in (1, 2, 1, 1, 2, 1)]
    assert shared_prompt.families(turns, 30) == [(0, 2, 3, 5), (1, 4)]
    assert shared_prompt.families(turns, 25) == [(0, 2, 3), (1, 4), (5,)]
    assert shared_prompt.families(turns, 1) == [(0,), (1,), (2,), (3,), (4,), (5,)]


def test_answers_beyond_two_see_the_prompt_and_themselves(words):
    model, random = tiny.llama(words), np.random.default_rng(0)
    prompt = random.integers(5, 300, 120).tolist()
    turns = [chat.Turn(prompt, random.integers(5, 300, length).tolist()) for length in (3, 9, 1, 20)]
    logits, targets, counts = shared_prompt.answer_logits(model, [turns])
    found = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0].detach().split(counts)
    for ours, alone in zip(found, one_by_one(model, turns), strict=True):
        assert np.abs(ours.numpy() - alone).max() < EXACT_NATS


@pytest.mark.parametrize("kind", SHARING)
@pytest.mark.parametrize("answers", [1, 2, 3])
def test_log_probs_of_short_families_equal_those_of_rows_alone(kind, answers, words):
    model, random = built(kind, words), np.random.default_rng(0)
    asked = [random.integers(5, 300, length).tolist() for length in (9, 14, 11)]
    families = [
        [chat.Turn(prompt, random.integers(5, 300, int(random.integers(1, 12))).tolist()) for _ in range(answers)]
        for prompt in asked
    ]
    logits, targets, counts = shared_prompt.answer_logits(model, families)
    found = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0].detach().split(counts)
    for ours, alone in zip(found, one_by_one(model, [turn for family in families for turn in family]), strict=True):
        assert np.abs(ours.numpy() - alone).max() < EXACT_NATS
