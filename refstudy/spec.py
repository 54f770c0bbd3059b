"""A sweep file as a checked value: what may stand in it, what each key means, and what is said when it is wrong.

Invariant: after `check`, every key is known and every value has its type and range; nobody reads YAML after that. The entries of
models and references stand in `spec_models`, those of judges in `spec_judges`, and are named from here.
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from refstudy.errors import SpecError
from refstudy.spec_along import AlarmEntry, AlongEntry, WebhookEntry
from refstudy.spec_eval import (
    Baseline,
    CellBaseline,
    ChosenBaseline,
    EvalPrompts,
    FileBaseline,
    HeldOutEntry,
    HubBaseline,
    ModelBaseline,
    ServerBaseline,
    StartBaseline,
)
from refstudy.spec_judges import (
    AlpacaJudgeEntry,
    GoldJudgeEntry,
    Judge,
    LlmJudgeEntry,
    PluginJudgeEntry,
    RewardJudgeEntry,
    RewardTrainEntry,
    TokenPrice,
    VotesJudgeEntry,
)
from refstudy.spec_models import (
    CheckpointModel,
    ConstantReference,
    DerivedReference,
    FileReference,
    GuideEntry,
    LoraEntry,
    MiniatureModel,
    MixtureReference,
    Policy,
    PolicyReference,
    PriorReference,
    Reference,
    ScratchModel,
    ServerReference,
    SftEntry,
    TrainedReference,
)
from refstudy.spec_run import AllResources, LimitsEntry, Price, WandbEntry
from refstudy.spec_values import (
    Count,
    Entry,
    EvalName,
    FileSource,
    HubSource,
    Name,
    Natural,
    NotNegative,
    Positive,
    Resources,
    Schedule,
    Source,
    SweepName,
    WarmupShare,
)
from refstudy.sweepfile import Document

__all__ = [
    "EXECUTION_ONLY",
    "AlarmEntry",
    "AllResources",
    "AlongEntry",
    "AlpacaJudgeEntry",
    "Baseline",
    "CellBaseline",
    "CheckpointModel",
    "ChosenBaseline",
    "ConstantReference",
    "Data",
    "DerivedReference",
    "EvalEntry",
    "EvalPrompts",
    "FileBaseline",
    "FileData",
    "FileReference",
    "FileSource",
    "GenerateEntry",
    "GoldJudgeEntry",
    "GuideEntry",
    "HeldOutEntry",
    "HubBaseline",
    "HubData",
    "HubSource",
    "Judge",
    "LimitsEntry",
    "LlmJudgeEntry",
    "LoraEntry",
    "MeasureEntry",
    "MiniatureData",
    "MiniatureModel",
    "MixtureReference",
    "ModelBaseline",
    "PairOptions",
    "PluginJudgeEntry",
    "Policy",
    "PolicyReference",
    "Price",
    "PriorReference",
    "Reference",
    "Resources",
    "RewardJudgeEntry",
    "RewardTrainEntry",
    "ScratchModel",
    "ServerBaseline",
    "ServerReference",
    "SftEntry",
    "Source",
    "Spec",
    "StartBaseline",
    "TokenPrice",
    "TrainEntry",
    "TrainedReference",
    "VotesJudgeEntry",
    "WandbEntry",
    "WebhookEntry",
    "check",
]

# data -----------------------------------------------------------------------------------------------------------------------


class MiniatureData(Entry):
    kind: Literal["miniature"]
    world: Natural = 0
    """The seed that draws the world: language facts, corpora, models, evaluation prompts."""
    pairs: Count
    """Preference pairs drawn for each seed."""
    eval_prompts: Count
    """Evaluation prompts; they share entities, so intervals cluster by entity."""
    validation_pairs: Natural = 0
    """Pairs for validation loss, drawn with a seed of their own and never trained on; their questions may be those of training
    pairs (there are only so many), their answers are other draws."""
    annotator: Literal["human", "flat"] = "human"
    """human: likes length as people do; flat: blind to length, with count-balanced pairs."""


class PairOptions(Entry):
    """What preference data of every source may say."""

    unusable: Literal["refuse", "drop"] = "refuse"
    """What becomes of rows without an answer or with two equal ones: an error, or left out and counted."""
    without: list[str] = Field(default_factory=list)
    """Rows that hold one of these strings are unusable too, such as another tokenizer's special tokens."""
    unicode: Literal["keep", "nfc"] = "keep"
    """nfc: every text in Unicode's composed form, for tokenizers that read no other."""
    white_space: Literal["keep", "strip"] = "keep"
    """strip: none around turns and answers, for chat templates that write none there."""
    pairs: Count | None = None
    """At most so many training pairs; null: all."""
    eval_prompts: Count | Source
    """Rows whose whole conversations are held out, their prompts being answered and judged; or another source of prompts."""
    validation_pairs: Natural = 0
    """Rows held out for validation loss, again by whole conversations."""


