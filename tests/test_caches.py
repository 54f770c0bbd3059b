"""Answers to prompts that are read on lines, against those to prompts in padded rows, on tiny real models."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from refstudy import caches, chat, divergence, generation, shared_prompt
from refstudy.recipes import Sampling
from refstudy.texts import Prompt
from tests import tiny
from tests.test_shared_prompt import SHARING, built

SAMPLING = Sampling(max_new_tokens=16, temperature=1.0, top_p=1.0, seed=0)
EXACT_NATS = 1e-5


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def prompts():
    """Prompts of very different lengths, most of them long."""
    random = np.random.default_rng(0)
    asked = [tiny.sentence(random, count) for count in (40, 190, 150, 170, 110, 160)]
    messages = [[{"role": "user", "content": text}] for text in asked]
    return [Prompt(prompt_id=f"p{row}", messages=each, cluster="c") for row, each in enumerate(messages)]


@pytest.fixture
def plain(monkeypatch):
    """While it is called, no text is long enough for lines."""

    def call(function, *arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(shared_prompt, "LEAST_TOKENS", 10**6)
            return function(*arguments, **options)

    return call


def ending(model, words):
    """The model, so changed that it ends some of its answers before they are full."""
    with torch.no_grad():
        model.get_output_embeddings().weight[words.eos_token_id] *= 3
    return model


def test_cache_with_room_gives_the_bits_of_transformers_own(words, monkeypatch):
    model, asked = ending(tiny.llama(words), words), tiny.prompts(12)
    sampling = Sampling(max_new_tokens=24, temperature=1.0, top_p=1.0, seed=0)
    found = generation.generate(model, words, asked, sampling)
    assert len({len(each.token_ids) for each in found}) > 2, "rows leave the batch"
    monkeypatch.setattr(caches, "roomy", lambda model, room: DynamicCache(config=model.config))
    assert generation.generate(model, words, asked, sampling) == found


@pytest.mark.parametrize("kind", SHARING)
def test_answers_to_prompts_on_lines_are_those_to_padded_prompts(kind, words, prompts, plain, monkeypatch):
    monkeypatch.setattr(caches, "LINE_TOKENS", 300)
    model = built(kind, words)
    assert generation._on_lines(model, [chat.prompt_ids(words, each.messages) for each in prompts])
    on_lines = generation.generate(model, words, prompts, SAMPLING)
    padded = plain(generation.generate, model, words, prompts, SAMPLING)
    for ours, theirs in zip(on_lines, padded, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert abs(ours.logp_sum_nats - theirs.logp_sum_nats) < EXACT_NATS * len(ours.token_ids)


def test_no_padding_is_computed_where_prompts_are_read(words, prompts, monkeypatch):
    model, met = tiny.llama(words), []
    generation.generate(model, words, prompts, SAMPLING)  # the model is tried before
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: met.append(given[0].numel()))
    generation.generate(model, words, prompts, SAMPLING)
    assert met[0] == sum(len(chat.prompt_ids(words, each.messages)) for each in prompts)


@pytest.mark.parametrize("kind", ["mistral", "bloom"])
def test_model_that_takes_no_lines_reads_padded_prompts_and_keeps_no_states(kind, words, prompts):
    model = built(kind, words)
    assert not generation._on_lines(model, [chat.prompt_ids(words, each.messages) for each in prompts])
    assert generation.drawn(model, words, prompts, SAMPLING).states is None


def test_short_prompts_are_read_as_before_and_keep_no_states(words):
    assert generation.drawn(tiny.llama(words), words, tiny.prompts(4), SAMPLING).states is None


def test_states_are_not_kept_for_nobody(words, prompts):
    model = tiny.llama(words)
    assert generation.drawn(model, words, prompts, SAMPLING).states is not None
    assert generation.drawn(model, words, prompts, SAMPLING, keep_states=False).states is None


def test_head_makes_of_the_states_the_logits_of_the_answers(words, prompts):
    model = ending(tiny.llama(words), words)
    drawn = generation.drawn(model, words, prompts, SAMPLING)
    assert len({len(each.token_ids) for each in drawn.completions}) > 1
    for prompt, answer, states in zip(prompts, drawn.completions, drawn.states, strict=True):
        asked = chat.prompt_ids(words, prompt.messages)
        with torch.no_grad():
            logits = model(torch.tensor([asked + answer.token_ids])).logits[0, len(asked) - 1 : -1]
            assert (model.lm_head(states) - logits).abs().max() < EXACT_NATS


def test_kl_by_states_equals_that_of_both_models_reading_the_answers(words, prompts, plain):
    policy, reference = tiny.llama(words), tiny.llama(words, seed=1)
    drawn = generation.drawn(policy, words, prompts, SAMPLING)
    by_states = divergence.kl_nats(policy, reference, words, prompts, drawn.completions, states=drawn.states)
    read = plain(divergence.kl_nats, policy, reference, words, prompts, drawn.completions)
    assert by_states.kl_nats == pytest.approx(read.kl_nats, abs=1e-4)
    assert by_states.tokens.tolist() == read.tokens.tolist()


def test_model_that_changes_its_logits_after_the_head_keeps_no_states(words, prompts, monkeypatch):
    """As Cohere's models scale theirs."""
    own = shared_prompt.PreTrainedModel.__call__

    def scaled(model, *arguments, **options):
        out = own(model, *arguments, **options)
        if "logits" in out:
            out.logits = out.logits / 2
        return out

    model = tiny.llama(words)
    assert generation.drawn(model, words, prompts, SAMPLING).states is not None
    monkeypatch.setattr(shared_prompt.PreTrainedModel, "__call__", scaled)
    assert generation.drawn(model, words, prompts, SAMPLING).states is None


def test_states_beyond_the_limit_are_not_kept(words, prompts, monkeypatch):
    model = tiny.llama(words)
    needed = len(prompts) * SAMPLING.max_new_tokens * model.config.hidden_size
    monkeypatch.setattr(generation, "KEPT_VALUES", needed)
    assert generation.drawn(model, words, prompts, SAMPLING).states is not None
    monkeypatch.setattr(generation, "KEPT_VALUES", needed - 1)
    assert generation.drawn(model, words, prompts, SAMPLING).states is None
