"""Recipes of short evaluations along training: their prompts, what they compare with, and the curves that they give.

Invariant: an evaluation along training only measures. It stands in a policy's own recipe where something rests on it: a checkpoint
rule, or an alarm that ends training.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refstudy.recipes.judges import Judge
from refstudy.recipes.models import Dpo
from refstudy.recipes.values import Sampling

if TYPE_CHECKING:
    from refstudy.recipes import AnyPrompts
    from refstudy.recipes.verdicts import Completions

LOOKS = 10
"""How many looks at a policy its training has where nothing says how often."""


@dataclass(frozen=True, kw_only=True)
class OtherPrompts:
    """The first `count` distinct prompts of `of` (None: all) that ask nothing which `without` asks."""

    RESULT_VERSION: ClassVar[int] = 1
    of: "AnyPrompts"
    without: "AnyPrompts"
    count: int | None


@dataclass(frozen=True, kw_only=True)
class Along:
    """Short evaluations of a policy while it trains, against its start's answers to the same prompts. No recipe of its own."""

    every: int
    """Optimizer steps from one to the next; 0: a tenth of the run. The last step is always one."""
    baseline: "Completions"
    """The start policy's answers; its prompts are the evaluations' own."""
    judge: Judge

    @property
    def sampling(self) -> Sampling:
        """How the policy's answers are drawn: independently of the start's."""
        return dataclasses.replace(self.baseline.sampling, draw=0)


@dataclass(frozen=True, kw_only=True)
class AlongCurve:
    """What evaluations along the training of a policy measured. Made with the policy; nothing rests on its being there."""

    RESULT_VERSION: ClassVar[int] = 1
    model: Dpo
    along: Along
