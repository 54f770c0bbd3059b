"""Evaluation sets in the report: for each the cells' measures on it, and its win rate and lengths along beta.

Invariant: a set is read by the same frames, estimates and figures as the sweep's own prompts, so that the two can be compared.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis import checks, controlled, estimates, frames, plots, summary, tables
from analysis.frames import Results
from refstudy.store import Store


@dataclass(frozen=True)
class EvaluationSet:
    name: str
    results: Results
    points: pd.DataFrame
    faults: list[str]
    """What a reader must know before the figures."""
    notes: list[str]
    """What the length-controlled numbers mean, and where there are none."""


def load(results: Results, store: Store) -> list[EvaluationSet]:
    """The sets that the sweep declares, in its order."""
    return [_load(results, name, store) for name in results.sweep.get("evaluation_sets", [])]


def section(of: EvaluationSet) -> dict[str, Any]:
    """A set as the page shows it, its figures also written as files."""
    return {
        "name": of.name,
        "faults": of.faults,
        "notes": of.notes,
        "figures": _figures(of),
        "cells": tables.cells(of.results.cells),
    }


def written(sets: list[EvaluationSet]) -> dict[str, pd.DataFrame]:
    """Frames for files: a row for each set and cell, and one for each set and point; nothing without sets."""
    if not sets:
        return {}
    return {
        "evaluations": pd.concat([of.results.cells.assign(evaluation_set=of.name) for of in sets], ignore_index=True),
        "evaluation_points": pd.concat([of.points.assign(evaluation_set=of.name) for of in sets], ignore_index=True),
    }


def is_complete(results: Results) -> bool:
    """Whether every cell of the present grid has come to its end."""
    current = results.cells[results.cells["current"]]
    return len(current) > 0 and bool(current["status"].isin(["done", "failed"]).all())


def _load(results: Results, name: str, store: Store) -> EvaluationSet:
    on_set = frames.on_set(results, name, store)
    lacking = len(results.done) - len(on_set.done)
    points = estimates.points(on_set)
    on_set, points, notes = controlled.control(on_set, points, name, is_complete(results) and not lacking)
    faults = checks.of_set(on_set)
    if lacking:
        faults = [f"{lacking} of {len(results.done)} cells that are done are not judged on {name} yet.", *faults]
    return EvaluationSet(name, on_set, points, faults, notes)


def _figures(of: EvaluationSet) -> list[dict[str, Any]]:
    if of.points.empty:
        return []
    done, folder = of.results.done, of.results.folder / "figures"
    words = f"Bars: 95 % intervals, clustered by what prompts share. {summary.coverage(of.points)}"
    made = [
        (f"win_rate_by_beta_{of.name}", f"{of.name}: win rate against beta", plots.win_rate_by_beta(of.points, done)),
        (
            f"length_by_beta_{of.name}",
            f"{of.name}: answer length against beta",
            plots.length_by_beta(of.points, done, frames.baselines_by_panel(of.results)),
        ),
    ]
    return [
        {"name": name, "title": title, "svg": Markup(plots.save(figure, folder, name)), "words": words}
        for name, title, figure in made
    ]
