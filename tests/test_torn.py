"""Torn, empty and half-written files of every kind: the same command makes them again, to the same numbers."""

import json
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from refstudy import alone, grid, policies, records, results
from refstudy.records import Record
from tests import sweeps

SETTINGS = ["axes.beta=[0.1]", "axes.reference=[cross]", "wandb.enabled=false", "keep=full", "along={every_steps: 2, prompts: 4}"]


def emptied(artefact: Path) -> None:
    largest(artefact).write_bytes(b"")


def halved(artefact: Path) -> None:
    file = largest(artefact)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lost(artefact: Path) -> None:
    largest(artefact).unlink()


def without_manifest(artefact: Path) -> None:
    (artefact / "manifest.json").write_text('{"files": {"recipe.json": {"si')


DAMAGES = (emptied, halved, lost, without_manifest)


def largest(artefact: Path) -> Path:
    """The artefact's file that weighs most, its recipe and manifest apart."""
    files = [each for each in artefact.rglob("*") if each.is_file() and each.name not in ("recipe.json", "manifest.json")]
    return max(files, key=lambda each: each.stat().st_size)


def artefacts(store: Path) -> list[Path]:
    return sorted(each.parent for each in store.glob("*/*/manifest.json") if each.parent.parent.name != "torn")


def run(folder: Path) -> Record:
    sweep = grid.read(folder / "tiny.yaml", SETTINGS)
    (cell,) = grid.cells(sweep)
    return alone.run_cell(cell, results.place(sweep, folder / "results" / "tiny", None), sweep, [cell], again=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    folder = tmp_path_factory.mktemp("torn")
    sweeps.write(folder)
    record = run(folder)
    assert record["status"] == "done", record["error"]
    return folder, record


@pytest.fixture
def copied(finished: tuple[Path, Record], tmp_path: Path) -> tuple[Path, Record]:
    shutil.copytree(finished[0], tmp_path / "own")
    return tmp_path / "own", finished[1]


def same(one: Record, other: Record) -> None:
    assert other["status"] == "done", other["error"]
    for part in ("measures", "recipes", "along", "alarms", "degenerate"):
        assert one[part] == other[part]


@pytest.mark.parametrize("first", range(len(DAMAGES)), ids=lambda number: f"first_{DAMAGES[number].__name__}")
def test_cell_whose_every_file_is_torn_is_made_again_to_the_same_numbers(copied: tuple[Path, Record], first: int) -> None:
    folder, before = copied
    store = folder / "results" / "store"
    whole = artefacts(store)
    assert len({each.parent.name for each in whole}) > 10  # kinds
    damages = cycle(DAMAGES[first:] + DAMAGES[:first])
    for artefact in whole:
        next(damages)(artefact)
    record_file = records.record_path(folder / "results" / "tiny", before["cell_id"])
    record_file.write_bytes(record_file.read_bytes()[:100])
    (folder / "results" / "tiny" / "sweep.json").write_text('{"name": "ti')
    same(before, run(folder))
    assert not list((store / "claims").iterdir())
    assert {each.name for each in artefacts(store)} == {each.name for each in whole}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["verdicts", "completions", "divergence", "training_log"])
def test_torn_file_above_the_policy_trains_nothing(
    copied: tuple[Path, Record], kind: str, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before = copied
    damage(folder / "results" / "store" / kind / before["recipes"][kind])
    trained: list[object] = []
    monkeypatch.setattr(policies.dpo, "train", lambda *given, **named: trained.append(given))
    same(before, run(folder))
    assert trained == []


def test_torn_record_is_named_where_results_are_read(copied: tuple[Path, Record]) -> None:
    folder, before = copied
    path = records.record_path(folder / "results" / "tiny", before["cell_id"])
    path.write_text(json.dumps(before)[:-1])
    (fault,) = records.scan(folder / "results" / "tiny").faults
    assert "is torn or no JSON" in fault
