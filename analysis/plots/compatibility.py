"""How references fit a policy: the two primary measures against each other, and the regression of D behind them.

Invariant: each reference has the colour and marker that it has in the report's other figures.
"""

import math
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, SymmetricalLogLocator

from analysis.plots import style
from analysis.plots.style import FAINT, INK, PARAMETERS
from refstudy.measures.compatibility import DEGENERATE_NATS_PER_TOKEN, PRIMARY_DEGENERATION, PRIMARY_GAIN

COLUMNS = 4
"""Small multiples side by side."""
LINEAR = 0.1
"""Nats a token below which the axis of slopes is linear, so that 0 has a place."""


@matplotlib.rc_context(PARAMETERS)
def compatibility(references: pd.DataFrame, by_length: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """Left: quality signal over noise against the absolute length demand. Right: D against length difference, a plot a reference.

    references, by_length: of one panel; `degenerate_betas` rings a reference. points: gives each reference its colour.
    """
    shown = references[references["difference_spread_nats"] > 0]
    names = list(dict.fromkeys(shown["reference"]))
    columns = min(COLUMNS, max(1, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    wide = max(3.8, 1.85 * columns)  # room for the name of the axis below a single plot
    figure = Figure(figsize=(4.6 + wide, max(3.9, 1.65 * rows + 0.5)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4.6, wide), squeeze=False)[0]
    styles = style.styles(points)
    _primary(left, shown, styles)
    grid = list(right.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for ax in grid[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(grid, names, strict=False):
        ax.tick_params(labelbottom=True)
        _regression(ax, shown[shown["reference"] == name], by_length[by_length["reference"] == name], styles[name])
        ax.set_title(name, fontsize=8.5, loc="left", color=styles[name]["color"])
    right.supxlabel("chosen - rejected length (tokens of the policy)", fontsize=9)
    right.supylabel("D (nats a pair)", fontsize=9)
    return figure


def _primary(part: SubFigure, shown: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    ax = part.subplots()
    ax.grid(color=FAINT, alpha=0.3, linewidth=0.6)
    ax.axhline(0, color=FAINT, linewidth=1)
    ax.axvline(DEGENERATE_NATS_PER_TOKEN, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for row in shown.to_dict("records"):
        ax.plot(row[PRIMARY_DEGENERATION], row[PRIMARY_GAIN], **{**styles[row["reference"]], "markersize": 8})
        if row["degenerate_betas"]:
            ax.plot(row[PRIMARY_DEGENERATION], row[PRIMARY_GAIN], marker="o", markersize=15, color=INK, markerfacecolor="none")
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.5)
    ax.set_xlim(left=-0.02)
    ax.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda slope, _: f"{slope:g}"))
    ax.set_xlabel("absolute length slope of D (nats a token)")
    ax.set_ylabel("intercept of D over its residual spread")
    dashed = Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    ring = Line2D([], [], linestyle="", marker="o", markersize=11, markerfacecolor="none", markeredgecolor=INK)
    words = [f"{DEGENERATE_NATS_PER_TOKEN:g}: expected to degenerate right of it", "degenerated at some beta of this sweep"]
    part.legend([dashed, ring], words, loc="outside lower center", ncols=1, frameon=False, fontsize=8.5)


def _regression(ax: Axes, rows: pd.DataFrame, bins: pd.DataFrame, look: dict[str, Any]) -> None:
    """Means of D with its spread by length difference, and the fitted line; of every seed."""
    ax.axhline(0, color=FAINT, linewidth=0.8)
    for row in rows.to_dict("records"):
        of = bins[bins["seed"] == row["seed"]]
        x = of["length_difference_tokens"]
        dots: Any = {"color": look["color"], "marker": look["marker"], "markersize": 3.5, "linestyle": ""}
        ax.errorbar(x, of["mean_nats"], yerr=of["spread_nats"], elinewidth=0.8, alpha=0.85, **dots)
        ends = pd.Series([x.min(), x.max()])
        ax.plot(ends, row["intercept_nats"] + row["slope_nats_per_token"] * ends, color=INK, linewidth=1.1)
    ax.tick_params(labelsize=7.5)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
