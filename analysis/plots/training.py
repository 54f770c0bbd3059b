"""What happened along training: small multiples of curves by step, a row for each reference, a line for each beta.

Invariant: lines of one beta have one colour and one marker in every small multiple, so that they are told apart in grey too.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.plots import style
from analysis.plots.style import FAINT, INK, PARAMETERS
from analysis.plots.token_shifts import ALONG_BETA

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARKS = 5
"""About how many markers a line has."""
DASHED = (0, (3, 1.5))


@matplotlib.rc_context(PARAMETERS)
def training_curves(curves: pd.DataFrame) -> Figure:
    """Accuracies, log-probs (chosen: drawn through, rejected: dashed) and loss by step, of one panel."""
    columns = [
        (("reward_accuracy",), "reward accuracy"),
        (("policy_accuracy",), "policy accuracy"),
        (("chosen_logp", "rejected_logp"), "log-prob of answers (nats)"),
        (("loss",), "loss (nats a pair)"),
    ]
    figure, betas = _multiples(curves, columns, ("reward_accuracy", "policy_accuracy"))
    _legend(
        figure, betas, [(Line2D([], [], color=INK, linestyle=DASHED, marker="o", markerfacecolor="none", markersize=4), "rejected")]
    )
    return figure


@matplotlib.rc_context(PARAMETERS)
def along_training(curves: pd.DataFrame) -> Figure:
    """What evaluations along training measured, by step, of one panel; rings: an alarm was raised, squares: it ended a run."""
    columns = [
        (("win_rate",), "win rate against the start"),
        (("length_tokens_mean",), "answer length (tokens)"),
        (("truncation_rate",), "share cut at the limit"),
        (("kl_start_nats",), "KL to the start (nats)"),
    ]
    figure, betas = _multiples(curves, columns, tuple(name for (name,), _ in columns))
    shares = [ax for ax in figure.axes if ax.get_title("left") == "share cut at the limit"]
    for ax in shares[:1]:  # the column shares its scale; where nothing was cut it would show shares below 0
        ax.set_ylim(-0.02, max(0.1, 1.12 * float(curves["truncation_rate"].max())))
    marks = []
    for name, flag, size in (("alarm", "alarms", 8), ("ended training", "stopped", 11)):
        if (curves[flag] > 0).any():
            marks.append((Line2D([], [], linestyle="", **_ring(flag, size)), name))
    _legend(figure, betas, marks)
    return figure


def _multiples(
    curves: pd.DataFrame, columns: Sequence[tuple[tuple[str, ...], str]], shared: Sequence[str]
) -> tuple[Figure, list[float]]:
    """The figure without its legend, and its betas. Columns without a number are left out; those `shared` have one scale."""
    columns = [each for each in columns if curves[each[0][0]].notna().any()]
    references, betas = list(dict.fromkeys(curves["reference"])), sorted(set(curves["beta"]))
    figure = Figure(figsize=(max(4.2, 2.75 * len(columns)), 1.75 * len(references) + 1.0), layout="constrained")
    axes = figure.subplots(len(references), len(columns), squeeze=False, sharex=True)
    for place, (names, title) in enumerate(columns):
        if names[0] in shared:
            for ax in axes[1:, place]:
                ax.sharey(axes[0, place])
        axes[0, place].set_title(title, fontsize=9.5, loc="left")
    for line, reference in zip(axes, references, strict=True):
        of = curves[curves["reference"] == reference]
        for ax, (names, _) in zip(line, columns, strict=True):
            _curves(ax, of, names, betas)
        line[0].set_ylabel(reference, fontsize=9)
    figure.supxlabel("optimizer step", fontsize=9.5)
    return figure, betas


def _curves(ax: Axes, of: pd.DataFrame, names: Sequence[str], betas: Sequence[float]) -> None:
    for beta, rows in of.groupby("beta"):
        look = _look(betas, beta)
        for number, name in enumerate(names):
            dashed: dict[str, Any] = {"linestyle": DASHED, "markerfacecolor": "none"} if number else {}
            ax.plot(rows["step"], rows[name], markevery=max(1, len(rows) // MARKS), **{**look, **dashed})
        for flag, size in (("alarms", 8), ("stopped", 11)):
            if flag in rows:
                at = rows[rows[flag] > 0]
                ax.plot(at["step"], at[names[0]], linestyle="", **_ring(flag, size))
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.tick_params(labelsize=7.5, labelbottom=True)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.margins(x=0.06, y=0.12)


def _look(betas: Sequence[float], beta: Any) -> dict[str, Any]:
    place = betas.index(beta)
    colour = ALONG_BETA(place / max(1, len(betas) - 1))
    return {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 4, "linewidth": 1.3, "linestyle": "-"}


def _ring(flag: str, size: int) -> dict[str, Any]:
    marker = style.RING["stopped early" if flag == "stopped" else "degenerate"]
    return {"marker": marker, "markersize": size, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.2}


def _legend(figure: Figure, betas: Sequence[float], more: list[tuple[Line2D, str]]) -> None:
    entries = [(Line2D([], [], **_look(betas, beta)), f"beta {beta:g}") for beta in betas] + more
    handles, words = zip(*entries, strict=True)
    figure.legend(handles, words, loc="outside upper center", ncols=min(6, len(entries)), frameon=False, fontsize=8.5)
