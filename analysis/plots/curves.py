"""Win rate, length and distance from the start along beta: each figure takes frames and computes nothing.

Invariant: a degenerate point is drawn and ringed, never left out.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.plots import style
from analysis.plots.style import INK, MARGIN, PARAMETERS


@matplotlib.rc_context(PARAMETERS)
def win_rate_by_beta(points: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Win rate against beta, a line for each reference; cells: the single runs, drawn as dots where a point has several seeds."""
    figure, axes = style.grid(points)
    for panel, ax in axes.items():
        _lines(ax, points, cells, panel, "win_rate", ("win_rate_low", "win_rate_high"))
        ax.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    label_betas(figure, axes, points, "win rate against the baseline answers")
    style.legend(figure, points, style.baseline_line(), "baseline against itself: 0.5")
    return figure


@matplotlib.rc_context(PARAMETERS)
def length_by_beta(points: pd.DataFrame, cells: pd.DataFrame, baselines: pd.DataFrame) -> Figure:
    """Mean answer length in tokens against beta; baselines: panel, length_tokens of the baseline answers."""
    figure, axes = style.grid(points)
    for panel, ax in axes.items():
        _lines(ax, points, cells, panel, "length_tokens", ("length_low", "length_high"))
        for length in baselines.loc[baselines["panel"] == panel, "length_tokens"]:
            ax.axhline(length, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    if points["length_tokens"].max() > 4 * points["length_tokens"].min():
        for ax in axes.values():
            log_lengths(ax)
    label_betas(figure, axes, points, "mean answer length (tokens)")
    style.legend(figure, points, style.baseline_line(), "baseline answers")
    return figure


@matplotlib.rc_context(PARAMETERS)
def win_rate_by_kl(points: pd.DataFrame, own: pd.DataFrame) -> Figure:
    """Win rate against the square root of the KL to the start policy, each reference's points joined in order of beta.

    own: panel, reference, own_win_rate of the reference's own answers; drawn as a dotted line in the reference's colour.
    """
    figure, axes = style.grid(points)
    styles = style.styles(points)
    for panel, ax in axes.items():
        for reference, group in style.groups(points.dropna(subset=["kl_start_nats"]), panel):
            x, y = group["kl_start_nats"] ** 0.5, group["win_rate"]
            error = [y - group["win_rate_low"], group["win_rate_high"] - y]
            ax.errorbar(x, y, yerr=error, elinewidth=1, **styles[reference])
            style.rings(ax, group, x, "win_rate")
        for row in own[own["panel"] == panel].to_dict("records"):
            ax.axhline(row["own_win_rate"], color=styles[row["reference"]]["color"], linewidth=1.2, linestyle=(0, (1, 2)))
        ax.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_xlim(left=0)
        ax.set_title(panel, fontsize=10, loc="left", visible=len(axes) > 1)
    style.name_axes(axes, "square root of the KL to the start policy (nats an answer)", "win rate against the baseline answers")
    dotted = (Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (1, 2))), "a reference's own answers")
    style.legend(figure, points, style.baseline_line(), "baseline against itself: 0.5", dotted if len(own) else None)
    return figure


@matplotlib.rc_context(PARAMETERS)
def win_rate_by_length(points: pd.DataFrame, looks: pd.DataFrame) -> Figure:
    """Win rate against mean answer length, each reference's points joined in order of beta, larger marks for larger betas; a
    star: the baseline answers against themselves. looks: gives each reference its colour."""
    figure, axes = style.grid(points)
    styles = style.styles(looks)
    for panel, ax in axes.items():
        for reference, group in style.groups(points, panel):
            x, y = group["length_tokens"], group["win_rate"]
            error = [y - group["win_rate_low"], group["win_rate_high"] - y]
            ax.errorbar(x, y, yerr=error, elinewidth=1, **{**styles[reference], "marker": ""})
            for size, place in zip(_growing(len(group)), group.index, strict=True):
                ax.plot(x[place], y[place], **{**styles[reference], "markersize": size, "linestyle": ""})
            style.rings(ax, group, x, "win_rate")
        for length in points.loc[points["panel"] == panel, "baseline_length_tokens"].dropna().head(1):
            ax.plot(length, 0.5, marker="*", markersize=14, color=INK, linestyle="", zorder=4)
        ax.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_title(panel, fontsize=10, loc="left", visible=len(axes) > 1)
    if points["length_tokens"].max() > 4 * points["length_tokens"].min():
        for ax in axes.values():
            log_lengths(ax, "x")
    style.name_axes(axes, "mean answer length (tokens)", "win rate against the baseline answers")
    star = (Line2D([], [], color=INK, marker="*", markersize=12, linestyle=""), "baseline answers")
    style.legend(figure, points, style.baseline_line(), "baseline against itself: 0.5", star, looks)
    return figure


