"""The paper's tables and a sweep's cells side by side: the same questions, asked of both by the same code.

Invariant: both sides are grids (analysis.grids), judged by analysis.findings alone; what one side has no data for says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from analysis import evidence, findings, plots, published
from analysis.figures import FOLDER, Figure
from analysis.findings import Finding
from analysis.findings.finding import best_index, best_text, is_stronger, mean_own
from analysis.frames import Column
from analysis.grids import DERIVED, Grid, Reference
from analysis.tables import Column as Heading
from analysis.tables import Row, Table, built

PAPER = "the paper"
SWEEP = "this sweep"
NAME = "beside_paper"

COLUMNS = (
    Column("side", "-", "the paper or this sweep"),
    Column("policy", "policy", "name, and the setting where there are several"),
    Column("reference", "reference", "name"),
    Column("role", "family, own win rate", "itself, or stronger or not, of the policy's family or another"),
    Column("beta", "beta", "1"),
    Column("win_rate", "mean over replicates", "[0, 1]; of the paper length-controlled"),
    Column("low", "replicates, or the paper's stated error", "[0, 1]; empty with fewer than three replicates"),
    Column("high", "replicates, or the paper's stated error", "[0, 1]"),
    Column("length_tokens", "mean over replicates", "tokens; the paper has none by beta"),
    Column("replicates", "replicates", "worlds, seeds or runs"),
)

QUESTIONS = (
    ("Which beta is best, held to itself?", ("sweet_spot", "accuracy_does_not_select"), "own"),
    ("Does a stronger reference help, and at which beta?", ("stronger_reference_helps", "stronger_wants_larger_beta"), "others"),
    ("Is the reference a ceiling?", ("reference_is_a_ceiling",), "others"),
    ("Does its family matter?", ("family_matters",), "others"),
    ("What becomes of length by beta?", ("length_explosion",), "own"),
    ("Why does it help?", ("measure_predicts_gain", "why_it_helps"), "none"),
)
"""(question, keys of the findings that answer it, whose rows are shown)"""


@dataclass(frozen=True)
class Panel:
    """One question, and what both sides say to it."""

    question: str
    cells: Table
    """A row for each policy and reference of both sides."""
    decisions: Table
    """A row for each finding of both sides."""


def frame(own: Sequence[Grid]) -> pd.DataFrame:
    """COLUMNS: a row for each side, policy, reference and beta; derived columns of the sweep left out."""
    rows = [row for side, grid in _sides(own) for reference in _shown(grid) for row in _betas(side, grid, reference)]
    return pd.DataFrame(rows, columns=[column.name for column in COLUMNS])


def panels(own: Sequence[Grid], found: Sequence[Finding]) -> list[Panel]:
    """A panel for each question; `found` are the findings of `own`."""
    rows = [_reference(side, grid, reference) for side, grid in _sides(own) for reference in _shown(grid)]
    told = [*((PAPER, row) for row in findings.of_paper()), *((SWEEP, row) for row in found)]
    return [Panel(asked, _cells(rows, whose), _decisions(told, keys, whose)) for asked, keys, whose in QUESTIONS]


def drawn(of: pd.DataFrame, folder: Path) -> list[Figure]:
    """Win rate against beta of both sides, saved as files."""
    words = (
        "Above the paper's policies, below this sweep's; colours say what a reference is to its policy. The scales differ, for win "
        "rates are against other baselines. Bars: 95 % intervals over replicates; of the paper by a stated error of "
        f"{published.ERROR:g} a cell."
    )
    svg = plots.save(plots.beside_paper(of), folder / FOLDER, NAME)
    return [Figure(NAME, "Win rate against beta: the paper and this sweep", Markup(svg), words, NAME)]


def role(grid: Grid, reference: Reference) -> str:
    """What a reference is to its policy, in words that hold on both sides."""
    if reference.own:
        return "itself"
    if reference.family is None or grid.policy_family is None:
        family = "family unknown"
    else:
        family = "of its family" if reference.family == grid.policy_family else "of another family"
    return f"{'stronger' if is_stronger(grid, reference) else 'not stronger'}, {family}"


def _sides(own: Sequence[Grid]) -> list[tuple[str, Grid]]:
    return [*((PAPER, grid) for grid in published.grids()), *((SWEEP, grid) for grid in own)]


def _shown(grid: Grid) -> list[Reference]:
    return [each for each in grid.references if each.kind != DERIVED]


def _betas(side: str, grid: Grid, reference: Reference) -> list[Row]:
    rows: list[Row] = []
    lengths = evidence.mean_over_replicates(reference.length_tokens)
    for index, beta in enumerate(reference.betas):
        column = reference.win_rate[:, index]
        of = evidence.of_replicates(column)
        if grid.error is not None:
            of = evidence.of_stated_error(float(column[0]), grid.error)
        about = {"side": side, "policy": _policy(grid), "reference": reference.name, "role": role(grid, reference), "beta": beta}
        numbers = {"win_rate": of.statistic, "low": of.low, "high": of.high, "length_tokens": lengths[index]}
        rows.append({**about, **numbers, "replicates": int(np.isfinite(column).sum())})
    return rows


def _policy(grid: Grid) -> str:
    return f"{grid.policy}, {grid.setting}" if grid.setting else grid.policy


def _reference(side: str, grid: Grid, reference: Reference) -> Row:
    rates, lengths = (evidence.mean_over_replicates(each) for each in (reference.win_rate, reference.length_tokens))
    top, own = best_index(reference), grid.self
    selfs = math.nan if own is None or best_index(own) < 0 else evidence.mean_over_replicates(own.win_rate)[best_index(own)]
    best = math.nan if top < 0 else float(rates[top])
    ratio = math.nan if top < 0 else float(lengths[0] / lengths[top])
    return {
        "side": side,
        "policy": _policy(grid),
        "reference": reference.name,
        "role": role(grid, reference),
        "own": reference.own,
        "own_win_rate": mean_own(reference),
        "best_beta": best_text(reference),
        "best": best,
        "smallest": float(rates[0]),
        "largest": float(rates[-1]),
        "gain": math.nan if reference.own else best - float(selfs),
        "length_ratio": ratio,
        "degenerate": ", ".join(f"{beta:g}" for beta, rate in zip(reference.betas, rates, strict=True) if math.isnan(rate)),
    }


def _cells(rows: Sequence[Row], whose: str) -> Table:
    chosen = [row for row in rows if whose != "none" and row["own"] == (whose == "own")]
    return built(
        [
            Heading("side", lambda row: row["side"], numeric=False),
            Heading("policy", lambda row: row["policy"], numeric=False),
            Heading("reference", lambda row: row["reference"], numeric=False),
            Heading("it is", lambda row: row["role"], numeric=False),
            Heading("its own win rate", lambda row: _number(row["own_win_rate"], ".3f")),
            Heading("best beta", lambda row: row["best_beta"]),
            Heading("win rate there", lambda row: _number(row["best"], ".3f")),
            Heading("at the smallest beta", lambda row: _number(row["smallest"], ".3f")),
            Heading("at the largest", lambda row: _number(row["largest"], ".3f")),
            Heading("minus self's best", lambda row: _number(row["gain"], "+.3f")),
            Heading("length, smallest to best beta", lambda row: _number(row["length_ratio"], ".2f") or "not published"),
            Heading("degenerate without a score at beta", lambda row: row["degenerate"]),
        ],
        chosen,
    )


def _decisions(told: Sequence[tuple[str, Finding]], keys: Sequence[str], whose: str) -> Table:
    """Rows of findings about what the panel shows: where a finding has a row for every reference, those of its references."""
    rows: list[Row] = [{"side": side, "row": row} for key in keys for side, row in told if row.finding == key]
    if whose == "own":
        rows = [
            each for each in rows if each["row"].finding != "sweet_spot" or each["row"].reference in _selves(told, each["side"])
        ]
    return built(
        [
            Heading("finding", lambda row: row["row"].finding, numeric=False),
            Heading("side", lambda row: row["side"], numeric=False),
            Heading("policy", lambda row: _of(row["row"]), numeric=False),
            Heading("reference", lambda row: row["row"].reference or "", numeric=False),
            Heading("decision", lambda row: row["row"].decision, numeric=False),
            Heading("in words", lambda row: row["row"].told, numeric=False),
        ],
        rows,
    )


def _selves(told: Sequence[tuple[str, Finding]], side: str) -> set[str | None]:
    """What the policy itself is called as a reference on a side: `length_explosion` is about nothing else."""
    return {row.reference for at, row in told if at == side and row.finding == "length_explosion"}


def _of(row: Finding) -> str:
    return f"{row.policy}, {row.setting}" if row.setting else row.policy


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
