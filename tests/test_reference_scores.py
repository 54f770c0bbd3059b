"""The rows of references.json: one for each reference of each policy, seed and setting."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refstudy import grid, plan, recipes, reference_scores, results, tables, texts

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


def test_policy_that_says_nothing_has_a_divergence_an_answer_and_none_a_byte(tmp_path: Path) -> None:
    """Two answers of no bytes, -1 by the policy and -3 by the reference: 2 nats an answer, and a file that is JSON."""
    sweep = grid.read(QUICKSTART, ["axes.reference=[self]", "axes.beta=[1]"])
    at, (cell,) = results.place(sweep, tmp_path / "results" / "q", None), grid.cells(sweep)
    silent = [texts.Completion(prompt_id=name, text="", token_ids=[1], terminated=True, logp_sum_nats=-1.0) for name in "ab"]
    table = tables.CompletionTable(["a", "b"], np.full(2, -3.0), np.ones(2, dtype=np.int64), np.zeros(2, dtype=np.int64))
    with at.store.claim(cell.completions) as claim:
        texts.write_lines(claim.folder / "completions.jsonl", silent)
        at.store.publish(claim)
    with at.store.claim(recipes.Table(scorer=cell.dpo.table.scorer, texts=cell.completions)) as claim:
        tables.write_completions(claim.folder, table, {})
        at.store.publish(claim)
    reference_scores.write(at, [cell])
    assert json.loads(at.reference_kl.read_text()) == {cell.id: {"kl_reference_nats": 2.0, "retokenised_share": 0.0}}
