"""What references gain over self: by the parts of their columns, and against what was measured before training.

Invariant: a gain has its interval beside it, and its replicates as dots wherever there are several.
"""

import math
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, SymmetricalLogLocator

from analysis.plots import style
from analysis.plots.style import FAINT, INK, PARAMETERS
from refstudy.measures.compatibility import PRIMARY_DEGENERATION, PRIMARY_GAIN

ROW_INCHES = 0.25
GROUP_GAP = 0.7
"""Rows between one base reference's group and the next."""
WHOLE = "whole"
LINEAR = 0.1
"""Nats a token below which the axis of slopes is linear, so that 0 has a place."""
MEASURES = {
    PRIMARY_GAIN: "intercept of D over its residual spread",
    PRIMARY_DEGENERATION: "absolute length slope of D (nats a token)",
    "own_win_rate": "the reference's own win rate",
    "margin_correlation": "correlation of margins with self's",
}


@matplotlib.rc_context(PARAMETERS)
def gains(found: pd.DataFrame, looks: pd.DataFrame) -> Figure:
    """Gain over self with its interval, a group of rows for each base reference: the whole, then its parts. looks: for colours."""
    panels = [(str(name), group) for name, group in found.groupby("panel", sort=False)]
    heights = [_places(group)[1] for _, group in panels]
    figure = Figure(figsize=(7.8, max(2.2, ROW_INCHES * sum(heights) + 0.6 * len(panels) + 0.7)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[each + 1 for each in heights])[:, 0]
    styles = style.styles(looks)
    for ax, (name, group) in zip(axes, panels, strict=True):
        _gains(ax, group, styles)
        if len(panels) > 1:
            ax.set_title(name, fontsize=10, loc="left")
    axes[-1].set_xlabel("win rate minus self's, each at its best beta")
    zero = Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    entries: list[tuple[Any, str]] = [(zero, "self"), (Line2D([], [], color=INK, marker="o", markersize=6, linewidth=1.2), "mean")]
    if found["replicate"].notna().any():
        entries.append((Line2D([], [], color=INK, marker=".", markersize=4, linestyle=""), "one replicate"))
    handles, words = zip(*entries, strict=True)
    figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _places(group: pd.DataFrame) -> tuple[dict[tuple[str, str], float], float]:
    """((base, reference) -> height of its row, height of all): a gap before each base whose own or whose predecessor's group has
    parts."""
    places: dict[tuple[str, str], float] = {}
    y, sizes = 0.0, group.drop_duplicates(["base", "reference"]).groupby("base").size()
    before = None
    for base, reference in group[["base", "reference"]].drop_duplicates().itertuples(index=False):
        if before is not None and base != before and max(sizes[base], sizes[before]) > 1:
            y += GROUP_GAP
        places[base, reference] = y
        y, before = y + 1, base
    return places, y


def _gains(ax: Axes, group: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    places, height = _places(group)
    ax.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for row in group.dropna(subset=["gain"]).to_dict("records"):
        y, look = places[row["base"], row["reference"]], {**styles[row["reference"]], "linestyle": ""}
        if not pd.isna(row["replicate"]):
            ax.plot(row["gain"], y + 0.28, marker=".", markersize=3.5, color=look["color"], linestyle="", alpha=0.75)
            continue
        error = [[row["gain"] - row["gain_low"]], [row["gain_high"] - row["gain"]]]
        ax.errorbar(row["gain"], y, xerr=error, elinewidth=1.4, **look)
    whole = group.drop_duplicates(["base", "reference"])
    ax.set_yticks(list(places.values()), _labels(whole))
    for label, part in zip(ax.get_yticklabels(), whole["part"], strict=True):
        label.set_fontweight("bold" if part == WHOLE else "normal")
    ax.set_ylim(height - 0.3, -0.7)
    ax.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.tick_params(axis="y", length=0)


def _labels(rows: pd.DataFrame) -> list[str]:
    """A base by its name, a part by what it keeps: with its base if that has no row, with its own name if two keep the same."""
    words = []
    for base, part, reference in rows[["base", "part", "reference"]].itertuples(index=False):
        of = rows[rows["base"] == base]
        before = "" if (of["part"] == WHOLE).any() else f"{base}: "
        after = f" ({reference})" if (of["part"] == part).sum() > 1 else ""
        words.append(base if part == WHOLE else f"{before}{part.replace('_', ' ')}{after}")
    return words


@matplotlib.rc_context(PARAMETERS)
def measure_against_gain(found: pd.DataFrame, looks: pd.DataFrame) -> Figure:
    """A row for each policy and setting, a plot for each measure: a point for each reference, a dot for each of its replicates."""
    panels, measures = list(dict.fromkeys(found["panel"])), list(dict.fromkeys(found["measure"]))
    across = min(2, len(measures))
    down = math.ceil(len(measures) / across)
    figure = Figure(figsize=(4.4 * across + 0.6, 3.1 * down * len(panels) + 0.9), layout="constrained")
    axes = figure.subplots(down * len(panels), across, squeeze=False, sharey=True)
    styles = style.styles(looks)
    for number, panel in enumerate(panels):
        plots = list(axes[number * down : (number + 1) * down].flat)
        for ax in plots[len(measures) :]:
            ax.set_visible(False)
        for ax, measure in zip(plots, measures, strict=False):
            of = found[(found["panel"] == panel) & (found["measure"] == measure)]
            _measure(ax, of, measure, styles)
            if len(panels) > 1:
                ax.set_title(panel, fontsize=9, loc="left")
    for ax in axes[:, 0]:
        ax.set_ylabel("gain over self", fontsize=9)
    shown = found.drop_duplicates("reference")["reference"]
    entries = [(Line2D([], [], **{**styles[each], "linestyle": ""}), each) for each in shown]
    entries.append((Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3))), "self"))
    handles, words = zip(*entries, strict=True)
    figure.legend(handles, words, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    return figure


def _measure(ax: Axes, of: pd.DataFrame, measure: str, styles: dict[str, dict[str, Any]]) -> None:
    ax.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    ax.grid(color=FAINT, alpha=0.3, linewidth=0.6)
    for row in of.dropna(subset=["value", "gain"]).to_dict("records"):
        look = {**styles[row["reference"]], "linestyle": ""}
        if not pd.isna(row["replicate"]):
            ax.plot(row["value"], row["gain"], color=look["color"], marker=".", markersize=3.5, linestyle="", alpha=0.5)
            continue
        error = [[row["gain"] - row["gain_low"]], [row["gain_high"] - row["gain"]]]
        ax.errorbar(row["value"], row["gain"], yerr=error, elinewidth=1.1, zorder=3, **{**look, "markersize": 7})
    if measure == PRIMARY_DEGENERATION:
        ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.5)
        ax.set_xlim(left=-0.02)
        ax.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda slope, _: f"{slope:g}"))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(MEASURES[measure], fontsize=9)
    ax.tick_params(labelleft=True)