@matplotlib.rc_context(PARAMETERS)
def accuracy_by_beta(points: pd.DataFrame, looks: pd.DataFrame) -> Figure:
    """The policy's ranking accuracy against beta, a line for each reference; a reference's best beta by win rate has a star."""
    figure, axes = style.grid(points)
    styles = style.styles(looks)
    for panel, ax in axes.items():
        for reference, group in style.groups(points, panel):
            ax.plot(group["beta"], group["accuracy"], **styles[reference])
            best = group[group["best"].astype(bool)]
            ax.plot(best["beta"], best["accuracy"], marker="*", markersize=14, color=INK, markerfacecolor="none", linestyle="")
            style.rings(ax, group, group["beta"], "accuracy")
        ax.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    label_betas(figure, axes, points, "policy ranking accuracy")
    star = (Line2D([], [], color=INK, marker="*", markersize=12, markerfacecolor="none", linestyle=""), "best beta by win rate")
    style.legend(figure, points, style.baseline_line(), "chance: 0.5", star, looks)
    return figure


def _lines(ax: Axes, points: pd.DataFrame, cells: pd.DataFrame, panel: str, column: str, bounds: tuple[str, str]) -> None:
    styles = style.styles(points)
    for place, (reference, group) in enumerate(style.groups(points, panel)):
        shift = _shift(points, place)
        x, y = group["beta"] * shift, group[column]
        error = [y - group[bounds[0]], group[bounds[1]] - y]
        ax.errorbar(x, y, yerr=error, elinewidth=1, **styles[reference])
        style.rings(ax, group, x, column)
        several = group.loc[group["seeds"] > 1, "beta"]
        runs = cells[(cells["panel"] == panel) & (cells["reference"] == reference) & cells["beta"].isin(several)]
        ax.plot(
            runs["beta"] * shift, runs[column], linestyle="", marker=".", markersize=4, color=styles[reference]["color"], alpha=0.7
        )


def _shift(points: pd.DataFrame, place: int) -> float:
    """Factor on beta that keeps intervals of several references at one beta from hiding each other."""
    betas = sorted(set(points["beta"]))
    gap = min((math.log(after / before) for before, after in pairwise(betas)), default=1.0)
    spread = min(0.3 * gap, 0.04 * math.log(MARGIN**2 * betas[-1] / betas[0]))
    return math.exp(spread * ((place + 0.5) / points["reference"].nunique() - 0.5))


def label_betas(figure: Figure, axes: dict[str, Axes], points: pd.DataFrame, quantity: str) -> None:
    betas = sorted(set(points["beta"]))
    for panel, ax in axes.items():
        ax.set_title(panel, fontsize=10, loc="left", visible=len(axes) > 1)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(betas))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda beta, _: f"{beta:g}"))
        ax.set_xlim(betas[0] / MARGIN, betas[-1] * MARGIN)
        if _crowded(betas, ax.get_position().width * figure.get_figwidth()):
            ax.tick_params(axis="x", labelrotation=60)
    style.name_axes(axes, "beta (log scale; further right, held closer to the reference)", quantity)


def _crowded(betas: Sequence[float], width: float) -> bool:
    """Whether labels of neighbouring betas would touch when written level along `width` inches."""
    span = math.log(betas[-1] / betas[0]) + 2 * math.log(MARGIN)
    places = [math.log(beta) / span * width for beta in betas]
    needed = [0.04 * (len(f"{a:g}") + len(f"{b:g}")) + 0.08 for a, b in pairwise(betas)]
    return any(after - before < need for (before, after), need in zip(pairwise(places), needed, strict=True))


def _growing(count: int) -> list[float]:
    """Sizes of marks, from those of the smallest beta to those of the largest."""
    return [4 + 4 * number / max(1, count - 1) for number in range(count)]


def log_lengths(ax: Axes, which: str = "y") -> None:
    """A log scale with labels that people read as lengths."""
    axis, scale = (ax.yaxis, ax.set_yscale) if which == "y" else (ax.xaxis, ax.set_xscale)
    scale("log")
    axis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:g}"))
    axis.set_minor_formatter(NullFormatter())