class FileData(PairOptions):
    kind: Literal["file"]
    path: str
    """JSONL, JSON, CSV or Parquet in TRL's preference format; relative to the sweep file."""


class HubData(PairOptions):
    kind: Literal["hub"]
    dataset: str
    """Name on the Hugging Face hub, or a local folder of the same layout."""
    file: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str = "train"


Data = Annotated[MiniatureData | FileData | HubData, Field(discriminator="kind")]


# training, generation, judging ------------------------------------------------------------------------------------------------


class TrainEntry(Entry):
    epochs: Positive
    batch_pairs: Count
    """Pairs in one optimizer step."""
    learning_rate: Positive
    max_length: Count
    """Tokens of prompt and answer, in the policy's tokens; answers are cut to fit, longer prompts are refused."""
    schedule: Schedule = "linear"
    warmup_share: WarmupShare = 0.1
    clip: Positive = 1.0
    weight_decay: NotNegative = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    lora: LoraEntry | None = None
    """null: full fine-tuning."""
    micro_batch: Natural = 0
    """Pairs of one forward pass; 0: the whole batch. Bounds memory, changes no result beyond rounding."""
    checkpointing: bool = False
    """Gradient checkpointing: less memory, a third more computation, the same gradient."""
    checkpoint: Literal["last", "lowest_validation_loss", "best_judged"] = "last"
    """Which policy along training is the cell's: the last; that of the lowest DPO loss on data.validation_pairs, at the same beta
    and reference; or that of the highest win rate in the evaluations of `along`. A guiding reference is always its last."""
    checkpoint_every: Natural = 0
    """For lowest_validation_loss: optimizer steps from one checkpoint to the next; 0: a tenth of the run. The last step is one."""
    save_every_minutes: NotNegative = 15.0
    """How much of a training (DPO, SFT, a reward model) is lost at most where its process ends: so often its state is saved in the
    store, weights, optimizer and all, until it is finished; one that takes less saves nothing. 0: never."""


class GenerateEntry(Entry):
    max_new_tokens: Count
    temperature: NotNegative = 1.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class EvalEntry(Entry):
    """Another set of prompts that every cell answers and is judged on; a set trains nothing where policies are kept."""

    prompts: EvalPrompts | None = None
    """A file or dataset of prompts, or the sweep's held-out pairs; null: the sweep's own evaluation prompts."""
    baseline: Baseline = StartBaseline(kind="start")
    """The answers that the cells' are judged against."""
    generate: GenerateEntry | None = None
    """How the cells' answers are drawn, and those of a baseline that draws any; null: as the sweep's."""
    system: str | None = None
    """System prompt of this set, for cells and baseline; null: the policy's own."""
    judge: Judge | None = None
    """null: the sweep's."""


# running --------------------------------------------------------------------------------------------------------------------


class MeasureEntry(Entry):
    """What a trial measures of its policy beside the record; without it, or with less, a finished cell stays finished."""

    token_shifts: Natural = 256
    """Chosen answers on which the log-prob of each token is compared before and after DPO; 0: not measured."""


