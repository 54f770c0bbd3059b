"""The files of an experiment on reference columns, and the numbers in them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import experiment, study
from refstudy.errors import SpecError
from refstudy.measures.compatibility import PRIMARY_DEGENERATION, PRIMARY_GAIN
from tests.analysis import synthetic
from tests.analysis.arrays import grid, reference, rows

SELF = rows((0.50, 0.60, 0.52), (0.51, 0.62, 0.55), (0.49, 0.61, 0.53), (0.50, 0.61, 0.54))
SLOPES = (0.1, 0.4, 20.0, 1.0)
GAINS = (0.06, 0.02, -0.4, -0.02)


def _grid():
    named = []
    for index, (slope, gain) in enumerate(zip(SLOPES, GAINS, strict=True)):
        measures = {PRIMARY_GAIN: np.full(4, gain), PRIMARY_DEGENERATION: np.full(4, slope)}
        named.append(reference(f"r{index}", (np.array(SELF) + gain).tolist(), own=0.6 + 0.05 * index, measures=measures))
    return grid(reference("self", SELF, kind="policy", own=0.5), *named)


def _done():
    """Every cell of r2 is degenerate, half of r3's, none of the others."""
    spoilt = {"r0": (0, 0), "r1": (0, 0), "r2": (1, 1), "r3": (0, 1)}
    return pd.DataFrame(
        [
            {"reference": name, "replicate": replicate, "degenerate": bool(flag)}
            for name, flags in spoilt.items()
            for replicate in _grid().replicates
            for flag in flags
        ]
    )


def test_gains_are_against_self_at_each_ones_best():
    found = experiment.gains(_grid()).set_index("reference")
    assert found["gain"].to_dict() == pytest.approx(dict(zip(found.index, GAINS, strict=True)))
    assert (found["replicates"] == 4).all()


def test_predictions_are_rank_correlations_over_references():
    """Gain measures order the gains: 1. Slopes .1, .4, 20, 1 against degenerate shares 0, 0, 1, .5, ranks (1, 2, 4, 3) and
    (1.5, 1.5, 4, 3): Spearman's, Pearson's of the ranks, is 4.5 / sqrt(5 * 4.5) = .9487."""
    found = experiment.predictions(_grid(), _done()).set_index(["outcome", "predictor"])["correlation"]
    assert found["gain", PRIMARY_GAIN] == pytest.approx(1.0)
    assert found["degenerate_share", PRIMARY_DEGENERATION] == pytest.approx(4.5 / np.sqrt(5 * 4.5))
    assert np.isnan(found["gain", "margin_correlation"])


def test_write_gives_a_file_for_each_replicate_and_refuses_two_grids(tmp_path):
    small = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}
    folder, store = synthetic.build(tmp_path / "one", **small)
    written = experiment.write(study.load(folder, store=store.root), tmp_path / "out")
    assert {path.name for path in written} >= {"gains.csv", "predictions.csv", "references.csv", "findings.csv"}
    cells = pd.concat(pd.read_csv(path) for path in written if path.stem.partition("_")[2])
    assert len(cells) == 4
    assert list(cells.columns) == list(experiment.CELLS)
    loaded = study.load(folder, store=store.root)
    empty = replace(loaded, cells=loaded.cells.iloc[:0])
    with pytest.raises(SpecError, match="got none"):
        experiment.write(empty, tmp_path / "none")


def test_other_settings_than_the_world_are_told_apart_by_a_column(tmp_path):
    cells = pd.DataFrame({name: [1.0] for name in experiment.CELLS} | {"setting": ["rate 1"]})
    one, other = replace(_grid(), setting="rate 1"), replace(_grid(), setting="rate 2")
    assert list(experiment._cells(cells, [one])) == list(experiment.CELLS)
    assert list(experiment._cells(cells, [one, other])) == ["setting", *experiment.CELLS]
    found = experiment._told([one, other], [experiment.gains(one), experiment.gains(other)])
    assert found["setting"].tolist() == ["rate 1"] * 4 + ["rate 2"] * 4
    assert list(experiment._told([one], [experiment.gains(one)])) == list(experiment.gains(one))
