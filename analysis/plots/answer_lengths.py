"""How long answers are: a box for each beta, a plot for each reference.

Invariant: boxes end at quantiles of the answers, never at a multiple of a range, so that they say the same of every shape.
"""

import math
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.plots import curves, style
from analysis.plots.style import FAINT, INK, PARAMETERS

COLUMNS = 4
FEW_BETAS = 5
"""Betas whose labels stand level, four plots side by side."""
WIDE_RANGE = 4
"""Ratio of the longest to the shortest end of a box from which on lengths are on a log scale."""


@matplotlib.rc_context(PARAMETERS)
def answer_lengths(lengths: pd.DataFrame, looks: pd.DataFrame) -> Figure:
    """Boxes of one panel from the 25th to the 75th percentile with the median, whiskers from the 5th to the 95th, the mean as a
    marker. looks: gives each reference its colour."""
    names, betas = list(dict.fromkeys(lengths["reference"])), sorted(set(lengths["beta"]))
    columns = min(COLUMNS if len(betas) <= FEW_BETAS else COLUMNS - 1, len(names))
    rows = math.ceil(len(names) / columns)
    each = max(2.3, 0.28 * len(betas) + 0.5)
    figure = Figure(figsize=(max(6.4, each * columns), 2.1 * rows + 0.9), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    styles = style.styles(looks)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, names, strict=False):
        _boxes(ax, lengths[lengths["reference"] == name], betas, styles[name])
        ax.set_title(name, fontsize=9, loc="left")
        ax.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas], rotation=60 if len(betas) > FEW_BETAS else 0)
        ax.tick_params(labelbottom=True, labelsize=8)
    if lengths["p95"].max() > WIDE_RANGE * max(1.0, lengths["p05"].min()):
        curves.log_lengths(axes[0])
    figure.supxlabel("beta", fontsize=9.5)
    figure.supylabel("answer length (tokens)", fontsize=9.5)
    _legend(figure, lengths)
    return figure


def _boxes(ax: Axes, of: pd.DataFrame, betas: list[float], look: dict[str, Any]) -> None:
    for length in of["baseline_length_tokens"].dropna().head(1):
        ax.axhline(length, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    stats = [
        {
            "med": row["p50"],
            "q1": row["p25"],
            "q3": row["p75"],
            "whislo": row["p05"],
            "whishi": row["p95"],
            "mean": row["mean_tokens"],
        }
        for row in of.to_dict("records")
    ]
    colour = look["color"]
    line = {"color": colour, "linewidth": 1.2}
    ax.bxp(
        stats,
        positions=[betas.index(beta) for beta in of["beta"]],
        widths=0.6,
        showfliers=False,
        showmeans=True,
        manage_ticks=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"color": colour, "linewidth": 2.4},
        meanprops={"marker": look["marker"], "markersize": 4.5, "markerfacecolor": colour, "markeredgecolor": colour},
    )
    style.rings(ax, of, of["beta"].map(betas.index), "mean_tokens")
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)


def _legend(figure: Figure, lengths: pd.DataFrame) -> None:
    entries: list[tuple[Any, str]] = [
        (Line2D([], [], color=INK, linewidth=2.4), "median"),
        (Line2D([], [], color=INK, marker="o", markersize=4.5, linestyle=""), "mean"),
        (style.baseline_line(), "mean of the baseline answers"),
        *style.ring_entries(lengths),
    ]
    handles, words = zip(*entries, strict=True)
    columns = 3 if figure.get_figwidth() < 8 else 5
    figure.legend(handles, words, loc="outside upper center", ncols=columns, frameon=False, fontsize=8.5)
