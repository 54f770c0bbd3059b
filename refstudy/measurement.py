"""What flows out of a running stage, and the one word that flows back in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """A moment of a stage: how far it is, and what it measured there."""

    stage: str
    """pretrain, sft, score, train, along, generate, judge, ..."""
    step: int
    of: int | None
    """Steps in all, None while unknown."""
    values: Mapping[str, float]
    alarms: tuple[str, ...] = ()
    """The alarms that these values raised, in words."""


@dataclass(frozen=True)
class Stop:
    """The answer to a measurement that ends training early; the trial still generates, judges and records."""

    reason: str


Emit = Callable[[Measurement], Stop | None]


def silent(measurement: Measurement) -> None:
    """An emit for callers that want no measurements."""
