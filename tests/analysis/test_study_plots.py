"""What the figures over replicates show, read back from the drawn artists."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from analysis import plots
from analysis.plots import heat_map, style
from refstudy.measures.compatibility import PRIMARY_GAIN

BETAS = (0.1, 1.0, 10.0)
LOOKS = pd.DataFrame([{"reference": name, "beta": beta} for name in ("self", "same", "far") for beta in BETAS])


def _points(**more):
    """self is best at 1 and cannot be told apart at 10; same is best at 10; far degenerated at .1."""
    rates = {"self": (0.45, 0.6, 0.59), "same": (0.5, 0.61, 0.7), "far": (0.1, 0.2, 0.3)}
    rows = [
        {
            **{"panel": "small", "reference": name, "beta": beta, "win_rate": rate, "win_rate_low": rate - 0.05},
            **{"win_rate_high": rate + 0.05, "length_tokens": 20 - index, "baseline_length_tokens": 16.0, "stopped": False},
            **{"degenerate": (name, beta) == ("far", 0.1), "best": rate == max(of), "separable": rate < max(of) - 0.05},
            **{"own_win_rate": {"self": 0.5, "same": 0.83}.get(name, np.nan), "accuracy": 0.6 - index / 10},
        }
        for name, of in rates.items()
        for index, (beta, rate) in enumerate(zip(BETAS, of, strict=True))
    ]
    return pd.DataFrame(rows).assign(**more)


def _labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def _marks(ax, size):
    return [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_markersize() == size and len(line.get_xdata())
    ]


def test_win_rate_map_prints_every_win_rate_and_the_references_own():
    points = _points()
    ax = plots.win_rate_map(points).axes[0]
    shown = sorted(text.get_text() for text in ax.texts)
    assert shown == sorted([*(f"{rate:.3f}" for rate in points["win_rate"]), "0.500", "0.830"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["self", "same", "far"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "1", "10", "own answers"]


def test_win_rate_map_boxes_the_best_and_dashes_what_is_not_separable():
    """far at 10 and 1 differ by .1: separable. Of self .6 and .59, and of nothing else, is the difference small."""
    figure = plots.win_rate_map(_points())
    boxes = [each for each in figure.axes[0].patches if isinstance(each, Rectangle) and each.get_facecolor()[3] == 0]
    centres = {(round(each.get_x() + 0.42), round(each.get_y() + 0.36)): each.get_linestyle() for each in boxes}
    assert {place for place, line in centres.items() if line == "solid"} == {(1, 0), (2, 1), (2, 2)}
    assert {place for place, line in centres.items() if line != "solid"} == {(2, 0)}
    assert _labels(figure) == ["a reference's best", "not separable from it", "degenerate"]


@pytest.mark.parametrize("value", np.linspace(0, 1, 21))
def test_win_rate_map_numbers_are_legible_on_their_squares(value):
    """Contrast as of WCAG 2, (L1 + .05) / (L2 + .05), at least 4.5 to 1 less rounding."""
    from matplotlib.colors import Normalize, to_rgb

    norm = Normalize(0, 1)
    inks = [_luminance(to_rgb(each)) for each in (heat_map._ink(value, norm), heat_map.SCALE(norm(value))[:3])]
    assert (max(inks) + 0.05) / (min(inks) + 0.05) >= 4.4


def _luminance(rgb):
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in rgb]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_win_rate_map_lightness_falls_all_the_way():
    steps = [_luminance(heat_map.SCALE(value)[:3]) for value in np.linspace(0, 1, 30)]
    assert steps == sorted(steps, reverse=True)


def test_win_rate_map_of_one_point_and_of_several_panels_is_drawn():
    assert len(plots.win_rate_map(_points().iloc[:1]).axes) == 1
    several = pd.concat([_points(panel=f"p{number}") for number in range(3)], ignore_index=True)
    assert [ax.get_title("left") for ax in plots.win_rate_map(several).axes] == ["p0", "p1", "p2"]


def test_win_rate_by_length_joins_points_by_beta_and_stars_the_baseline():
    points = _points()
    figure = plots.win_rate_by_length(points, LOOKS)
    lines = [container[0] for container in figure.axes[0].containers]
    assert lines[0].get_xdata().tolist() == [20, 19, 18]
    assert lines[0].get_ydata().tolist() == [0.45, 0.6, 0.59]
    assert _marks(figure.axes[0], 14) == [(16.0, 0.5)]
    assert _marks(figure.axes[0], 4) == [(20, 0.45), (20, 0.5), (20, 0.1)], "the smallest beta has the smallest mark"
    assert "baseline answers" in _labels(figure)
    assert "degenerate" in _labels(figure)


def test_accuracy_by_beta_stars_each_references_best_beta_by_win_rate():
    figure = plots.accuracy_by_beta(_points(), LOOKS)
    assert _marks(figure.axes[0], 14) == [(1.0, 0.5), (10.0, pytest.approx(0.4)), (10.0, pytest.approx(0.4))]


def _best():
    row = {"panel": "small", "alike_low": np.nan, "alike_high": np.nan, "saturation": np.nan}
    return pd.DataFrame(
        [
            row | {"reference": "self", "beta": 1.0, "replicate": None, "edge": "", "alike_low": 1.0, "alike_high": 10.0},
            row | {"reference": "self", "beta": 1.0, "replicate": 201, "edge": ""},
            row | {"reference": "self", "beta": 10.0, "replicate": 202, "edge": "largest"},
            row
            | {"reference": "same", "beta": 10.0, "replicate": None, "edge": "largest", "saturation": 60.0}
            | {"alike_low": 10.0, "alike_high": 10.0},
            row
            | {"reference": "far", "beta": 0.1, "replicate": None, "edge": "smallest", "saturation": 4.0}
            | {"alike_low": 0.1, "alike_high": 0.1},
        ]
    )


def test_best_betas_mark_the_best_the_alike_and_the_censored():
    figure = plots.best_betas(_best(), LOOKS)
    left, right = figure.axes
    assert _marks(left, 8) == [(1.0, 0), (10.0, 1), (0.1, 2)]
    assert next(list(line.get_xdata()) for line in left.lines if line.get_linewidth() == 5) == [1.0, 10.0]
    assert [(each.xy[0], each.xyann[0] > 0) for each in left.texts] == [(10.0, True), (0.1, False)], "arrows to the right and left"
    assert [x for x, _ in _marks(left, 4)] == [1.0, 10.0], "replicates"
    assert _marks(right, 8) == [(60.0, 1), (4.0, 2)], "self has no D"
    assert "ends the grid: that or beyond" in _labels(figure)


def test_best_betas_without_a_spread_of_d_are_along_beta_alone():
    assert len(plots.best_betas(_best().assign(saturation=np.nan), LOOKS).axes) == 1


def _gains():
    rows = [
        ("same", "whole", "same", None, 0.03),
        ("same", "length_free", "far", None, -0.01),
        ("same", "whole", "same", 201, 0.05),
    ]
    found = pd.DataFrame(rows, columns=["base", "part", "reference", "replicate", "gain"])
    return found.assign(panel="small", gain_low=found["gain"] - 0.02, gain_high=found["gain"] + 0.02)


def test_gains_draw_each_part_with_its_interval_under_its_whole():
    figure = plots.gains(_gains(), LOOKS)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["same", "length free"]
    for container, gain in zip(ax.containers, (0.03, -0.01), strict=True):
        line, _, (bars,) = container
        assert line.get_xdata().tolist() == [gain]
        assert bars.get_segments()[0][:, 0].tolist() == pytest.approx([gain - 0.02, gain + 0.02])
    assert [x for x, _ in _marks(ax, 3.5)] == [0.05]
    assert _labels(figure) == ["self", "mean", "one replicate"]


def test_gains_name_parts_that_keep_the_same_and_bases_that_have_no_row():
    found = _gains().iloc[[1, 1]].assign(reference=["far", "same"], base="gone")
    labels = [label.get_text() for label in plots.gains(found, LOOKS).axes[0].get_yticklabels()]
    assert labels == ["gone: length free (far)", "gone: length free (same)"]


def test_measure_against_gain_has_a_plot_for_each_measure_and_a_point_for_each_reference():
    rows = [(PRIMARY_GAIN, name, value, value / 10) for name, value in (("same", 0.4), ("far", 0.1))]
    rows += [("own_win_rate", "same", 0.8, 0.04), ("own_win_rate", "far", 0.5, 0.01)]
    found = pd.DataFrame(rows, columns=["measure", "reference", "value", "gain"])
    found = found.assign(panel="small", replicate=None, gain_low=found["gain"] - 0.01, gain_high=found["gain"] + 0.01)
    figure = plots.measure_against_gain(found, LOOKS)
    assert [ax.get_xlabel() for ax in figure.axes] == [plots.MEASURES[PRIMARY_GAIN], plots.MEASURES["own_win_rate"]]
    assert _marks(figure.axes[0], 7) == [(0.4, pytest.approx(0.04)), (0.1, pytest.approx(0.01))]
    assert _labels(figure) == ["same", "far", "self"]


def _curves(references=("self", "same")):
    rows = [(name, beta, step) for name in references for beta in (0.1, 1.0) for step in (10, 20)]
    found = pd.DataFrame(rows, columns=["reference", "beta", "step"])
    return found.assign(panel="small", value=found["step"] * found["beta"])


def test_training_curves_have_a_row_for_each_reference_and_the_loss_last():
    curves = _curves().assign(
        reward_accuracy=lambda f: f["value"], policy_accuracy=0.5, chosen_logp=-10.0, rejected_logp=-12.0, loss=0.7
    )
    figure = plots.training_curves(curves)
    assert [ax.get_title("left") for ax in figure.axes[:4]][-1] == "loss (nats a pair)"
    assert [ax.get_ylabel() for ax in figure.axes[::4]] == ["self", "same"]
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1, 2], [10, 20]]
    dashed = [line.get_ydata().tolist() for line in figure.axes[2].lines if line.get_linestyle() == "--"]
    assert dashed == [[-12, -12]] * 2, "rejected"
    assert len({(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}) == 2
    assert _labels(figure) == ["beta 0.1", "beta 1", "rejected"]


def test_training_curves_leave_out_what_was_not_logged():
    nothing = dict.fromkeys(("policy_accuracy", "chosen_logp", "rejected_logp", "loss"), np.nan)
    assert len(plots.training_curves(_curves(("self",)).assign(reward_accuracy=0.5, **nothing)).axes) == 1


def test_along_training_rings_alarms_and_marks_the_step_that_ended_a_run():
    last = _curves(("self",)).assign(win_rate=0.5, length_tokens_mean=lambda f: f["step"], truncation_rate=0.0, kl_start_nats=1.0)
    flags = ((last["beta"] == 0.1) & (last["step"] == 20)).astype(int)
    figure = plots.along_training(last.assign(alarms=flags, stopped=flags))
    assert _marks(figure.axes[1], 8) == [(20, 20)]
    assert _marks(figure.axes[1], 11) == [(20, 20)]
    assert _labels(figure)[-2:] == ["alarm", "ended training"]


def test_answer_lengths_boxes_are_the_frames_quantiles():
    lengths = pd.DataFrame(
        [{"reference": "self", "beta": beta, "p05": 5.0, "p25": 8.0, "p50": 10 + beta, "p75": 15.0, "p95": 18.0} for beta in BETAS]
    ).assign(mean_tokens=11.0, degenerate=[True, False, False], stopped=False, baseline_length_tokens=16.0)
    figure = plots.answer_lengths(lengths, LOOKS)
    ax = figure.axes[0]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 2.4]
    assert medians == [10.1, 11, 20]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "1", "10"]
    assert any(list(line.get_ydata()) == [16, 16] for line in ax.lines)
    assert _marks(ax, 13) == [(0, 11.0)]
    assert _labels(figure) == ["median", "mean", "mean of the baseline answers", "degenerate"]


def test_figures_with_many_references_keep_their_height_for_the_plot():
    few = plots.win_rate_by_length(_points(), LOOKS).get_figheight()
    many = pd.concat([_points().assign(reference=f"r{number}") for number in range(29)], ignore_index=True)
    assert plots.win_rate_by_length(many, many).get_figheight() > few + 0.5


def test_styles_of_thirty_references_are_all_different():
    styles = style.styles(pd.DataFrame({"reference": [f"r{number}" for number in range(30)]}))
    assert len({(each["color"], each["marker"], str(each["linestyle"])) for each in styles.values()}) == 30
