"""Alarms: limits on what evaluations along training measure and on a finished cell's measures, and what is raised where they hold.

Invariant: what is raised follows from measures and limits alone, so a record's alarms can be derived again from its curve. An
alarm changes nothing by itself; one that ends training stands in the policy's recipe.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refstudy.measurement import Emit, Measurement, Stop
from refstudy.measures import limits
from refstudy.measures.limits import Limit

STAGE = "along"
"""The stage whose measurements alarms look at."""


@dataclass(frozen=True)
class Alarm:
    limit: Limit
    stop: bool = False
    """Whether it ends training."""


@dataclass(frozen=True)
class Raised:
    """An alarm at the first moment at which its limit held."""

    limit: str
    value: float
    step: int | None
    """Optimizer step; None: the finished cell."""
    stop: bool

    @property
    def reason(self) -> str:
        """Such as `length_ratio 2.31 > 2`."""
        limit = limits.parse(self.limit)
        return f"{limit.measure} {self.value:.3g} {limit.comparison} {limit.bound:g}"

    @property
    def words(self) -> str:
        """Such as `length_ratio 2.31 > 2 at step 40`, and whether training ends there."""
        if self.step is None:
            return f"{self.reason} in the finished cell"
        return f"{self.reason} at step {self.step}{', where training ends' if self.stop else ''}"

    def as_json(self) -> dict[str, Any]:
        """limit, value, step, stop, and all of it in words."""
        return {**dataclasses.asdict(self), "words": self.words}


class Watch:
    """Which alarms go off at one moment after another, each once."""

    def __init__(self, alarms: Iterable[Alarm]) -> None:
        self._waiting = list(alarms)

    def look(self, measures: Mapping[str, float], step: int | None) -> list[Raised]:
        """The alarms whose limit holds now and did not before."""
        now = [alarm for alarm in self._waiting if alarm.limit.holds(measures)]
        self._waiting = [alarm for alarm in self._waiting if alarm not in now]
        return [Raised(str(alarm.limit), float(measures[alarm.limit.measure]), step, alarm.stop) for alarm in now]


def raised(alarms: Sequence[Alarm], curve: Iterable[Mapping[str, float]], measures: Mapping[str, float]) -> list[Raised]:
    """All that was raised in a cell: along training, by the rows of its curve, then by its final measures."""
    watch = Watch(alarms)
    along = [each for row in curve for each in watch.look(row, int(row["step"]))]
    return along + Watch(alarms).look(measures, None)


def watched(alarms: Sequence[Alarm], emit: Emit, tell: Callable[[Raised], None]) -> Emit:
    """`emit`, its measurements carrying the alarms that they raise, each told to `tell` too. Ends nothing: `stopping` does."""
    watch = Watch(alarms)

    def watching(measurement: Measurement) -> Stop | None:
        if measurement.stage != STAGE:
            return emit(measurement)
        now = watch.look(measurement.values, measurement.step)
        stop = emit(dataclasses.replace(measurement, alarms=tuple(each.words for each in now)))
        for each in now:
            tell(each)
        return stop

    return watching


def stopping(words: Sequence[str], emit: Emit) -> Emit:
    """`emit` that answers Stop where a measurement along training is past one of these limits."""
    watch = Watch(Alarm(limits.parse(each), stop=True) for each in words)

    def ending(measurement: Measurement) -> Stop | None:
        stop = emit(measurement)
        now = watch.look(measurement.values, measurement.step) if measurement.stage == STAGE else []
        return Stop("; ".join(each.reason for each in now)) if now else stop

    return ending
