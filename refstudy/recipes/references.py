"""Recipes of references that are no model of their own, and of the tables that any reference becomes.

Invariant: a table stands for one reference over one set of texts, whatever the reference is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from refstudy.identity import execution_only
from refstudy.recipes.models import Hub, Local
from refstudy.recipes.texts import MiniaturePairs, Preferences
from refstudy.recipes.values import File, HubData

if TYPE_CHECKING:
    from refstudy.recipes import Model, Scorer
    from refstudy.recipes.verdicts import Completions


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same log-prob for every answer: DPO's reward is then beta log p(answer | prompt), the posterior."""

    RESULT_VERSION: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Prior:
    """log p(answer) without its prompt: DPO's reward is then the likelihood log p(prompt | answer) up to a constant."""

    RESULT_VERSION: ClassVar[int] = 1
    model: "Model"
    prompt: str
    """The user's turn that stands in every prompt's place; "" by default."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Log-probs that somebody already has, in two columns of a file or dataset."""

    RESULT_VERSION: ClassVar[int] = 1
    source: File | HubData
    chosen: str
    rejected: str
    pair_id: str | None
    """The column that holds pair ids; None: rows are found by the text of their pair."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A model behind an OpenAI-compatible completions server that returns prompt log-probs."""

    RESULT_VERSION: ClassVar[int] = 1
    model: str
    revision: str | None
    """What the server's operator says it serves; part of the identity because the server cannot be asked."""
    tokenizer: "Hub | Local"
    """The served model's tokenizer and chat template."""
    form: Literal["prompt_logprobs", "echo"]
    base_url: str = execution_only("where the server listens; `model` and `revision` name what it serves")
    concurrency: int = execution_only("requests under way at once", default=4)
    timeout_s: float = execution_only("how long a request may take", default=60.0)
    retries: int = execution_only("how often a failed request is sent again", default=5)
    key_variable: str = execution_only("the environment variable that holds the API key", default="OPENAI_API_KEY")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One reference of a mixture."""

    scorer: "Scorer"
    weight: float


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several references as one."""

    RESULT_VERSION: ClassVar[int] = 1
    parts: tuple[Part, ...]
    mean: Literal["geometric", "arithmetic"]
    """geometric: the weighted mean of log-probs; arithmetic: the log of the weighted mean of the answers' probabilities."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The policy's own margin plus a part of what another reference adds to it."""

    RESULT_VERSION: ClassVar[int] = 1
    of: "Scorer"
    own: "Model"
    keep: Literal["length_only", "length_free", "permuted", "scaled"]
    factor: float
    """For scaled; 1 elsewhere."""
    seed: int
    """For permuted; 0 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class TokenPairs:
    """Preference pairs exactly as the policy trains on them: tokenised by its tokenizer and template, truncated once."""

    RESULT_VERSION: ClassVar[int] = 1
    pairs: MiniaturePairs | Preferences
    policy: "Model"
    max_length: int
    system: str | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The token pairs on which another reference prefers the chosen answer more than the policy's own start does: D > 0."""

    RESULT_VERSION: ClassVar[int] = 1
    pairs: TokenPairs
    of: "Scorer"
    own: "Model"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A reference table: log p(chosen | prompt) and log p(rejected | prompt) in nats, or log p(answer | prompt) of completions."""

    RESULT_VERSION: ClassVar[int] = 1
    scorer: "Scorer"
    texts: "TokenPairs | Selection | Completions"
