"""What the figures show, read back from the drawn artists."""

import pandas as pd
import pytest

from analysis import estimates, frames, plots
from analysis.plots import style
from refstudy.measures.compatibility import DEGENERATE_NATS_PER_TOKEN, PRIMARY_DEGENERATION, PRIMARY_GAIN
from tests.analysis import synthetic

BETAS = (10, 1, 0.1, 0.01)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    return frames.load(*synthetic.build(root, betas=BETAS, references=("self", "larger-far"), entities=12, prompts_each=4))


@pytest.fixture(scope="module")
def points(results):
    return estimates.points(results)


def _labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_win_rate_by_beta_has_ticks_exactly_at_the_betas_used(results, points):
    figure = plots.win_rate_by_beta(points, results.done)
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    assert [label.get_text() for label in axis.get_ticklabels()] == ["0.01", "0.1", "1", "10"]
    assert len(axis.get_minor_ticks()) == 0
    assert figure.axes[0].get_xscale() == "log"


def test_win_rate_by_beta_draws_every_point_with_its_interval(results, points):
    figure = plots.win_rate_by_beta(points, results.done)
    for container, (_, group) in zip(figure.axes[0].containers, points.groupby("reference", sort=False), strict=True):
        line, _, (bars,) = container
        assert line.get_ydata().tolist() == group["win_rate"].tolist()
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert [end for each in ends for end in each] == pytest.approx(group[["win_rate_low", "win_rate_high"]].to_numpy().ravel())


def test_figures_ring_degenerate_points_and_explain_the_mark(results, points):
    figure = plots.length_by_beta(points, results.done, pd.DataFrame([{"panel": "small", "length_tokens": 16.0}]))
    rings = [line for line in figure.axes[0].lines if line.get_markersize() == 13 and len(line.get_xdata())]
    assert [len(line.get_xdata()) for line in rings] == [2]
    assert _labels(figure) == ["self", "larger-far", "baseline answers", "degenerate"]


def test_length_by_beta_draws_the_baselines_length(results, points):
    figure = plots.length_by_beta(points, results.done, pd.DataFrame([{"panel": "small", "length_tokens": 16.0}]))
    assert any(list(line.get_ydata()) == [16.0, 16.0] for line in figure.axes[0].lines)


def test_win_rate_by_kl_draws_root_kl_and_the_references_own_win_rate(points):
    own = pd.DataFrame([{"panel": "small", "reference": "larger-far", "own_win_rate": 0.81}])
    figure = plots.win_rate_by_kl(points, own)
    line = figure.axes[0].containers[0][0]
    assert line.get_xdata().tolist() == pytest.approx((points.loc[points["self"], "kl_start_nats"] ** 0.5).tolist())
    assert any(list(line.get_ydata()) == [0.81, 0.81] for line in figure.axes[0].lines)
    assert "a reference's own answers" in _labels(figure)


def test_figures_have_a_panel_for_each_policy_and_one_legend(tmp_path):
    small = {"betas": (1, 0.1), "references": ("self",), "entities": 4, "prompts_each": 2}
    results = frames.load(*synthetic.build(tmp_path, **small, policies=("small", "big", "huge")))
    figure = plots.win_rate_by_beta(estimates.points(results), results.done)
    assert [ax.get_title("left") for ax in figure.axes if ax.get_visible()] == ["small", "big", "huge"]
    assert len(figure.legends) == 1


def test_figures_draw_each_seed_as_a_dot(tmp_path):
    small = {"betas": (1, 0.1), "references": ("self",), "entities": 4, "prompts_each": 2}
    results = frames.load(*synthetic.build(tmp_path, **small, seeds=(0, 1, 2)))
    figure = plots.win_rate_by_beta(estimates.points(results), results.done)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert sorted(dots[0].get_ydata()) == sorted(results.done["win_rate"])


