"""What a report says, gathered once: sections of sentences, tables, figures and answers, for every form that it is written in.

Invariant: every number and text comes from a frame or an answer; whoever renders computes nothing, and escapes everything.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import (
    beside_paper,
    browser,
    checks,
    compatibility,
    controlled,
    estimates,
    evaluation_sets,
    figures,
    findings,
    frame_files,
    frames,
    grids,
    judges,
    samples,
    study,
    summary,
    tables,
    token_shifts,
)
from analysis.beside_paper import Panel
from analysis.browser import Browsed
from analysis.figures import Figure
from analysis.findings import Finding
from analysis.frames import Results
from analysis.grids import Grid
from analysis.samples import Samples
from analysis.tables import Table
from refstudy.store import Store

DECISIONS = ("reproduced", "contradicted", "undecided", "not_testable")

CLAIMS = {
    "sweet_spot": "Win rate has a best beta and falls on both sides of it",
    "length_explosion": "A smaller beta makes answers longer",
    "stronger_reference_helps": "A stronger reference raises the best win rate",
    "family_matters": "A reference of the policy's own family helps more, length apart",
    "stronger_wants_larger_beta": "A stronger reference wants a larger beta",
    "reference_is_a_ceiling": "A policy does not pass the own score of its reference",
    "accuracy_does_not_select": "Ranking accuracy cannot select beta",
    "measure_predicts_gain": "Measures known before training predict the gain",
    "why_it_helps": "What a reference adds, apart from length, is what helps",
}
"""What was claimed, in words, by the key of its finding."""


@dataclass(frozen=True)
class Content:
    """The sections of a report, in the order of their fields."""

    name: str
    question: str
    faults: list[str]
    """What a reader must know before anything else."""
    lead: list[str]
    """The findings in a few words."""
    findings: list[tuple[str, list[Finding]]]
    """(decision, its findings, confirmatory ones first), decisions without any left out."""
    sentences: list[str]
    several: bool
    """Whether there is more than one panel."""
    figures: list[Figure]
    shown_figures: set[str]
    """Names of the figures to which a finding may point."""
    best: Table
    best_figures: list[Figure]
    effect_figures: list[Figure]
    """Gains by part of a reference, and measures against gain."""
    differences: Table
    coverage: str
    cells: Table
    earlier: Table
    imported: Table
    alarms: Table
    training_figures: list[Figure]
    controlling: list[str]
    """What length-controlled numbers mean, and where there are none."""
    judges: Table
    sets: list[dict[str, Any]]
    references: Table
    compatibility: Table
    compatibility_figures: list[Figure]
    suggested: list[str]
    borne_out: list[str]
    token_figures: list[Figure]
    moved: Table
    samples: list[Samples]
    answers: Browsed
    text: str
    """The sweep file as it was run."""
    provenance: list[tuple[str, str]]
    identities: Table
    paper: list[Panel] = field(default_factory=list)
    paper_figures: list[Figure] = field(default_factory=list)


def gather(results: Path | str, store: Store, with_paper: bool = False) -> Content:
    """The content of a folder's report; the figures and tables beside it are written on the way.

    Beside it figures/NAME.png and .svg, and tables/NAME.csv with the frame behind each figure and table. with_paper: the paper's
    tables are set beside the sweep.
    """
    loaded = frames.load(results, store)
    complete = evaluation_sets.is_complete(loaded)
    loaded, points, controlling = controlled.control(loaded, estimates.points(loaded), controlled.SWEEP, complete)
    sets = evaluation_sets.load(loaded, store)
    best, differences = estimates.best(loaded, points), estimates.differences(loaded, points)
    baselines, own = frames.baselines_by_panel(loaded), estimates.own_scores(loaded, points)
    judged = judges.frame(loaded, store)
    shown = samples.choose(loaded, points, best, store)
    browsed = browser.browse([("", loaded), *((of.name, of.results) for of in sets)], store)
    joined = study.joined([loaded], [store])
    own_grids = grids.of_study(joined) if len(loaded.done) else []
    found = [each for grid in own_grids for each in findings.judge(grid)]
    why = _why(loaded, points, best, store)
    written = {"points": points, "best_betas": best, "differences_to_self": differences, "baselines": baselines, "judges": judged}
    along_beta, drawn = figures.of_grid(loaded, points, baselines, own), figures.of_study(loaded, joined, points)
    frame_files.write(loaded.folder, {**_of_cells(loaded), **written, **evaluation_sets.written(sets), **drawn.frames})
    return Content(
        name=str(loaded.sweep.get("name") or loaded.folder.name),
        question=str(loaded.sweep.get("question") or question(loaded.text)),
        faults=checks.run(loaded),
        lead=lead(found),
        findings=by_decision(found),
        sentences=summary.sentences(loaded, points, best, baselines),
        several=points["panel"].nunique() > 1,
        figures=[*along_beta, *drawn.grid],
        shown_figures=drawn.names | {each.name for each in along_beta},
        best=tables.best(best),
        best_figures=drawn.best,
        effect_figures=drawn.effects,
        differences=tables.differences(differences),
        coverage=summary.coverage(differences if len(differences) else points),
        **_listed(loaded),
        alarms=tables.alarms(drawn.alarms),
        training_figures=drawn.training,
        controlling=controlling,
        judges=tables.judges(judged),
        sets=[evaluation_sets.section(each) for each in sets],
        references=tables.references(loaded, points, own),
        samples=shown,
        answers=browsed,
        **why,
        **(_paper(loaded, own_grids, found) if with_paper else {}),
    )


def lead(found: list[Finding]) -> list[str]:
    """The findings in a few words: how many came out how, then each confirmatory one that was decided."""
    if not found:
        return []
    counts = {decision: sum(row.decision == decision for row in found) for decision in DECISIONS}
    words = [f"{count} {decision.replace('_', ' ')}" for decision, count in counts.items() if count]
    told = [f"Of {len(found)} rows of findings: {', '.join(words)}."]
    for key in findings.CONFIRMATORY:
        rows = [row for row in found if row.finding == key]
        tested = [row for row in rows if row.tested] or rows[:1]
        of = ", ".join(f"{row.decision.replace('_', ' ')} ({_place(row)})" for row in tested)
        told.append(f"{CLAIMS[key]}: {of}.")
    return told


def _place(row: Finding) -> str:
    return f"{row.policy}, {row.setting}" if row.setting else row.policy


def by_decision(found: list[Finding]) -> list[tuple[str, list[Finding]]]:
    """(decision, its rows), confirmatory rows first."""
    groups = [
        (decision, sorted((row for row in found if row.decision == decision), key=lambda row: not row.confirmatory))
        for decision in DECISIONS
    ]
    return [(decision, rows) for decision, rows in groups if rows]


def question(text: str) -> str:
    """What follows "Question:" in the comment on top of a sweep file, up to the next labelled line; empty without one."""
    lines = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]
    asked: list[str] = []
    for line in lines:
        label = re.match(r"([A-Z]\w+):\s*", line)
        if label and label.group(1) == "Question":
            asked = [line[label.end() :]]
        elif label and asked:
            break
        elif asked:
            asked.append(line)
    return " ".join(asked).strip()


def _listed(loaded: Results) -> dict[str, Any]:
    """The tables of cells, and what the sweep was."""
    return {
        "cells": tables.cells(loaded.cells[loaded.cells["current"]]),
        "earlier": tables.cells(loaded.cells[~loaded.cells["current"]]),
        "imported": tables.cells(loaded.imported),
        "text": loaded.text,
        "provenance": tables.provenance(loaded),
        "identities": tables.identities(loaded),
    }


def _why(loaded: Results, points: pd.DataFrame, best: pd.DataFrame, store: Store) -> dict[str, Any]:
    """The sections on why references help: how they fit, and which tokens moved."""
    fits = compatibility.load(loaded)
    fitted = compatibility.with_outcomes(fits.references, points, best)
    shifted = token_shifts.load(loaded, store)
    written = {"compatibility": fitted, "saturation": fits.saturation, "d_by_length": fits.by_length}
    tokens = {"token_shifts": shifted.cells, "token_shift_histogram": shifted.histogram, "moved_tokens": shifted.moved}
    frame_files.write(loaded.folder, {**written, **tokens})
    return {
        "compatibility": tables.compatibility(_with_saturation(fitted, fits.saturation)),
        "compatibility_figures": figures.of_compatibility(loaded, fits, fitted, points),
        "suggested": _suggested(fitted),
        "borne_out": compatibility.borne_out(fitted),
        "token_figures": figures.of_tokens(loaded, shifted),
        "moved": tables.moved_tokens(token_shifts.most_moved(shifted.moved)),
    }


def _paper(loaded: Results, own: list[Grid], found: list[Finding]) -> dict[str, Any]:
    """The section that sets the paper's tables beside the sweep."""
    frame = beside_paper.frame(own)
    frame_files.write(loaded.folder, {"beside_paper": frame})
    return {"paper": beside_paper.panels(own, found), "paper_figures": beside_paper.drawn(frame, loaded.folder)}


