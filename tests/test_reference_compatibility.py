"""How references fit a policy, from the tables of a tiny sweep: rows, reasons, and numbers for a tracker."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refstudy import grid, make, plan, recipes, reference_compatibility, results, tables
from refstudy.artefacts import read_pair_table, read_token_pairs
from refstudy.errors import StoreError
from refstudy.grid import Cell
from refstudy.results import Results
from tests import sweeps

MORE = (
    "references.posterior={kind: constant}",
    "references.free={kind: derived, of: cross, keep: length_free}",
    "axes.reference=[self, cross, posterior, free]",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Cell]]:
    """A sweep whose tables are all made, and none of its cells."""
    folder = tmp_path_factory.mktemp("fit")
    sweep = grid.read(sweeps.write(folder), list(MORE))
    cells = grid.cells(sweep)
    at = results.place(sweep, folder / "results" / "tiny", None)
    make.make_all(plan.missing([cell.dpo.table for cell in cells], at.store), at.store)
    return at, cells


def rows(made: tuple[Results, list[Cell]], folder: Path, cells: list[Cell] | None = None) -> dict[str, dict[str, Any]]:
    at = Results(folder, made[0].store)
    reference_compatibility.write(at, made[1] if cells is None else cells)
    return {row["reference"]: row for row in json.loads(at.compatibility.read_text())["references"]}


def test_write_gives_a_row_for_each_reference_with_its_grid_of_betas(made: Any, tmp_path: Path) -> None:
    found = rows(made, tmp_path)
    assert list(found) == ["self", "cross", "posterior", "free"]
    assert all(row["not_measured"] is None and row["betas"] == [1.0, 0.1] for row in found.values())
    cross = found["cross"]["measures"]
    assert cross["saturation_beta_0.1"] == pytest.approx(0.1 * cross["difference_spread_nats"])
    assert sum(each["pairs"] for each in found["cross"]["by_length"]) == cross["pairs"] == 20
    assert found["cross"]["words"].startswith("demands ")
    assert found["self"]["words"].startswith("says what the policy itself says")


def test_write_measures_against_self_in_the_precision_that_it_scores_with(made: Any, tmp_path: Path) -> None:
    """The numbers of fp32 but for bf16's rounding, from no table in fp32."""
    sweep = grid.read(sweeps.write(tmp_path), ["references.self={kind: policy, precision: bf16}"])
    cells = grid.cells(sweep)
    at = results.place(sweep, tmp_path / "results" / "tiny", None)
    make.make_all(plan.missing([cell.dpo.table for cell in cells], at.store), at.store)
    reference_compatibility.write(at, cells)
    found = {row["reference"]: row for row in json.loads(at.compatibility.read_text())["references"]}
    assert not at.store.has(recipes.Table(scorer=cells[0].dpo.start, texts=cells[0].dpo.table.texts))
    whole, rounded = (each["cross"]["measures"] for each in (rows(made, tmp_path / "whole"), found))
    assert found["self"]["not_measured"] is found["cross"]["not_measured"] is None
    assert rounded["difference_spread_nats"] == pytest.approx(whole["difference_spread_nats"], abs=0.3)
    assert rounded != whole


def test_write_regresses_d_on_the_length_difference_in_the_policys_tokens(made: Any, tmp_path: Path) -> None:
    """Against numpy's own least squares on the two tables, joined by hand."""
    at, cells = made
    cell = next(each for each in cells if each.reference == "cross")
    own = recipes.Table(scorer=cell.dpo.start, texts=cell.dpo.table.texts)
    pairs = read_token_pairs(cell.dpo.table.texts, at.store)
    margin = {
        name: np.subtract(*tables.join(read_pair_table(recipe, at.store), pairs))
        for name, recipe in (("of", cell.dpo.table), ("own", own))
    }
    lengths = [len(pair.chosen_ids) - len(pair.rejected_ids) for pair in pairs]
    slope, intercept = np.polyfit(lengths, margin["of"] - margin["own"], 1)
    found = rows(made, tmp_path)["cross"]["measures"]
    assert found["slope_nats_per_token"] == pytest.approx(slope)
    assert found["intercept_nats"] == pytest.approx(intercept)


def test_write_leaves_out_what_a_column_without_probabilities_cannot_have(made: Any, tmp_path: Path) -> None:
    found = rows(made, tmp_path)
    for name in ("posterior", "free"):
        assert not {"bits_per_byte", "likelihood_kl_nats"} & set(found[name]["measures"])
    assert found["cross"]["measures"]["bits_per_byte"] > 0
    assert found["free"]["measures"]["abs_slope_nats_per_token"] == pytest.approx(0, abs=1e-9)


def test_write_shares_by_token_stand_only_where_the_tokenizer_is_the_policys(made: Any, tmp_path: Path) -> None:
    """The second sweep's other reference is another model of the policy's tokenizer: the policy's own start before SFT."""
    at, cells = made
    cell = next(each for each in cells if each.reference == "self")
    start = cell.dpo.start
    assert isinstance(start, recipes.Sft)
    table = recipes.Table(scorer=start.start, texts=cell.dpo.table.texts)
    make.make(table, at.store)
    same = reference_compatibility.fit(table, start, [], at.store).values
    parts = [same[f"share_{name}"] for name in ("end_token", "first_tokens", "rest")]
    assert sum(parts) == pytest.approx(1)
    assert "share_end_token" not in rows(made, tmp_path)["cross"]["measures"]


def test_write_without_selfs_table_says_so_and_measures_once_it_is_there(made: Any, tmp_path: Path) -> None:
    at, cells = made
    cross = [cell for cell in cells if cell.reference == "cross"]
    own = recipes.Table(scorer=cross[0].dpo.start, texts=cross[0].dpo.table.texts)
    at.store.discard(own)
    try:
        row = rows(made, tmp_path, cross)["cross"]
        assert row["not_measured"].startswith("self's table over these pairs is not in the store")
        assert row["measures"] == {}
        with pytest.raises(StoreError, match="not in the store"):
            reference_compatibility.fit(cross[0].dpo.table, cross[0].dpo.start, [1.0], at.store)
        assert reference_compatibility.tracked(cross[0], at.store) == {}
    finally:
        make.make(own, at.store)
    assert rows(made, tmp_path, cross)["cross"]["measures"]


def test_write_again_reads_no_table_and_keeps_rows_of_cells_that_are_gone(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(made, tmp_path)
    monkeypatch.setattr(reference_compatibility, "_fit", None)
    assert rows(made, tmp_path) == first
    assert rows(made, tmp_path, []) == first


def test_write_another_beta_measures_anew(made: Any, tmp_path: Path) -> None:
    one = [cell for cell in made[1] if cell.beta == 1.0]
    assert "saturation_beta_0.1" not in rows(made, tmp_path, one)["cross"]["measures"]
    assert "saturation_beta_0.1" in rows(made, tmp_path)["cross"]["measures"]


def test_tracked_gives_numbers_at_the_cells_own_beta(made: Any) -> None:
    at, cells = made
    cell = next(each for each in cells if each.reference == "cross" and each.beta == 0.1)
    found = reference_compatibility.tracked(cell, at.store)
    assert found["reference/saturation"] == pytest.approx(0.1 * found["reference/difference_spread_nats"])
    assert {"reference/intercept_over_residual_spread", "reference/abs_slope_nats_per_token"} <= set(found)
    assert all(isinstance(value, float) for value in found.values())
