"""Grids as the findings see them: from a study's frames, with replicates, missing cells and unequal prompts."""

import json
import math

import numpy as np
import pytest

import analysis
from analysis import grids
from analysis.grids import Term
from tests.analysis import studies, synthetic
from tests.analysis.arrays import grid, reference, rows


def _truth(world, name, beta, seed):
    return 0.5 + (world - 200) / 100 + beta / 1000 + seed / 10, 10.0 + beta


def _one(folder):
    found = grids.of_study(analysis.load(folder))
    assert len(found) == 1
    return found[0]


def test_of_study_puts_worlds_in_rows_and_rising_betas_in_columns(tmp_path):
    of = _one(studies.build(tmp_path / "a", _truth))
    assert (of.unit, of.replicates, of.policy_family) == ("world", (201, 202, 203, 204), "north")
    assert of.self is not None
    assert of.self.betas == (0.03, 0.3, 3.0, 30.0)
    assert of.self.win_rate[1].tolist() == pytest.approx([0.52003, 0.5203, 0.523, 0.55])
    assert of.self.length_tokens[0].tolist() == pytest.approx([10.03, 10.3, 13.0, 40.0])
    same, free = of.named("same"), of.named("same-free")
    assert (same.size, same.family, same.own_win_rate.tolist()) == ("large", "north", [0.85] * 4)
    assert (free.kind, free.keep, free.of) == ("derived", "length_free", "same")
    assert np.isnan(free.own_win_rate).all()


def test_of_study_averages_the_seeds_of_a_world(tmp_path):
    of = _one(studies.build(tmp_path / "a", _truth, seeds=(0, 1), worlds=(201, 202)))
    assert of.replicates == (201, 202)
    assert of.self.win_rate[0, -1] == pytest.approx(0.54 + 0.05)


def test_of_study_leaves_out_a_world_that_lacks_a_cell(tmp_path):
    folder = studies.build(tmp_path / "a", _truth, missing=[(203, "same", 3.0)])
    of = _one(folder)
    assert np.isnan(of.named("same").win_rate[2]).all()
    assert np.isfinite(of.self.win_rate).all()
    assert of.incomplete == ("same lacks cells in 203",)


def test_of_study_a_beta_of_few_worlds_is_no_column(tmp_path):
    first = studies.build(tmp_path / "a", _truth, worlds=(201, 202, 203))
    second = studies.build(tmp_path / "b", _truth, worlds=(204,), betas=(*studies.BETAS, 100.0))
    of = grids.of_study(analysis.load(first, second))[0]
    assert of.self.betas == (0.03, 0.3, 3.0, 30.0)
    assert np.isfinite(of.self.win_rate).all()


def test_of_study_makes_a_grid_for_each_setting(tmp_path):
    first = studies.build(tmp_path / "a", _truth)
    second = studies.build(tmp_path / "b", _truth, settings={"train.learning_rate": 0.1})
    assert [each.setting for each in grids.of_study(analysis.load(first, second))] == ["", "train.learning_rate 0.1"]


def test_of_study_takes_measures_by_reference_and_replicate(tmp_path):
    folder = studies.build(tmp_path / "a", _truth, worlds=(201, 202))
    at = {"policy": "small", "reference": "same", "seed": 0}
    found = [{**at, "settings": {"data.world": world}, "measures": {"slope": world / 100, "words": "x"}} for world in (202, 201)]
    found.append({**at, "reference": "cross", "settings": {"data.world": 201}, "measures": None, "not_measured": "no table"})
    (folder / "compatibility.json").write_text(json.dumps({"references": found}))
    of = _one(folder)
    assert of.named("same").measures["slope"].tolist() == [2.01, 2.02]
    assert of.named("cross").measures == {}


def test_of_study_compares_on_prompts_that_all_cells_have(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-same"), entities=6, prompts_each=2)
    path = store.root / "verdicts" / "vc0001" / "verdicts.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    study = analysis.load(folder)
    kept = set(study.prompts.loc[study.prompts["cell_id"] == "c0001", "prompt_id"])
    first = study.prompts[(study.prompts["cell_id"] == "c0000") & study.prompts["prompt_id"].isin(kept)]
    assert len(kept) == 10
    assert grids.of_study(study)[0].self.win_rate[0, 1] == pytest.approx(first["p"].mean())


def test_weigh_a_fixed_contrast_is_students_t_over_replicates():
    """0.02, 0.04, 0.09: as in the test of of_replicates, half width 0.0895670."""
    own = reference("self", rows((0.50, 0.52), (0.50, 0.54), (0.50, 0.59)), kind="policy", betas=(0.1, 1.0))
    last, first = (Term(sign, own, np.full(3, at)) for sign, at in ((1.0, 1), (-1.0, 0)))
    of = grids.weigh(grid(own), [last, first])
    assert (of.statistic, of.high) == (pytest.approx(0.05), pytest.approx(0.05 + 0.0895670, abs=1e-6))


def test_weigh_choices_that_change_with_the_replicates_widen_the_interval():
    """Chosen on the others: 0.1, 0.2, 0.2, own spread 0.0333. Without world 0 the two left choose each other's: 0.3, 0.3; without
    1: 0.1 and 0.2; without 2 the same. Means 0.3, 0.15, 0.15 around 0.2: jackknife error sqrt(2 / 3 * 0.015) = 0.1."""
    own = reference("self", rows((0.9, 0.1), (0.2, 0.3), (0.2, 0.3)), kind="policy", betas=(0.1, 1.0))
    of = grids.weigh(grid(own), [Term(1.0, own)])
    assert of.statistic == pytest.approx(0.5 / 3)
    assert of.high - of.statistic == pytest.approx(4.30265 * 0.1, rel=1e-5)


def test_weigh_a_stated_error_counts_each_cell_once():
    """Best minus best of one reference is the same cell twice: no error and no evidence; two cells: sqrt(2) errors."""
    own = reference("self", rows((0.50, 0.55)), kind="policy", betas=(0.1, 1.0))
    of = grid(own, error=0.01)
    fixed = Term(-1.0, own, np.array([0]))
    assert grids.weigh(of, [Term(1.0, own), Term(-1.0, own)]).p == 1.0
    assert grids.weigh(of, [Term(1.0, own), fixed]).high == pytest.approx(0.05 + 1.959964 * math.sqrt(2) * 0.01)


def test_weigh_one_world_gives_the_interval_of_its_prompts(tmp_path):
    folder, _ = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-same"))
    study = analysis.load(folder)
    of = grids.of_study(study)[0]
    found = grids.weigh(of, [Term(1.0, of.named("larger-same")), Term(-1.0, of.self)])
    assert (found.basis, found.n_replicates) == ("prompts of this run", 1)
    assert found.low < found.statistic < found.high
    assert math.isnan(found.p)
