"""What `refstudy status` and `watch` show of cells, as text."""

from refstudy import table


def row(cell_id: str, **more):
    return {"cell_id": cell_id, "policy": "small", "reference": "self", "beta": 0.1, "seed": 0, "status": "done", **more}


def test_status_shows_win_rates_on_evaluation_sets_and_cells_of_earlier_grids(capsys):
    rows = [
        row("a1", win_rate=0.5, win_rate_on_sets={"alpaca": 0.25}, current=True),
        row("b2", win_rate=0.6, win_rate_on_sets={"chosen": 0.125}, current=False),
        row("c3", win_rate=0.7, win_rate_on_sets={"alpaca": None}, current=True, alarms=["truncation_rate 0.4 > 0.3 at step 5"]),
    ]
    table.show_cells(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cell  policy  reference  beta  seed  grid     status  win rate  on alpaca  on chosen")
    assert [line.split()[5:] for line in lines[1:4]] == [
        ["done", "0.500", "0.250"],
        ["earlier", "done", "0.600", "0.125"],
        ["done", "0.700"],
    ]
    assert lines[4] == "ALARM c3 self beta=0.1 seed=0: truncation_rate 0.4 > 0.3 at step 5"


def test_status_of_one_grid_without_sets_has_no_column_for_either(capsys):
    table.show_cells([row("a1", win_rate=0.5, current=True)])
    heading = capsys.readouterr().out.splitlines()[0]
    assert "grid" not in heading
    assert "on " not in heading
