"""Recipes of texts: prompts, preference pairs, demonstrations and conversations.

Invariant: as in all recipes, only what changes the result stands here, or is marked `execution_only` with the reason.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from refstudy.recipes.values import WORLD_VERSION, File, HubData

if TYPE_CHECKING:
    from refstudy.recipes.verdicts import Completions


@dataclass(frozen=True, kw_only=True)
class MiniaturePrompts:
    """Prompts of the miniature world."""

    RESULT_VERSION: ClassVar[int] = WORLD_VERSION
    world: int
    part: Literal["evaluation", "policy", "neutral"]
    """evaluation, or the prompts whose candidate answers the policy or the neutral model writes."""
    count: int
    """Evaluation prompts, or pairs of which this part answers its share of the slots."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class MiniaturePairs:
    """Preference pairs of the miniature world: two candidates for each prompt, chosen by the noisy annotator."""

    RESULT_VERSION: ClassVar[int] = WORLD_VERSION
    world: int
    annotator: Literal["human", "flat"]
    count: int
    seed: int
    candidates: "tuple[Completions, Completions]"
    """Answers of the policy and of the neutral model, for the prompts of the same seed and count."""


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Prompts with answers for SFT on the miniature world, in one family's manner."""

    RESULT_VERSION: ClassVar[int] = WORLD_VERSION
    world: int
    family: Literal["north", "south"]
    size: Literal["small", "large"]
    """Whose demonstrations: models of two sizes see different ones."""
    north_share: float
    false_share: float
    statements: Literal["all", "few", "many"]
    """How many statements the demonstrations have: 1 to 6, 1 to 4 or 3 to 6."""
    corpus: int
    """Which independent draw of the corpus."""


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Preference pairs of a file or a hub dataset in TRL's format, split by conversation."""

    RESULT_VERSION: ClassVar[int] = 1
    source: File | HubData
    part: Literal["train", "validation", "evaluation"]
    evaluation: int
    """Rows held out of training for evaluation, by whole conversations; 0: none. `validation`: likewise, for validation loss."""
    validation: int
    limit: int | None
    """At most so many rows of this part; None: all."""
    unusable: Literal["refuse", "drop"]
    """Rows with an empty answer or two equal ones: refuse the file, or leave them out and list them in the summary."""
    without: tuple[str, ...] = ()
    """Rows that hold one of these strings are unusable too: text that some tokenizer of the sweep takes for a special token."""
    unicode: Literal["keep", "nfc"] = "keep"
    """nfc: every text in Unicode's composed form, for tokenizers (Qwen's) that read no other."""
    white_space: Literal["keep", "strip"] = "keep"
    """strip: none around turns and answers, for chat templates (Llama 3's) that write none there."""


@dataclass(frozen=True, kw_only=True)
class HeldOutPrompts:
    """The prompts of preference pairs, the chosen answer kept beside each."""

    RESULT_VERSION: ClassVar[int] = 1
    pairs: Preferences
    count: int | None


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts of a file or a hub dataset: a `prompt`, `messages` or `instruction` column."""

    RESULT_VERSION: ClassVar[int] = 1
    source: File | HubData
    count: int | None


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Conversations for SFT of a file or a hub dataset: `messages`, or `prompt` with `completion`."""

    RESULT_VERSION: ClassVar[int] = 1
    source: File | HubData
    limit: int | None
    unusable: Literal["refuse", "drop"] = "refuse"
    """Rows without an answer: refuse the file, or leave them out and list them in the summary."""
