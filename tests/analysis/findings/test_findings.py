"""All findings of a grid together: their rows, Holm over the confirmatory three, and how they are printed."""

import json
import math

import numpy as np
import pytest

import analysis
from analysis import findings, report
from refstudy.store import Store
from tests.analysis import studies, synthetic
from tests.analysis.arrays import grid, reference, rows

KEYS = ("finding", "policy", "reference", "decision", "statistic", "low", "high", "n_replicates")
DECISIONS = {"reproduced", "contradicted", "undecided", "not_testable"}
SELF = rows((0.50, 0.60, 0.52), (0.51, 0.62, 0.55), (0.49, 0.61, 0.53), (0.50, 0.61, 0.54))
LENGTH = rows((20, 16, 15), (21, 16, 15), (22, 16, 15), (20, 16, 15))


def _truth(world, name, beta, seed):
    """A stronger reference gains 0.05, its cross-family match 0.03 length-free, length alone nothing; self grows below beta 0.3."""
    wobble = ((world * 7 + len(name) * 5 + round(beta * 100) * 3) % 11 - 5) / 1000
    curve = {30.0: -0.06, 3.0: -0.03, 0.3: 0.0, 0.03: -0.12}[beta]
    gain = {"self": 0.0, "same": 0.05, "cross": 0.05, "same-free": 0.05, "cross-free": 0.02, "same-only": 0.0}[name]
    return 0.6 + curve + gain + wobble, 16.0 + (4 + wobble * 50 if beta == 0.03 else 0)


def _by(found, key, reference=...):
    return [row for row in found if row.finding == key and reference in (..., row.reference)]


def test_of_folders_finds_what_a_study_was_made_with(tmp_path):
    folder = studies.build(tmp_path / "study", _truth, worlds=tuple(range(200, 208)))
    found = findings.of_folders([folder])
    decided = {(row.finding, row.reference): row for row in found}
    assert decided[("length_explosion", "self")].decision == "reproduced"
    assert decided[("length_explosion", "self")].statistic == pytest.approx(math.log(20 / 16), abs=0.01)
    assert decided[("stronger_reference_helps", "same")].decision == "reproduced"
    assert decided[("stronger_reference_helps", "same")].statistic == pytest.approx(0.05, abs=0.01)
    assert decided[("family_matters", "same-free - cross-free")].decision == "reproduced"
    assert decided[("family_matters", "same-free - cross-free")].statistic == pytest.approx(0.03, abs=0.01)
    assert decided[("why_it_helps", "same")].decision == "reproduced"
    assert decided[("reference_is_a_ceiling", "same")].decision == "reproduced"
    assert decided[("sweet_spot", "self")].decision == "reproduced"
    assert {row.n_replicates for row in found if row.decision == "reproduced"} == {8}


def test_of_folders_two_worlds_decide_nothing(tmp_path):
    found = findings.of_folders([studies.build(tmp_path / "study", _truth, worlds=(201, 202))])
    assert {row.decision for row in found} <= {"undecided", "not_testable"}


def test_of_folders_one_run_tells_what_is_seen_in_it(tmp_path):
    folder, _ = synthetic.build(tmp_path, betas=(10, 1, 0.1, 0.01), references=("self", "larger-same"))
    found = findings.of_folders([folder])
    assert {row.decision for row in found} <= {"undecided", "not_testable"}
    row = _by(found, "stronger_reference_helps", "larger-same")[0]
    assert row.seen_in_this_run in (True, False)
    assert row.seen_in_this_run == (row.low > 0)
    assert "over the prompts of 1 seed only" in row.sentence


def test_judge_has_a_row_for_every_finding_also_where_nothing_is_testable():
    found = findings.judge(grid(reference("big", SELF)))
    assert list(dict.fromkeys(row.finding for row in found)) == list(findings.KEYS)
    assert {row.decision for row in found if row.finding != "sweet_spot"} == {"not_testable"}


def test_judge_marks_three_findings_as_confirmatory():
    own = reference("self", SELF, kind="policy", length=LENGTH)
    found = findings.judge(grid(own, reference("big", SELF, own=0.8)))
    assert {row.finding for row in found if row.confirmatory} == set(findings.CONFIRMATORY)
    assert {row.finding for row in found if not row.confirmatory} == set(findings.KEYS) - set(findings.CONFIRMATORY)


def _gain_with(*gains):
    """The grid of a reference at three betas that gains so much at each, and of a self with no lengths: one test of three."""
    big = (np.array(SELF) + np.array(gains)[:, None]).tolist()
    return grid(reference("self", SELF, kind="policy"), reference("big", big, own=0.8))


