"""Supervised fine-tuning with TRL's SFTTrainer: the loss stands on the tokens of the last answer alone."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from refstudy import chat, models
from refstudy.checkpoints import SystemRole
from refstudy.errors import DataError, ModelError
from refstudy.measurement import Emit
from refstudy.recipes import Training
from refstudy.texts import Message
from refstudy.training import saves, settings
from refstudy.training.progress import Progress
from refstudy.training.saves import Saving


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[Message]],
    *,
    training: Training,
    max_length: int,
    seed: int,
    destination: Path,
    emit: Emit,
    system_role: SystemRole = "keep",
    log_every: int = 10,
    saving: Saving | None = None,
) -> None:
    """Writes the fine-tuned model as an ordinary checkpoint into `destination`, with its training.json.

    A conversation's last message is the answer that is learnt. Rows are cut at `max_length` tokens and counted; a row whose prompt
    leaves no room is left out and counted. A LoRA is merged: what comes out is a whole checkpoint. With `saving`, the same call
    goes on where a process that died had saved.
    """
    begun = time.perf_counter()
    rows = list(_rows(tokenizer, conversations, max_length, system_role))
    if not rows:
        raise DataError(
            f"none of the {len(conversations):,} conversations has a prompt shorter than max_length {max_length}; raise max_length"
        )
    progress = Progress("sft", emit, settings.words(training))
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            **settings.arguments(training, seed, scratch, log_every, len(rows)),
            max_length=None,  # the rows are cut already
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=settings.lora(training.lora),
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        with settings.answers_alone():
            ran = saves.run(trainer, saving, emit, "sft", {"history": progress})
    progress.refuse_stop()
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    models.save(trained.merge_and_unload() if training.lora else trained, tokenizer, destination)
    _write_log(destination, progress, _counts(conversations, rows, tokenizer), time.perf_counter() - begun + ran.before_s)


def _rows(
    tokenizer: PreTrainedTokenizerBase, conversations: list[list[Message]], max_length: int, system_role: SystemRole
) -> Iterator[dict[str, list[int]]]:
    """Input ids with labels on the answer and its end of turn, for the rows whose prompt leaves room for an answer."""
    for number, messages in enumerate(conversations):
        if not messages or messages[-1]["role"] != "assistant":
            raise DataError(f"conversation {number} ends with no assistant's message; expected the answer to learn last")
        try:
            turn = chat.turn(tokenizer, messages[:-1], messages[-1]["content"], complete=True, system_role=system_role)
        except ModelError as error:
            raise ModelError(f"conversation {number}: {error}") from error
        if len(turn.prompt_ids) < max_length:
            ids, labels = turn.prompt_ids + turn.answer_ids, [-100] * len(turn.prompt_ids) + turn.answer_ids
            yield {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def _counts(
    conversations: list[list[Message]], rows: list[dict[str, list[int]]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, int]:
    """How many rows were trained, how many of them without the end of their answer, and how many not at all."""
    end = chat.end_of_turn(tokenizer)[-1]
    return {
        "rows": len(rows),
        "cut": sum(row["labels"][-1] != end for row in rows),
        "left_out": len(conversations) - len(rows),
    }


def _write_log(folder: Path, progress: Progress, counts: dict[str, int], duration_s: float) -> None:
    last = progress.history[-1] if progress.history else {}
    log = {"history": progress.history, "final": {**last, **counts}, "duration_s": duration_s}
    (folder / "training.json").write_text(json.dumps(log, indent=1))
