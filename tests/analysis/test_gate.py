"""The gate: what falls beyond noise fails, what chance does passes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis import gate
from refstudy import records
from refstudy.errors import DataError, SpecError
from refstudy.measures import limits
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 12, "prompts_each": 2}


def state(p, length=10.0, beta=1.0, **changes):
    """A finished cell whose prompts, each a cluster, have verdicts `p`."""
    ids = [f"p{number}" for number in range(len(p))]
    columns = {"p": list(p), "length_tokens": [length] * len(ids), "truncated": [0.0] * len(ids), "repetitive": [0.0] * len(ids)}
    fields = {
        **{"policy": "small", "reference": "self", "beta": beta, "seed": 0, "settings": {}, "status": "done"},
        **{"degenerate": False, "reason": "", "judge": "gold", "measures": {"win_rate": _mean(p)}},
        "clusters": {each: each for each in ids},
        "values": {name: dict(zip(ids, values, strict=True)) for name, values in columns.items()},
    }
    return gate.State(**{**fields, **changes})


def _mean(p):
    given = [each for each in p if each is not None]
    return sum(given) / len(given) if given else None


def measures(failures):
    return [each.measure for each in failures]


def noisy(rng, rate, prompts=60, **fields):
    lengths = rng.normal(20, 5, prompts)
    one = state((rng.random(prompts) < rate).astype(float), **fields)
    one.values["length_tokens"].update(zip(one.clusters, map(float, lengths), strict=True))
    return one


def test_same_cells_pass():
    cells = [state([1, 0, 0.5, 1] * 5), state([0, 0, 1, 1] * 5, beta=0.1)]
    assert gate.fallen(cells, cells) == []


def test_re_run_that_differs_by_chance_alone_passes():
    """24 cells of the same true win rates, drawn anew 60 times: at most 2.5 % of the gates are expected to fail."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.2, 0.8, 24)
    runs = [[noisy(rng, rate, beta=float(number + 1)) for number, rate in enumerate(rates)] for _ in range(61)]
    assert sum(bool(gate.fallen(now, runs[0])) for now in runs[1:]) <= 5


def test_fall_of_one_cell_among_many_is_named():
    rng = np.random.default_rng(1)
    before = [noisy(rng, 0.7, 200, beta=float(number + 1)) for number in range(24)]
    now = [noisy(rng, 0.7 if number != 5 else 0.4, 200, beta=float(number + 1)) for number in range(24)]
    (failure,) = gate.fallen(now, before)
    assert (failure.cell, failure.measure) == ("small self beta=6 seed=0", "win_rate")
    assert failure.value < failure.bound
    assert "by Holm over 48 questions" in failure.why


def test_gain_is_no_fall():
    assert gate.fallen([state([1.0] * 40)], [state([0.0] * 40)]) == []


def test_fall_on_two_prompts_is_noise():
    assert gate.fallen([state([0.0] * 2)], [state([1.0] * 2)]) == []


@pytest.mark.parametrize(("length", "expected"), [(14.0, []), (16.0, ["length_tokens_mean"]), (2.0, [])])
def test_length_explodes_beyond_half_as_much_again(length, expected):
    """10 tokens before: 14 are more, 16 are beyond 15."""
    assert measures(gate.fallen([state([0.5] * 40, length)], [state([0.5] * 40)])) == expected


def test_newly_degenerate_counts_where_the_measure_is_worse_beyond_noise():
    rng = np.random.default_rng(2)
    before = state([0.5] * 80)
    before.values["truncated"].update({each: float(rng.random() < 0.49) for each in before.clusters})
    for rate, expected in ((0.51, []), (0.9, ["truncation_rate"])):
        now = state([0.5] * 80, degenerate=True, reason=f"truncation_rate {rate} > 0.5")
        now.values["truncated"].update({each: float(rng.random() < rate) for each in now.clusters})
        assert measures(gate.fallen([now], [before])) == expected
        assert gate.fallen([now], [replace(before, degenerate=True)]) == []


def test_newly_degenerate_by_what_is_not_measured_by_prompt_falls_outright():
    now = state([0.5] * 40, degenerate=True, reason="kl_start_nats 60 > 50")
    (failure,) = gate.fallen([now], [state([0.5] * 40)])
    assert (failure.measure, failure.value) == ("degenerate", "kl_start_nats 60 > 50")


