"""Frames of token shifts against the shifts that were written."""

import pytest

from analysis import frames, token_shifts
from refstudy import records
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 4, "prompts_each": 2, "seeds": (0, 1)}


@pytest.fixture
def built(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    synthetic.token_shifts(folder, store)
    return folder, store


def test_load_gives_the_end_tokens_shift_of_every_cell(built):
    """-1 nat at beta 1 and -10 at 0.1 on the 25 end tokens, 0.25 on the 25 others: means of -0.375 and -4.875 over all."""
    found = token_shifts.load(frames.load(*built), built[1]).cells
    assert len(found) == 8
    by_beta = found.groupby("beta")[["end_mean_nats", "mean_nats"]].mean()
    assert by_beta.loc[1.0].tolist() == pytest.approx([-1.0, -0.375])
    assert by_beta.loc[0.1].tolist() == pytest.approx([-10.0, -4.875])
    assert set(found["end_count"]) == {25}
    assert set(found["tokens"]) == {50}


def test_load_moved_tokens_have_their_words(built):
    moved = token_shifts.load(frames.load(*built), built[1]).moved
    assert set(moved.loc[moved["direction"] == "down", "token"]) == {"<|end|>"}
    assert set(moved.loc[moved["direction"] == "up", "token"]) == {" a"}
    chosen = token_shifts.most_moved(moved)
    assert set(chosen["beta"]) == {0.1}
    assert set(chosen["seed"]) == {0}
    assert chosen.loc[chosen["direction"] == "down", "mean_nats"].tolist() == pytest.approx([-10.0, -10.0])


def test_by_beta_puts_seeds_together_and_shares_sum_to_one(built):
    """Two seeds of 50 tokens: half of them in the bin from 0 to 0.5, half in that of the end token."""
    histogram = token_shifts.by_beta(token_shifts.load(frames.load(*built), built[1]).histogram)
    of = histogram[(histogram["reference"] == "self") & (histogram["beta"] == 1) & (histogram["tokens"] > 0)]
    assert of[["low_nats", "tokens", "share"]].values.tolist() == [[-1.0, 50, 0.5], [0.0, 50, 0.5]]


def test_points_average_seeds_and_keep_a_degenerate_one(built):
    cells = token_shifts.load(frames.load(*built), built[1]).cells
    cells.loc[(cells["reference"] == "self") & (cells["seed"] == 1), "degenerate"] = True
    cells.loc[(cells["seed"] == 1) & (cells["beta"] == 1), "end_mean_nats"] = -3.0
    found = token_shifts.points(cells).set_index(["reference", "beta"])
    assert found.loc[("self", 1.0), "end_mean_nats"] == pytest.approx(-2.0)
    assert found["degenerate"].groupby("reference").all().to_dict() == {"larger-same": False, "self": True}
    assert set(found["seeds"]) == {2}


def test_cells_without_shifts_are_left_out_without_a_fault(built):
    folder, store = built
    record = records.read_record(folder / "cells" / "c0000.json")
    del record["recipes"]["token_shifts"]
    records.write_record(folder, record)
    results = frames.load(folder, store)
    assert len(token_shifts.load(results, store).cells) == 7
    assert results.faults == []


def test_shifts_that_cannot_be_read_are_a_fault(built):
    folder, store = built
    (store.root / "token_shifts" / "tc0001" / "token_shifts.parquet").write_bytes(b"torn")
    results = frames.load(folder, store)
    assert len(token_shifts.load(results, store).cells) == 7
    assert any("token shifts of cell c0001 cannot be read" in fault for fault in results.faults)


def test_load_of_a_sweep_without_any_is_empty(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    found = token_shifts.load(frames.load(folder, store), store)
    assert found.cells.empty
    assert token_shifts.most_moved(found.moved).empty
