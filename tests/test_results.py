"""A sweep's folder: what is written there, and what is found again from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from refstudy import cli, grid, records, results, sweepfile
from refstudy.errors import SpecError
from refstudy.grid import Cell, Sweep
from refstudy.results import Results
from tests import sweeps

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
ONE = ("axes.beta=[1]", "axes.reference=[self]")


def opened(folder: Path, *assignments: str) -> tuple[Results, Sweep, list[Cell]]:
    sweep = grid.read(QUICKSTART, list(assignments))
    return results.place(sweep, folder / "results" / "q", None), sweep, grid.cells(sweep)


def make_goals(at: Results, cell: Cell) -> None:
    for goal in cell.goals:
        claim = at.store.claim(goal)
        assert claim is not None
        at.store.publish(claim)


@pytest.mark.parametrize("word", ["1e10", "0891234", "12e4567", "on", "null", "1_000", "caf\u00e9 \u2028"])
def test_sweep_is_found_again_as_it_ran(word: str, tmp_path: Path) -> None:
    sweep = grid.read(QUICKSTART)
    entry = {"kind": "model", "model": "org/model", "revision": word}
    document = sweepfile.override(sweep.document, [])
    document["references"] |= {"hub": entry, "again": entry}
    at = results.place(sweep, tmp_path / "results" / "q", None)
    results.begin(at, Sweep(sweep.name, "", document, sweep.spec, sweep.place), [])
    assert results.sweep(at).document == document


def test_sweep_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, sweep, cells = opened(tmp_path, *ONE)
    results.begin(at, sweep, cells)
    before = (at.folder / "sweep.yaml").read_text()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(records.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        results.begin(at, *opened(tmp_path)[1:])
    assert (at.folder / "sweep.yaml").read_text() == before
    assert [path.name for path in at.folder.glob(".sweep*")] == []


def test_paths_of_the_working_directory_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sweeps.write(tmp_path / "sweeps")
    for name in ("work", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "mine.jsonl").write_text((tmp_path / "sweeps" / "pairs.jsonl").read_text() + "\n")
    monkeypatch.chdir(tmp_path / "work")
    sweep = grid.read(file, ["data.path=mine.jsonl"])
    cells, at = grid.cells(sweep), results.place(sweep, tmp_path / "results" / "tiny", None)
    results.begin(at, sweep, cells)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [cell.id for cell in grid.cells(results.sweep(at))] == [cell.id for cell in cells]


def test_pending_is_a_done_cell_whose_artefacts_are_gone(tmp_path: Path) -> None:
    at, _, (cell,) = opened(tmp_path, *ONE)
    records.write_record(at.folder, results.heading(cell) | {"status": "done"})
    assert results.pending(at, [cell], again=False) == [cell]
    make_goals(at, cell)
    assert results.pending(at, [cell], again=False) == []
    at.store.discard(cell.completions)
    assert results.pending(at, [cell], again=False) == [cell]


def test_pending_leaves_failed_cells_unless_told(tmp_path: Path) -> None:
    at, _, (cell,) = opened(tmp_path, *ONE)
    records.write_record(at.folder, results.heading(cell) | {"status": "failed", "error": {"type": "E", "message": "m"}})
    assert results.pending(at, [cell], again=False) == []
    assert results.pending(at, [cell], again=True) == [cell]


def test_enlisted_cells_change_nothing_that_is_current(tmp_path: Path) -> None:
    at, sweep, cells = opened(tmp_path)
    results.enlist(at, sweep, cells)
    assert all(row["current"] for row in records.read_cells(at.folder))
    before = (at.folder / "sweep.yaml").read_text()
    _, other, (cell,) = opened(tmp_path, "axes.beta=[7]", "axes.reference=[self]")
    results.enlist(at, other, [cell, cells[0]])
    results.enlist(at, *opened(tmp_path, "axes.beta=[5,6]", "axes.reference=[self]")[1:], only=cells[0])
    current = {row["cell_id"]: row["current"] for row in records.read_cells(at.folder)}
    assert current == {**dict.fromkeys((each.id for each in cells), True), cell.id: False}
    assert (at.folder / "sweep.yaml").read_text() == before


def test_store_as_results_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is the store of the artefacts"):
        results.place(grid.read(QUICKSTART), tmp_path / "store", None)


def test_report_keeps_the_scores_of_cells_that_cannot_be_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data gained a line, then went: neither the rows of references.json nor those of reference_kl.json are lost."""
    sweep = grid.read(sweeps.write(tmp_path / "sweeps"))
    at, cells = results.place(sweep, tmp_path / "results" / "tiny", None), grid.cells(sweep)
    results.begin(at, sweep, cells)
    own = {"references": [{"reference": "self", "policy": "small", "seed": 0, "settings": {}, "own_win_rate": 0.5}]}
    kl = {cells[0].id: {"kl_reference_nats": 1.0}}
    records.write_json(at.references, own)
    records.write_json(at.reference_kl, kl)
    monkeypatch.setattr("analysis.report.write", lambda folder, store, with_paper=False: folder / "report.html")
    data = tmp_path / "sweeps" / "pairs.jsonl"
    data.write_text(data.read_text() + json.dumps(sweeps.pairs(40)[-1]) + "\n")
    for gone in (False, True):
        if gone:
            data.unlink()
        cli.report(at.folder)
        assert json.loads(at.references.read_text()) == own
        assert json.loads(at.reference_kl.read_text()) == kl
        out, err = capsys.readouterr()
        assert out == f"{at.folder / 'report.html'}\n"
        assert ("pairs.jsonl does not exist" in err) is gone
    uploaded: list[tuple[str, Path, str]] = []
    monkeypatch.setattr(
        "refstudy.tracking.upload_report", lambda name, report, settings: uploaded.append((name, report, settings.project))
    )
    cli.report(at.folder, wandb=True)
    assert uploaded == [(sweep.name, at.folder / "report.html", "refstudy")]


@pytest.mark.parametrize(
    ("error", "waits"), [("JudgeAway", False), ("ServerAway", False), ("StoreAway", False), ("JudgeError", True)]
)
def test_failed_cell_waits_to_be_asked_for_unless_a_server_was_away(error: str, waits: bool, tmp_path: Path) -> None:
    at, _, cells = opened(tmp_path, *ONE)
    told = {"type": error, "message": "m", "traceback": "t"}
    records.write_record(at.folder, results.heading(cells[0]) | {"status": "failed", "error": told})
    assert results.pending(at, cells, again=True) == cells
    assert results.pending(at, cells, again=False) == ([] if waits else cells)
