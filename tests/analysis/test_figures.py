"""Which figures a study has, and what is said under them."""

import pandas as pd
import pytest

from analysis import estimates, figures, findings, frames, study
from refstudy.store import Store
from tests.analysis import studies, synthetic


def _made(folder, store):
    loaded = frames.load(folder, store)
    joined = study.joined([loaded], [store])
    return loaded, joined, figures.of_study(loaded, joined, estimates.points(loaded))


def _measured(world, reference, beta, seed):
    """Self is best at 3, larger-same wins by .02 more at 30; a world apart by .01."""
    gain = {"self": 0.0, "same": 0.02, "cross": 0.01}.get(reference, -0.01)
    return 0.5 + gain + 0.01 * (world - 201) + {30.0: 0.05, 3.0: 0.08, 0.3: 0.04, 0.03: 0.0}[beta] * (1 + gain), 20.0


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    root = tmp_path_factory.mktemp("replicated")
    return _made(studies.build(root / "study", _measured), Store(root / "store"))


def _named(of, name):
    return next(each for each in (*of.grid, *of.best, *of.effects, *of.training) if each.name == name)


def test_every_figure_that_a_finding_names_is_made(replicated):
    _, joined, made = replicated
    named = {row.figure for row in findings.of_study(joined)} - {None}
    along_beta = {"win_rate_by_beta", "length_by_beta"}
    assert {"gains", "best_betas", "win_rate_map", "accuracy_by_beta"} <= named
    assert named - along_beta <= made.names


def test_every_finding_but_the_untestable_names_a_figure(replicated):
    _, joined, _ = replicated
    found = findings.of_study(joined)
    assert {row.finding for row in found if row.figure is None and row.decision != "not_testable"} == set()


def test_figures_of_worlds_say_what_their_intervals_cover(replicated):
    made = replicated[2]
    assert "means over 4 worlds; intervals are over worlds" in _named(made, "win_rate_map").words
    assert "Betas are chosen on the other replicates" in _named(made, "gains").words
    assert made.frames["gains"]["replicates"].max() == 4


def test_figures_of_one_run_say_that_the_plain_best_is_biased(tmp_path):
    _, _, made = _made(*synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-far"), entities=6, prompts_each=2))
    assert "biased upwards" in _named(made, "gains").words
    assert "prompts only" in _named(made, "win_rate_map").words


def test_one_cell_has_the_figures_that_make_sense_and_no_empty_one(tmp_path):
    loaded, _, made = _made(*synthetic.build(tmp_path, betas=(1,), references=("self",), entities=6, prompts_each=2))
    assert made.names == {"answer_lengths"}
    assert set(made.frames) == {"grid_points", "answer_lengths", "best_beta_by_reference"}
    assert {each.name for each in (loaded.folder / "figures").iterdir()} == {"answer_lengths.png", "answer_lengths.svg"}


def test_no_cell_done_has_no_figure(tmp_path):
    small = {"betas": (1,), "references": ("self", "larger-same"), "entities": 2, "prompts_each": 1}
    _, _, made = _made(*synthetic.build(tmp_path, **small, broken=("planned", "failed")))
    assert made.names == set()
    assert made.frames == {}


def test_small_multiples_are_capped_and_say_what_was_left_out():
    frame = pd.DataFrame([{"panel": f"p{panel}", "reference": f"r{number}"} for panel in range(6) for number in range(4)])
    found = list(figures._panels(frame, "name", "Title", 3))
    assert [(name, title) for name, title, _, _ in found][:2] == [("name", "Title: p0"), ("name_2", "Title: p1")]
    assert len(found) == figures.MOST_PANELS
    assert found[0][2]["reference"].tolist() == ["r0", "r1", "r2"]
    assert found[0][3] == " Left out here, but in the table: the references r3; figures of p4, p5."
    assert found[1][3] == " Left out here, but in the table: the references r3."
