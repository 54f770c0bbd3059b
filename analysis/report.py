"""The report of a sweep: one HTML file that opens from disk, with its figures and tables also as files beside it.

Invariant: every number and text on the page comes from a frame or an answer; all text is escaped, and the page runs one script, its
own, by hash.
"""

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis import (
    browser,
    checks,
    compatibility,
    controlled,
    estimates,
    evaluation_sets,
    figures,
    findings,
    frames,
    judges,
    samples,
    study,
    summary,
    tables,
    token_shifts,
)
from analysis.evaluation_sets import EvaluationSet
from analysis.frames import Results
from refstudy.store import Store

PAGE = "report.html"
SCRIPT = Path(__file__).parent / "report_script.js"


def write(results: Path | str, store: Store, refresh_s: int | None = None) -> Path:
    """The path of results/report.html, written from the folder's records and the store's artefacts.

    Beside it figures/NAME.png and .svg, and tables/NAME.csv with the frame behind each figure and table. With `refresh_s` an open
    page loads itself again after so many seconds, without a script.
    """
    loaded = frames.load(results, store)
    complete = evaluation_sets.is_complete(loaded)
    loaded, points, controlling = controlled.control(loaded, estimates.points(loaded), controlled.SWEEP, complete)
    sets = evaluation_sets.load(loaded, store)
    best = estimates.best(loaded, points)
    differences = estimates.differences(loaded, points)
    baselines = frames.baselines_by_panel(loaded)
    own = estimates.own_scores(loaded, points)
    shown = samples.choose(loaded, points, best, store)
    fits = compatibility.load(loaded)
    fitted = compatibility.with_outcomes(fits.references, points, best)
    shifted = token_shifts.load(loaded, store)
    judged = judges.frame(loaded, store)
    joined = study.joined([loaded], [store])
    along_beta, drawn = figures.of_grid(loaded, points, baselines, own), figures.of_study(loaded, joined, points)
    _write_frames(loaded, drawn.frames)
    _write_tables(loaded, points, best, differences, baselines, judged, sets)
    _write_frames(loaded, {"compatibility": fitted, "saturation": fits.saturation, "d_by_length": fits.by_length})
    _write_frames(
        loaded, {"token_shifts": shifted.cells, "token_shift_histogram": shifted.histogram, "moved_tokens": shifted.moved}
    )
    script = SCRIPT.read_text(encoding="utf-8")
    page = _template().render(
        refresh_s=refresh_s,
        name=loaded.sweep.get("name") or loaded.folder.name,
        question=loaded.sweep.get("question") or question(loaded.text),
        faults=checks.run(loaded),
        sentences=summary.sentences(loaded, points, best, baselines),
        findings=findings.of_study(joined) if len(loaded.done) else [],
        several=points["panel"].nunique() > 1,
        figures=[*along_beta, *drawn.grid],
        drawn=drawn,
        shown_figures=drawn.names | {each.name for each in along_beta},
        alarms=tables.alarms(drawn.alarms),
        best=tables.best(best),
        differences=tables.differences(differences),
        coverage=summary.coverage(differences if len(differences) else points),
        controlling=controlling,
        sets=[evaluation_sets.section(each) for each in sets],
        cells=tables.cells(loaded.cells[loaded.cells["current"]]),
        earlier=tables.cells(loaded.cells[~loaded.cells["current"]]),
        imported=tables.cells(loaded.imported),
        judges=tables.judges(judged),
        references=tables.references(loaded, points, own),
        compatibility=tables.compatibility(_with_saturation(fitted, fits.saturation)),
        compatibility_figures=figures.of_compatibility(loaded, fits, fitted, points),
        suggested=_suggested(fitted),
        borne_out=compatibility.borne_out(fitted),
        token_figures=figures.of_tokens(loaded, shifted),
        moved=tables.moved_tokens(token_shifts.most_moved(shifted.moved)),
        samples=shown,
        answers=browser.payload(loaded, store),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        text=loaded.text,
        provenance=tables.provenance(loaded),
        identities=tables.identities(loaded),
    )
    path = loaded.folder / PAGE
    whole = path.with_name(f".{PAGE}.{os.getpid()}")  # a browser that refreshes must never see half a page
    whole.write_bytes(page.encode("utf-8", errors="replace"))
    os.replace(whole, path)
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


def _write_tables(
    loaded: Results,
    points: pd.DataFrame,
    best: pd.DataFrame,
    differences: pd.DataFrame,
    baselines: pd.DataFrame,
    judged: pd.DataFrame,
    sets: list[EvaluationSet],
) -> None:
    declared = (
        *frames.CELL_COLUMNS,
        *frames.CONTROLLED_COLUMNS,
        *frames.PROMPT_COLUMNS,
        *frames.REFERENCE_COLUMNS,
        *compatibility.COLUMNS,
        *judges.JUDGE_COLUMNS,
    )
    columns = pd.DataFrame([vars(column) for column in declared])
    written = {
        "cells": loaded.cells,
        "imported": loaded.imported,
        "points": points,
        "best_betas": best,
        "differences_to_self": differences,
        "baselines": baselines,
        "judges": judged,
        "references": loaded.references,
        "columns": columns,
        **evaluation_sets.written(sets),
    }
    _write_frames(loaded, written)


def _write_frames(loaded: Results, written: dict[str, pd.DataFrame]) -> None:
    folder = loaded.folder / "tables"
    folder.mkdir(exist_ok=True)
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