def test_judge_multiplies_by_the_three_findings_not_by_rows():
    """Gains 0.02, 0.04, 0.09, 0.03: mean 0.045, variance 0.00096667, standard error 0.0155456, t = 2.89471, three degrees of
    freedom: p = 0.06278. The test stands alone, so Holm multiplies it by three."""
    row = _by(findings.judge(_gain_with(0.02, 0.04, 0.09, 0.03)), "stronger_reference_helps", None)[0]
    assert row.p == pytest.approx(0.06278, abs=1e-4)
    assert row.p_holm == pytest.approx(3 * row.p)


def test_judge_what_holm_takes_back_is_undecided_and_says_so():
    """Gains 0.03, 0.04, 0.07, 0.04: mean 0.045, variance 0.0003, se 0.0086603, t = 5.19615: p = 0.01385, times three 0.0415: holds.
    With 0.02, 0.04, 0.07, 0.04: mean 0.0425, variance 0.000425, se 0.0103078, t = 4.12311: p = 0.02591, times three 0.0777."""
    holds = _by(findings.judge(_gain_with(0.03, 0.04, 0.07, 0.04)), "stronger_reference_helps", "big")[0]
    assert (holds.decision, holds.p_holm) == ("reproduced", pytest.approx(0.0415, abs=2e-4))
    falls = _by(findings.judge(_gain_with(0.02, 0.04, 0.07, 0.04)), "stronger_reference_helps", "big")[0]
    assert (falls.decision, falls.p_holm) == ("undecided", pytest.approx(0.0777, abs=2e-4))
    assert falls.low > 0
    assert "Undecided after Holm's correction (p 0.026, corrected 0.078)." in falls.sentence


def test_judge_a_rejected_finding_lightens_the_next_ones_correction():
    """Length explodes beyond doubt, so the gain's p of 0.02591 is multiplied by two only: 0.0518, and still undecided."""
    own = reference("self", SELF, kind="policy", length=LENGTH)
    big = (np.array(SELF) + np.array([0.02, 0.04, 0.07, 0.04])[:, None]).tolist()
    found = findings.judge(grid(own, reference("big", big, own=0.8)))
    assert _by(found, "length_explosion")[0].decision == "reproduced"
    assert _by(found, "stronger_reference_helps", "big")[0].p_holm == pytest.approx(0.0518, abs=2e-4)


def test_judge_harm_is_corrected_for_the_number_of_references_too():
    """One harmed reference of three rows: p times three findings times three rows."""
    harmed = (np.array(SELF) - np.array([0.02, 0.04, 0.07, 0.04])[:, None]).tolist()
    found = findings.judge(
        grid(reference("self", SELF, kind="policy"), reference("far", harmed, own=0.8), reference("like", SELF, own=0.8))
    )
    row = _by(found, "stronger_reference_helps", "far")[0]
    assert row.p_holm == pytest.approx(9 * row.p)
    assert row.decision == "undecided"


def test_as_rows_has_the_promised_keys_and_no_nan(tmp_path):
    found = findings.as_rows(findings.of_folders([studies.build(tmp_path / "study", _truth)]))
    assert all(tuple(row)[: len(KEYS)] == KEYS for row in found)
    assert {row["decision"] for row in found} <= DECISIONS
    assert json.loads(findings.as_json(findings.of_paper()))
    for row in found:
        assert (row["statistic"] is None) == (row["decision"] == "not_testable")


def test_as_text_tells_confirmatory_from_descriptive():
    text = findings.as_text(findings.of_paper())
    assert "length_explosion (confirmatory)\n  not_testable: mistral-7b:" in text
    assert "why_it_helps (descriptive)" in text


def test_of_study_without_compatibility_says_what_it_lacks(tmp_path):
    study = analysis.load(studies.build(tmp_path / "study", _truth))
    found = findings.of_study(study)
    assert "it takes 4 references with a measure" in _by(found, "measure_predicts_gain")[0].sentence


def test_report_puts_findings_before_figures_in_words(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(10, 1, 0.1), references=("self", "larger-same"), entities=6, prompts_each=2)
    page = report.write(folder, Store(store.root)).read_text()
    assert page.index('<section id="findings">') < page.index('<section id="summary">') < page.index("<figure")
    assert "stronger_reference_helps (confirmatory)</span>" in page
    assert "A stronger reference raises the best win rate" in page
    assert "larger-same at its best beta" in page
