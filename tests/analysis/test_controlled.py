"""Length-controlled win rates of cells: a judge of known bias, a difficulty that stays, and refusals in words."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis import controlled, estimates, frames
from analysis.frames import Results
from tests.analysis import synthetic

PROMPTS = 480

LENGTH_WEIGHT = 1.2
"""What the simulated judge gives tanh(length difference / its spread)."""


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(controlled, "DRAWS", 60)


def results(folder, cells, seed=0, policy="small", judge="j0"):
    """Results of a simulated judge: p = 1 with probability logistic(quality + LENGTH_WEIGHT tanh(d) - hardness of the prompt).

    cells: {cell id: (quality, mean characters beyond the baseline's)}.
    """
    hardness = np.random.default_rng(99).normal(0, 1, PROMPTS)
    rows, listed, by_id = [], [], {}
    for place, (cell_id, (quality, longer)) in enumerate(cells.items()):
        rng = np.random.default_rng([seed, *cell_id.encode()])
        difference = rng.normal(longer, 100, PROMPTS).round()
        p = 1 / (1 + np.exp(-(quality + LENGTH_WEIGHT * np.tanh(difference / difference.std(ddof=1)) - hardness)))
        won = (rng.random(PROMPTS) < p).astype(float)
        rows += [
            {"cell_id": cell_id, "prompt_id": f"p{i}", "cluster": f"c{i // 4}", "held_out": None, "p": won[i], "length_tokens": 9}
            | {"length_characters": 1_000 + difference[i], "baseline_length_characters": 1_000}
            for i in range(PROMPTS)
        ]
        listed.append({"cell_id": cell_id, "policy": policy, "reference": "self", "beta": 1.0 / (place + 1), "seed": place})
        listed[-1] |= {"settings": {}, "current": True}
        recipe = {"candidate": {"prompts": {"id": "x0"}}, "judge": {"recipe": f"gold_judge:{judge}"}}
        measures = {"win_rate": float(won.mean())}
        by_id[cell_id] = {**listed[-1], "status": "done", "measures": measures, "recipe": recipe, "recipes": {}}
    return Results(
        folder=folder,
        sweep={"name": "t", "cells": listed},
        text="",
        records=by_id,
        cells=frames._cells({"cells": listed}, by_id),
        prompts=pd.DataFrame(rows),
        baselines=pd.DataFrame(),
        references=pd.DataFrame(),
        faults=[],
    )


def numbers(of, cell_id):
    return of.cells.set_index("cell_id").loc[cell_id, ["lc_win_rate", "lc_low", "lc_high"]].tolist()


def control(of, name="sweep", is_complete=True):
    points = pd.DataFrame({"cells": [(cell_id,) for cell_id in of.done["cell_id"]]})
    return controlled.control(of, points, name, is_complete)


GRID = {"even": (0.0, 0.0), "long": (0.0, 120.0), "short": (0.0, -120.0), "good": (1.0, 60.0), "bad": (-1.0, -60.0)}


def test_judge_that_likes_length_is_corrected_to_what_the_answers_are_worth(tmp_path):
    """Of equal worth and 120 characters longer, or shorter, than the baseline: raw 0.62 and 0.38, at equal length about 0.5."""
    of, _, _ = control(results(tmp_path, GRID))
    rates = of.cells.set_index("cell_id")
    assert rates.loc["long", "win_rate"] > 0.6
    assert rates.loc["short", "win_rate"] < 0.4
    for cell_id in ("long", "short"):
        value, low, high = numbers(of, cell_id)
        assert value == pytest.approx(0.5, abs=0.05)
        assert low < value < high
    assert numbers(of, "good")[0] - numbers(of, "bad")[0] > 0.3


def test_point_of_one_cell_has_the_cells_numbers_and_of_two_their_prompts_averaged(tmp_path):
    of = results(tmp_path, GRID)
    points = pd.DataFrame({"cells": [("long",), ("long", "short")]})
    filled, found, _ = controlled.control(of, points, "sweep", True)
    assert found.loc[0, list(controlled.COLUMNS)[:3]].tolist() == numbers(filled, "long")
    assert found.loc[1, "lc_win_rate"] == pytest.approx(0.5, abs=0.05)
    assert found.loc[1, "lc_high"] - found.loc[1, "lc_low"] < numbers(filled, "long")[2] - numbers(filled, "long")[1]


def test_cell_that_is_added_later_changes_no_number_and_no_byte(tmp_path):
    first, _, _ = control(results(tmp_path, GRID))
    file = tmp_path / "difficulty_sweep.json"
    before = file.read_bytes()
    second, _, notes = control(results(tmp_path, GRID | {"new": (3.0, 40.0)}))
    assert [numbers(second, cell_id) for cell_id in GRID] == [numbers(first, cell_id) for cell_id in GRID]
    assert file.read_bytes() == before
    assert "new" not in before.decode()
    assert numbers(second, "new")[0] > 0.8
    assert "taken from 5 cells" in notes[0]


def test_another_judge_gets_a_calibration_set_of_its_own_beside_the_kept_one(tmp_path):
    first, _, _ = control(results(tmp_path, GRID))
    kept = json.loads((tmp_path / "difficulty_sweep.json").read_text())["groups"]
    control(results(tmp_path, {"other": (0.0, 0.0), "two": (0.5, 10.0)}, judge="j1"))
    groups = json.loads((tmp_path / "difficulty_sweep.json").read_text())["groups"]
    assert groups[:1] == kept
    assert [(each["judge"], each["cells"]) for each in groups] == [("j0", list(GRID)), ("j1", ["other", "two"])]
    assert [numbers(control(results(tmp_path, GRID))[0], cell_id) for cell_id in GRID] == [numbers(first, cell) for cell in GRID]


def test_numbers_come_when_the_grid_is_finished_and_not_before(tmp_path):
    of, points, notes = control(results(tmp_path, GRID), is_complete=False)
    assert of.cells["lc_win_rate"].isna().all()
    assert points["lc_win_rate"].isna().all()
    assert "once every cell of the grid is finished" in notes[0]
    assert not (tmp_path / "difficulty_sweep.json").exists()


def test_cells_of_a_grid_that_grows_have_the_kept_difficulty_before_it_is_finished(tmp_path):
    first, _, _ = control(results(tmp_path, GRID))
    of, _, _ = control(results(tmp_path, GRID | {"new": (0.0, 0.0)}), is_complete=False)
    assert numbers(of, "long") == numbers(first, "long")
    assert not math.isnan(numbers(of, "new")[0])


def test_file_that_cannot_be_read_gives_no_numbers_and_is_left_as_it_is(tmp_path):
    file = tmp_path / "difficulty_sweep.json"
    file.write_text('{"groups": [{}]}')
    of, _, notes = control(results(tmp_path, GRID))
    assert of.cells["lc_win_rate"].isna().all()
    assert notes[0].startswith("difficulty_sweep.json cannot be read (KeyError: 'policy')")
    assert file.read_text() == '{"groups": [{}]}'


def test_cells_whose_length_cannot_be_told_from_worth_are_refused_with_their_names(tmp_path):
    of, points, notes = control(results(tmp_path, GRID | {"far": (0.0, 3_000.0)}))
    assert math.isnan(numbers(of, "far")[0])
    assert "0.0% of the answers are shorter" in points.iloc[-1]["lc_refusal"]
    assert any(note.startswith("None for self at beta 0.166667: the lengths of both sides hardly overlap") for note in notes)


def test_refusals_beyond_the_first_are_counted(tmp_path):
    far = {f"far{place}": (0.0, 170.0 + 20 * place) for place in range(7)}
    of, _, notes = control(results(tmp_path, GRID | far))
    by_reason = of.cells.groupby("lc_refusal", sort=False).size()
    assert len(by_reason) > controlled.REASONS
    assert len(notes) == 2 + controlled.REASONS
    assert notes[-1].startswith(f"None for {by_reason[controlled.REASONS :].sum()} more of the cells")


def test_single_cell_has_no_difficulty_but_its_own_and_is_refused(tmp_path):
    _, _, notes = control(results(tmp_path, {"even": (0.0, 0.0)}))
    assert "has no verdict of another cell than 'even'" in notes[1]


def test_report_shows_the_controlled_rate_beside_the_raw_one_and_no_record_has_it(tmp_path):
    from analysis import report

    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-same"))
    before = {path: path.read_bytes() for path in (folder / "cells").glob("*.json")}
    page = report.write(folder, store).read_text()
    assert "length-controlled</th>" in page
    assert "It is this sweep&#39;s own, and not AlpacaEval&#39;s." in page
    assert {path: path.read_bytes() for path in (folder / "cells").glob("*.json")} == before
    points = pd.read_csv(folder / "tables" / "points.csv")
    cells = pd.read_csv(folder / "tables" / "cells.csv")
    assert points["lc_win_rate"].notna().all()
    assert sorted(points["lc_win_rate"]) == pytest.approx(sorted(cells["lc_win_rate"]))
    loaded = frames.load(folder, store)
    assert loaded.cells["lc_win_rate"].isna().all(), "frames read records, which have none"
    assert len(estimates.points(loaded)) == 4
