"""The figures of a report: what each shows, in words, and the table in which its numbers stand.

Invariant: a figure is drawn from one frame, which is written beside it as CSV.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis import answer_lengths, effects, grids, plots, summary, token_shifts, training_curves
from analysis.compatibility import Fits
from analysis.evidence import FEWEST
from analysis.frames import Results
from analysis.study import Study
from analysis.token_shifts import Shifted

FOLDER = "figures"
MOST_PANELS = 4
"""Policies and settings that have a figure of small multiples of their own; the others are in the tables."""
MOST_CURVES = 6
"""References whose curves one figure shows."""
MOST_BOXES = 12
"""References whose lengths one figure shows."""
PARTS = {
    "length_free": "Length free: D less what the length difference explains.",
    "length_only": "Length only: what it explains, and nothing else.",
    "permuted": "Permuted: D's residual dealt out anew among pairs of like length difference.",
    "scaled": "Scaled: D times a factor.",
    "selection_only": "Selection only: self, trained on the pairs with D above 0 alone.",
}
"""What a derived column keeps of D, the reference's margin minus self's."""


@dataclass(frozen=True)
class Figure:
    name: str
    title: str
    svg: Markup
    words: str
    """What is to be known to read it."""
    table: str
    """Name of the CSV file with its numbers."""
    wide: bool = False
    """Whether it needs room to be read, and is scrolled on a narrow screen."""


def of_grid(loaded: Results, points: pd.DataFrame, baselines: pd.DataFrame, own: pd.DataFrame) -> list[Figure]:
    """Win rate and length against beta, and win rate against distance from the start; none without points."""
    if points.empty:
        return []
    bars = f"Bars: 95 % intervals, clustered by what prompts share. {summary.coverage(points)}"
    dots = " Dots: single training runs." if points["seeds"].max() > 1 else ""
    whiskers = f"{bars}{dots} Points of one beta stand slightly apart, to be told apart."
    made = [
        ("win_rate_by_beta", "Win rate against beta", plots.win_rate_by_beta(points, loaded.done), whiskers),
        ("length_by_beta", "Answer length against beta", plots.length_by_beta(points, loaded.done, baselines), whiskers),
    ]
    if points["kl_start_nats"].notna().any():
        words = "Each line joins a reference's betas in order. KL over the full vocabulary, on the policy's own answers. " + bars
        made.append(
            (
                "win_rate_by_kl",
                "Win rate against distance from the start",
                plots.win_rate_by_kl(points, own[~own["self"].astype(bool)]),
                words,
            )
        )
    return [_figure(loaded, name, title, figure, words, "points") for name, title, figure, words in made]


def of_compatibility(loaded: Results, fits: Fits, fitted: pd.DataFrame, points: pd.DataFrame) -> list[Figure]:
    """One for each panel with a reference that differs from self."""
    differing = fitted[fitted["difference_spread_nats"] > 0]
    differing = differing[differing["reference"].isin(points["reference"])]
    made = []
    for number, panel in enumerate(dict.fromkeys(differing["panel"])):
        here, bins = (frame[frame["panel"] == panel] for frame in (differing, fits.by_length))
        name = "compatibility" + (f"_{number + 1}" if number else "")
        title = "How the references fit the policy" + (f": {panel}" if differing["panel"].nunique() > 1 else "")
        words = (
            "D: a reference's margin minus self's, of each preference pair; all that a reference adds to DPO with self. Left: the "
            "two measures declared primary; a reference without noise to speak of has no place there. Right: D's mean and standard "
            "deviation by length difference with the fitted line, each plot on a scale of its own; the line's height at 0 is the "
            "intercept."
        )
        made.append(_figure(loaded, name, title, plots.compatibility(here, bins, points), words, "compatibility"))
    return made


def of_tokens(loaded: Results, shifted: Shifted) -> list[Figure]:
    """The end token against beta, and a histogram figure for each panel."""
    if shifted.cells.empty:
        return []
    points, histogram = token_shifts.points(shifted.cells), token_shifts.by_beta(shifted.histogram)
    on = f"On at most {shifted.cells['answers'].max()} chosen answers, the same for every cell of a policy and seed."
    made = [_figure(loaded, "end_token_by_beta", "The end token's shift", plots.end_token_by_beta(points), on, "token_shifts")]
    for number, panel in enumerate(dict.fromkeys(histogram["panel"])):
        name = "token_shifts" + (f"_{number + 1}" if number else "")
        title = "How far tokens moved" + (f": {panel}" if histogram["panel"].nunique() > 1 else "")
        words = f"Bins of half a nat, from 20 below to 20 above; what lies beyond is counted in the table. {on}"
        figure = plots.token_shifts(histogram[histogram["panel"] == panel])
        made.append(_figure(loaded, name, title, figure, words, "token_shift_histogram"))
    return made


@dataclass(frozen=True)
class StudyFigures:
    """The figures that rest on a study's grids and on what was recorded along training, by their place on the page."""

    grid: list[Figure]
    """Beside those along beta."""
    best: list[Figure]
    effects: list[Figure]
    training: list[Figure]
    alarms: pd.DataFrame
    """training_curves.ALARMS."""
    frames: dict[str, pd.DataFrame]
    """By the name of the table, what they are drawn from."""

    @property
    def names(self) -> set[str]:
        return {each.name for each in (*self.grid, *self.best, *self.effects, *self.training)}


