"""The paper's tables and a sweep side by side: the same questions, both judged by the same code."""

import math

import pytest

import analysis
from analysis import beside_paper, findings, grids, report
from tests.analysis import studies, synthetic


def _truth(world, reference, beta, seed):
    """Best at 3 with self (0.70) and at 30 with the others (0.80, 0.74); answers twice as long at the smallest beta."""
    wobble = 0.002 * (world - 202.5)
    if reference == "self":
        return {30.0: 0.62, 3.0: 0.70, 0.3: 0.66, 0.03: 0.55}[beta] + wobble, {30.0: 18, 3.0: 20, 0.3: 30, 0.03: 40}[beta] + wobble
    top = 0.80 if reference.startswith("same") else 0.74
    return top - 0.05 * [30.0, 3.0, 0.3, 0.03].index(beta), 20.0


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return grids.of_study(analysis.load(studies.build(tmp_path_factory.mktemp("paper") / "study", _truth)))


def _rows(table):
    return [dict(zip((column.heading for column in table.headings), texts, strict=True)) for _, texts in table.rows]


def test_frame_has_both_sides_with_intervals_and_no_length_of_the_paper(own):
    frame = beside_paper.frame(own)
    assert list(frame.columns) == [column.name for column in beside_paper.COLUMNS]
    paper, sweep = (frame[frame["side"] == side] for side in (beside_paper.PAPER, beside_paper.SWEEP))
    row = paper[(paper["policy"] == "mistral-7b") & (paper["reference"] == "self") & (paper["beta"] == 0.01)].iloc[0]
    assert (row["win_rate"], row["low"]) == (pytest.approx(0.1625), pytest.approx(0.1625 - 1.959964 * 0.01))
    assert paper["length_tokens"].isna().all()
    assert sweep["length_tokens"].notna().all()
    assert set(sweep["reference"]) == {"self", "same", "cross"}
    assert set(sweep["replicates"]) == {4}


def test_role_says_what_a_reference_is_to_its_policy_on_both_sides(own):
    roles = beside_paper.frame(own).groupby(["side", "policy", "reference"])["role"].first()
    assert roles[(beside_paper.SWEEP, "small", "same")] == "stronger, of its family"
    assert roles[(beside_paper.SWEEP, "small", "cross")] == "stronger, of another family"
    assert roles[(beside_paper.PAPER, "mistral-7b", "mistral-7b-instruct-v0.2")] == "stronger, of its family"
    assert roles[(beside_paper.PAPER, "tulu-2-7b", "mistral-7b-instruct-v0.2")] == "stronger, of another family"
    assert roles[(beside_paper.PAPER, "qwen2-1.5b", "self")] == "itself"


def test_panels_set_decisions_of_both_sides_beside_each_other(own):
    found = [row for grid in own for row in findings.judge(grid)]
    panels = {each.question: each for each in beside_paper.panels(own, found)}
    length = _rows(panels["What becomes of length by beta?"].decisions)
    assert {row["decision"] for row in length if row["side"] == beside_paper.PAPER} == {"not_testable"}
    (sweep,) = [row for row in length if row["side"] == beside_paper.SWEEP]
    assert (sweep["decision"], "2.00" in sweep["in words"]) == ("reproduced", True)
    helps = _rows(panels["Does a stronger reference help, and at which beta?"].decisions)
    decided = {
        (row["side"], row["policy"], row.get("reference")): row["decision"]
        for row in helps
        if row["finding"] == "stronger_reference_helps"
    }
    assert decided[(beside_paper.PAPER, "mistral-7b", "mistral-7b-instruct-v0.2")] == "reproduced"
    assert decided[(beside_paper.PAPER, "tulu-2-7b", "llama-3-70b-instruct")] == "undecided"
    assert decided[(beside_paper.SWEEP, "small", "same")] == "reproduced"


def test_panels_show_best_betas_and_gains_by_hand(own):
    """Paper, Mistral: 20.25 at beta 1 against 16.25 with itself, so +0.040; the sweep: 0.80 - 0.70 = +0.100; lengths 40 / 20."""
    panels = {each.question: each for each in beside_paper.panels(own, [])}
    others = {
        (row["policy"], row["reference"]): row for row in _rows(panels["Does a stronger reference help, and at which beta?"].cells)
    }
    assert others[("mistral-7b", "mistral-7b-instruct-v0.2")]["best beta"] == "1"
    assert others[("mistral-7b", "mistral-7b-instruct-v0.2")]["minus self's best"] == "+0.040"
    assert others[("small", "same")]["best beta"] == "30 or more"
    assert others[("small", "same")]["minus self's best"] == "+0.100"
    own_rows = {row["policy"]: row for row in _rows(panels["What becomes of length by beta?"].cells)}
    assert own_rows["small"]["length, smallest to best beta"] == "2.00"
    assert own_rows["tulu-2-7b"]["length, smallest to best beta"] == "not published"
    assert own_rows["tulu-2-7b"]["degenerate without a score at beta"] == "0.005"


def test_report_has_the_section_where_it_is_asked_for(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-same"), entities=6, prompts_each=2)
    page = report.write(folder, store, with_paper=True).read_text()
    assert 'id="paper"' in page
    assert "no answer lengths by beta are known" in page
    for name in ("figures/beside_paper.png", "tables/beside_paper.csv"):
        assert (folder / name).stat().st_size > 1_000
    assert "Beside the paper's tables" in (folder / "report.md").read_text()
    assert 'id="paper"' not in report.write(folder, store).read_text()


def test_role_of_unknown_family_says_so(own):
    reference = own[0].named("same")
    grid = own[0]
    assert beside_paper.role(grid, type(reference)(**{**vars(reference), "family": None})) == "stronger, family unknown"
    assert math.isfinite(reference.own_win_rate[0])
