"""Entries of a sweep file that are models or references: what may stand below `policies` and `references`."""

from typing import Annotated, Literal

from pydantic import Field

from refstudy.spec_values import (
    Count,
    Entry,
    HubSource,
    Name,
    Natural,
    Number,
    Positive,
    Schedule,
    Seed,
    Share,
    Shared,
    Source,
    Variable,
    WarmupShare,
)

ScoringPrecision = Literal["fp32", "bf16"]
"""There is no `auto`: what a sweep file says must name the same numbers on every machine."""


class LoraEntry(Entry):
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    target: str = "all-linear"
    """peft's target_modules: "all-linear" or one regular expression."""


class SftEntry(Entry):
    """Fine-tuning of a base model before the sweep; the result is then the policy's own start, its self."""

    data: Source | None = None
    """Conversations (`messages`, or `prompt` with `completion`); null: the chosen answers of the training pairs."""
    unusable: Literal["refuse", "drop"] = "refuse"
    """What becomes of rows of `data` without an answer; the training pairs follow data.unusable."""
    epochs: Positive = 1.0
    batch_size: Count = 32
    learning_rate: Positive = 2e-5
    schedule: Schedule = "cosine"
    warmup_share: WarmupShare = 0.1
    max_length: Count = 2048
    seed: Seed = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    template: str | None = None
    """Jinja chat template for a base model that has none: the text itself, or a path ending in .jinja."""
    micro_batch: Natural = 0
    checkpointing: bool = False
    lora: LoraEntry | None = None


class MiniatureModel(Entry):
    kind: Literal["miniature"]
    family: Literal["north", "south"]
    size: Literal["small", "large"]
    north_share: Share | None = None
    """Share of a south model's corpus in north's style; north itself takes none."""
    false_share: Share | None = None
    """Share of the corpus that repeats misconceptions; null: the size's own."""
    statements: Literal["all", "few", "many"] = "all"
    """Length of the demonstrations that the model was fine-tuned on."""
    precision: ScoringPrecision = "fp32"
    """Of a reference: see `model` entries."""
    resources: Shared | None = None


class ScratchModel(Entry):
    """A checkpoint made on this machine from the text of the training pairs."""

    kind: Literal["scratch"]
    family: str | None = None
    """A label for tables; null: the architecture."""
    architecture: Literal["llama", "neox"]
    vocabulary: Annotated[int, Field(ge=300)]
    hidden: Count
    layers: Count
    heads: Count
    steps: Count
    batch_size: Count = 16
    learning_rate: Positive = 1e-3
    context: Count = 256
    seed: Seed = 0
    sft: SftEntry | None = None
    precision: ScoringPrecision = "fp32"
    """Of a reference: see `model` entries."""
    resources: Shared | None = None


class CheckpointModel(Entry):
    """A checkpoint on the hub or in a local folder."""

    kind: Literal["model"]
    model: str
    """Hub name, or a folder (relative to the sweep file, when it exists there)."""
    revision: str | None = None
    """Commit or tag on the hub; null: the newest. A local folder has none: its content is the identity."""
    family: str | None = None
    """A label for tables; null: the model's name."""
    template: str | None = None
    """Chat template in place of the checkpoint's own: the text itself, or a path ending in .jinja."""
    system: str | None = None
    """System prompt that a policy has before every conversation, in training and evaluation; references score it as given."""
    system_role: Literal["keep", "merge"] = "keep"
    """merge: for templates that know no system role."""
    adapter: str | None = None
    """A peft adapter on top of `model`: hub name or folder."""
    adapter_revision: str | None = None
    sft: SftEntry | None = None
    precision: ScoringPrecision = "fp32"
    """What a reference is loaded in and scores with; part of its identity. The policy is trained in fp32, so that bf16 is a small
    noise in the loss: it moves a log-prob sum by 0.03 nats in the mean and 0.2 at most, a margin by 0.04 and 0.2, with no bias
    (2,000 answers of 17 tokens by the quickstart's small policy, on a CPU); longer or less likely answers in proportion."""
    quantise: Literal["int8", "nf4"] | None = None
    """bitsandbytes' 8-bit or 4-bit weights for a reference that fits nowhere else; needs a GPU. Part of its identity."""
    device_map: Literal["auto"] | None = None
    """auto: the layers of a reference that is larger than one device are spread over those that its task has."""
    resources: Shared | None = None


