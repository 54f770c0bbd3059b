"""Recipes of what is made with a trained policy: its answers, its training log, its divergence, and the verdicts on it.

Invariant: a cell of a sweep is one Verdicts recipe at the end of its chain.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refstudy.recipes.imported import Imported, ImportedVotes
from refstudy.recipes.models import Dpo, Hub, Local, RewardModel
from refstudy.recipes.values import WORLD_VERSION, Sampling

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
class GoldJudge:
    """The miniature's known reward decides."""

    RESULT_VERSION: ClassVar[int] = WORLD_VERSION
    world: int


@dataclass(frozen=True, kw_only=True)
class RewardJudge:
    """A reward model decides: P(candidate wins) = sigmoid(r_candidate - r_baseline)."""

    RESULT_VERSION: ClassVar[int] = 1
    model: "RewardModel | Hub | Local"
    max_length: int
    """Tokens of conversation and answer judged whole; longer ones lose the front of the prompt, and their verdicts say so."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """For each prompt the probability that the candidate answer beats the baseline answer. A cell is one such recipe."""

    RESULT_VERSION: ClassVar[int] = 1
    candidate: Completions | Imported
    baseline: Completions | Imported
    judge: GoldJudge | RewardJudge | ImportedVotes
