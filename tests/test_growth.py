"""A finished sweep grows by a reference, a beta and a seed: only what is new is made, and what is finished stays to the byte."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import report
from refstudy import grid, make, plan, policies, reference_scores, results, trial
from refstudy.identity import fingerprint
from refstudy.results import Results
from tests import sweeps


def sweep_file(folder: Path, betas: list[float], references: list[str], seeds: list[int]) -> Path:
    """The tiny sweep on these axes; an entry of a reference stands in the file once it is asked for."""
    path, document = sweeps.write(folder, count=18), sweeps.document()
    document["references"] = {name: document["references"][name] for name in references}
    document["axes"] = {"beta": betas, "reference": references, "seed": seeds}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def run(path: Path) -> tuple[Results, list[str]]:
    """(where it lies, references of the cells that were trained) of all that a run makes, one after another in this process."""
    read = grid.read(path)
    at, cells = results.place(read, path.parent / "results" / "tiny", None), grid.cells(read)
    results.begin(at, read, cells)
    pending = results.pending(at, cells, again=False)
    make.make_all(plan.shared(pending, at.store), at.store)
    trained = [cell.reference for cell in pending if plan.trains(cell, at.store)]
    assert [trial.run_trial(cell, at.store, at.folder)["status"] for cell in pending] == ["done"] * len(pending)
    for group in plan.reference_passes(cells, at.store):
        make.make_all(group, at.store)
    reference_scores.write(at, cells)
    report.write(at.folder, at.store)
    return at, trained


def published(at: Results) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file of every artefact."""
    files = [path for manifest in at.store.root.glob("*/*/manifest.json") for path in manifest.parent.rglob("*") if path.is_file()]
    return {str(path.relative_to(at.store.root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def kinds(files: dict[str, Any]) -> Counter[str]:
    """Artefacts by kind."""
    return Counter(name.split("/")[0] for name in files if name.endswith("manifest.json"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of what is made from here on, in order, trained policies among them."""
    told: list[str] = []
    write, train = make._write, policies._train

    def writing(recipe: Any, *rest: Any) -> None:
        told.append(fingerprint(recipe))
        write(recipe, *rest)

    def training(recipe: Any, *rest: Any) -> Any:
        told.append(fingerprint(recipe))
        return train(recipe, *rest)

    monkeypatch.setattr(make, "_write", writing)
    monkeypatch.setattr(policies, "_train", training)
    return told


def test_reference_beta_and_seed_added_to_a_finished_sweep_make_only_their_own(tmp_path: Path, made: list[str]) -> None:
    """From one cell to 2 x 2 x 2: seven are new, and of the tables over pairs those of the new reference alone.

    Another seed draws answers anew: the baseline's, those of each reference, and those of its cells.
    """
    at, trained = run(sweep_file(tmp_path, [1.0], ["self"], [0]))
    assert trained == ["self"]
    before, records = published(at), {path: path.read_bytes() for path in (at.folder / "cells").glob("*.json")}
    lines = (at.folder / "tables" / "cells.csv").read_text().splitlines()
    first = list(made)

    at, trained = run(sweep_file(tmp_path, [1.0, 0.1], ["self", "cross"], [0, 1]))
    after = published(at)
    assert Counter(trained) == {"self": 3, "cross": 4}
    assert {name: after[name] for name in before} == before
    assert len(records) == 1
    assert all(path.read_bytes() == content for path, content in records.items())
    assert set(lines) <= set((at.folder / "tables" / "cells.csv").read_text().splitlines())
    assert len(made) == len(set(made))  # nothing twice, over both runs
    assert not set(first) & set(made[len(first) :])
    assert kinds(after) - kinds(before) == {
        "scratch": 1,
        "table": 2 + 7,  # the new reference's, of training and validation pairs; each new cell's answers by its reference
        "training_log": 7,
        "token_shifts": 7,
        "completions": 7 + 1 + 3,  # of the cells, the baseline of seed 1, the references: the new one's of seed 0, both of seed 1
        "divergence": 7,
        "verdicts": 7 + 3,
    }
