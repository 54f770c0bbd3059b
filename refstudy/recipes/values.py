"""Plain values inside recipes: data sources, sampling and training settings. They have no id of their own.

Invariant: as in recipes, only what changes a result stands here, or is marked `execution_only` with the reason.
"""

from dataclasses import dataclass
from typing import Literal

from refstudy.identity import execution_only

WORLD_VERSION = 2
"""Version of the miniature world; it rises whenever anything that makes it changes, from words and corpora to pretraining."""

PATH_REASON = "where the bytes lie on this machine; `content` names them"
DEVICE_MAP_REASON = "where the layers lie; the same sums up to rounding"
MEMORY_REASON = "rows computed at once; the sum over a batch is the same up to rounding"


@dataclass(frozen=True, kw_only=True)
class File:
    """A data file by its content."""

    content: str
    """sha256 of the bytes."""
    path: str = execution_only(PATH_REASON)


@dataclass(frozen=True, kw_only=True)
class HubData:
    """A dataset on the Hugging Face hub, by revision; or a local folder of the same layout, by its content."""

    dataset: str
    """Name on the hub; "local": a folder of this machine."""
    revision: str | None
    """Commit or tag; of a folder the sha256 of its files."""
    config: str | None
    split: str
    file: str | None = None
    """One file of the repository, read in place of its configs and splits; None: the dataset as its card declares it."""
    path: str = execution_only("where the folder lies on this machine; `revision` names its content", default="")
    """The local folder; empty: the dataset is on the hub."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn from a model."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    draw: int = 0
    """Which independent draw: 0 for candidates, 1 for baseline answers, 2 and more for preference candidates."""
    system: str | None = None
    """System prompt put before every conversation; None: none."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    rank: int
    alpha: float
    dropout: float
    target: str
    """peft's `target_modules`, e.g. "all-linear"."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimisation settings shared by SFT, reward model and DPO training (AdamW, gradient clipping)."""

    epochs: float
    batch_size: int
    """Rows (pairs for DPO and reward models) in one optimizer step."""
    learning_rate: float
    schedule: str
    """transformers' `lr_scheduler_type`."""
    warmup_share: float
    clip: float
    weight_decay: float
    precision: Literal["fp32", "bf16"]
    lora: Lora | None = None
    micro_batch: int = execution_only(MEMORY_REASON, default=0)
    """Rows of one forward pass; 0: the whole batch."""
    checkpointing: bool = execution_only("recomputes activations to save memory; the same gradient", default=False)
