"""The whole path, as a user runs it: a sweep file becomes a report, a wider grid makes only what is missing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import sweeps

COMMAND = [str(Path(sys.executable).parent / "refstudy")]


def refstudy(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment, timeout=540, check=False
    )


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    done = refstudy("status", folder, "--json")
    assert done.returncode == 0, done.stderr
    return {row["cell_id"]: row for row in json.loads(done.stdout)}


def artefacts(store: Path) -> dict[str, int]:
    """Time of change of every published artefact, by its folder."""
    return {str(path.parent.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """(sweep file, results folder, the run's output) of a first run over two references and one beta."""
    folder = tmp_path_factory.mktemp("smoke")
    sweep = sweeps.write(folder, betas=(1.0,))
    return sweep, folder / "results" / "tiny", refstudy("run", sweep, "--results", folder / "results" / "tiny")


def test_run_writes_the_report_and_prints_its_path_last(finished: Any) -> None:
    _, results, run = finished
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.strip().splitlines()[-1] == str(results / "report.html")
    page = (results / "report.html").read_text()
    assert "<svg" in page
    assert not re.search(r"(?:src|href)=[\"']https?:", page)
    for name in ("win_rate_by_beta", "length_by_beta"):
        assert (results / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (results / "figures" / f"{name}.svg").read_text()
    assert (results / "tables" / "cells.csv").read_text().count("\n") == 3


def test_status_json_has_every_field_of_every_cell(finished: Any) -> None:
    _, results, _ = finished
    rows = rows_of(results)
    assert len(rows) == 2
    for row in rows.values():
        assert set(row) == {
            "cell_id", "policy", "reference", "beta", "seed", "status", "current", "degenerate", "reason", "win_rate",
            "win_rate_se", "win_rate_on_sets",
            "length_mean", "truncation_rate", "gold_reward", "precision", "kl_start_nats", "duration_s", "finished_at",
            "alarms",
        }  # fmt: skip
        assert row["status"] == "done"
        assert 0 <= row["win_rate"] <= 1
        assert row["length_mean"] > 0
        # The untrained cross reference saturates the loss at beta 1, so that its policy does not move; self's must.
        assert row["kl_start_nats"] > 0 if row["reference"] == "self" else row["kl_start_nats"] >= 0
        assert row["gold_reward"] is None


def test_records_hold_curves_validation_phases_and_provenance(finished: Any) -> None:
    _, results, _ = finished
    for path in (results / "cells").glob("*.json"):
        record = json.loads(path.read_text())
        assert {"train", "generate", "divergence", "judge", "measure"} <= set(record["phases_s"])
        assert record["provenance"]["versions"]["trl"] == "1.16.0"
        measured = record["measures"]
        assert {"reward_accuracy", "policy_accuracy", "validation_loss", "length_tokens_p95", "seq_rep_4"} <= set(measured)
        made = results.parent / "store" / "training_log" / record["recipes"]["training_log"]
        assert json.loads((made / "training.json").read_text())["history"]


def test_references_and_kl_to_them_are_written(finished: Any) -> None:
    _, results, _ = finished
    references = json.loads((results / "references.json").read_text())["references"]
    assert {row["reference"] for row in references} == {"self", "cross"}
    kl = json.loads((results / "reference_kl.json").read_text())
    assert set(kl) == set(rows_of(results))
    assert all(set(values) == {"kl_reference_nats", "kl_reference_nats_per_byte", "retokenised_share"} for values in kl.values())


def test_wandb_mirrors_one_run_a_cell_offline(finished: Any) -> None:
    _, results, _ = finished
    assert len(list((results / "wandb").glob("**/offline-run-*/*.wandb"))) == 2


def test_plan_after_the_run_has_nothing_to_make(finished: Any) -> None:
    sweep, results, _ = finished
    plan = json.loads(refstudy("plan", sweep, "--results", results, "--json").stdout)
    assert (plan["cells"], plan["done"], plan["to_train"], plan["to_judge"]) == (2, 2, 0, 0)
    assert plan["artefacts_missing"] == {}


def test_explain_names_the_leaf_that_differs(finished: Any) -> None:
    sweep, results, _ = finished
    planned = refstudy("plan", sweep, "--results", results, "--set", "train.epochs=2", "--json")
    assert json.loads(planned.stdout)["to_train"] == 2
    from refstudy import grid

    cell = grid.cells(grid.read(sweep, ["train.epochs=2"]))[0]
    told = refstudy("explain", cell.id, "--sweep", sweep, "--results", results, "--set", "train.epochs=2")
    assert "candidate.source.train.epochs: 2 here, 1 there" in told.stdout, told.stdout + told.stderr


def test_status_answers_without_torch(finished: Any) -> None:
    _, results, _ = finished
    code = (
        "import sys; sys.argv = ['refstudy', 'status', sys.argv[1], '--json']\n"
        "from refstudy.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join(sorted({'torch', 'transformers', 'ray', 'trl', 'wandb'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(results)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)
    assert done.stderr == ""


def test_second_run_and_a_wider_grid_make_only_what_is_missing(finished: Any) -> None:
    sweep, results, _ = finished
    store = results.parent / "store"
    before, records = artefacts(store), {path: path.read_bytes() for path in (results / "cells").glob("*.json")}
    assert refstudy("run", sweep, "--results", results).returncode == 0
    assert artefacts(store) == before
    wider = refstudy("run", sweep, "--results", results, "--set", "axes.beta=[1.0,0.1]")
    assert wider.returncode == 0, wider.stdout + wider.stderr
    after = artefacts(store)
    assert {name: after[name] for name in before} == before
    new = sorted(name.split("/")[0] for name in after if name not in before)
    assert new == sorted(["completions", "divergence", "table", "token_shifts", "training_log", "verdicts"] * 2)
    assert all(path.read_bytes() == content for path, content in records.items())
    assert len(rows_of(results)) == 4


def test_trial_runs_one_cell_without_ray_to_the_same_numbers(finished: Any, tmp_path: Path) -> None:
    sweep, results, _ = finished
    cell_id = next(iter(rows_of(results)))
    alone = refstudy("trial", sweep, "--cell", cell_id, "--results", tmp_path / "tiny")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    ours = json.loads((results / "cells" / f"{cell_id}.json").read_text())["measures"]
    theirs = json.loads((tmp_path / "tiny" / "cells" / f"{cell_id}.json").read_text())["measures"]
    assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-7)
