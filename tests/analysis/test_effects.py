"""Gains, best betas and measures over replicates, on grids whose numbers one can work out by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis import effects, frames, grids, study
from analysis.effects import SPREAD
from refstudy.measures.compatibility import PRIMARY_GAIN
from refstudy.store import Store
from tests.analysis import arrays, studies, synthetic


def _mean(found, **at):
    """The one row over replicates."""
    chosen = found[found["replicate"].isna()]
    for name, value in at.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def _grid(**more):
    """Three worlds, betas .1, 1, 10: self is best at 1 in all, `same` at 10 with a gain of .1, .2 and .3."""
    own = arrays.reference("self", arrays.rows((0.3, 0.5, 0.4), (0.3, 0.5, 0.4), (0.3, 0.5, 0.4)), kind="policy", own=0.5)
    same = arrays.reference("same", arrays.rows((0.4, 0.5, 0.6), (0.4, 0.5, 0.7), (0.4, 0.5, 0.8)), own=0.8, **more)
    free = arrays.reference(
        "same-free",
        arrays.rows((0.4, 0.45, 0.4), (0.4, 0.45, 0.4), (0.4, 0.45, 0.4)),
        kind="derived",
        keep="length_free",
        of="same",
    )
    alone = arrays.reference(
        "lost", arrays.rows((0.6, 0.45, 0.4), (0.6, 0.45, 0.4), (0.6, 0.45, 0.4)), kind="derived", keep="permuted", of=None
    )
    return arrays.grid(own, free, same, alone)


def test_gains_are_win_rates_at_best_betas_minus_selfs_over_replicates():
    """(.1 + .2 + .3) / 3 = .2; each replicate's own: .1, .2, .3."""
    found = effects.gains([_grid()])
    row = _mean(found, reference="same")
    assert row["gain"] == pytest.approx(0.2)
    assert row["gain_low"] < 0.2 < row["gain_high"]
    assert (row["best_beta"], row["replicates"], row["basis"]) == (10, 3, "replicates")
    dots = found[(found["reference"] == "same") & found["replicate"].notna()]
    assert dots["gain"].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_gains_group_the_parts_behind_their_whole_wherever_they_stand_in_the_grid():
    found = effects.gains([_grid()])
    rows = found[found["replicate"].isna()]
    assert rows[["base", "part", "reference"]].values.tolist() == [
        ["same", "whole", "same"],
        ["same", "length_free", "same-free"],
        ["lost", "permuted", "lost"],
    ]
    assert _mean(found, reference="same-free")["gain"] == pytest.approx(-0.05)


def test_gains_without_self_are_none():
    only = arrays.grid(arrays.reference("same", arrays.rows((0.4, 0.5, 0.6))))
    assert effects.gains([only]).empty
    assert effects.measures([only]).empty


def test_best_betas_are_censored_at_the_ends_and_scaled_by_the_spread_of_d():
    """Best at 10, the largest; spreads 1, 2 and 3 nats: 10 * 2 over replicates, 10 * 3 in the last. Self has no D."""
    grid = _grid(measures={SPREAD: np.array([1.0, 2.0, 3.0])})
    points = pd.DataFrame(
        [
            {"panel": "small", "reference": name, "beta": beta, "separable": (name, beta) == ("same", 0.1)}
            for name in ("self", "same", "same-free", "lost")
            for beta in arrays.BETAS
        ]
    )
    found = effects.best_betas([grid], points)
    row = _mean(found, reference="same")
    assert (row["beta"], row["edge"], row["alike_low"], row["alike_high"]) == (10, "largest", 1, 10)
    assert row["saturation"] == pytest.approx(20)
    assert found[found["reference"] == "same"]["saturation"].tolist() == pytest.approx([20, 10, 20, 30])
    assert _mean(found, reference="lost")["edge"] == "smallest"
    own = _mean(found, reference="self")
    assert own["edge"] == ""
    assert np.isnan(own["saturation"])


