"""Recipes of models: checkpoints that exist, and models that are made, by pretraining, SFT, DPO or as reward models.

Invariant: a checkpoint from elsewhere is named by its content or revision, one made here by all that it is made from.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from refstudy.identity import added_later, execution_only
from refstudy.recipes.texts import Conversations, Demonstrations, Preferences
from refstudy.recipes.values import DEVICE_MAP_REASON, PATH_REASON, WORLD_VERSION, Training

if TYPE_CHECKING:
    from refstudy.recipes import Model
    from refstudy.recipes.along import Along
    from refstudy.recipes.references import Table


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A checkpoint on the Hugging Face hub."""

    RESULT_VERSION: ClassVar[int] = 1
    model: str
    revision: str | None
    template: str | None = None
    """Jinja chat template that takes the place of the checkpoint's own."""
    system_role: Literal["keep", "merge"] = "keep"
    """keep: a system message goes through the template; merge: it is put in front of the first user message."""
    device_map: Literal["auto"] | None = execution_only(DEVICE_MAP_REASON, default=None)


@dataclass(frozen=True, kw_only=True)
class Local:
    """A checkpoint in a folder of this machine, by the hash of its files."""

    RESULT_VERSION: ClassVar[int] = 1
    content: str
    template: str | None = None
    system_role: Literal["keep", "merge"] = "keep"
    path: str = execution_only(PATH_REASON)
    device_map: Literal["auto"] | None = execution_only(DEVICE_MAP_REASON, default=None)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A peft adapter on a base model."""

    RESULT_VERSION: ClassVar[int] = 1
    base: "Model"
    adapter: Hub | Local


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A model whose weights are rounded as it is loaded to score and to answer; a model that is not rounded is in fp32."""

    RESULT_VERSION: ClassVar[int] = 1
    model: "Model"
    precision: Literal["fp32", "bf16"]
    """What weights are held in (those that are not quantised), and what is computed in."""
    quantise: Literal["int8", "nf4"] | None
    """bitsandbytes' 8-bit or 4-bit weights; None: not quantised."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A language model of the miniature, pretrained on its own corpus of the world, with its family's tokenizer."""

    RESULT_VERSION: ClassVar[int] = WORLD_VERSION
    world: int
    family: Literal["north", "south"]
    size: Literal["small", "large"]
    north_share: float
    """Share of the corpus in north's style: the distance dial of south, 1.0 for north."""
    false_share: float
    """Share of the corpus' documents that repeat an entity's misconceptions."""
    corpus: int


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """A language model made on this machine from the text of preference pairs: tokenizer, architecture, pretraining."""

    RESULT_VERSION: ClassVar[int] = 1
    text: Preferences
    architecture: Literal["llama", "neox"]
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    steps: int
    batch_size: int
    learning_rate: float
    context: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Sft:
    """A model fine-tuned on demonstrations (TRL's SFTTrainer, loss on the answers)."""

    RESULT_VERSION: ClassVar[int] = 1
    start: "Model"
    data: "Demonstrations | Conversations | Preferences"
    train: Training
    max_length: int
    seed: int
    template: str | None = None
    """Chat template given to a base model that has none."""


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """A reward model trained on preference pairs (TRL's RewardTrainer)."""

    RESULT_VERSION: ClassVar[int] = 1
    start: "Model"
    pairs: Preferences
    train: Training
    max_length: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Dpo:
    """A policy trained with DPO against a reference table."""

    RESULT_VERSION: ClassVar[int] = 1
    start: "Model"
    table: "Table"
    validation: "Table | None"
    """The same reference over validation pairs; None: no validation loss."""
    beta: float
    seed: int
    train: Training
    checkpoint: Literal["last", "lowest_validation_loss", "best_judged"] = added_later("last")
    """Which of the policies along training this is."""
    checkpoint_every: int = added_later(0)
    """For lowest_validation_loss: optimizer steps from one checkpoint to the next; 0: a tenth of the run. The last step is one."""
    along: "Along | None" = added_later(None)  # a field, not a value
    """The evaluations that choose the checkpoint (best_judged) or raise `alarms`; None: nothing rests on any."""
    alarms: tuple[str, ...] = added_later(())
    """Limits on measures of `along`, in their own words and sorted: past any of them training ends."""
