"""One finding about one policy (and reference): what was claimed, the statistic that tests it, and what the data decide.

Invariant: reproduced and contradicted need replicates (or a stated error) whose interval lies on one side; whatever falls short is
undecided, and what the grid does not hold is not_testable, each with its reason in words.
"""

import math
from dataclasses import dataclass
from typing import Literal

from analysis.estimates import EDGE_TEXT
from analysis.evidence import ALPHA, FEWEST, NOTHING, Evidence, mean_over_replicates
from analysis.grids import Grid, Reference, Term

Decision = Literal["reproduced", "contradicted", "undecided", "not_testable"]

STRONGER = 0.05
"""How much more often (in win rate) a reference's own answers must win than the policy's own for it to be called stronger."""
NEGLIGIBLE = 0.01
"""Win rate that one may lose without noticing: a claim of a fall is contradicted where the whole interval of the fall is below."""


@dataclass(frozen=True)
class Finding:
    """A row of what a grid shows; numbers are NaN where there are none."""

    finding: str
    source: str
    policy: str
    setting: str
    reference: str | None
    decision: Decision
    statistic: float
    low: float
    high: float
    """The 95 % interval of the statistic, before any correction."""
    unit: str
    n_replicates: int
    basis: str
    """What the interval covers."""
    p: float
    """Two-sided, of "the statistic is 0"."""
    sentence: str
    figure: str | None = None
    """Name of the report's figure that shows it; None where there is nothing to show."""
    seen_in_this_run: bool | None = None
    """With too few replicates to decide: whether these runs, taken for themselves, show what is claimed; else None."""
    p_holm: float = math.nan
    confirmatory: bool = False
    tested: bool = False
    """Whether this row's p stands for its finding in Holm's correction."""

    @property
    def told(self) -> str:
        """The sentence, and where the data are too few to decide, what these runs alone show."""
        if self.seen_in_this_run is None or self.decision != "undecided":
            return self.sentence
        return f"{self.sentence} {'Seen in this run, which decides nothing.' if self.seen_in_this_run else 'Not seen in this run.'}"


def row(grid: Grid, key: str, reference: str | None, evidence: Evidence, unit: str, said: str, **more: object) -> Finding:
    """A finding decided by its evidence alone: reproduced above 0, contradicted below, undecided in between."""
    seen = None
    if evidence.basis == "prompts of this run":
        seen = evidence.low > 0
    fields = {"decision": decide(evidence, evidence.p), "seen_in_this_run": seen, **more}
    return Finding(
        finding=key,
        source=grid.source,
        policy=grid.policy,
        setting=grid.setting,
        reference=reference,
        statistic=evidence.statistic,
        low=evidence.low,
        high=evidence.high,
        unit=unit,
        n_replicates=evidence.n_replicates,
        basis=evidence.basis,
        p=evidence.p,
        sentence=f"{title(grid)}: {said}{_left_out(grid, evidence)}.",
        **fields,  # type: ignore[arg-type]
    )


def not_testable(grid: Grid, key: str, reference: str | None, why: str) -> Finding:
    """A row that says what the grid lacks."""
    return row(grid, key, reference, NOTHING, "", f"not testable, {why}", decision="not_testable")


def decide(evidence: Evidence, p: float) -> Decision:
    """What evidence with this p, corrected or not, decides about a claim of "above 0"."""
    if math.isnan(evidence.statistic):
        return "not_testable"
    if evidence.basis not in ("replicates", "stated error") or not p <= ALPHA or evidence.statistic == 0:
        return "undecided"
    return "reproduced" if evidence.statistic > 0 else "contradicted"


def title(grid: Grid) -> str:
    return f"{grid.policy} ({grid.setting})" if grid.setting else grid.policy


def at_best(reference: Reference, sign: float = 1.0) -> Term:
    """A reference's win rate at its best beta."""
    return Term(sign, reference)


def best_index(reference: Reference) -> int:
    """The beta with the highest mean win rate over replicates, as an index; -1 where nothing is known."""
    means = [-math.inf if math.isnan(each) else float(each) for each in mean_over_replicates(reference.win_rate)]
    top = max(means, default=-math.inf)
    return means.index(top) if math.isfinite(top) else -1


def edge(reference: Reference, index: int) -> str:
    """Whether a beta ends the reference's grid: "largest", "smallest", "only" or "" (an inner one)."""
    if len(reference.betas) == 1:
        return "only"
    return {0: "smallest", len(reference.betas) - 1: "largest"}.get(index, "")


def best_text(reference: Reference) -> str:
    """The best beta in words, censored where it ends the grid: "30 or more"."""
    index = best_index(reference)
    return "unknown" if index < 0 else f"{reference.betas[index]:g}{EDGE_TEXT[edge(reference, index)]}"


def is_stronger(grid: Grid, reference: Reference) -> bool:
    """Whether its own answers win by STRONGER more often than the policy's own do (half of the time, where that was not judged)."""
    own = mean_own(reference)
    start = mean_own(grid.self) if grid.self is not None else math.nan
    return own >= (0.5 if math.isnan(start) else start) + STRONGER


def mean_own(reference: Reference) -> float:
    """The mean own win rate over the replicates that have one; NaN without."""
    return float(mean_over_replicates(reference.own_win_rate[:, None])[0])


def others(grid: Grid) -> list[Reference]:
    """The references that are neither the policy's own start nor made from another's column."""
    return [each for each in grid.references if not each.own and each.kind != "derived"]


def shown(grid: Grid, evidence: Evidence, form: str = "+.3f") -> str:
    """A statistic with its interval and what that covers, as prose."""
    if math.isnan(evidence.statistic):
        return "an unknown amount (cells are missing)"
    if math.isnan(evidence.low):
        return f"{evidence.statistic:{form}} (no interval: {_counted(evidence.n_replicates, grid.unit)})"
    over = {
        "replicates": f"over {_counted(evidence.n_replicates, grid.unit)}",
        "stated error": f"with a stated error of {grid.error or 0:g} a cell",
        "prompts of this run": f"over the prompts of {_counted(evidence.n_replicates, grid.unit)} only",
    }[evidence.basis]
    return f"{evidence.statistic:{form}} ({evidence.low:{form}} to {evidence.high:{form}} {over})"


def biased(grid: Grid) -> str:
    """The warning that belongs to a best value chosen on the very runs that it is measured on; empty with enough replicates."""
    return (
        "" if len(grid.replicates) >= FEWEST else "; best values are chosen on the runs they are measured on, and so biased upwards"
    )


def _left_out(grid: Grid, evidence: Evidence) -> str:
    """How many replicates lack a cell that the statistic needs, as an aside."""
    missing = len(grid.replicates) - evidence.n_replicates
    return f" ({_counted(missing, grid.unit)} left out, for cells are missing)" if missing and evidence.n_replicates else ""


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
