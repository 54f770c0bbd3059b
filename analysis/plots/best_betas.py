"""Best betas of references, along beta and along beta times the spread of D.

Invariant: a best beta that ends its grid has an arrow: the optimum may lie beyond, and no figure shows it as found.
"""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis.plots import style
from analysis.plots.style import FAINT, INK, PARAMETERS

ROW_INCHES = 0.27
ARROW_POINTS = 24
ROOM = 3.0
"""Factor by which the beta axis reaches beyond the smallest and the largest beta: room for arrows."""


@matplotlib.rc_context(PARAMETERS)
def best_betas(found: pd.DataFrame, looks: pd.DataFrame) -> Figure:
    """A row for each reference: its best beta, those not separable from it, and each replicate's own best; to the right, where it
    was measured, the same in units of the spread of D. looks: gives each reference its colour, and all betas."""
    panels = [(str(name), group) for name, group in found.groupby("panel", sort=False)]
    rows = [group["reference"].nunique() for _, group in panels]
    columns = ["beta", "saturation"] if found["saturation"].notna().any() else ["beta"]
    height = ROW_INCHES * sum(rows) + 0.8 * len(panels) + 0.6
    figure = Figure(figsize=(7.4 if len(columns) == 1 else 10.4, max(2.6, height)), layout="constrained")
    axes = figure.subplots(len(panels), len(columns), squeeze=False, sharey="row", height_ratios=[each + 1.5 for each in rows])
    styles = style.styles(looks)
    for line, (name, group) in zip(axes, panels, strict=True):
        for ax, column in zip(line, columns, strict=True):
            _rows(ax, group, column, styles)
        if len(panels) > 1:
            line[0].set_title(name, fontsize=10, loc="left")
    for ax in axes[:, 0]:
        _label_betas(ax, sorted(set(looks["beta"])))
    axes[-1, 0].set_xlabel("best beta (log scale)")
    for ax in axes[:, 1:].flat:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.12)
    for ax in axes[-1, 1:]:
        ax.set_xlabel("best beta times the spread of D (log scale)")
    _legend(figure, found)
    return figure


def _rows(ax: Axes, group: pd.DataFrame, column: str, styles: dict[str, dict[str, Any]]) -> None:
    references = list(dict.fromkeys(group["reference"]))
    for row in group.dropna(subset=[column]).to_dict("records"):
        y, look = references.index(row["reference"]), {**styles[row["reference"]], "linestyle": ""}
        if not pd.isna(row["replicate"]):
            place = y + 0.3 * _spread(group, row)
            ax.plot(row[column], place, color=look["color"], marker=".", markersize=4, linestyle="", alpha=0.75)
            continue
        if column == "beta":
            ax.plot(
                [row["alike_low"], row["alike_high"]],
                [y, y],
                color=FAINT,
                linewidth=5,
                alpha=0.45,
                solid_capstyle="round",
                zorder=1,
            )
        ax.plot(row[column], y, zorder=3, **{**look, "markersize": 8})
        for end, way in (("largest", 1), ("smallest", -1)):
            if row["edge"] == end:
                head: Any = {"arrowstyle": "<|-", "color": INK, "linewidth": 1.2, "shrinkB": 5}
                ax.annotate("", (row[column], y), xytext=(way * ARROW_POINTS, 0), textcoords="offset points", arrowprops=head)
    ax.set_yticks(range(len(references)), references)
    ax.set_ylim(len(references) - 0.4, -0.6)
    ax.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.tick_params(axis="y", length=0)


def _spread(group: pd.DataFrame, row: dict[Any, Any]) -> float:
    """Where the dot of a replicate stands between -1 and 1 of its row, so that equal betas are all seen."""
    names = list(group.loc[(group["reference"] == row["reference"]) & group["replicate"].notna(), "replicate"])
    return (2 * names.index(row["replicate"]) + 1) / len(names) - 1


def _label_betas(ax: Axes, betas: list[float]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(betas))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda beta, _: f"{beta:g}"))
    ax.set_xlim(betas[0] / ROOM, betas[-1] * ROOM)
    ax.tick_params(axis="x", labelsize=8.5, labelrotation=60 if len(betas) > 7 else 0)


def _legend(figure: Figure, found: pd.DataFrame) -> None:
    """The marks that occur; references stand beside their rows."""
    entries: list[tuple[Any, str]] = [(Line2D([], [], color=INK, marker="o", markersize=8, linestyle=""), "best mean win rate")]
    if (found["alike_low"] < found["alike_high"]).any():
        bar = Line2D([], [], color=FAINT, linewidth=5, alpha=0.45, solid_capstyle="round")
        entries.append((bar, "from the smallest to the largest beta not separable from it"))
    if found["replicate"].notna().any():
        entries.append((Line2D([], [], color=INK, marker=".", markersize=4, linestyle=""), "best of one replicate"))
    if found["edge"].isin(["largest", "smallest"]).any():
        arrow = Line2D([], [], color=INK, marker=">", markersize=7, linestyle="")
        entries.append((arrow, "ends the grid: that or beyond"))
    handles, words = zip(*entries, strict=True)
    figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
