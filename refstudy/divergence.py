"""How far a trained policy went: KL divergence of policy and reference on answers, over the whole vocabulary.

Invariant: both models read the same tokens, so they must share the tokenizer; the KL between models of different tokenizers is
measured by sequence log-probs instead (`scoring.score_completions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refstudy import chat, scoring
from refstudy.checkpoints import SystemRole
from refstudy.errors import ModelError
from refstudy.measurement import Emit, Measurement, silent
from refstudy.texts import Completion, Prompt, in_place

BATCH_TOKENS = 4096
"""Padded tokens of one forward pass at most: both models' logits of all its answers stand in memory at once."""
VALUES, VALUES_OF_A_GPU = 2**17, 2**26
"""Logits of each model that are reckoned with at once in float64: 1 MiB, which stays in a processor's cache, and half a GiB."""


@dataclass(frozen=True)
class AnswerKl:
    """KL(policy || reference) of each answer, summed over its tokens."""

    prompt_ids: list[str]
    kl_nats: np.ndarray
    """(N,) float64."""
    tokens: np.ndarray


def kl_nats(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    completions: list[Completion],
    system: str | None = None,
    emit: Emit = silent,
    system_role: SystemRole = "keep",
    batch_tokens: int = BATCH_TOKENS,
    states: Sequence[torch.Tensor] | None = None,
) -> AnswerKl:
    """Full-vocabulary KL(policy || reference) in nats summed over each answer's tokens, with the end token if one was drawn.

    On the policy's own samples, drawn at temperature 1 and full support, its mean estimates the sequence KL without the noise of
    log-ratios (the sum over steps of the exact KL of the next token, given a sampled beginning); on others it is the KL along these
    answers. `states`: what the policy's head was given as it drew the answers (`generation.Drawn`); the policy need not read them.
    """
    vocabulary = common_vocabulary(policy, reference, tokenizer)
    asked = [chat.prompt_ids(tokenizer, each.messages, system, system_role) for each in in_place(prompts, completions)]
    turns = [chat.Turn(ids, each.token_ids) for ids, each in zip(asked, completions, strict=True)]
    sums = np.zeros(len(turns))
    done = 0
    readers = (policy, reference) if states is None else (reference,)
    for batch in scoring.batches(turns, batch_tokens, *readers):
        given = None if states is None else torch.cat([states[row] for row in batch.rows])
        sums[batch.rows] = _sums(policy, reference, batch, turns, tokenizer.pad_token_id, vocabulary, given)
        done += len(batch.rows)
        emit(Measurement("divergence", done, len(turns), {}))
    return AnswerKl([each.prompt_id for each in completions], sums, np.array([len(turn.answer_ids) for turn in turns]))


def token_kl_nats(policy_logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(policy) || softmax(reference)) of each row (N, V) -> (N,), in nats: sum over v of p (log p - log q)."""
    policy_logps = policy_logits.double().log_softmax(-1)
    reference_logps = reference_logits.double().log_softmax(-1)
    return policy_logps.exp().mul_(policy_logps.sub_(reference_logps)).sum(-1).clamp(min=0)


def common_vocabulary(policy: PreTrainedModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens both models know: all of the tokenizer's, at least. Sizes of one family are padded differently, with rows
    that stand for no token and are left out; ModelError if a model knows fewer tokens than the tokenizer has."""
    sizes = policy.config.get_text_config().vocab_size, reference.config.get_text_config().vocab_size
    if min(sizes) < len(tokenizer):
        raise ModelError(
            f"full-vocabulary KL needs one tokenizer, got models of {sizes[0]:,} and {sizes[1]:,} tokens for a tokenizer of "
            f"{len(tokenizer):,}; for a reference with another tokenizer use the log-probs of the answers instead"
        )
    return int(min(sizes))


@torch.inference_mode()
def _sums(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    batch: scoring.Batch,
    turns: list[chat.Turn],
    pad_id: int,
    vocabulary: int,
    states: torch.Tensor | None,
) -> list[float]:
    reference_logits, _, counts = scoring.batch_logits(reference, batch, turns, pad_id)
    if states is None:
        policy_logits, _, _ = scoring.batch_logits(policy, batch, turns, pad_id)
    else:
        policy_logits = policy.get_output_embeddings()(states)
    reference_logits = reference_logits.to(policy_logits.device)
    values = VALUES if policy_logits.device.type == "cpu" else VALUES_OF_A_GPU
    both = (logits[:, :vocabulary].split(max(1, values // vocabulary)) for logits in (policy_logits, reference_logits))
    kl = torch.cat([token_kl_nats(*few) for few in zip(*both, strict=True)]).cpu()
    return [float(row.sum()) for row in kl.split(counts)]
