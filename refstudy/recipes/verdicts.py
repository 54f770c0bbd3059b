"""Recipes of what is made with a trained policy: its answers, its training log, its divergence, and the verdicts on it.

Invariant: a cell of a sweep is one Verdicts recipe at the end of its chain; what it is judged on beside that is one more such
recipe for each evaluation set.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refstudy.identity import added_later, execution_only
from refstudy.recipes.judges import Judge
from refstudy.recipes.models import Dpo
from refstudy.recipes.values import File, HubData, Sampling

if TYPE_CHECKING:
    from refstudy.recipes import AnyAnswers, AnyPrompts, Model
    from refstudy.recipes.references import TokenPairs


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """A model behind an OpenAI-compatible chat server, which answers prompts as it sees fit."""

    RESULT_VERSION: ClassVar[int] = 1
    model: str
    revision: str | None
    """What the server's operator says it serves; part of the identity because the server cannot be asked."""
    base_url: str = execution_only("where the server listens; `model` and `revision` name what it serves")
    concurrency: int = execution_only("requests under way at once", default=4)
    timeout_s: float = execution_only("how long a request may take", default=120.0)
    retries: int = execution_only("how often a failed request is sent again", default=5)
    key_variable: str = execution_only("the environment variable that holds the API key", default="OPENAI_API_KEY")


@dataclass(frozen=True, kw_only=True)
class Completions:
    """A model's answers to prompts, with the tokens drawn and their log-probs under the model; of a served model the text alone."""

    RESULT_VERSION: ClassVar[int] = 1
    source: "Model | ChatServer"
    prompts: "AnyPrompts"
    sampling: Sampling
    tokens_of: "Model | None" = added_later(None)
    """The model whose tokens a served model's answers are counted in: servers give none; None: the source's own."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers that somebody already has: of a file or dataset, or the chosen answers that stand beside held-out prompts."""

    RESULT_VERSION: ClassVar[int] = 1
    source: File | HubData | None
    """None: the prompts' own chosen answers."""
    prompts: "AnyPrompts"
    tokens_of: "Model"
    """The model whose tokens the answers are counted in."""


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
    candidate: "AnyAnswers"
    baseline: "AnyAnswers"
    judge: Judge
