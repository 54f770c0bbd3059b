"""Models made on this machine from the text of preference pairs: tokenizer, architecture, pretraining.

Invariant: what is written is an ordinary Hugging Face checkpoint, and the recipe and the pairs alone decide it (on one kind of
machine). The text is that of the pairs given, which are those of the training part: nothing held out is ever read.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from refstudy import models
from refstudy.errors import TrainingError
from refstudy.measurement import Emit, Measurement
from refstudy.recipes import Scratch
from refstudy.texts import Message, Pair

PAD, END = "<|pad|>", "<|end|>"
SPEAKERS = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}"
)
"""Every turn opens with its speaker, is written as it is, and ends with one end token."""

LOG_EVERY = 10
WARMUP_SHARE = 0.1
FINAL_SHARE = 0.1
"""The cosine schedule ends at this share of the learning rate."""


def pretrain(recipe: Scratch, pairs: Sequence[Pair], destination: Path, emit: Emit) -> None:
    """Writes the checkpoint of `recipe` into `destination`, with training.json; `pairs` are those of `recipe.text`.

    A model pretrained on the conversations with both answers, in chat format, packed into rows of `recipe.context` tokens.
    """
    begun = time.perf_counter()
    conversations = list(_conversations(pairs))
    words = train_tokenizer(conversations, recipe.vocabulary, recipe.context)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model: Any = architecture(recipe, words)
    randomness = np.random.default_rng(recipe.seed)
    stream = _stream(words, conversations, recipe.context, randomness)
    history = _train(model.to(models.best_device()), stream, recipe, randomness, emit)
    models.save(model, words, destination)
    final = {**history[-1], "vocabulary": len(words), "parameters": model.num_parameters(), "text_tokens": len(stream)}
    report = {"history": history, "final": final, "duration_s": time.perf_counter() - begun}
    (destination / "training.json").write_text(json.dumps(report, indent=1))


def tokenizer(recipe: Scratch, pairs: Sequence[Pair]) -> PreTrainedTokenizerBase:
    """The tokenizer that the checkpoint of `recipe` has, or will have; `pairs` are those of `recipe.text`."""
    return train_tokenizer(list(_conversations(pairs)), recipe.vocabulary, recipe.context)


def train_tokenizer(conversations: Sequence[list[Message]], vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of at most `vocabulary` entries with the chat template; it loses no character of any text."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *SPEAKERS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (message["content"] for messages in conversations for message in messages)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPEAKERS),
        chat_template=TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _conversations(pairs: Sequence[Pair]) -> Iterator[list[Message]]:
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            yield [*pair.messages, {"role": "assistant", "content": answer}]


def architecture(recipe: Scratch, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The untrained model; weights are drawn from torch's global generator."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden,
        "intermediate_size": 4 * recipe.hidden,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    match recipe.architecture:
        case "llama":
            return LlamaForCausalLM(LlamaConfig(num_key_value_heads=recipe.heads, **shape))
        case "neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(**shape))


def _stream(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[Message]], context: int, randomness: np.random.Generator
) -> np.ndarray:
    """The tokens of all conversations one after another in a drawn order; repeated where they are fewer than one row."""
    rendered = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
    order = randomness.permutation(len(rendered))
    documents = tokenizer([rendered[index] for index in order], add_special_tokens=False, verbose=False)["input_ids"]
    stream = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents])
    return np.tile(stream, math.ceil((context + 1) / len(stream)))


def _train(
    model: PreTrainedModel, stream: np.ndarray, recipe: Scratch, randomness: np.random.Generator, emit: Emit
) -> list[dict[str, float]]:
    """Next-token training on rows drawn from the stream; what was measured every LOG_EVERY steps and at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, recipe.steps))
    history: list[dict[str, float]] = []
    losses: list[float] = []
    model.train()
    for step in range(1, recipe.steps + 1):
        losses.append(_step(model, optimizer, _rows(stream, recipe, randomness)))
        schedule.step()
        if step % LOG_EVERY == 0 or step == recipe.steps:
            history.append(
                {"step": step, "loss": _mean_loss(losses, step, recipe), "learning_rate": float(schedule.get_last_lr()[0])}
            )
            losses.clear()
            _report(history[-1], recipe, emit)
    model.eval()
    return history


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the full learning rate after `step` steps: linear warm-up, then a cosine down to FINAL_SHARE."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def _rows(stream: np.ndarray, recipe: Scratch, randomness: np.random.Generator) -> torch.Tensor:
    """(batch, context) token ids: stretches of the stream that begin anywhere."""
    starts = randomness.integers(0, len(stream) - recipe.context + 1, size=recipe.batch_size)
    return torch.from_numpy(np.stack([stream[start : start + recipe.context] for start in starts]))


def _step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, rows: torch.Tensor) -> float:
    rows = rows.to(model.device)
    loss = model(input_ids=rows, labels=rows).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _mean_loss(losses: list[float], step: int, recipe: Scratch) -> float:
    mean = sum(losses) / len(losses)
    if not math.isfinite(mean):
        raise TrainingError(
            f"the pretraining loss is {mean} by step {step} of {recipe.steps} (learning rate {recipe.learning_rate:g}); "
            "expected a finite number: lower the entry's learning_rate"
        )
    return mean


def _report(measured: dict[str, float], recipe: Scratch, emit: Emit) -> None:
    """Tells how far it is. A model stopped half way would be another model under the same name: nothing is kept of it."""
    values = {name: value for name, value in measured.items() if name != "step"}
    stop = emit(Measurement("pretrain", int(measured["step"]), recipe.steps, values))
    if stop is not None:
        raise TrainingError(f"pretraining was stopped at step {int(measured['step'])} of {recipe.steps}: {stop.reason}")
