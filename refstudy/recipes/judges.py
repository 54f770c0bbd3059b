"""Recipes of judges: who says which of two answers is better. A judge is never made; verdicts are.

Invariant: all that can change a verdict stands here; where a server listens, how fast it is asked and what it costs does not.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from refstudy.identity import execution_only
from refstudy.recipes.models import Hub, Local, RewardModel
from refstudy.recipes.values import WORLD_VERSION, File


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
class LlmJudge:
    """A language model behind an OpenAI-compatible chat server decides, asked in both orders."""

    RESULT_VERSION: ClassVar[int] = 1
    model: str
    revision: str | None
    """What the server's operator says it serves; part of the identity because the server cannot be asked."""
    template: str
    """What the judge is asked, with placeholders."""
    labels: tuple[str, str]
    """What it says for the answer shown first, and for the one shown second."""
    max_tokens: int
    top_logprobs: int
    """Log-probs asked for at the first token; 0: none, and the text is read."""
    base_url: str = execution_only("where the server listens; `model` and `revision` name what it serves")
    limit: Literal["max_tokens", "max_completion_tokens"] = execution_only(
        "which name the server knows max_tokens by", default="max_tokens"
    )
    concurrency: int = execution_only("requests under way at once", default=8)
    requests_per_minute: float | None = execution_only("how fast one process sends requests", default=None)
    timeout_s: float = execution_only("how long a request may take", default=60.0)
    retries: int = execution_only("how often a failed request is sent again", default=5)
    key_variable: str = execution_only("the environment variable that holds the API key", default="OPENAI_API_KEY")
    prompt_price: float = execution_only("price of a million tokens read, in any currency", default=0.0)
    completion_price: float = execution_only("price of a million tokens written, in any currency", default=0.0)


@dataclass(frozen=True, kw_only=True)
class VotesJudge:
    """Votes that somebody has given, people or programs, in a JSONL file."""

    RESULT_VERSION: ClassVar[int] = 1
    votes: File


@dataclass(frozen=True, kw_only=True)
class AnnotationsJudge:
    """Annotations that AlpacaEval has made of these answers, as its annotations.json."""

    RESULT_VERSION: ClassVar[int] = 1
    annotations: File


@dataclass(frozen=True, kw_only=True)
class PluginJudge:
    """A scorer of an installed package, found by its entry point in the group `refstudy.judges`."""

    RESULT_VERSION: ClassVar[int] = 1
    name: str
    """The entry point's."""
    package: str
    version: str
    """The installed version when the sweep was planned; another one is another judge."""
    options: str
    """Keyword arguments of every call as JSON with sorted keys."""
    form: Literal["messages", "text"]
    """Whether it gets conversations, or their text."""
    compare: Literal["sign", "sigmoid"]
    """P(candidate wins): whether its score is higher, or the sigmoid of the difference."""
    batch_size: int = execution_only("answers of one call; bounds memory", default=64)


Judge = GoldJudge | RewardJudge | LlmJudge | VotesJudge | AnnotationsJudge | PluginJudge

GIVEN_ONLY = (VotesJudge, AnnotationsJudge)
"""Judges that know the answers they were given, and have nothing to say on others."""
