"""Settings that every training here shares, as arguments of TRL's configurations.

Invariant: a run depends on data, settings and seed alone. Order, dropout and new weights come from one seed; nothing is logged,
saved or sent anywhere by the trainer itself.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import huggingface_hub.constants
import trl.trainer.utils
from peft import LoraConfig

from refstudy.errors import TrainingError
from refstudy.models import best_device
from refstudy.recipes import Lora, Training

# TRL reports each trainer's start to the hub; a sweep of hundreds of cells on machines without network should not try.
huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True


def arguments(train: Training, seed: int, folder: str, log_every: int, rows: int, workers: int = 1) -> dict[str, Any]:
    """Keyword arguments for SFTConfig, RewardConfig and DPOConfig; a short run over few `rows` logs at least at its end."""
    micro = micro_batch(train, workers)
    steps = math.ceil(math.ceil(rows / train.batch_size) * train.epochs)
    return {
        "output_dir": folder,
        "num_train_epochs": train.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": train.batch_size // micro,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.schedule,
        "warmup_steps": train.warmup_share,
        "max_grad_norm": train.clip,
        "weight_decay": train.weight_decay,
        "bf16": train.precision == "bf16",
        "use_cpu": best_device() == "cpu",
        "activation_checkpointing": train.checkpointing,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": max(1, min(log_every, steps)),
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def micro_batch(train: Training, workers: int = 1) -> int:
    """Rows of one forward pass of all workers; they must divide the batch, so that every optimizer step averages over the same
    rows."""
    micro = train.micro_batch * workers or train.batch_size
    if train.batch_size % micro:
        each = f" on each of {workers} workers" if workers > 1 else ""
        raise TrainingError(
            f"train.micro_batch is {train.micro_batch}{each}; expected a divisor of the batch of {train.batch_size} rows"
        )
    return micro


def lora(settings: Lora | None) -> LoraConfig | None:
    """peft's configuration of the adapter to train; None: all weights are trained."""
    if settings is None:
        return None
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only divides by the rank; halves are as good as whole numbers
        lora_dropout=settings.dropout,
        target_modules=settings.target if settings.target == "all-linear" else settings.target.split(","),
        task_type="CAUSAL_LM",
    )


def words(train: Training, **others: float) -> str:
    """The settings that a failure is usually about, for error messages."""
    named = {**others, "learning rate": train.learning_rate}
    return ", ".join(f"{name} {value:g}" for name, value in named.items())


def answers_alone() -> AbstractContextManager[None]:
    """Lets TRL's fused head skip prompt and padding on the CPU too, as it does where it has Triton.

    The loss is the same; a step of a small model takes 13 % less time, and with a large vocabulary much less. The kernels keep
    their own check for Triton.
    """
    return replaced(trl.trainer.utils, "_use_triton", lambda device: True)


@contextmanager
def replaced(module: Any, name: str, stand_in: Any) -> Iterator[None]:
    """Puts `stand_in` in the place of a private name of a pinned library while the context lasts."""
    own = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, own)
