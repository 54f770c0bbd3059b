"""The paper's cells and a sweep's, small panels of the same form; takes one frame and computes nothing.

Invariant: a colour says what a reference is to its policy, the same on both sides.
"""

import math

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.plots.style import FAINT, PARAMETERS, STYLES

COLUMNS = 3
INCHES = (3.5, 2.7)
MARKERS = "osD^vPX"


@matplotlib.rc_context(PARAMETERS)
def beside_paper(frame: pd.DataFrame) -> Figure:
    """Win rate against beta, a panel for each side and policy, the sides in rows of their own; frame: beside_paper.COLUMNS."""
    rows = [
        list(policies)[start : start + COLUMNS]
        for policies in (dict.fromkeys(group[["side", "policy"]].itertuples(index=False, name=None)) for _, group in _sides(frame))
        for start in range(0, len(policies), COLUMNS)
    ]
    colours = {role: STYLES[number % len(STYLES)][0] for number, role in enumerate(dict.fromkeys(frame["role"]))}
    figure = Figure(figsize=(INCHES[0] * COLUMNS, INCHES[1] * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for places, row in zip(axes, rows, strict=True):
        for number, ax in enumerate(places):
            if number >= len(row):
                ax.set_visible(False)
                continue
            side, policy = row[number]
            _panel(ax, frame[(frame["side"] == side) & (frame["policy"] == policy)], colours, f"{side}: {policy}")
            if number == 0:
                ax.set_ylabel("win rate")
    handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _sides(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(side), group) for side, group in frame.groupby("side", sort=False)]


def _panel(ax: Axes, cells: pd.DataFrame, colours: dict[str, str], title: str) -> None:
    for number, (_, group) in enumerate(cells.groupby("reference", sort=False)):
        known = group.dropna(subset=["win_rate"]).sort_values("beta")
        if known.empty:
            continue
        error = [(known["win_rate"] - known["low"]).fillna(0), (known["high"] - known["win_rate"]).fillna(0)]
        marker = MARKERS[number % len(MARKERS)]
        colour = colours[known["role"].iloc[0]]
        ax.errorbar(
            known["beta"], known["win_rate"], yerr=error, color=colour, marker=marker, markersize=4, linewidth=1.3, elinewidth=0.8
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=10, numticks=5))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda beta, _: f"{beta:g}" if math.isfinite(beta) else ""))
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("beta", fontsize=9)
    ax.tick_params(labelsize=9)
    ax.set_title(title, fontsize=9, loc="left")
