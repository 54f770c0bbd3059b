"""What all figures share: colours and markers of references, panels, legends, and how a figure becomes files.

Invariant: a reference has the same colour and marker in every figure of a report; every colour is legible on white and on
near-black; INK and FAINT are replaced by the page's own colours.
"""

import io
import math
import re
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

INK = "#1a1b1d"
FAINT = "#8b8c8e"
STYLES = (
    *(("#1f77b4", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#b8558e", "D")),
    *(("#b07d00", "v"), ("#4aa3df", "P"), ("#7b6bb5", "X")),
)
"""Near Okabe and Ito's palette, moved to the middle of the lightness scale; told apart by marker where colour fails."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)))
"""References beyond the palette take it again, with the next dash and hollow markers."""

PANEL_INCHES = (5.3, 3.7)
SINGLE_INCHES = (7.4, 4.3)
COLUMNS = 2
LEGEND_ROWS, LEGEND_EXTRA, LEGEND_INCHES = 4, 4, 0.22
"""Rows of a legend that a figure has room for, its entries beside the references, and the height of each row beyond."""
MARGIN = 1.5
"""Factor by which the beta axis reaches beyond the smallest and the largest beta."""
RING = {"degenerate": "o", "stopped early": "s"}
PARAMETERS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "refstudy",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


GROUND = '<rect width="100%" height="100%" fill="white"/>'


@matplotlib.rc_context(PARAMETERS)
def save(figure: Figure, folder: Path, name: str) -> str:
    """Writes NAME.png and NAME.svg (white ground) into `folder`; returns the SVG for a page: no ground, own ids, page colours."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white", metadata={"Software": None})
    figure.set_layout_engine("none")  # laid out by now; to do it again takes as long as to draw
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    clear = drawn.getvalue()
    (folder / f"{name}.svg").write_text(re.sub(r"(<svg\b[^>]*>)", rf"\1{GROUND}", clear, count=1), encoding="utf-8")
    return _for_page(clear[clear.index("<svg") :], name)


def _for_page(svg: str, name: str) -> str:
    for before in (' id="', "url(#", 'xlink:href="#'):
        svg = svg.replace(before, f"{before}{name}-")
    return svg.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")


def grid(points: pd.DataFrame) -> tuple[Figure, dict[str, Axes]]:
    """A figure with an axes for each panel, in the frame's order, sharing both scales."""
    panels = list(dict.fromkeys(points["panel"]))
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = SINGLE_INCHES if len(panels) == 1 else (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows)
    entries = points["reference"].nunique() + LEGEND_EXTRA
    size = (size[0], size[1] + LEGEND_INCHES * max(0, math.ceil(entries / _legend_columns(size[0])) - LEGEND_ROWS))
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes:
        ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelbottom=True)
    return figure, dict(zip(panels, axes, strict=False))


def groups(points: pd.DataFrame, panel: str) -> list[tuple[str, pd.DataFrame]]:
    chosen = points[points["panel"] == panel]
    return [(str(reference), group) for reference, group in chosen.groupby("reference", sort=False)]


def styles(points: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Line and marker of each reference, in the frame's order."""
    found = {}
    for number, reference in enumerate(dict.fromkeys(points["reference"])):
        colour, marker = STYLES[number % len(STYLES)]
        turn = number // len(STYLES) % len(DASHES)
        face = {"markerfacecolor": "none"} if turn else {}
        found[str(reference)] = {
            "color": colour,
            "marker": marker,
            "linestyle": DASHES[turn],
            "markersize": 6,
            "linewidth": 1.6,
            **face,
        }
    return found


def legend(
    figure: Figure,
    points: pd.DataFrame,
    line: Line2D,
    text: str,
    extra: tuple[Line2D, str] | None = None,
    looks: pd.DataFrame | None = None,
) -> None:
    """One legend for the whole figure, below it: references, the baseline line, and the marks that occur. looks: gives colours, if
    not the points themselves."""
    known = styles(points if looks is None else looks)
    entries: list[tuple[Any, str]] = [
        (Line2D([], [], **known[each]), each) for each in dict.fromkeys(points["reference"].astype(str))
    ]
    entries.append((line, text))
    if extra:
        entries.append(extra)
    entries += ring_entries(points)
    columns = _legend_columns(figure.get_figwidth())
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=2.6)


def _legend_columns(width_inches: float) -> int:
    return 4 if width_inches < 8 else 6


def ring_entries(points: pd.DataFrame) -> list[tuple[Any, str]]:
    """The marks that occur among points, for a legend."""
    entries: list[tuple[Any, str]] = []
    for name, flag in (("degenerate", "degenerate"), ("stopped early", "stopped")):
        if points[flag].any():
            ring: Any = {"marker": RING[name], "markersize": 10, "markerfacecolor": "none", "markeredgecolor": INK}
            entries.append((Line2D([], [], linestyle="", **ring), name))
    return entries


def baseline_line() -> Line2D:
    return Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)))


def name_axes(axes: dict[str, Axes], x: str, y: str) -> None:
    """Names x below the lowest panel of each column, and y left of the first column."""
    placed = list(axes.values())
    for number, ax in enumerate(placed):
        if number + COLUMNS >= len(placed):
            ax.set_xlabel(x)
        if number % COLUMNS == 0:
            ax.set_ylabel(y)


def rings(ax: Axes, group: pd.DataFrame, x: Any, column: str) -> None:
    for name, flag in (("degenerate", "degenerate"), ("stopped early", "stopped")):
        chosen = group[flag].astype(bool)
        style: Any = {
            "marker": RING[name],
            "markersize": 13,
            "markerfacecolor": "none",
            "markeredgecolor": INK,
            "markeredgewidth": 1.3,
        }
        ax.plot(x[chosen], group.loc[chosen, column], linestyle="", **style)
