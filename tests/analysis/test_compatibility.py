"""Frames of how references fit, and what is said of how far they agree with the sweep."""

import json
import math

import pandas as pd
import pytest

from analysis import compatibility, estimates, frames
from refstudy.measures.compatibility import Compatibility
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}
NAN = math.nan


@pytest.fixture
def results(tmp_path):
    def load(slopes, seeds=(0,), **changes):
        folder, store = synthetic.build(tmp_path, **{**SMALL, "seeds": seeds, **changes})
        synthetic.compatibility(folder, slopes, seeds)
        return frames.load(folder, store)

    return load


def test_load_gives_a_row_for_each_reference_and_seed_in_declared_columns(results):
    found = compatibility.load(results({"self": 0.0, "larger-same": -0.3}, seeds=(0, 1)))
    assert list(found.references.columns) == [column.name for column in compatibility.COLUMNS]
    assert found.references[["reference", "seed"]].values.tolist() == [[r, s] for r in ("self", "larger-same") for s in (0, 1)]
    row = found.references.iloc[2]
    assert (row["panel"], row["slope_nats_per_token"], row["abs_slope_nats_per_token"]) == ("small", -0.3, 0.3)
    assert math.isnan(found.references.iloc[0]["intercept_over_residual_spread"])


def test_columns_hold_every_measure_there_is():
    """Those of `measures.compatibility.values`: the flat ones, the two primary ones and the shares."""
    flat = set(Compatibility.__dataclass_fields__) - {"saturation", "token_shares"}
    wanted = flat | {compatibility.PRIMARY_GAIN, compatibility.PRIMARY_DEGENERATION}
    wanted |= {f"share_{name}" for name in ("end_token", "first_tokens", "rest")}
    named = {column.source.removeprefix("measures.") for column in compatibility.COLUMNS if column.source.startswith("measures.")}
    assert named == wanted


def test_load_saturation_is_long_by_beta(results):
    found = compatibility.load(results({"larger-same": -0.3})).saturation
    assert found[["beta", "saturation"]].values.tolist() == [[1, 10], [0.1, 1]]


def test_load_leaves_out_references_that_the_present_grid_has_not(results):
    found = compatibility.load(results({"larger-same": -0.3, "gone": 1.0}))
    assert found.references["reference"].tolist() == ["larger-same"]
    assert set(found.by_length["reference"]) == {"larger-same"}


def test_load_without_the_file_is_empty(tmp_path):
    found = compatibility.load(frames.load(*synthetic.build(tmp_path, **SMALL)))
    assert found.references.empty
    assert found.by_length.empty
    assert compatibility.borne_out(compatibility.with_outcomes(found.references, *_points_of_nothing())) == []


def test_load_torn_file_is_a_fault(results):
    loaded = results({"larger-same": -0.3})
    (loaded.folder / "compatibility.json").write_text("{")
    assert compatibility.load(loaded).references.empty
    assert any("compatibility.json cannot be read" in fault for fault in loaded.faults)


def test_outcomes_are_the_sweeps_own(results):
    loaded = results({"self": 0.0, "larger-far": -9.0}, references=("self", "larger-far"))
    points = estimates.points(loaded)
    best = estimates.best(loaded, points)
    found = compatibility.with_outcomes(compatibility.load(loaded).references, points, best).set_index("reference")
    assert found.loc["larger-far", "gain"] == best.set_index("reference").loc["larger-far", "gain"]
    assert math.isnan(found.loc["self", "gain"])
    assert found.loc["larger-far", "degenerate_betas"] == (1,)
    assert found.loc["self", "degenerate_betas"] == ()


def test_borne_out_counts_each_side_of_the_bound():
    """Slopes 8 and 3 are steep, one of them spoilt; of the three gentle ones two gained, one with an intercept below 0. The two
    seeds of c count once."""
    rows = [
        ("a", 8.0, 0.5, (1,), -0.3, -0.4, -0.2),
        ("b", 3.0, 0.5, (), 0.1, -0.1, 0.3),
        ("c", 0.1, 0.5, (), 0.1, 0.05, 0.2),
        ("d", 0.2, 0.4, (), 0.0, -0.1, 0.1),
        ("e", 0.2, -0.1, (), 0.1, 0.05, 0.2),
        ("planned", 0.2, -0.1, NAN, NAN, NAN, NAN),
    ]
    names = ["reference", "abs_slope_nats_per_token", "intercept_over_residual_spread", "degenerate_betas"]
    frame = pd.DataFrame(rows, columns=[*names, "gain", "gain_low", "gain_high"])
    frame = pd.concat([frame, frame[frame["reference"] == "c"]]).assign(panel="small", difference_spread_nats=1.0)
    first, second, third = compatibility.borne_out(frame)
    assert first.endswith("by the bound of 2.2 nats a token: 1 of 2 at or above it and 0 of 3 below it.")
    assert second.endswith("the interval too: 1 of 2 at or above it and 0 of 3 below it.")
    assert third.endswith("the interval too: 1 of 2 with an intercept above 0 and 1 of 1 with one at or below 0.")


def test_load_row_that_was_not_measured_says_why(results):
    loaded = results({"larger-same": -0.3})
    path = loaded.folder / "compatibility.json"
    (row,) = json.loads(path.read_text())["references"]
    why = "self's table over these pairs is not in the store"
    path.write_text(json.dumps({"references": [row | {"measures": {}, "by_length": [], "words": "", "not_measured": why}]}))
    found = compatibility.load(loaded)
    assert found.references["not_measured"].tolist() == [why]
    assert found.saturation.empty


def _points_of_nothing():
    points = pd.DataFrame(columns=["panel", "reference", "beta", "degenerate"])
    return points, pd.DataFrame(columns=["panel", "reference", "self", "gain", "gain_low", "gain_high"])