def _fits(slopes, seeds=(0,)):
    rows = [
        {"reference": name, "seed": seed, "intercept_nats": 3.0, "slope_nats_per_token": slope, "difference_spread_nats": 1.0}
        | {PRIMARY_DEGENERATION: abs(slope), PRIMARY_GAIN: 0.5, "degenerate_betas": (1,) if abs(slope) > 5 else ()}
        for name, slope in slopes.items()
        for seed in seeds
    ]
    bins = [
        {"reference": row["reference"], "seed": row["seed"], "length_difference_tokens": x}
        | {"mean_nats": 3 + row["slope_nats_per_token"] * x, "spread_nats": 2.0}
        for row in rows
        for x in (-4.0, 8.0)
    ]
    return pd.DataFrame(rows), pd.DataFrame(bins)


def test_compatibility_places_references_by_the_two_primary_measures_and_rings_degenerate_ones():
    references, bins = _fits({"larger-same": -0.3, "larger-far": -9.0})
    figure = plots.compatibility(references, bins, references)
    left = figure.axes[0]
    marks = [line for line in left.lines if line.get_markersize() == 8]
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marks] == [(0.3, 0.5), (9.0, 0.5)]
    assert [float(line.get_xdata()[0]) for line in left.lines if line.get_markersize() == 15] == [9.0]
    assert any(list(line.get_xdata()) == [DEGENERATE_NATS_PER_TOKEN] * 2 for line in left.lines)


def test_compatibility_draws_d_by_length_with_its_line_in_a_plot_for_each_reference():
    """3 - 0.5 * -4 = 5 and 3 - 0.5 * 8 = -1: the line goes through the means."""
    references, bins = _fits({f"r{number}": -0.5 for number in range(12)}, seeds=(0, 1))
    figure = plots.compatibility(references, bins, references)
    small = [ax for ax in figure.axes[1:] if ax.get_visible()]
    assert [ax.get_title("left") for ax in small] == [f"r{number}" for number in range(12)]
    assert len(small[0].containers) == 2, "both seeds"
    assert small[0].containers[0][0].get_ydata().tolist() == [5.0, -1.0]
    assert [list(line.get_ydata()) for line in small[0].lines if line.get_linestyle() == "-"].count([5.0, -1.0]) == 2


def test_token_shifts_draw_a_line_for_each_beta_and_nothing_where_no_token_is():
    rows = [("self", beta, low, tokens) for beta in (1.0, 0.1) for low, tokens in ((-1.0, 3), (-0.5, 0), (0.0, 7))]
    histogram = pd.DataFrame(rows, columns=["reference", "beta", "low_nats", "tokens"])
    figure = plots.token_shifts(histogram.assign(high_nats=lambda f: f["low_nats"] + 0.5, share=lambda f: f["tokens"] / 10))
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert len({line.get_color() for line in drawn}) == 2
    assert drawn[0].get_xdata().tolist() == [-0.75, -0.25, 0.25]
    assert drawn[0].get_ydata().tolist() == pytest.approx([0.3, float("nan"), 0.7], nan_ok=True)
    assert _labels(figure) == ["beta 0.1", "beta 1"]


def test_end_token_by_beta_joins_each_references_betas(points):
    shifted = points.assign(end_mean_nats=-1 / points["beta"])
    figure = plots.end_token_by_beta(shifted)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == sorted(line.get_xdata())
    assert line.get_ydata().tolist() == pytest.approx([-1 / beta for beta in line.get_xdata()])
    assert "degenerate" in _labels(figure)


def test_styles_tell_more_references_apart_than_the_palette_has():
    points = pd.DataFrame({"reference": [f"r{number}" for number in range(15)]})
    styles = style.styles(points)
    seen = {(style["color"], style["marker"], str(style["linestyle"])) for style in styles.values()}
    assert len(seen) == 15


def test_save_writes_files_and_gives_an_svg_in_page_colours(results, points, tmp_path):
    svg = plots.save(plots.win_rate_by_beta(points, results.done), tmp_path / "figures", "win")
    assert (tmp_path / "figures" / "win.png").read_bytes().startswith(b"\x89PNG")
    assert style.INK in (tmp_path / "figures" / "win.svg").read_text()
    assert svg.startswith("<svg")
    assert "var(--ink)" in svg
    assert style.INK not in svg
    assert 'id="figure_1"' not in svg
