"""A reward model as judge: a sequence classifier with one output scores each answer in its conversation, once.

Invariant: scores do not depend on what shares a batch, and no text is cut without its score saying how much.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refstudy import chat
from refstudy.errors import JudgeError
from refstudy.judges import Verdict, check_same_prompts, sigmoid
from refstudy.measurement import Emit, Measurement, silent
from refstudy.texts import Completion, Message, Prompt, in_place

Reader = Callable[[PreTrainedTokenizerBase, list[Message], str], list[int]]
"""(tokenizer, conversation, answer) as the token ids that the model reads."""

BATCH_TOKENS = 16384
"""Tokens, padding included, of one forward pass; bounds memory."""


@dataclass(frozen=True)
class Score:
    reward: float
    tokens: int
    """Tokens of conversation and answer by the judge's tokenizer, before any cut."""
    cut_tokens: int
    """Tokens left out at the front of the conversation because the text was too long."""


def judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prompts: Sequence[Prompt],
    candidate: Sequence[Completion],
    baseline: Sequence[Completion],
    emit: Emit = silent,
    *,
    ends_with_turn: bool,
) -> list[Verdict]:
    """A verdict for each prompt: P(candidate wins) = sigmoid(r_candidate - r_baseline), as Bradley and Terry have it."""
    check_same_prompts(prompts, candidate, baseline)
    texts = [answer.text for answer in (*candidate, *baseline)]
    asked = [*in_place(prompts, candidate), *in_place(prompts, baseline)]
    scores = score(model, tokenizer, max_length, asked, texts, emit, ends_with_turn=ends_with_turn)
    return [
        _verdict(prompt, ours, theirs)
        for prompt, ours, theirs in zip(prompts, scores[: len(prompts)], scores[len(prompts) :], strict=True)
    ]


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    emit: Emit = silent,
    *,
    ends_with_turn: bool,
) -> list[Score]:
    """The reward of each text as the answer to its prompt, in order; equal texts are scored once.

    The model reads the conversation as its chat template writes it with the answer as last turn: up to the token that ends the
    turn if `ends_with_turn`, as reward models trained here do, else all of it (ChatML puts a newline there), as published ones do.
    The reward stands at the last token, so this matters. An answer that was cut off is read as if it ended there. Of a text longer
    than `max_length` tokens the front goes, so that the answer stays whole wherever it fits.
    """
    _check_model(model)
    read = _turn_ids if ends_with_turn else _whole_ids
    rows = [_asked(read, tokenizer, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    kept = {row: row[-max_length:] for row in rows}
    rewards: dict[tuple[int, ...], float] = {}
    distinct = sorted(set(kept.values()), key=lambda row: (len(row), row))
    for batch in _batches(distinct):
        rewards.update(zip(batch, _rewards(model, tokenizer, batch), strict=True))
        emit(Measurement("judge", len(rewards), len(distinct), {}))
    return [Score(rewards[kept[row]], len(row), len(row) - len(kept[row])) for row in rows]


def _verdict(prompt: Prompt, candidate: Score, baseline: Score) -> Verdict:
    return Verdict(
        prompt_id=prompt.prompt_id,
        p=sigmoid(candidate.reward - baseline.reward),
        candidate_reward=candidate.reward,
        baseline_reward=baseline.reward,
        candidate_detail=_detail(candidate),
        baseline_detail=_detail(baseline),
    )


def _detail(score: Score) -> dict[str, Any]:
    return {"tokens": score.tokens, "cut_tokens": score.cut_tokens}


def _check_model(model: PreTrainedModel) -> None:
    if model.config.num_labels != 1:
        raise JudgeError(
            f"the judge's model has {model.config.num_labels} outputs; expected a reward model with one "
            "(AutoModelForSequenceClassification with num_labels=1)"
        )


def _asked(read: Reader, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> tuple[int, ...]:
    try:
        return tuple(read(tokenizer, prompt.messages, text))
    except Exception as error:  # templates raise jinja's own errors and whatever their `raise_exception` says
        raise JudgeError(f"prompt {prompt.prompt_id}: the judge's chat template refuses the conversation ({error})") from error


def _turn_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str) -> list[int]:
    turn = chat.turn(tokenizer, messages, text, complete=True)
    return turn.prompt_ids + turn.answer_ids


def _whole_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str) -> list[int]:
    """The template writes all special tokens, so the tokenizer adds none of its own."""
    rendered = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _batches(rows: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Rows of similar length together, at most BATCH_TOKENS with padding (one row at least); `rows` come sorted by length."""
    batches: list[list[tuple[int, ...]]] = []
    for row in rows:
        if batches and (len(batches[-1]) + 1) * len(row) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


@torch.inference_mode()
def _rewards(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[tuple[int, ...]]) -> list[float]:
    """The classifier's output at the last token of each row (padding stands on the right)."""
    padded = tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="right", return_tensors="pt")
    logits = model(**padded.to(model.device)).logits[:, 0].float().tolist()
    if not all(math.isfinite(reward) for reward in logits):
        raise JudgeError("the reward model gave a reward that is no finite number; expected finite ones: check its training")
    return logits
