"""Findings about reasons on grids whose truth is known."""

import numpy as np
import pytest

from analysis.findings import why
from refstudy.measures.compatibility import PRIMARY_GAIN
from tests.analysis.arrays import grid, only, reference, rows

SELF = rows((0.50, 0.60, 0.52), (0.51, 0.62, 0.55), (0.49, 0.61, 0.53), (0.50, 0.61, 0.54))


def _plus(gain):
    return (np.array(SELF) + gain).tolist()


def _self():
    return reference("self", SELF, kind="policy", own=0.5)


def _parts(**gains):
    parts = [reference(keep, _plus(gain), kind="derived", keep=keep, of="big") for keep, gain in gains.items()]
    return grid(_self(), reference("big", _plus(0.06), own=0.8), *parts)


def _measured(measures, gains):
    named = [
        reference(f"r{index}", _plus(gain), own=0.6 + 0.1 * (index % 3), measures={PRIMARY_GAIN: np.array(measure, dtype=float)})
        for index, (measure, gain) in enumerate(zip(measures, gains, strict=True))
    ]
    return grid(_self(), *named)


def test_why_it_helps_length_free_carries_the_gain():
    """Gains differ by 0.05 - 0.01 = 0.04 in every world; without any spread four worlds are no proof: p = 2 / 2^4."""
    found = only(why.why_it_helps(_parts(length_free=0.05, length_only=0.01)))
    assert found.statistic == pytest.approx(0.04)
    assert (found.p, found.decision) == (pytest.approx(0.125), "undecided")
    assert "whole +0.060" in found.sentence


def test_why_it_helps_only_stops_better_is_contradicted():
    varied = (np.array(SELF) + np.array([[0.06], [0.05], [0.055], [0.06]])).tolist()
    parts = [reference("free", SELF, kind="derived", keep="length_free", of="big")]
    parts.append(reference("only", varied, kind="derived", keep="length_only", of="big"))
    found = only(why.why_it_helps(grid(_self(), reference("big", varied, own=0.8), *parts)))
    assert found.decision == "contradicted"


def test_why_it_helps_lacks_a_column():
    assert only(why.why_it_helps(_parts(length_free=0.05))).decision == "not_testable"
    assert only(why.why_it_helps(_parts())).decision == "not_testable"


def test_measure_that_orders_references_predicts_gain():
    """Ranks agree but for one swap of neighbours in one world: Spearman 1, 1, 1, 1 - 6 * 2 / (5 * 24) = 0.9; mean 0.975."""
    measures = [(1, 1, 1, 2), (2, 2, 2, 1), (3, 3, 3, 3), (4, 4, 4, 4), (5, 5, 5, 5)]
    found = only(why.measure_predicts_gain(_measured(measures, [-0.1, -0.02, 0.01, 0.03, 0.06])))
    assert found.decision == "reproduced"
    assert found.statistic == pytest.approx(0.975)


def test_measure_of_three_references_is_not_testable():
    found = only(why.measure_predicts_gain(_measured([(1,) * 4, (2,) * 4, (3,) * 4], [0.0, 0.01, 0.02])))
    assert found.decision == "not_testable"
