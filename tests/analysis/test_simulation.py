"""The findings on grids of known truth: seldom a claim where nothing is, the right sign and size where something is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis import findings, simulation
from analysis.simulation import BETWEEN_DRAWS, BETWEEN_WORLDS, CURVE, Components, Truth
from refstudy.errors import DataError
from tests.analysis import studies
from tests.analysis.arrays import grid, reference

NONE = Components((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), 0)
EFFECTS = next(truth for truth in simulation.TRUTHS if truth.name == "effects")


def test_simulate_without_noise_is_the_truth():
    of = simulation.simulate(EFFECTS, NONE, 3, np.random.default_rng(0))
    own, same = of.self, of.named("same")
    assert (same.win_rate[0] - own.win_rate[0]).tolist() == pytest.approx([0.04] * 4)
    assert own.win_rate[0].tolist() == pytest.approx([0.6 + each for each in CURVE])
    assert own.length_tokens[0, 0] / own.length_tokens[0, 1] == pytest.approx(1.15)
    assert (of.named("same-free").win_rate - of.named("near-free").win_rate).mean() == pytest.approx(0.04)


def test_claims_without_noise_and_without_effects_claim_nothing():
    told = simulation.claims(Truth("nothing", curve=CURVE), NONE, 8, 2, np.random.default_rng(0))
    assert (told["any_claim"], told["any_row"]) == (0, 0)


@pytest.mark.parametrize("of", [BETWEEN_WORLDS, BETWEEN_DRAWS])
def test_claims_are_rare_where_nothing_is(of):
    """120 grids at 5 %: more than 13 claims have a probability below 0.5 %. The long run stands in analysis/README.md."""
    told = simulation.claims(Truth("nothing", curve=CURVE), of, 8, 120, np.random.default_rng(3))
    assert told["any_row"] <= 13 / 120


def test_claims_recover_sign_and_size():
    told = simulation.claims(EFFECTS, BETWEEN_WORLDS, 8, 40, np.random.default_rng(4))["findings"]
    assert set(told) == set(findings.CONFIRMATORY)
    for key, of in told.items():
        assert of["reproduced"] >= 0.7, key
        assert of["contradicted"] == 0, key
        assert of["mean_statistic"] == pytest.approx(of["true"], abs=0.01), key
        assert of["coverage"] >= 0.85, key


def test_claims_of_the_opposite_are_contradictions():
    """With a power of about 0.7 fewer than 8 of 20 have a probability below 0.3 %."""
    other = replace(EFFECTS, gain=-0.04, length_ratio=1 / 1.15, family_gain=-0.04)
    told = simulation.claims(other, BETWEEN_WORLDS, 8, 20, np.random.default_rng(5))["findings"]
    assert all(of["contradicted"] >= 8 / 20 and of["reproduced"] == 0 for of in told.values())


def test_components_recover_what_grids_were_drawn_with():
    of = Components((0.02, 0.05), (0.03, 0.02), (0.04, 0.03), (0.01, 0.02), (0, 0), 0.5)
    found = simulation.components([simulation.simulate(Truth("nothing"), of, 400, np.random.default_rng(6))])
    for name in ("replicate", "reference", "beta", "cell"):
        assert getattr(found, name) == pytest.approx(getattr(of, name), rel=0.15), name
    assert found.correlation == pytest.approx(0.5, abs=0.1)
    assert found.prompts == (0, 0)


def test_components_of_one_world_are_refused():
    one = grid(reference("self", [[0.5, 0.6, 0.5]], kind="policy", length=[[1, 1, 1]]))
    with pytest.raises(DataError, match="no grid has two complete replicates"):
        simulation.components([one])


def test_main_prints_a_line_for_each_truth_and_number_of_replicates(capsys):
    simulation.main(["--grids", "1", "--replicates", "3"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 2 * len(simulation.TRUTHS)
    assert {"any_claim", "any_row", "findings", "truth", "replicates", "grids", "variances"} <= set(told[0])


def test_main_estimates_components_of_a_folder(tmp_path, capsys):
    def measure(world, name, beta, seed):
        return 0.5 + world / 10_000 + (len(name) * world % 7) / 100, 18.0 + world % 3

    simulation.main(["--estimate", str(studies.build(tmp_path / "study", measure)), "--references", "same", "cross"])
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"replicate", "reference", "beta", "cell", "prompts", "correlation"}
    assert told["reference"][0] > 0
