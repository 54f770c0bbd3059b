"""Recipes of what is made with a trained policy: its answers, its training log, its divergence, and the verdicts on it.

Invariant: a cell of a sweep is one Verdicts recipe at the end of its chain.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refstudy.recipes.imported import Imported
from refstudy.recipes.judges import Judge
from refstudy.recipes.models import Dpo
from refstudy.recipes.values import Sampling

if TYPE_CHECKING:
    from refstudy.recipes import AnyPrompts, Model
    from refstudy.recipes.references import TokenPairs


@dataclass(frozen=True, kw_only=True)
class Completions:
    """A model's answers to prompts, with the tokens drawn and their log-probs under the model."""

    RESULT_VERSION: ClassVar[int] = 1
    source: "Model"
    prompts: "AnyPrompts"
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """What training of a DPO policy showed: curves, final accuracies, wall time. Made with the policy, kept when it is not."""

    RESULT_VERSION: ClassVar[int] = 1
    model: Dpo


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Full-vocabulary KL of the answers' model to `reference`, in nats, on each of its own answers."""

    RESULT_VERSION: ClassVar[int] = 1
    completions: Completions
    reference: "Model"


@dataclass(frozen=True, kw_only=True)
class TokenShifts:
    """How far each token's log-prob moved from a policy's start to the policy, on some chosen answers. Beside the cell: no record
    needs it, and a policy whose weights are gone is not trained again for it."""

    RESULT_VERSION: ClassVar[int] = 1
    model: Dpo
    texts: "TokenPairs"
    count: int
    """Chosen answers at most, evenly spaced over the pairs."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """For each prompt the probability that the candidate answer beats the baseline answer. A cell is one such recipe."""

    RESULT_VERSION: ClassVar[int] = 1
    candidate: Completions | Imported
    baseline: Completions | Imported
    judge: Judge
