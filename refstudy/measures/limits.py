"""Limits on measures: one small grammar, `MEASURE OPERATOR NUMBER`, for the label "degenerate", for alarms and for gates.

Invariant: a limit is parsed once; a measure that is absent neither passes nor exceeds, it is said to be absent.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from refstudy.errors import SpecError

OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
FORM = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(>=|<=|>|<)\s*([^\s<>=]+)\s*")


@dataclass(frozen=True)
class Limit:
    measure: str
    comparison: str
    """One of >=, <=, >, <."""
    bound: float

    def holds(self, measures: Mapping[str, float]) -> bool | None:
        """Whether the comparison is true of `measures`; None where the measure is absent or not a number."""
        value = measures.get(self.measure)
        if value is None or math.isnan(value):
            return None
        return OPERATORS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        return f"{self.measure} {self.comparison} {self.bound:g}"


def parse(text: str) -> Limit:
    """The limit that `text` says, such as "truncation_rate > 0.5"."""
    match = FORM.fullmatch(text)
    bound = _number(match.group(3)) if match else None
    if match is None or bound is None:
        raise SpecError(f"limit {text!r} cannot be read; expected MEASURE OPERATOR NUMBER, such as 'truncation_rate > 0.5'")
    return Limit(match.group(1), match.group(2), bound)


def degenerate(measures: Mapping[str, float], limits: tuple[Limit, ...] | None = None) -> tuple[bool, str | None]:
    """(whether a cell is degenerate, the limits it exceeded with its own values as the reason)."""
    exceeded = [limit for limit in (DEGENERATE if limits is None else limits) if limit.holds(measures)]
    reasons = [f"{limit.measure} {measures[limit.measure]:.3g} {limit.comparison} {limit.bound:g}" for limit in exceeded]
    return bool(exceeded), "; ".join(reasons) or None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


DEGENERATE = (parse("truncation_rate > 0.5"), parse("repetitive_share > 0.2"), parse("length_ratio < 0.25"))
"""What makes a cell degenerate. An answer is repetitive by `repetition.is_repetitive`; healthy models have at most 2 % of such
answers. Answers that shrink to less than a quarter of the start policy's no longer answer: a whole run of preference training has
been seen to move the mean length by a factor of 1.8 (arXiv 2404.16792), and no other measure sees a policy that ends at once.
"""