def test_measures_have_the_rank_correlation_with_gain_of_each_replicate():
    """Measures 1, 2, 3 and gains that rise with them in two worlds (+1) and fall in one (-1): 1/3 in the mean."""
    own = arrays.reference("self", arrays.rows((0.5,), (0.5,), (0.5,)), kind="policy", betas=(1.0,))
    others = [
        arrays.reference(
            f"r{n}",
            arrays.rows((0.5 + n / 10,), (0.9 - n / 10,), (0.5 + n / 10,)),
            betas=(1.0,),
            measures={PRIMARY_GAIN: np.full(3, n)},
        )
        for n in (1.0, 2.0, 3.0)
    ]
    found = effects.measures([arrays.grid(own, *others)])
    assert set(found["measure"]) == {PRIMARY_GAIN}, "own win rates are not known"
    row = _mean(found, reference="r2.0")
    assert row["correlation"] == pytest.approx(1 / 3)
    assert row["correlation_low"] < -1 < row["correlation_high"]
    assert (row["value"], row["references"], row["replicates"]) == (2, 3, 3)
    assert row["gain"] == pytest.approx(0.2), "(.2 + .2 + .2) / 3"
    assert found.loc[(found["reference"] == "r1.0") & found["replicate"].notna(), "gain"].tolist() == pytest.approx([0.1, 0.3, 0.1])


def test_points_over_worlds_are_means_whose_difference_to_the_best_is_paired(tmp_path):
    """Worlds are .10 apart, betas .02: paired, the difference is exactly -.02 in each world, though the bars overlap."""

    def measure(world, reference, beta, seed):
        return 0.4 + 0.1 * (world - 201) + {30.0: 0.02, 3.0: 0.04, 0.3: 0.02, 0.03: 0.02}[beta], 10.0 * (world - 200)

    folder = studies.build(tmp_path / "study", measure, references={"self": studies.REFERENCES["self"]})
    found = _points(folder)
    best, other = found[found["best"]].iloc[0], found[found["beta"] == 30].iloc[0]
    assert best["beta"] == 3
    assert best["win_rate"] == pytest.approx(0.59), "(.44 + .54 + .64 + .74) / 4"
    assert best["length_tokens"] == pytest.approx(25), "(10 + 20 + 30 + 40) / 4"
    assert other["win_rate_high"] > best["win_rate"], "the bars overlap"
    assert other["difference"] == pytest.approx(-0.02)
    assert other["separable"]
    assert not best["separable"]
    assert found["replicates"].tolist() == [4] * 4
    assert found["own_win_rate"].tolist() == pytest.approx([0.5] * 4)


def test_points_of_one_run_have_the_cells_own_intervals_and_differences_over_prompts(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-far"), entities=12, prompts_each=4)
    loaded = frames.load(folder, store)
    whole = study.joined([loaded], [store])
    found = effects.points(grids.of_study(whole), whole, loaded)
    cells = loaded.done.set_index(["reference", "beta"])
    for row in found.to_dict("records"):
        cell = cells.loc[(row["reference"], row["beta"])]
        assert [row[name] for name in ("win_rate", "win_rate_low", "win_rate_high", "length_high")] == pytest.approx(
            cell[["win_rate", "win_rate_low", "win_rate_high", "length_high"]].tolist()
        )
    others = found[~found["best"]]
    assert (others["difference"] < 0).all()
    assert (others["difference_low"] < others["difference"]).all()
    assert found.loc[found["reference"] == "larger-far", "degenerate"].any()
    assert found["baseline_length_tokens"].iloc[0] == pytest.approx(loaded.baselines["length_tokens"].iloc[0])


def _points(folder):
    store = Store(folder.parent / "store")
    loaded = frames.load(folder, store)
    whole = study.joined([loaded], [store])
    return effects.points(grids.of_study(whole), whole, loaded)
