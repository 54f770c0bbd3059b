"""Entries of a sweep file that are judges: what may stand below `judge`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from refstudy.spec_models import CheckpointModel, ScratchModel
from refstudy.spec_values import Count, Entry, Natural, NotNegative, Positive, Schedule, Seed, Variable, WarmupShare


class GoldJudgeEntry(Entry):
    """The miniature's known reward."""

    kind: Literal["gold"]


class RewardTrainEntry(Entry):
    epochs: Positive = 1.0
    batch_pairs: Count = 16
    learning_rate: Positive = 1e-4
    schedule: Schedule = "linear"
    warmup_share: WarmupShare = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: Natural = 0
    checkpointing: bool = False


class RewardJudgeEntry(Entry):
    """A reward model: a sequence classifier with one output."""

    kind: Literal["reward_model"]
    model: str | None = None
    """Hub name or folder of a sequence classifier with one label; null: trained from `start` on the training pairs."""
    revision: str | None = None
    start: ScratchModel | CheckpointModel | None = None
    """What the reward model is trained from, when `model` is null."""
    train: RewardTrainEntry | None = None
    """How it is trained; null: as RewardTrainEntry's defaults say."""
    max_length: Count = 512
    """Tokens of conversation and answer that are scored; what is longer is cut, and counted."""
    seed: Seed = 0


class TokenPrice(Entry):
    """What a million tokens cost, in any currency; changes no result."""

    prompt: NotNegative = 0.0
    completion: NotNegative = 0.0


class LlmJudgeEntry(Entry):
    """A language model behind an OpenAI-compatible chat server, asked in both orders."""

    kind: Literal["llm"]
    model: str
    """The name that the server knows the model by."""
    base_url: str
    """Such as http://127.0.0.1:8000/v1."""
    revision: str | None = None
    """What is served under that name, in your words; another revision is another judge."""
    template: str | None = None
    """What the judge is asked: the text itself, or a path ending in .txt; it holds {{conversation}}, {{answer_1}} and
    {{answer_2}}, and may hold {{label_1}}, {{label_2}} and {{code}}. null: refstudy's own."""
    labels: Annotated[list[Annotated[str, Field(pattern=r"^\w{1,20}$")]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: ["A", "B"]
    )
    """What the judge says for the answer shown first, and for the one shown second."""
    max_tokens: Count = 1
    """Tokens that the judge may write."""
    top_logprobs: Annotated[int, Field(ge=0, le=1000)] = 20
    """Log-probs asked for at the judge's first token; 0: none, and the letter that it writes decides."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Which of the two names the server knows `max_tokens` by."""
    concurrency: Count = 8
    requests_per_minute: Positive | None = None
    """Of each trial, so divide what the server allows by the trials that run at once; null: no limit."""
    timeout_s: Positive = 60.0
    retries: Natural = 5
    key_variable: Variable = "OPENAI_API_KEY"
    """The environment variable that holds the API key; the key itself stands nowhere."""
    price: TokenPrice = TokenPrice()


class VotesJudgeEntry(Entry):
    """Votes that people, or programs, have given on these answers."""

    kind: Literal["votes"]
    path: str
    """JSONL, a vote a line; relative to the sweep file. Its keys: see refstudy/judges/votes.py."""


class AlpacaJudgeEntry(Entry):
    """Annotations that AlpacaEval made of these answers."""

    kind: Literal["alpaca_annotations"]
    path: str
    """AlpacaEval's annotations.json; relative to the sweep file."""


class PluginJudgeEntry(Entry):
    """A scorer of an installed package, in the signature of TRL's reward functions."""

    kind: Literal["plugin"]
    name: str
    """Its entry point in the group refstudy.judges."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of every call."""
    form: Literal["messages", "text"] = "messages"
    """messages: prompts and completions are lists of messages, as TRL gives them for conversations; text: strings."""
    compare: Literal["sign", "sigmoid"] = "sign"
    """sign: the higher score wins, equal ones tie; sigmoid: P(candidate wins) = sigmoid of the difference of the scores."""
    batch_size: Count = 64
    """Answers of one call; bounds memory."""


Judge = Annotated[
    GoldJudgeEntry | RewardJudgeEntry | LlmJudgeEntry | VotesJudgeEntry | AlpacaJudgeEntry | PluginJudgeEntry,
    Field(discriminator="kind"),
]
