import math

import numpy as np
import pytest
import torch

from refstudy import chat, divergence, generation, scoring
from refstudy.errors import ModelError
from refstudy.recipes import Sampling
from tests import tiny


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def samples(words):
    policy, prompts = tiny.llama(words), tiny.prompts(6)
    sampling = Sampling(max_new_tokens=10, temperature=1.0, top_p=1.0, seed=0)
    return policy, prompts, generation.generate(policy, words, prompts, sampling)


def test_kl_of_two_tokens_equals_the_hand_worked_value():
    """p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812 nats."""
    logits = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    assert divergence.token_kl_nats(*logits).item() == pytest.approx(0.130812, abs=1e-6)
    assert divergence.token_kl_nats(*logits).item() == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))


def test_kl_of_a_model_with_itself_is_zero(words, samples):
    policy, prompts, completions = samples
    found = divergence.kl_nats(policy, policy, words, prompts, completions)
    assert np.abs(found.kl_nats).max() < 1e-9
    assert found.tokens.tolist() == [len(each.token_ids) for each in completions]


def test_kl_of_each_answer_sums_its_tokens_as_one_by_one(words, samples):
    policy, prompts, completions = samples
    reference = tiny.llama(words, seed=1)
    together = divergence.kl_nats(policy, reference, words, prompts, completions)
    alone = divergence.kl_nats(policy, reference, words, prompts[::-1], completions[::-1], batch_tokens=1)
    assert together.kl_nats == pytest.approx(alone.kl_nats[::-1], abs=1e-4)
    assert together.kl_nats.min() > 0


def test_kl_does_not_depend_on_how_many_logits_are_reckoned_with_at_once(words, samples, monkeypatch):
    policy, prompts, completions = samples
    reference = tiny.llama(words, seed=1)
    whole, called, own = divergence.kl_nats(policy, reference, words, prompts, completions), [], divergence.token_kl_nats
    monkeypatch.setattr(divergence, "VALUES", 3 * len(words))
    monkeypatch.setattr(divergence, "token_kl_nats", lambda *few: called.append(len(few[0])) or own(*few))
    assert divergence.kl_nats(policy, reference, words, prompts, completions).kl_nats.tolist() == whole.kl_nats.tolist()
    assert max(called) == 3
    assert sum(called) == sum(len(each.token_ids) for each in completions)


def test_mean_log_ratio_of_many_samples_comes_near_the_kl(words):
    """E[log p - log q] over the policy's samples is the KL; the full-vocabulary sum has the same mean with less noise."""
    policy, reference, prompts = tiny.llama(words), tiny.llama(words, seed=1), tiny.prompts(200)
    completions = generation.generate(policy, words, prompts, Sampling(max_new_tokens=3, temperature=1.0, top_p=1.0, seed=0))
    found = divergence.kl_nats(policy, reference, words, prompts, completions).kl_nats
    ratios = [each.logp_sum_nats for each in completions] - _scored(reference, words, prompts, completions)
    error = np.std(ratios, ddof=1) / math.sqrt(len(ratios))
    assert abs(np.mean(ratios) - found.mean()) < 4 * error


def test_padding_rows_of_a_larger_vocabulary_are_left_out(words, samples):
    """A copy with rows added for no token says the same about every token."""
    policy, prompts, completions = samples
    padded = tiny.llama(words, seed=1)
    expected = divergence.kl_nats(policy, padded, words, prompts, completions).kl_nats
    padded.resize_token_embeddings(len(words) + 13)
    assert divergence.kl_nats(policy, padded, words, prompts, completions).kl_nats == pytest.approx(expected, abs=1e-6)


def test_models_of_different_vocabularies_are_refused(words, samples):
    other = tiny.tokenizer(vocabulary=300)
    with pytest.raises(ModelError, match=f"one tokenizer, got models of {len(words)} and 300"):
        divergence.kl_nats(samples[0], tiny.llama(other), words, *samples[1:])


def _scored(model, words, prompts, completions):
    asked = [chat.prompt_ids(words, prompt.messages) for prompt in prompts]
    turns = [chat.Turn(ids, each.token_ids) for ids, each in zip(asked, completions, strict=True)]
    return scoring.sums(scoring.answer_logps(model, turns, words.pad_token_id))
