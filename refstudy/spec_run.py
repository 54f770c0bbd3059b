"""Entries of a sweep file about running it: where, for how long, at what price, and where it is mirrored.

Invariant: nothing here changes a result.
"""

from typing import Annotated

from pydantic import Field

from refstudy.spec_values import Count, Entry, NotNegative, Positive, Resources, Shared, Undivided


class AllResources(Entry):
    trial: Undivided = Resources()
    artefact: Shared = Resources()
    """For models, tables and other shared artefacts, where an entry says nothing else."""


class Price(Entry):
    """What `refstudy plan` and `limits.cost` reckon with; changes no result."""

    device_hour: NotNegative = 0.0
    """Price of a device (a GPU, or a core where trials take no GPU) for an hour, in any currency; 0: no price is shown."""
    device_tflops: Positive = 400.0
    """What a device computes in training, in 1e12 floating-point operations a second at full use (H100 in bf16: about 990)."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of that which training reaches (MFU)."""


class LimitsEntry(Entry):
    """What the sweep may use, over all its runs in one folder; at a limit the run ends, and goes on once the limit is raised.

    Cells are taken in the order of the grid; no measure of theirs decides which.
    """

    hours: Positive | None = None
    """Wall time in which a run of the sweep works; what is under way then is ended; null: no limit."""
    cells: Count | None = None
    """Cells of the grid that are finished, done or failed; each that is begun is brought to its end; null: no limit."""
    cost: Positive | None = None
    """Device-hours of models, tables and trials at price.device_hour; what is under way then is ended; null: no limit."""


class WandbEntry(Entry):
    """The mirror of a sweep in wandb; offline unless WANDB_MODE says otherwise."""

    enabled: bool = True
    project: str = "refstudy"
    entity: str | None = None
