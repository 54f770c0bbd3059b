"""The values that entries of a sweep file are made of: numbers with ranges, names, data sources, resources."""

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from refstudy.memory import Sharding

SEEDS = 2**32
"""Seeds lie below: numpy's generators, which transformers seeds, take no larger ones."""


class Entry(BaseModel):
    """What all parts of a sweep file share: unknown keys are refused, values are frozen, types are exact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value) or ".." in value:
        raise ValueError("expected letters, digits, '.', '_' or '-', beginning with a letter or digit")
    return value


def _sweep_name(value: str) -> str:
    if value == "store":
        raise ValueError("that is the folder of the artefacts beside the sweep's own; expected another name")
    return _name(value)


def _eval_name(value: str) -> str:
    if value == "sweep":
        raise ValueError("that is what the sweep's own prompts are called; expected another name")
    return _name(value)


def _custom(value: str) -> str:
    if value in ("CPU", "GPU", "memory", "object_store_memory"):
        raise ValueError("that is Ray's own, not a custom resource; expected cpus, gpus, or a name of your own")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,79}", value):
        # The value is not shown: it may be the key itself.
        raise PydanticCustomError("unshown", "expected the name of an environment variable, such as OPENAI_API_KEY, not a key")
    return value


Name = Annotated[str, AfterValidator(_name)]
Variable = Annotated[str, AfterValidator(_variable)]
"""The name of an environment variable that holds a secret."""
SweepName = Annotated[str, AfterValidator(_sweep_name)]
EvalName = Annotated[str, AfterValidator(_eval_name)]
Number = Annotated[float, AfterValidator(_finite)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_finite)]
Share = Annotated[float, Field(ge=0, le=1), AfterValidator(_finite)]
WarmupShare = Annotated[float, Field(ge=0, lt=1), AfterValidator(_finite)]
"""Share of the steps; 1 would be read as one step."""
Count = Annotated[int, Field(ge=1, le=2**53)]
Natural = Annotated[int, Field(ge=0, le=2**53)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
NotNegative = Annotated[float, Field(ge=0), AfterValidator(_finite)]
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_restarts"]
"""transformers' `lr_scheduler_type`s that need no further setting."""


class HubSource(Entry):
    kind: Literal["hub"]
    dataset: str
    """Name on the Hugging Face hub, or a local folder of the same layout."""
    file: str | None = None
    """One file of the repository; null: the dataset as its card declares it."""
    revision: str | None = None
    """Commit or tag; null: the newest, which does not reproduce. A local folder has none: its content is the identity."""
    config: str | None = None
    split: str = "train"
    count: Count | None = None
    """At most so many rows; null: all."""


class FileSource(Entry):
    kind: Literal["file"]
    path: str
    """JSONL, JSON, CSV or Parquet; relative to the sweep file."""
    count: Count | None = None
    """At most so many rows; null: all."""


Source = Annotated[HubSource | FileSource, Field(discriminator="kind")]


class Resources(Entry):
    """What Ray sets aside for one task; changes no result."""

    cpus: Positive = 1.0
    gpus: NotNegative = 0.0
    custom: dict[Annotated[str, AfterValidator(_custom)], Positive] = {}
    """Ray resources by name, such as {big_gpu: 1}."""
    shards: Count = 1
    """Tasks that share the scoring of one table, each with these resources and a copy of the model of its own."""
    workers: Count = 1
    """Of a trial: devices that train its policy together, each with these resources and its share of each step's pairs.
    train.batch_pairs is that of all of them, train.micro_batch each one's."""
    sharding: Sharding = "none"
    """Of a trial of several workers, how its policy lies on them while it trains. none: a copy on each (DDP). fsdp: weights,
    gradients and optimizer states in parts (FSDP2 by accelerate; tried on CPUs with gloo, untested on GPUs); each worker loads the
    whole policy first, and the first one has it whole again for evaluations and answers, and in its machine's memory, with the
    optimizer's states, while it saves. deepspeed: gradients and optimizer states in parts, weights whole on each (ZeRO's stage 2;
    extra `deepspeed`; tried as fsdp was)."""


def _undivided(value: "Resources") -> "Resources":
    if value.shards != 1:
        raise ValueError("only tables are scored in shards; expected 1")
    if value.sharding != "none" and value.workers == 1:
        raise ValueError("sharding shares a policy out over workers; expected workers: 2 or more")
    return value


def _alone(value: "Resources") -> "Resources":
    if value.workers != 1:
        raise ValueError("only trials have several workers; expected workers: 1")
    if value.sharding != "none":
        raise ValueError("only trials of several workers share a model out; expected sharding: none")
    return value


Undivided = Annotated[Resources, AfterValidator(_undivided)]
"""Resources of a trial."""
Shared = Annotated[Resources, AfterValidator(_alone)]
"""Resources of a shared artefact."""
