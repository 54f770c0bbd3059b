"""Reward models with TRL's RewardTrainer: a causal checkpoint with one number on top of its last token."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import RewardConfig, RewardTrainer

from refstudy import models, token_pairs
from refstudy.checkpoints import Checkpoint
from refstudy.measurement import Emit
from refstudy.recipes import Training
from refstudy.texts import Pair
from refstudy.training import saves, settings
from refstudy.training.progress import Progress
from refstudy.training.saves import Saving


def train(
    checkpoint: Checkpoint,
    pairs: list[Pair],
    *,
    training: Training,
    max_length: int,
    seed: int,
    destination: Path,
    emit: Emit,
    drop_long: bool = False,
    log_every: int = 10,
    saving: Saving | None = None,
) -> None:
    """Writes a reward model started from the causal `checkpoint` into `destination`, with its training.json.

    `drop_long`: pairs whose prompt leaves no room for an answer are left out and listed, instead of refused.
    Its loss is the mean of -log sigmoid(r(chosen) - r(rejected)) (Bradley-Terry). Pairs are cut as policies' are.
    """
    begun = time.perf_counter()
    torch.manual_seed(seed)  # the new head is drawn from torch's global generator
    model, tokenizer = models.load_reward_model(checkpoint, new_head=True)
    dropped: list[str] = []
    rows = _rows(pairs, tokenizer, max_length, checkpoint, dropped.append if drop_long else None)
    progress = Progress("reward_model", emit, settings.words(training))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**settings.arguments(training, seed, scratch, log_every, len(rows)), max_length=None),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        ran = saves.run(trainer, saving, emit, "reward_model", {"history": progress})
    progress.refuse_stop()
    models.save(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False), tokenizer, destination)
    summary = {
        "history": progress.history,
        "final": {**(progress.history[-1] if progress.history else {}), "pairs": len(rows)},
        "dropped": dropped,
        "duration_s": time.perf_counter() - begun + ran.before_s,
    }
    (destination / "training.json").write_text(json.dumps(summary, indent=1))


def _rows(
    pairs: list[Pair],
    tokenizer: models.PreTrainedTokenizerBase,
    max_length: int,
    checkpoint: Checkpoint,
    drop: Callable[[str], None] | None,
) -> Dataset:
    cut = token_pairs.tokenise(pairs, tokenizer, max_length, system_role=checkpoint.system_role, drop=drop)
    return Dataset.from_dict(
        {
            "chosen_ids": [pair.prompt_ids + pair.chosen_ids for pair in cut],
            "rejected_ids": [pair.prompt_ids + pair.rejected_ids for pair in cut],
        }
    )