def _suggested(fitted: pd.DataFrame) -> list[str]:
    """What the measures suggest of each reference, in words; with panel and seed where there are several."""
    told = []
    for row in fitted[fitted["words"].fillna("") != ""].to_dict("records"):
        more = [f"{word}{row[name]}" for name, word in (("panel", ""), ("seed", "seed ")) if fitted[name].nunique() > 1]
        where = f" ({', '.join(more)})" if more else ""
        told.append(f"{row['reference']}{where}: {row['words']}.")
    return told


def _with_saturation(fitted: pd.DataFrame, saturation: pd.DataFrame) -> pd.DataFrame:
    """The references with the range of beta times the spread of D over the grid, in words."""
    key = ["panel", "reference", "seed"]
    ends = saturation[saturation["saturation"] > 0].groupby(key)["saturation"].agg(["min", "max"])
    words = {
        at: _rounded(low) + (f" to {_rounded(high)}" if high > low else "")
        for at, (low, high) in zip(ends.index, ends.to_numpy(), strict=True)
    }
    return fitted.assign(saturation=[words.get(tuple(each), "") for each in fitted[key].itertuples(index=False)])


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _of_cells(loaded: Results) -> dict[str, pd.DataFrame]:
    """The frames of cells and references, and what their columns mean."""
    declared = (
        *frames.CELL_COLUMNS,
        *frames.CONTROLLED_COLUMNS,
        *frames.PROMPT_COLUMNS,
        *frames.REFERENCE_COLUMNS,
        *compatibility.COLUMNS,
        *judges.JUDGE_COLUMNS,
    )
    columns = pd.DataFrame([vars(column) for column in declared])
    return {"cells": loaded.cells, "imported": loaded.imported, "references": loaded.references, "columns": columns}
