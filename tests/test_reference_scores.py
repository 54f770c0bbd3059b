"""The rows of references.json: one for each reference of each policy, seed and setting."""

import json
from pathlib import Path
from typing import Any

import pytest

from refstudy import grid, plan, reference_scores, results

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rows written for a grid whose own verdicts all exist; the measures are stubs."""

    def write(*assignments: str) -> list[dict[str, Any]]:
        sweep = grid.read(QUICKSTART, list(assignments))
        at, cells = results.place(sweep, tmp_path / "results" / "q", None), grid.cells(sweep)
        for cell in cells:
            if claim := at.store.claim(plan.own_verdicts(cell)):
                at.store.publish(claim)
        reference_scores.write(at, cells)
        return list(json.loads(at.references.read_text())["references"])

    monkeypatch.setattr(reference_scores, "_own_score", lambda cell, store: {"own_win_rate": cell.seed})
    return write


def test_settings_that_share_an_own_score_have_a_row_each(scored: Any) -> None:
    """Two learning rates change no reference: 4 references x 2 settings."""
    rows = scored("axes.train.learning_rate=[1e-4,2e-4]", "axes.beta=[1,0.1]")
    assert len(rows) == 8
    assert {(row["reference"], row["settings"]["train.learning_rate"]) for row in rows} == {
        (name, rate) for name in ("self", "larger-same", "larger-near", "larger-far") for rate in (1e-4, 2e-4)
    }


def test_every_seed_has_its_own_row(scored: Any) -> None:
    rows = scored("axes.seed=[0,1,2]", "axes.reference=[self]", "axes.beta=[1]")
    assert [row["own_win_rate"] for row in rows] == [0, 1, 2]


def test_rows_of_an_earlier_grid_stay_and_those_written_again_are_replaced(scored: Any) -> None:
    scored("axes.seed=[0,1]", "axes.reference=[self]", "axes.beta=[1]")
    rows = scored("axes.seed=[1,2]", "axes.reference=[self]", "axes.beta=[1]")
    assert sorted(row["seed"] for row in rows) == [0, 1, 2]


def test_a_cell_whose_answers_are_all_empty_has_no_kl_per_byte(
    scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 nats over 0 bytes is undefined, which JSON says as null; the file is written all the same."""
    undefined = {"kl_reference_nats": 8.5, "kl_reference_nats_per_byte": float("nan")}
    monkeypatch.setattr(reference_scores, "kl_to_reference", lambda cell, store: undefined)
    scored("axes.reference=[self]", "axes.beta=[1]")
    written = json.loads((tmp_path / "results" / "q" / "reference_kl.json").read_text())
    assert list(written.values()) == [{"kl_reference_nats": 8.5, "kl_reference_nats_per_byte": None}]