def of_study(loaded: Results, of: Study, looks: pd.DataFrame) -> StudyFigures:
    """looks: estimates.points, which gives each reference the colour that it has in all figures."""
    made = grids.of_study(of)
    points = effects.points(made, of, loaded)
    made_of = {
        "grid_points": points,
        "best_beta_by_reference": effects.best_betas(made, points),
        "gains": effects.gains(made),
        "measure_against_gain": effects.measures(made),
        "answer_lengths": answer_lengths.distribution(made, of, points),
        "training_curves": training_curves.logged(of),
        "along_training": training_curves.along(loaded, of),
        "alarms": training_curves.alarms(loaded),
    }
    return StudyFigures(
        grid=[*_of_points(loaded, points, looks), *_of_lengths(loaded, made_of["answer_lengths"], looks)],
        best=_of_best(loaded, made_of["best_beta_by_reference"], points, looks),
        effects=[*_of_gains(loaded, made_of["gains"], looks), *_of_measures(loaded, made_of["measure_against_gain"], looks)],
        training=[*_of_along(loaded, made_of["along_training"]), *_of_curves(loaded, made_of["training_curves"])],
        alarms=made_of["alarms"],
        frames={name: frame for name, frame in made_of.items() if len(frame)},
    )


def _of_points(loaded: Results, points: pd.DataFrame, looks: pd.DataFrame) -> list[Figure]:
    known = points.dropna(subset=["win_rate"])
    if len(known) < 2:
        return []
    over = _over(known)
    found = [
        _figure(
            loaded,
            "win_rate_map",
            "Win rate by beta and reference",
            plots.win_rate_map(known),
            f"Numbers: win rate against the baseline answers, {over} Solid box: a reference's best beta. Dashed box: the paired "
            "difference to that best has 0 in its 95 % interval, or has none; the best is chosen on the same runs, so its lead is "
            "biased upwards. At the right: the references' own answers, a ceiling or not.",
            "grid_points",
        ),
        _figure(
            loaded,
            "win_rate_by_length",
            "Win rate against answer length",
            plots.win_rate_by_length(known, looks),
            f"Each line joins a reference's betas in order, larger marks for larger betas; {over} Bars: 95 % intervals of the win "
            "rate. Star: the baseline answers, those of the SFT policy unless the sweep names others.",
            "grid_points",
        ),
    ]
    if known["accuracy"].notna().any() and known["beta"].nunique() > 1:
        words = (
            "Share of pairs whose chosen answer the policy gives the higher log-prob: of the validation pairs where there are any, "
            f"else of the training pairs, each at its last visit; {over} Stars: each reference's best beta by win rate."
        )
        figure = plots.accuracy_by_beta(known, looks)
        found.append(_figure(loaded, "accuracy_by_beta", "Policy ranking accuracy against beta", figure, words, "grid_points"))
    return found


def _of_lengths(loaded: Results, lengths: pd.DataFrame, looks: pd.DataFrame) -> list[Figure]:
    words = (
        "Boxes: 25th to 75th percentile of all answers of all runs, with the median; whiskers: 5th to 95th percentile; marks: "
        "means. An answer cut at the limit counts with the length it has; the share of those is in the table."
    )
    made = []
    for name, title, rows, left_out in _panels(lengths, "answer_lengths", "Answer lengths", MOST_BOXES):
        made.append(_figure(loaded, name, title, plots.answer_lengths(rows, looks), words + left_out, "answer_lengths"))
    return made


def _of_best(loaded: Results, found: pd.DataFrame, points: pd.DataFrame, looks: pd.DataFrame) -> list[Figure]:
    if found["edge"].eq("only").all():
        return []
    dots = " Dots: the best beta of each replicate by itself." if found["replicate"].notna().any() else ""
    censored = found["edge"].isin(["largest", "smallest"]).any()
    arrows = " An arrow: the best ends the grid, so that it is this one or one beyond." if censored else ""
    spread = (
        " Right: the same times the standard deviation of D over the pairs, the size of what the reference adds to the loss's "
        "argument; self has no D and no place there."
    )
    words = (
        f"The beta of the highest win rate, {_over(points)} Grey: from the smallest to the largest beta whose paired difference to "
        f"the best has 0 in its 95 % interval.{dots}{arrows}{spread if found['saturation'].notna().any() else ''}"
    )
    figure = plots.best_betas(found, looks)
    wide = bool(found["saturation"].notna().any())
    return [_figure(loaded, "best_betas", "Best beta by reference", figure, words, "best_beta_by_reference", wide)]


