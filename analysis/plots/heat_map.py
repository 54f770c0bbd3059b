"""Win rate by beta and reference as a map of numbers, with what cannot be told from each reference's best.

Invariant: no colour is needed to read it: each square holds its number, each mark is a line.
"""

import math
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.plots import style
from analysis.plots.style import FAINT, INK, PARAMETERS

SCALE = LinearSegmentedColormap.from_list("win rate", ["#f4ecd8", "#9cc3d5", "#3c7fb1", "#123f6d"])
"""From low to high: lightness falls all the way, so that it is the same in grey."""
DARK, LIGHT = "#0d0e10", "#fdfdfd"
"""Of numbers on squares: not the page's ink, for squares keep their colour on a dark page."""
ROW_INCHES, COLUMN_INCHES = 0.3, 0.68
OWN_GAP = 0.35
"""Columns between the betas and the references' own answers."""


@matplotlib.rc_context(PARAMETERS)
def win_rate_map(points: pd.DataFrame) -> Figure:
    """A panel for each policy and setting: references down, betas across, and the references' own answers apart at the right."""
    panels = [(str(name), group) for name, group in points.groupby("panel", sort=False)]
    rows = [group["reference"].nunique() for _, group in panels]
    columns = max(group["beta"].nunique() for _, group in panels) + 1
    width = max(6.4, 0.085 * points["reference"].map(len).max() + COLUMN_INCHES * (columns + OWN_GAP) + 0.5)
    figure = Figure(figsize=(width, ROW_INCHES * sum(rows) + 0.75 * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[each + 1 for each in rows])[:, 0]
    values = points[["win_rate", "own_win_rate"]].to_numpy(dtype=float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    norm = Normalize(low, max(high, low + 0.01))
    for ax, (name, group) in zip(axes, panels, strict=True):
        _map(ax, group, norm)
        if len(panels) > 1:
            ax.set_title(name, fontsize=10, loc="left")
    _legend(figure, points)
    return figure


def _map(ax: Axes, group: pd.DataFrame, norm: Normalize) -> None:
    references, betas = list(dict.fromkeys(group["reference"])), sorted(set(group["beta"]))
    own = len(betas) + OWN_GAP
    for row in group.to_dict("records"):
        x, y = betas.index(row["beta"]), references.index(row["reference"])
        _square(ax, x, y, row["win_rate"], norm, bold=row["best"])
        ink = _ink(row["win_rate"], norm)
        if row["best"]:
            ax.add_patch(_frame(x, y, edgecolor=ink, linewidth=1.8))
        elif not row["separable"]:
            ax.add_patch(_frame(x, y, edgecolor=ink, linewidth=1.1, linestyle=(0, (3, 2))))
        for flag, (name, marker) in zip(("degenerate", "stopped"), style.RING.items(), strict=True):
            if row[flag]:
                side = -0.36 if name == "degenerate" else 0.36
                ax.plot(x + side, y, marker=marker, markersize=5, markerfacecolor="none", markeredgecolor=ink, markeredgewidth=1.2)
    known = set(zip(group["reference"], group["beta"], strict=True))
    for y, reference in enumerate(references):
        for x, beta in enumerate(betas):
            if (reference, beta) not in known:
                _square(ax, x, y, math.nan, norm)
    scores = group.drop_duplicates("reference").dropna(subset=["own_win_rate"])
    for row in scores.to_dict("records"):
        _square(ax, own, references.index(row["reference"]), row["own_win_rate"], norm)
    ticks: dict[float, str] = {place: f"{beta:g}" for place, beta in enumerate(betas)}
    ticks |= {own: "own answers"} if len(scores) else {}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_yticks(range(len(references)), references)
    ax.set_xlim(-0.55, (own if len(scores) else len(betas) - 1) + 0.55)
    ax.set_ylim(len(references) - 0.45, -0.55)
    ax.set_xlabel("beta", loc="left", labelpad=1)
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)


def _square(ax: Axes, x: float, y: float, value: float, norm: Normalize, bold: bool = False) -> None:
    if pd.isna(value):
        ax.text(x, y, "-", ha="center", va="center", color=FAINT)
        return
    ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=SCALE(norm(value)), edgecolor="none"))
    ax.text(
        x, y, f"{value:.3f}", ha="center", va="center", fontsize=8.5, color=_ink(value, norm), fontweight="bold" if bold else None
    )


def _frame(x: float, y: float, **look: Any) -> Rectangle:
    return Rectangle((x - 0.42, y - 0.36), 0.84, 0.72, facecolor="none", **look)


def _ink(value: float, norm: Normalize) -> str:
    """Dark on light squares and light on dark ones, by the relative luminance of WCAG 2."""
    channels = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in SCALE(norm(value))[:3]]
    luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return DARK if luminance > 0.18 else LIGHT


def _legend(figure: Figure, points: pd.DataFrame) -> None:
    """The marks that occur."""
    box: dict[str, Any] = {"facecolor": "none", "edgecolor": INK}
    entries: list[tuple[Any, str]] = [(Patch(linewidth=1.8, **box), "a reference's best")]
    if (~points["separable"].astype(bool) & ~points["best"].astype(bool)).any():
        entries.append((Patch(linewidth=1.1, linestyle=(0, (3, 2)), **box), "not separable from it"))
    for flag, (name, marker) in zip(("degenerate", "stopped"), style.RING.items(), strict=True):
        if points[flag].any():
            look: Any = {"marker": marker, "markersize": 6, "markerfacecolor": "none", "markeredgecolor": INK}
            entries.append((Line2D([], [], linestyle="", **look), name))
    handles, words = zip(*entries, strict=True)
    figure.legend(handles, words, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
