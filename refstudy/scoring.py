"""Log-probs of given text by a model: how any model becomes a reference.

Invariant: sums are float64 over float32 log-softmax, whatever precision the model computes in. In fp32 they do not depend on what
shares a batch; in every precision they do not depend on how many workers share the pass.
"""

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refstudy import chat, models, partial_scores, passes, shared_prompt
from refstudy.checkpoints import SystemRole
from refstudy.errors import ModelError
from refstudy.measurement import Emit, Measurement, silent
from refstudy.partial_scores import Kept, Together
from refstudy.passes import WHOLE, Shard, Text
from refstudy.tables import CompletionTable, PairTable
from refstudy.texts import Completion, Prompt, in_place
from refstudy.token_pairs import TokenPair

BATCH_TOKENS = 16_384
"""Padded tokens of one forward pass at most."""
LINE_TOKENS = 4096
"""Tokens of one forward pass on lines at most: as fast as more, and in less memory."""
LOGIT_VALUES = 2**28
"""Logits held at once at most (1 GiB in fp32); a large vocabulary makes batches smaller."""


@dataclass(frozen=True)
class Scored:
    """A finished table with what is worth knowing about its making."""

    table: PairTable
    summary: dict[str, Any]


def score_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[TokenPair],
    emit: Emit = silent,
    system_role: SystemRole = "keep",
    batch_tokens: int | None = None,
) -> Scored:
    """The model's table over the pairs, rows in the order of `pairs`; per token where all its tokens are the policy's."""
    begun = time.perf_counter()
    texts = passes.pair_texts(tokenizer, pairs, system_role)
    with partial_scores.kept(None, texts) as kept:
        score_missing(model, tokenizer, texts, kept, emit, batch_tokens=batch_tokens)
    table = passes.pair_table(pairs, texts, kept.of(texts))
    return Scored(table, {"tokens_scored": passes.token_count(texts), "duration_s": time.perf_counter() - begun})


def score_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    completions: list[Completion],
    system: str | None = None,
    emit: Emit = silent,
    system_role: SystemRole = "keep",
    as_drawn: bool = False,
    batch_tokens: int | None = None,
) -> CompletionTable:
    """log p(answer | prompt) of each completion by the model, as `passes.completion_texts` has them."""
    texts = passes.completion_texts(tokenizer, prompts, completions, system, system_role, as_drawn)
    with partial_scores.kept(None, texts) as kept:
        score_missing(model, tokenizer, texts, kept, emit, batch_tokens=batch_tokens)
    return passes.completion_table(completions, texts, kept.of(texts))


def score_missing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    kept: Kept | Together,
    emit: Emit = silent,
    shard: Shard = WHOLE,
    batch_tokens: int | None = None,
) -> None:
    """Adds to `kept` the scores of the shard's texts that it lacks; each batch is kept before the next is begun.

    Batches are those of the whole pass, however many share it and however often it was cut off, so that rounding, which depends on
    what shares a batch, is the same; a batch that was cut off is scored again. ModelError names the text that cannot be scored.
    """
    turns, keys = [text.turn for text in texts], [partial_scores.key(text.turn) for text in texts]
    _check_fit(model, texts)
    with _evaluating(model):
        own = batches(turns, batch_tokens or BATCH_TOKENS, model)[shard.number :: shard.of]
        done, total = 0, sum(len(batch.rows) for batch in own)
        for batch in own:
            rows = batch.rows
            done += len(rows)
            if all(keys[row] in kept.logps for row in rows):
                continue
            logps = _batch_logps(model, batch, turns, tokenizer.pad_token_id)
            unsound = [row for row, each in zip(rows, logps, strict=True) if not partial_scores.is_sound(each)]
            for row, each in zip(rows, logps, strict=True):
                if row not in unsound:
                    kept.add(keys[row], each)
            if unsound:
                raise _overflow(model, texts[unsound[0]], logps[rows.index(unsound[0])])
            emit(Measurement("score", done, total, {}))


def answer_logps(
    model: PreTrainedModel, turns: list[chat.Turn], pad_id: int, emit: Emit = silent, batch_tokens: int | None = None
) -> list[np.ndarray]:
    """log p of each answer's tokens given the prompt and the tokens before, float32 nats, in the order of `turns`."""
    _check_fit(model, [Text(f"text {number}", turn) for number, turn in enumerate(turns, 1)])
    found: dict[int, np.ndarray] = {}
    with _evaluating(model):
        for batch in batches(turns, batch_tokens or BATCH_TOKENS, model):
            found |= dict(zip(batch.rows, _batch_logps(model, batch, turns, pad_id), strict=True))
            emit(Measurement("score", len(found), len(turns), {}))
    return [found[row] for row in range(len(turns))]


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass: padded side by side, or in families that read their prompt once."""

    rows: list[int]
    families: list[tuple[int, ...]] | None = None


def batches(turns: list[chat.Turn], batch_tokens: int, *by: PreTrainedModel) -> list[Batch]:
    """The batches of a pass `by` these models: lines where that pays and all of them can, else rows of like length."""
    vocabulary = min(_vocabulary(model) for model in by)
    together = shared_prompt.couples(turns)
    if is_long(turns) and not any(shared_prompt.obstacle(model, turns, together) for model in by):
        most = min(batch_tokens, LINE_TOKENS)
        found = family_batches(turns, shared_prompt.families(turns, most), most, vocabulary)
        return [Batch([row for rows in each for row in rows], each) for each in found]
    return [Batch(rows) for rows in length_batches(turns, batch_tokens, vocabulary)]


def is_long(turns: Sequence[chat.Turn]) -> bool:
    """Whether these texts are long enough to be laid into lines, if the model takes them."""
    return shared_prompt.pays(turns, shared_prompt.couples(turns))


@torch.inference_mode()
def _batch_logps(model: PreTrainedModel, batch: Batch, turns: list[chat.Turn], pad_id: int) -> list[np.ndarray]:
    logits, targets, counts = batch_logits(model, batch, turns, pad_id)
    logps = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu().numpy()
    return np.split(logps, np.cumsum(counts)[:-1])


def batch_logits(
    model: PreTrainedModel, batch: Batch, turns: list[chat.Turn], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """`answer_logits` of the batch's rows, in their order there."""
    if batch.families is None:
        return answer_logits(model, [turns[row] for row in batch.rows], pad_id)
    return shared_prompt.answer_logits(model, [[turns[row] for row in rows] for rows in batch.families])