def _of_gains(loaded: Results, found: pd.DataFrame, looks: pd.DataFrame) -> list[Figure]:
    if found["gain"].notna().sum() == 0:
        return []
    parts = found.loc[found["part"] != effects.WHOLE, "part"].drop_duplicates()
    title = "What a reference's effect is made of" if len(parts) else "What references gain"
    told = " ".join(PARTS[part] for part in parts if part in PARTS)
    words = f"Win rate minus self's, paired, each at its best beta.{_chosen(found)} {told}".strip()
    return [_figure(loaded, "gains", title, plots.gains(found, looks), words, "gains")]


def _of_measures(loaded: Results, found: pd.DataFrame, looks: pd.DataFrame) -> list[Figure]:
    if found.empty:
        return []
    told = "; ".join(_correlation(row) for row in found.drop_duplicates(["panel", "measure"]).to_dict("records"))
    dots = " Dots: replicates." if found["replicate"].notna().any() else ""
    words = (
        "Each point is a reference that is neither self nor derived: what was measured of its table before any training, and its "
        f"gain over self, each at its best beta, with its 95 % interval.{dots} Rank correlation over references with gain: {told}."
    )
    figure = plots.measure_against_gain(found, looks)
    return [
        _figure(loaded, "measure_against_gain", "Gain against what is known before", figure, words, "measure_against_gain", True)
    ]


def _of_curves(loaded: Results, curves: pd.DataFrame) -> list[Figure]:
    words = (
        "Means over runs, of the pairs since the last logged step. Reward accuracy is that of the margin against the reference, "
        "policy accuracy that of the policy's own log-probs. Loss comes last because it compares nothing: its scale is set by beta "
        "and by the reference, and each plot of it has a scale of its own."
    )
    made = []
    for name, title, rows, left_out in _panels(training_curves.shown(curves), "training_curves", "Training", MOST_CURVES):
        figure = plots.training_curves(rows)
        made.append(_figure(loaded, name, title, figure, words + left_out, "training_curves", True))
    return made


def _of_along(loaded: Results, curves: pd.DataFrame) -> list[Figure]:
    marks = " Rings: a run raised an alarm at this step." if (curves["alarms"] > 0).any() else ""
    marks += " Squares: an alarm ended a run there; its curve ends with it." if (curves["stopped"] > 0).any() else ""
    words = (
        "Short evaluations on prompts of their own, against the start policy's answers: few prompts, so that single points are "
        f"noisy. Means over runs.{marks}"
    )
    made = []
    for name, title, rows, left_out in _panels(training_curves.shown(curves), "along_training", "Along training", MOST_CURVES):
        figure = plots.along_training(rows)
        made.append(_figure(loaded, name, title, figure, words + left_out, "along_training", True))
    return made


def _panels(frame: pd.DataFrame, name: str, title: str, most: int) -> Iterator[tuple[str, str, pd.DataFrame, str]]:
    """(name, title, rows, what was left out in words) of a figure for each panel, MOST_PANELS at most, of `most` references."""
    panels = list(dict.fromkeys(frame["panel"]))
    for number, panel in enumerate(panels[:MOST_PANELS]):
        rows = frame[frame["panel"] == panel]
        references = list(dict.fromkeys(rows["reference"]))
        left = [f"the references {', '.join(references[most:])}"] if len(references) > most else []
        if number == 0 and len(panels) > MOST_PANELS:
            left.append(f"figures of {', '.join(map(str, panels[MOST_PANELS:]))}")
        told = f" Left out here, but in the table: {'; '.join(left)}." if left else ""
        several = f": {panel}" if len(panels) > 1 else ""
        yield f"{name}_{number + 1}" if number else name, title + several, rows[rows["reference"].isin(references[:most])], told


def _over(points: pd.DataFrame) -> str:
    """What the numbers are means of, and what their intervals cover."""
    most, unit = int(points["replicates"].max()), points["unit"].iloc[0]
    if most >= FEWEST:
        return f"means over {most} {unit}s; intervals are over {unit}s."
    return f"of {most} {unit}{'' if most == 1 else 's'}; intervals cover the choice of prompts only."


def _chosen(found: pd.DataFrame) -> str:
    """How best betas were chosen, and what that does."""
    most = int(found["replicates"].max())
    if most >= FEWEST:
        return f" Betas are chosen on the other replicates of {most}; bars: 95 % intervals over them; dots: replicates."
    return (
        " With fewer than three replicates the plain best is used, chosen on the very runs it is measured on and so biased "
        "upwards; bars: 95 % intervals over prompts only."
    )


def _correlation(row: Mapping[Hashable, Any]) -> str:
    """A measure's rank correlation as prose."""
    ends = (
        f" ({row['correlation_low']:+.2f} to {row['correlation_high']:+.2f})"
        if pd.notna(row["correlation_low"])
        else " (no interval)"
    )
    value = f"{row['correlation']:+.2f}{ends}" if pd.notna(row["correlation"]) else "unknown"
    return f"{plots.MEASURES[str(row['measure'])]} {value}, {row['references']} references"


def _figure(loaded: Results, name: str, title: str, figure: Any, words: str, table: str, wide: bool = False) -> Figure:
    """A figure for the page, saved beside it as PNG and SVG."""
    return Figure(name, title, Markup(plots.save(figure, loaded.folder / FOLDER, name)), words, table, wide)
