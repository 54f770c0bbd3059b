"""How far DPO moved each token's log-prob: histograms by beta, and the end token against beta.

Invariant: colours along beta are legible on white and on near-black, and the same in every small multiple.
"""

import math
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.plots import curves, style
from analysis.plots.style import FAINT, INK, PARAMETERS

ALONG_BETA = LinearSegmentedColormap.from_list("beta", ["#d55e00", "#b8558e", "#4aa3df"])
"""From the smallest beta to the largest."""
COLUMNS = 4


@matplotlib.rc_context(PARAMETERS)
def token_shifts(histogram: pd.DataFrame) -> Figure:
    """The share of tokens (log scale) by how far they moved, a plot for each reference of one panel, a line for each beta."""
    names = list(dict.fromkeys(histogram["reference"]))
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(6.2, 2.7 * columns), 2.3 * rows + 0.9), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    betas = sorted(set(histogram["beta"]))
    colours = dict(zip(betas, _along(betas), strict=True))
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes, names, strict=False):
        ax.axvline(0, color=FAINT, linewidth=0.8)
        for beta, of in histogram[histogram["reference"] == name].groupby("beta"):
            seen = of["share"].where(of["tokens"] > 0)
            ax.plot((of["low_nats"] + of["high_nats"]) / 2, seen, color=colours[beta], linewidth=1.3, marker=".", markersize=3)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
        ax.set_title(name, fontsize=9, loc="left")
        ax.tick_params(labelbottom=True, labelsize=8)
    figure.supxlabel("log p after DPO - before, of each token of chosen answers (nats)", fontsize=9)
    figure.supylabel("share of tokens (log scale)", fontsize=9)
    lines = [Line2D([], [], color=colours[beta], linewidth=1.6) for beta in betas]
    words = [f"beta {beta:g}" for beta in betas]
    figure.legend(lines, words, loc="outside upper center", ncols=min(8, len(betas)), frameon=False, fontsize=8.5)
    return figure


@matplotlib.rc_context(PARAMETERS)
def end_token_by_beta(points: pd.DataFrame) -> Figure:
    """Mean shift of the end token against beta, a line for each reference."""
    figure, axes = style.grid(points)
    styles = style.styles(points)
    for panel, ax in axes.items():
        for reference, group in style.groups(points, panel):
            ordered = group.sort_values("beta")
            ax.plot(ordered["beta"], ordered["end_mean_nats"], **styles[reference])
            style.rings(ax, ordered, ordered["beta"], "end_mean_nats")
        ax.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    curves.label_betas(figure, axes, points, "mean shift of the end token (nats)")
    style.legend(figure, points, style.baseline_line(), "as before DPO: 0")
    return figure


def _along(betas: Sequence[float]) -> list[tuple[float, float, float, float]]:
    return [ALONG_BETA(number / max(1, len(betas) - 1)) for number in range(len(betas))]