def answer_logits(model: PreTrainedModel, turns: list[chat.Turn], pad_id: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """(logits (sum of counts, V) at the answers' positions alone, the tokens that stand there, answer tokens of each row).

    Rows are padded on the right. Logits are made from the first answer position of any row on, never for the whole batch.
    """
    width = max(len(turn.prompt_ids) + len(turn.answer_ids) for turn in turns)
    first = min(len(turn.prompt_ids) for turn in turns) - 1
    ids = torch.full((len(turns), width), pad_id)
    mask, wanted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, turn in enumerate(turns):
        whole = turn.prompt_ids + turn.answer_ids
        ids[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
        wanted[row, len(turn.prompt_ids) : len(whole)] = True
    device = models.input_device(model)
    ids, mask, wanted = ids.to(device), mask.to(device), wanted.to(device)
    keep = {}
    if "logits_to_keep" in inspect.signature(type(model).forward).parameters:
        keep = {"logits_to_keep": torch.arange(first, width - 1, device=device)}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits.to(device)
    here = logits if keep else logits[:, first : width - 1]
    return here[wanted[:, first + 1 :]], ids[wanted], [len(turn.answer_ids) for turn in turns]


def length_batches(turns: list[chat.Turn], batch_tokens: int, vocabulary: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length under the budgets of tokens and logits, longest first."""
    lengths = [len(turn.prompt_ids) + len(turn.answer_ids) for turn in turns]
    budget = max(1, min(batch_tokens, LOGIT_VALUES // vocabulary))
    batch: list[int] = []
    for row in sorted(range(len(turns)), key=lambda each: -lengths[each]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def family_batches(
    turns: list[chat.Turn], together: list[tuple[int, ...]], batch_tokens: int, vocabulary: int
) -> Iterator[list[tuple[int, ...]]]:
    """Families in batches under the budgets of tokens, each prompt counted once, and of logits at the answers; longest first."""
    tokens = {rows: shared_prompt.line_tokens(turns, rows) for rows in together}
    batch: list[tuple[int, ...]] = []
    held = logits = 0
    for rows in sorted(together, key=lambda each: -tokens[each]):
        answers = tokens[rows] - len(turns[rows[0]].prompt_ids)
        if batch and (held + tokens[rows] > batch_tokens or logits + answers > LOGIT_VALUES // vocabulary):
            yield batch
            batch, held, logits = [], 0, 0
        batch.append(rows)
        held, logits = held + tokens[rows], logits + answers
    if batch:
        yield batch


def retokenised_share(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    completions: list[Completion],
    system: str | None = None,
    system_role: SystemRole = "keep",
) -> float:
    """Share of the completions whose tokens, as drawn with `tokenizer`, are not those that it would give their text.

    Of these the log-prob as drawn is that of one of several ways to write the text.
    """
    other = 0
    for each, prompt in zip(completions, in_place(prompts, completions), strict=True):
        turn = chat.turn(tokenizer, prompt.messages, each.text, each.terminated, system, system_role, exact=False)
        other += turn.answer_ids != each.token_ids
    return other / len(completions) if completions else 0.0


sums = passes.sums


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check_fit(model: PreTrainedModel, texts: Sequence[Text]) -> None:
    """ModelError for a text that is longer than the model's context, or that has tokens which the model does not know."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = _vocabulary(model)
    for text in texts:
        ids = text.turn.prompt_ids + text.turn.answer_ids
        if context is not None and len(ids) > context:
            raise ModelError(
                f"{text.name} has {len(ids)} tokens in the tokenizer of {_name(model)}, more than its context of {context}; lower "
                "train.max_length, or use a reference with a longer context"
            )
        if max(ids) >= known:
            raise ModelError(
                f"{text.name} has the token {max(ids)}, and {_name(model)} knows {known:,} tokens, up to {known - 1}; expected the "
                "tokenizer that the model was trained with: save that one beside its weights"
            )


def _overflow(model: PreTrainedModel, text: Text, logps: np.ndarray) -> ModelError:
    wrong = logps[~np.isfinite(logps)]
    return ModelError(
        f"{text.name}: {_name(model)} gives {len(wrong)} of {len(logps)} tokens no finite log-prob (first: {wrong[0]}); expected "
        "nats of at most 0: look for damaged weights, or for overflow: score with `precision: fp32`. What is scored is kept"
    )


def _name(model: PreTrainedModel) -> str:
    return f"checkpoint {model.name_or_path!r}" if model.name_or_path else "this model"


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)