class PolicyReference(Entry):
    """The policy's own start: self."""

    kind: Literal["policy"]
    precision: ScoringPrecision = "fp32"
    """What it is loaded in and scores with as a reference: see `model` entries. bf16 where every `policy` entry has it: the KL of
    trained policies to their start is then against that too, and at most 0.001 nats an answer larger (72 tokens by a model of 20
    million parameters, 16 by the quickstart's; both measured on the start itself, whose KL would be 0). To change it later asks for
    that KL anew: of all cells, whose policies are trained again unless they were kept."""


class ConstantReference(Entry):
    """The same log-prob for every answer: the posterior reward, beta log p(answer | prompt)."""

    kind: Literal["constant"]


class PriorReference(Entry):
    """log p(answer) without its prompt: the likelihood reward."""

    kind: Literal["prior"]
    of: Name | None = None
    """The reference whose model gives it; null: the policy's own start."""
    prompt: str = ""
    """What stands in every prompt's place as the user's only turn."""
    resources: Shared | None = None


class FileReference(Entry):
    """Log-probs that somebody already has."""

    kind: Literal["file"]
    path: str | None = None
    """CSV, JSONL, JSON or Parquet; relative to the sweep file. Or `dataset`."""
    dataset: HubSource | None = None
    chosen: str = "chosen_logp_sum"
    """Column with log p(chosen | prompt), summed over tokens, in nats."""
    rejected: str = "rejected_logp_sum"
    pair_id: str | None = None
    """Column with pair ids; null: rows are found by the text of prompt, chosen and rejected."""
    family: str | None = None


class ServerReference(Entry):
    """A model behind an OpenAI-compatible completions server that returns prompt log-probs, such as vLLM."""

    kind: Literal["server"]
    model: str
    base_url: str
    """Such as http://127.0.0.1:8000/v1."""
    tokenizer: str
    """Hub name or folder of the served model's tokenizer."""
    revision: str | None = None
    family: str | None = None
    form: Literal["prompt_logprobs", "echo"] = "prompt_logprobs"
    template: str | None = None
    system_role: Literal["keep", "merge"] = "keep"
    concurrency: Count = 4
    timeout_s: Positive = 60.0
    retries: Natural = 5
    key_variable: Variable = "OPENAI_API_KEY"
    """The environment variable that holds the API key; the key itself stands nowhere."""
    answers: bool = False
    """Whether the server also answers the evaluation prompts as a chat server, for the reference's own win rate."""


class MixtureReference(Entry):
    """Several references as one."""

    kind: Literal["mixture"]
    of: Annotated[dict[Name, Positive], Field(min_length=1)]
    """Weight of each reference by its name; they are scaled to sum to 1."""
    mean: Literal["geometric", "arithmetic"] = "geometric"


class GuideEntry(Entry):
    """DPO that makes a guiding reference."""

    reference: Name
    """What that DPO is held to."""
    beta: Positive


class TrainedReference(Entry):
    """A model trained first, as in sDPO and Pre-DPO: by SFT, by DPO on the cell's own pairs and `train` settings, or both."""

    kind: Literal["trained"]
    of: Name | None = None
    """The reference whose model it starts from; null: the policy's own start."""
    sft: SftEntry | None = None
    dpo: GuideEntry | None = None
    resources: Shared | None = None


class DerivedReference(Entry):
    """The policy's own margin plus a part of what another reference adds to it; made from tables, nothing is scored."""

    kind: Literal["derived"]
    of: Name
    keep: Literal["length_only", "length_free", "permuted", "scaled", "selection_only"]
    factor: Number = 1.0
    """What the difference is multiplied with, for scaled."""
    seed: Natural = 0
    """Which shuffle, for permuted."""


Policy = Annotated[MiniatureModel | ScratchModel | CheckpointModel, Field(discriminator="kind")]
Reference = Annotated[
    PolicyReference
    | MiniatureModel
    | ScratchModel
    | CheckpointModel
    | ConstantReference
    | PriorReference
    | FileReference
    | ServerReference
    | MixtureReference
    | TrainedReference
    | DerivedReference,
    Field(discriminator="kind"),
]
