"""The report of a sweep: one HTML file that opens from disk, with its figures and tables also as files beside it.

Invariant: every number and text on the page comes from a frame or an answer; all text is escaped, and the page runs one script, its
own, by hash.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis import browser, checks, estimates, frames, plots, samples, summary, tables
from analysis.frames import Results
from refstudy.store import Store

PAGE = "report.html"
SCRIPT = Path(__file__).parent / "report_script.js"


def write(results: Path | str, store: Store) -> Path:
    """The path of results/report.html, written from the folder's records and the store's artefacts.

    Beside it figures/NAME.png and .svg, and tables/NAME.csv with the frame behind each figure and table.
    """
    loaded = frames.load(results, store)
    points = estimates.points(loaded)
    best = estimates.best(loaded, points)
    differences = estimates.differences(loaded, points)
    baselines = _by_panel(loaded)
    own = estimates.own_scores(loaded, points)
    shown = samples.choose(loaded, points, best, store)
    _write_tables(loaded, points, best, differences, baselines)
    script = SCRIPT.read_text(encoding="utf-8")
    page = _template().render(
        name=loaded.sweep.get("name") or loaded.folder.name,
        question=loaded.sweep.get("question") or question(loaded.text),
        faults=checks.run(loaded),
        sentences=summary.sentences(loaded, points, best, baselines),
        several=points["panel"].nunique() > 1,
        figures=_figures(loaded, points, baselines, own),
        best=tables.best(best),
        differences=tables.differences(differences),
        coverage=summary.coverage(differences if len(differences) else points),
        cells=tables.cells(loaded.cells[loaded.cells["current"]]),
        earlier=tables.cells(loaded.cells[~loaded.cells["current"]]),
        references=tables.references(loaded, points, own),
        samples=shown,
        answers=browser.payload(loaded, store),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        text=loaded.text,
        provenance=tables.provenance(loaded),
        identities=tables.identities(loaded),
    )
    path = loaded.folder / PAGE
    path.write_bytes(page.encode("utf-8", errors="replace"))
    return path


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


def _by_panel(loaded: Results) -> pd.DataFrame:
    """Mean length of the baseline answers for each panel over its draws, one for each seed; their range and number."""
    draws = loaded.done[["panel", "baseline_id"]].drop_duplicates().merge(loaded.baselines, on="baseline_id")
    lengths = draws.groupby("panel", sort=False)["length_tokens"]
    return lengths.agg(length_tokens="mean", least="min", most="max", draws="size").reset_index()


def _figures(loaded: Results, points: pd.DataFrame, baselines: pd.DataFrame, own: pd.DataFrame) -> list[dict[str, Any]]:
    if points.empty:
        return []
    bars = f"Bars: 95 % intervals, clustered by what prompts share. {summary.coverage(points)}"
    dots = " Dots: single training runs." if points["seeds"].max() > 1 else ""
    whiskers = f"{bars}{dots} Points of one beta stand slightly apart, to be told apart."
    made = [
        ("win_rate_by_beta", "Win rate against beta", plots.win_rate_by_beta(points, loaded.done), whiskers),
        ("length_by_beta", "Answer length against beta", plots.length_by_beta(points, loaded.done, baselines), whiskers),
    ]
    if points["kl_start_nats"].notna().any():
        words = "Each line joins a reference's betas in order. KL over the full vocabulary, on the policy's own answers. " + bars
        made.append(
            (
                "win_rate_by_kl",
                "Win rate against distance from the start",
                plots.win_rate_by_kl(points, own[~own["self"].astype(bool)]),
                words,
            )
        )
    folder = loaded.folder / "figures"
    return [
        {"name": name, "title": title, "svg": Markup(plots.save(figure, folder, name)), "words": words}
        for name, title, figure, words in made
    ]


def _write_tables(
    loaded: Results, points: pd.DataFrame, best: pd.DataFrame, differences: pd.DataFrame, baselines: pd.DataFrame
) -> None:
    folder = loaded.folder / "tables"
    folder.mkdir(exist_ok=True)
    columns = pd.DataFrame([vars(column) for column in (*frames.CELL_COLUMNS, *frames.PROMPT_COLUMNS, *frames.REFERENCE_COLUMNS)])
    written = {
        "cells": loaded.cells,
        "points": points,
        "best_betas": best,
        "differences_to_self": differences,
        "baselines": baselines,
        "references": loaded.references,
        "columns": columns,
    }
    for name, frame in written.items():
        frame.map(_cell_text).to_csv(folder / f"{name}.csv", index=False, encoding="utf-8", errors="replace")


def _cell_text(value: Any) -> Any:
    """Tuples as words between spaces, so that a spreadsheet shows them."""
    return " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value) if isinstance(value, tuple) else value


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = samples.shown
    return environment.get_template("report_template.html")