@pytest.mark.parametrize(
    ("now", "measure", "value"),
    [
        ([], "status", "missing"),
        ([state([0.5] * 9, status="failed", reason="E: bad")], "status", "failed"),
        ([state([0.5] * 9, status="planned")], "status", "planned"),
        ([state([0.5] * 9, judge="other")], "judge", "other"),
        ([state([None] * 9, measures={})], "win_rate", None),
        ([state([0.5] * 9, clusters={"x": "x"})], "prompts", 0),
    ],
)
def test_what_noise_cannot_explain_falls_outright(now, measure, value):
    (failure,) = gate.fallen(now, [state([0.5] * 9)])
    assert (failure.measure, failure.value) == (measure, value)


def test_cell_that_was_not_done_before_cannot_fall():
    failed = state([], status="failed", measures={})
    assert gate.fallen([failed], [failed, state([1.0], beta=2.0)])[0].cell == "small self beta=2 seed=0"
    with pytest.raises(DataError, match="none of the 1 cells of the baseline is done"):
        gate.fallen([failed], [failed])


def test_declared_limit_names_cell_measure_value_and_bound():
    (failure,) = gate.broken([state([0.5] * 4), state([1.0] * 4, beta=3.0)], [limits.parse("win_rate>=0.6")])
    line = gate.in_words(failure)
    assert line == "small self beta=1 seed=0: win_rate is 0.5, the bound is win_rate >= 0.6: win_rate >= 0.6 is declared"


def test_declared_limit_is_broken_by_a_cell_without_the_measure():
    cells = [state([1.0] * 4), state([], beta=2.0, status="planned", measures={})]
    (failure,) = gate.broken(cells, [limits.parse("win_rate>=0.6")])
    assert failure.value is None
    assert "the cell is planned" in failure.why


def test_limit_on_an_unknown_measure_is_refused():
    with pytest.raises(SpecError, match="no cell has the measure win_rat; did you mean win_rate"):
        gate.broken([state([1.0])], [limits.parse("win_rat>=0.6")])


@pytest.mark.parametrize(
    ("where", "betas"), [(["beta=0.1"], [0.1]), (["reference=self"], [1.0, 0.1]), (["seed=0", "beta=1"], [1.0])]
)
def test_where_chooses_cells_by_name(where, betas):
    assert [each.beta for each in gate.chosen([state([1.0]), state([1.0], beta=0.1)], where)] == betas


@pytest.mark.parametrize(
    ("where", "message"), [("beta", "no condition"), ("colour=red", "no 'colour'"), ("beta=7", "matches none")]
)
def test_wrong_where_is_refused(where, message):
    with pytest.raises(SpecError, match=message):
        gate.chosen([state([1.0])], [where])


def test_hostile_reason_stays_on_one_line_without_escapes():
    now = state([0.5], status="failed", reason="E: \x1b[2J\nrefstudy: passed")
    (failure,) = gate.fallen([now], [state([0.5])])
    assert gate.in_words(failure).endswith("E: <U+001B>[2J refstudy: passed")


def test_saved_baseline_stands_for_the_folder(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL, broken=("failed",))
    found = gate.states(folder, store)
    assert [each.status for each in found] == ["failed", "done", "done", "done"]
    path = gate.save(found, tmp_path / "gate.json")
    assert gate.load(path) == found
    assert gate.fallen(found, gate.load(path)) == []


def test_cells_of_earlier_grids_are_not_gated(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    sweep = records.read_sweep(folder)
    records.write_sweep(folder, {**sweep, "cells": sweep["cells"][:2]})
    assert len(gate.states(folder, store)) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2, "cells": []}', '{"schema": 1, "cells": [{}]}', '{"schema": 1}'])
def test_file_that_is_no_baseline_is_refused(content, tmp_path):
    path = tmp_path / "gate.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"gate\.json"):
        gate.load(path)


def test_saved_baseline_is_strict_json(tmp_path):
    path = gate.save([state([0.5, None])], tmp_path / "gate.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
