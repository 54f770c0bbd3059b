"""Entries of a sweep file's `eval` block: on which prompts cells are judged beside the sweep's own, and against which answers."""

from typing import Annotated, Literal

from pydantic import Field

from refstudy.spec_models import CheckpointModel, MiniatureModel, ScratchModel
from refstudy.spec_values import Count, Entry, FileSource, HubSource, Name, Natural, Positive


class HeldOutEntry(Entry):
    """Prompts of the sweep's own held-out pairs, their chosen answers beside them."""

    kind: Literal["held_out"]
    part: Literal["evaluation", "validation"] = "evaluation"
    """evaluation: the rows that data.eval_prompts holds out; validation: those of data.validation_pairs."""
    count: Count | None = None
    """At most so many prompts; null: all of that part."""


class StartBaseline(Entry):
    """The policy's own answers before DPO, drawn apart from the cells'."""

    kind: Literal["start"]


class ChosenBaseline(Entry):
    """The chosen answers of held-out pairs."""

    kind: Literal["chosen"]


class FileBaseline(Entry):
    """Answers that somebody already has: AlpacaEval's `instruction` and `output`, or `prompt_id` or `prompt` beside an answer."""

    kind: Literal["file"]
    path: str
    """JSONL, JSON, CSV or Parquet; relative to the sweep file."""


class HubBaseline(Entry):
    """As FileBaseline, of a dataset on the Hugging Face hub or of a local folder of the same layout."""

    kind: Literal["hub"]
    dataset: str
    file: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str = "train"


class ServerBaseline(Entry):
    """Answers of a model behind an OpenAI-compatible chat server, such as vLLM's, drawn as the set's `generate` says."""

    kind: Literal["server"]
    model: str
    base_url: str
    """Such as http://127.0.0.1:8000/v1."""
    revision: str | None = None
    """What the server serves, in words that change when it serves something else: the server itself cannot be asked."""
    concurrency: Count = 4
    timeout_s: Positive = 120.0
    retries: Natural = 5
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the API key; the key itself stands nowhere."""


class CellBaseline(Entry):
    """The answers of another cell of the grid, of the same policy, seed and settings."""

    kind: Literal["cell"]
    reference: Name
    beta: Positive


EvalPrompts = Annotated[HubSource | FileSource | HeldOutEntry, Field(discriminator="kind")]
ModelBaseline = MiniatureModel | ScratchModel | CheckpointModel
Baseline = Annotated[
    StartBaseline | ChosenBaseline | FileBaseline | HubBaseline | ServerBaseline | CellBaseline | ModelBaseline,
    Field(discriminator="kind"),
]
