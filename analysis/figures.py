"""The figures of a report: what each shows, in words, and the table in which its numbers stand.

Invariant: a figure is drawn from one frame, which is written beside it as CSV.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis import plots, summary, token_shifts
from analysis.compatibility import Fits
from analysis.frames import Results
from analysis.token_shifts import Shifted

FOLDER = "figures"


@dataclass(frozen=True)
class Figure:
    name: str
    title: str
    svg: Markup
    words: str
    """What is to be known to read it."""
    table: str
    """Name of the CSV file with its numbers."""


def of_grid(loaded: Results, points: pd.DataFrame, baselines: pd.DataFrame, own: pd.DataFrame) -> list[Figure]:
    """Win rate and length against beta, and win rate against distance from the start; none without points."""
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
    return [_figure(loaded, name, title, figure, words, "points") for name, title, figure, words in made]


def of_compatibility(loaded: Results, fits: Fits, fitted: pd.DataFrame, points: pd.DataFrame) -> list[Figure]:
    """One for each panel with a reference that differs from self."""
    differing = fitted[fitted["difference_spread_nats"] > 0]
    differing = differing[differing["reference"].isin(points["reference"])]
    made = []
    for number, panel in enumerate(dict.fromkeys(differing["panel"])):
        here, bins = (frame[frame["panel"] == panel] for frame in (differing, fits.by_length))
        name = "compatibility" + (f"_{number + 1}" if number else "")
        title = "How the references fit the policy" + (f": {panel}" if differing["panel"].nunique() > 1 else "")
        words = (
            "D: a reference's margin minus self's, of each preference pair; all that a reference adds to DPO with self. Left: the "
            "two measures declared primary; a reference without noise to speak of has no place there. Right: D's mean and standard "
            "deviation by length difference with the fitted line, each plot on a scale of its own; the line's height at 0 is the "
            "intercept."
        )
        made.append(_figure(loaded, name, title, plots.compatibility(here, bins, points), words, "compatibility"))
    return made


def of_tokens(loaded: Results, shifted: Shifted) -> list[Figure]:
    """The end token against beta, and a histogram figure for each panel."""
    if shifted.cells.empty:
        return []
    points, histogram = token_shifts.points(shifted.cells), token_shifts.by_beta(shifted.histogram)
    on = f"On at most {shifted.cells['answers'].max()} chosen answers, the same for every cell of a policy and seed."
    made = [_figure(loaded, "end_token_by_beta", "The end token's shift", plots.end_token_by_beta(points), on, "token_shifts")]
    for number, panel in enumerate(dict.fromkeys(histogram["panel"])):
        name = "token_shifts" + (f"_{number + 1}" if number else "")
        title = "How far tokens moved" + (f": {panel}" if histogram["panel"].nunique() > 1 else "")
        words = f"Bins of half a nat, from 20 below to 20 above; what lies beyond is counted in the table. {on}"
        figure = plots.token_shifts(histogram[histogram["panel"] == panel])
        made.append(_figure(loaded, name, title, figure, words, "token_shift_histogram"))
    return made


def _figure(loaded: Results, name: str, title: str, figure: Any, words: str, table: str) -> Figure:
    """A figure for the page, saved beside it as PNG and SVG."""
    return Figure(name, title, Markup(plots.save(figure, loaded.folder / FOLDER, name)), words, table)
