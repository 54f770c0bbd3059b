"""Findings about references on grids whose truth is known."""

import math

import pytest

from analysis.findings import references
from tests.analysis.arrays import grid, only, reference, rows

SELF = rows((0.50, 0.60, 0.52), (0.51, 0.62, 0.55), (0.49, 0.61, 0.53), (0.50, 0.61, 0.54))
BETTER = rows((0.50, 0.64, 0.66), (0.51, 0.65, 0.67), (0.49, 0.66, 0.66), (0.50, 0.64, 0.67))
WORSE = rows((0.20, 0.31, 0.30), (0.21, 0.29, 0.30), (0.19, 0.30, 0.28), (0.20, 0.32, 0.30))


def _self(win_rate=SELF):
    return reference("self", win_rate, kind="policy", own=0.5)


def _derived(name, of, win_rate, keep="length_free"):
    return reference(name, win_rate, kind="derived", keep=keep, of=of, family="derived")


def _family(same=BETTER, cross=SELF, **cross_facts):
    facts = {"own": 0.81, "family": "south", "size": "large", **cross_facts}
    bases = reference("same", BETTER, own=0.8, family="north", size="large"), reference("cross", BETTER, **facts)
    return grid(_self(), *bases, _derived("same-free", "same", same), _derived("cross-free", "cross", cross))


def test_stronger_reference_helps_by_the_difference_of_bests():
    """Best betas on the others: reference 10, self 1: gains 0.06, 0.05, 0.05, 0.06, mean 0.055."""
    found = references.stronger_reference_helps(grid(_self(), reference("big", BETTER, own=0.8)))
    for row in (only(found, None), only(found, "big")):
        assert row.decision == "reproduced"
        assert row.statistic == pytest.approx(0.055)
    assert [row.tested for row in found] == [True, False]
    assert "10 or more" in only(found, "big").sentence


def test_stronger_reference_that_harms_is_contradicted():
    found = references.stronger_reference_helps(grid(_self(), reference("far", WORSE, own=0.8)))
    assert {row.decision for row in found} == {"contradicted"}


def test_stronger_reference_helps_test_takes_the_best_of_several():
    found = references.stronger_reference_helps(grid(_self(), reference("far", WORSE, own=0.8), reference("big", BETTER, own=0.8)))
    assert only(found, None).statistic == pytest.approx(0.055)
    assert only(found, "far").decision == "contradicted"


@pytest.mark.parametrize("own", [None, 0.54])
def test_stronger_reference_helps_without_a_stronger_one_is_not_testable(own):
    found = references.stronger_reference_helps(grid(_self(), reference("other", BETTER, own=own)))
    assert [(row.reference, row.decision) for row in found] == [(None, "not_testable"), ("other", "not_testable")]


def test_stronger_reference_helps_derived_columns_are_no_references():
    found = references.stronger_reference_helps(grid(_self(), reference("big", BETTER, own=0.8), _derived("free", "big", WORSE)))
    assert {row.reference for row in found} == {None, "big"}


def test_stronger_reference_with_a_stated_error_takes_the_plain_best():
    """0.67 - 0.62 = 0.05 with error 0.01 a cell: half width 0.0277."""
    found = references.stronger_reference_helps(grid(_self(SELF[1:2]), reference("big", BETTER[1:2], own=0.8), error=0.01))
    row = only(found, "big")
    assert (row.decision, row.basis) == ("reproduced", "stated error")
    assert row.low == pytest.approx(0.05 - 0.0277181, abs=1e-6)
    assert "biased upwards" in row.sentence


@pytest.mark.parametrize(("own", "decision"), [(0.8, "reproduced"), (0.60, "contradicted"), (0.665, "undecided")])
def test_reference_is_a_ceiling_where_the_policy_stays_below(own, decision):
    found = only(references.reference_is_a_ceiling(grid(_self(), reference("big", BETTER, own=own))))
    assert found.decision == decision
    assert found.statistic == pytest.approx(0.665 - own)


def test_family_matters_is_the_length_free_gain_of_same_minus_cross():
    """Same at its best (10): 0.66, 0.67, 0.66, 0.67; cross at its best (1): 0.60, 0.62, 0.61, 0.61; differences mean 0.055."""
    found = only(references.family_matters(_family()))
    assert (found.decision, found.reference, found.tested) == ("reproduced", "same-free - cross-free", True)
    assert found.statistic == pytest.approx(0.055)


def test_family_matters_is_contradicted_where_the_other_family_gains_more():
    assert only(references.family_matters(_family(same=SELF, cross=BETTER))).decision == "contradicted"


@pytest.mark.parametrize("facts", [{"own": 0.84}, {"size": "small"}, {"family": "north"}, {"own": None}])
def test_family_matters_without_a_matched_pair_is_not_testable(facts):
    found = only(references.family_matters(_family(**facts)))
    assert found.decision == "not_testable"
    assert math.isnan(found.statistic)


def test_family_matters_never_compares_whole_columns():
    bases = (
        reference("same", BETTER, own=0.8, family="north", size="large"),
        reference("cross", SELF, own=0.8, family="south", size="large"),
    )
    assert only(references.family_matters(grid(_self(), *bases))).decision == "not_testable"
