"""What the figures show, read back from the drawn artists."""

import pandas as pd
import pytest

from analysis import estimates, frames, plots
from analysis.plots import style
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
