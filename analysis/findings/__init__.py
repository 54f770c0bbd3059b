"""What a grid shows about the claims on references and beta, each as a finding that can come out against them.

Three findings are confirmatory; for each policy their p values are corrected together (Holm over these three, not over rows).
All others describe. Invariant: decisions come from analysis.grids.Grid alone, the same for a sweep, the paper's tables and a
simulation.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis import grids, published, study
from analysis.evidence import ALPHA, Evidence, holm
from analysis.findings import beta, references, why
from analysis.findings.finding import Finding as Finding
from analysis.findings.finding import decide
from analysis.findings.finding import is_stronger as is_stronger
from analysis.grids import Grid
from analysis.study import Study

KEYS = (
    *("sweet_spot", "length_explosion", "stronger_reference_helps", "family_matters", "stronger_wants_larger_beta"),
    *("reference_is_a_ceiling", "accuracy_does_not_select", "measure_predicts_gain", "why_it_helps"),
)
CONFIRMATORY = ("length_explosion", "stronger_reference_helps", "family_matters")


def of_folders(folders: Sequence[Path | str], store: Path | str | None = None, earlier: bool = False) -> list[Finding]:
    """The findings of the sweeps in one or several results folders."""
    return of_study(study.load(*folders, store=store, earlier=earlier))


def of_study(loaded: Study) -> list[Finding]:
    """The findings of loaded sweeps."""
    return [found for grid in grids.of_study(loaded) for found in judge(grid)]


def of_paper() -> list[Finding]:
    """The findings of the paper's own tables."""
    return [found for grid in published.grids() for found in judge(grid)]


def judge(grid: Grid, keys: Sequence[str] = KEYS) -> list[Finding]:
    """The findings of one grid, in the order of KEYS, a row at least for each; the confirmatory ones are always made together."""
    made = {key: _made(key, grid) for key in KEYS if key in keys or key in CONFIRMATORY}
    tested = {key: next((row.p for row in made[key] if row.tested), math.nan) for key in CONFIRMATORY}
    adjusted = holm(tested)
    for key in CONFIRMATORY:
        before = [other for other in CONFIRMATORY if other != key and adjusted[other] <= ALPHA and tested[other] < _p(tested[key])]
        made[key] = _corrected(made[key], len(CONFIRMATORY) - len(before), adjusted[key])
    return [row for rows in made.values() for row in rows]


def _made(key: str, grid: Grid) -> list[Finding]:
    match key:
        case "sweet_spot":
            return beta.sweet_spot(grid)
        case "length_explosion":
            return beta.length_explosion(grid)
        case "stronger_reference_helps":
            return references.stronger_reference_helps(grid)
        case "family_matters":
            return references.family_matters(grid)
        case "stronger_wants_larger_beta":
            return beta.stronger_wants_larger_beta(grid)
        case "reference_is_a_ceiling":
            return references.reference_is_a_ceiling(grid)
        case "accuracy_does_not_select":
            return beta.accuracy_does_not_select(grid)
        case "measure_predicts_gain":
            return why.measure_predicts_gain(grid)
        case "why_it_helps":
            return why.why_it_helps(grid)
        case _:
            raise ValueError(f"no finding is called {key!r}; expected one of {', '.join(KEYS)}")


def _corrected(rows: list[Finding], times: int, adjusted: float) -> list[Finding]:
    """A confirmatory finding's rows after Holm: `adjusted` is the p of the tested row, `times` what Holm multiplies this finding
    with. Other rows follow the tested one upwards; downwards they are corrected for their number too."""
    lead = next((row for row in rows if row.tested), None)
    count = sum(not math.isnan(row.p) for row in rows)
    holds = lead is not None and decide(_evidence(lead), adjusted) == "reproduced"
    found = []
    for row in rows:
        p = adjusted if row.tested else min(1.0, row.p * times * (count if row.statistic < 0 else 1))
        after = row.decision
        if row.decision in ("reproduced", "contradicted"):
            after = decide(_evidence(row), p)
            after = "undecided" if after == "reproduced" and not holds else after
        why = "" if after == row.decision else f" Undecided after Holm's correction (p {row.p:.2g}, corrected {p:.2g})."
        found.append(replace(row, p_holm=math.nan if math.isnan(row.p) else p, decision=after, sentence=row.sentence + why))
    return [replace(row, confirmatory=True) for row in found]


def _evidence(row: Finding) -> Evidence:
    return Evidence(row.statistic, row.low, row.high, row.p, row.n_replicates, row.basis)


def _p(p: float) -> float:
    return 1.0 if math.isnan(p) else p


def as_rows(found: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON holds them: the keys that others rely on first; numbers that are none as null."""
    first = ("finding", "policy", "reference", "decision", "statistic", "low", "high", "n_replicates")
    rest = ("unit", "sentence", "confirmatory", "p", "p_holm", "basis", "seen_in_this_run", "figure", "setting", "source")
    return [{name: _plain(getattr(row, name)) for name in (*first, *rest)} for row in found]


def as_json(found: Iterable[Finding]) -> str:
    return json.dumps(as_rows(found), indent=1, allow_nan=False)


def as_text(found: Iterable[Finding]) -> str:
    """The findings for a terminal: one paragraph for each key, its rows by decision and sentence."""
    rows, lines = list(found), []
    for key in KEYS:
        kind = "confirmatory" if key in CONFIRMATORY else "descriptive"
        lines.append(f"{key} ({kind})")
        lines += [f"  {row.decision}: {row.told}" for row in rows if row.finding == key]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