class Spec(Entry):
    name: SweepName
    """Name of the sweep and of its results folder."""
    data: Data
    policies: Annotated[dict[Name, Policy], Field(min_length=1)]
    references: Annotated[dict[Name, Reference], Field(min_length=1)]
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]]
    """beta, reference, policy, seed, or the dotted path of any leaf, each with the values of the grid."""
    train: TrainEntry
    generate: GenerateEntry
    judge: Judge
    eval: dict[EvalName, EvalEntry] = Field(default_factory=dict)
    """Evaluation sets beside the sweep's own prompts, by name: what they are called in records, wandb and the report."""
    along: AlongEntry | None = None
    """Evaluations along training; null: none. Cells that are trained already get none afterwards."""
    alarms: list[AlarmEntry] = Field(default_factory=list)
    webhook: WebhookEntry = WebhookEntry()
    keep: Literal["none", "adapter", "full"] = "none"
    """What is kept of each trained policy; its answers, verdicts and measures always are."""
    resources: AllResources = AllResources()
    price: Price = Price()
    limits: LimitsEntry = LimitsEntry()
    measure: MeasureEntry = MeasureEntry()
    wandb: WandbEntry = WandbEntry()

    @field_validator("axes")
    @classmethod
    def _known_axes(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "beta" not in axes:
            raise ValueError("expected at least the axis beta, e.g. {beta: [1, 0.1, 0.01]}")
        return axes


EXECUTION_ONLY = {
    "name": "a name for people",
    "axes": "the grid chooses cells; each value stands in its cell's recipes",
    "along": "only measures; where a checkpoint rule or an alarm that stops rests on it, it stands in the policy's recipe",
    "alarms": "only tell; those that stop training stand in the policy's recipe",
    "webhook": "whom alarms are told",
    "keep": "what is kept of a policy after its measures are taken",
    "resources": "where a trial runs and an artefact is made",
    "price": "what a run costs",
    "limits": "when a run ends; what is missing is made by the next",
    "measure": "taken beside the record; a finished cell is not run again for it",
    "wandb": "a mirror of results",
    "train.micro_batch": "bounds memory; sums to the same gradient",
    "train.checkpointing": "bounds memory; the same gradient",
    "train.save_every_minutes": "what a training that is cut off goes on from; it ends in the same policy",
    "policies.*.resources": "where an artefact is made",
    "references.*.resources": "where an artefact is made",
    "references.*.device_map": "where the layers of a model lie; the same sums up to rounding",
    "references.*.base_url": "where a server listens",
    "references.*.concurrency": "requests under way at once",
    "references.*.timeout_s": "how long a request may take",
    "references.*.retries": "how often a request is sent again",
    "references.*.key_variable": "where the API key is found",
    "references.*.answers": "the reference's own score, made after the cells",
    "*.family": "a label, except for miniature models, where it chooses the language",
    "*.sft.micro_batch": "bounds memory; sums to the same gradient",
    "*.sft.checkpointing": "bounds memory; the same gradient",
    "judge.start.resources": "where an artefact is made",
    "judge.train.micro_batch": "bounds memory; sums to the same gradient",
    "judge.train.checkpointing": "bounds memory; the same gradient",
    "judge.base_url": "where a server listens",
    "judge.limit": "a name for the same limit",
    "judge.concurrency": "requests under way at once",
    "judge.requests_per_minute": "how fast requests are sent",
    "judge.timeout_s": "how long a request may take",
    "judge.retries": "how often a request is sent again",
    "judge.key_variable": "where the API key is found",
    "judge.price": "what tokens cost",
    "judge.batch_size": "answers of one call; bounds memory",
    "eval.*.baseline.resources": "where an artefact is made",
    "eval.*.baseline.base_url": "where a server listens",
    "eval.*.baseline.concurrency": "requests under way at once",
    "eval.*.baseline.timeout_s": "how long a request may take",
    "eval.*.baseline.retries": "how often a request is sent again",
    "eval.*.baseline.key_variable": "where the API key is found",
    "eval.*.judge.start.resources": "where an artefact is made",
    "eval.*.judge.train.micro_batch": "bounds memory; sums to the same gradient",
    "eval.*.judge.train.checkpointing": "bounds memory; the same gradient",
    "eval.*.judge.base_url": "where a server listens",
    "eval.*.judge.limit": "a name for the same limit",
    "eval.*.judge.concurrency": "requests under way at once",
    "eval.*.judge.requests_per_minute": "how fast requests are sent",
    "eval.*.judge.timeout_s": "how long a request may take",
    "eval.*.judge.retries": "how often a request is sent again",
    "eval.*.judge.key_variable": "where the API key is found",
    "eval.*.judge.price": "what tokens cost",
    "eval.*.judge.batch_size": "answers of one call; bounds memory",
}
"""Leaves that change no result, with the reason; a test changes every other leaf and expects another id."""


def check(document: Document, name: str) -> Spec:
    """The spec of a document; SpecError lists every fault at once, each with its YAML path."""
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        faults = [_sentence(fault, document) for fault in error.errors(include_url=False)]
        raise SpecError(_joined(name, faults)) from None


def _joined(name: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{name}: {faults[0]}"
    return f"{name} has {len(faults)} errors:" + "".join(f"\n  {fault}" for fault in faults)


def _sentence(fault: Any, document: Document) -> str:
    path = _yaml_path(fault["loc"], document)
    match fault["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key{_did_you_mean(fault['loc'])}"
        case "missing":
            return f"{path}: missing, but required"
        case "union_tag_invalid":
            return f"{path}.kind: got {fault['ctx']['tag']!r}; expected {fault['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{path}: has no kind"
        case "unshown":
            return f"{path}: {fault['msg']}"
        case _:
            message = str(fault["msg"]).removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            return f"{path}: got {_short(fault['input'])}; {message.replace('input should be', 'expected')}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml_path(location: tuple[int | str, ...], document: Document) -> str:
    """The path as it stands in the file: pydantic also lists the kind of each entry (first below it) and `[key]`."""
    parts: list[str] = []
    value: Any = document
    fresh = False
    for part in location:
        if part == "[key]" or (fresh and isinstance(value, dict) and value.get("kind") == part):
            fresh = False
            continue
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        value = value[part] if inside else None
        parts.append(str(part))
        fresh = True
    return ".".join(parts) or "the file"


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    entries = [Spec] if len(location) == 1 else [each for each in _entries(Entry) if each is not Spec]
    near = difflib.get_close_matches(str(location[-1]), sorted({key for entry in entries for key in entry.model_fields}), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _entries(above: type[Entry]) -> list[type[Entry]]:
    return [each for entry in above.__subclasses__() for each in (entry, *_entries(entry))]
