import os
from functools import partial

import pytest
import ray

from refstudy import demand, plan, recipes, records, session, spec
from refstudy.driver import run_sweep
from refstudy.errors import RefstudyError
from refstudy.identity import fingerprint
from refstudy.work import Work
from tests.stub import make, noted, opened, run, score, statuses, trial, warm


@pytest.fixture(scope="module")
def cluster():
    os.environ.update(session.RAY_SETTINGS)
    environment = {"env_vars": session.environment(spec.Resources())}
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=environment
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_wider_grid_makes_only_what_is_missing_and_a_finished_one_nothing(tmp_path, capsys):
    code, at, (only,) = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]", "wandb.enabled=true")
    assert code == 0
    assert [path.stem for path in (at.folder / "wandb").glob("offline-run-*/*.wandb")] == [f"run-{only.id}-1"]
    first = noted(at)
    assert set(first.values()) == {1}
    code, at, cells = run(tmp_path, kill_once=[[0.1, "self"]])
    assert code == 0
    assert set(statuses(at).values()) == {"done"}
    second = noted(at)
    assert {line: count for line, count in second.items() if count > 1} == {"trial 0.1 self": 2}  # its worker was killed once
    assert len([line for line in second if line.startswith("trial")]) == 4
    assert all(at.store.has(each) for group in plan.reference_passes(cells, at.store) for each in group)
    assert sorted(path.name for path in at.folder.iterdir()) == ["cells", "runs", "sweep.json", "sweep.yaml", "wandb"]
    shown = capsys.readouterr().out
    assert "stub: 3 of 4 cells to run" in shown
    assert "cells 4/4: small" in shown
    assert run(tmp_path)[0] == 0
    assert noted(at) == second
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("cluster")
def test_workers_warm_up_together_and_those_of_the_first_artefacts_make_the_last(tmp_path):
    """Of two cores: a worker each, which later score the references; the trials have workers of their own."""
    _, at, _ = run(tmp_path, warm_until=2)
    warmed, makers = set(noted(at, "warmed")), [line.split() for line in noted(at, "makers")]
    assert len(warmed) == 2
    passes = [worker for worker, *kinds in makers if "verdicts" in kinds]
    assert passes
    assert warmed & set(passes)


@pytest.mark.usefixtures("cluster")
def test_cells_of_one_reference_run_while_another_is_still_scored(tmp_path):
    """The other one's table is not made before a cell has begun."""
    code, at, _ = run(tmp_path, south_waits_for_a_cell=True)
    assert code == 0
    assert set(statuses(at).values()) == {"done"}
    assert set(noted(at).values()) == {1}


@pytest.mark.usefixtures("cluster")
def test_cells_that_end_before_others_can_begin_leave_the_machines_to_what_these_wait_for(tmp_path):
    """An artefact takes both cores, and self's cells can begin at once."""
    assert run(tmp_path, "axes.beta=[1]", "axes.reference=[self]")[0] == 0
    code, at, _ = run(tmp_path, "axes.beta=[1, 0.3, 0.1]", "resources.artefact={cpus: 2}", make_s=0.5)
    assert code == 0
    assert len(statuses(at)) == 6
    assert set(statuses(at).values()) == {"done"}
    assert set(noted(at).values()) == {1}


@pytest.mark.usefixtures("cluster")
def test_failures_become_records_others_go_on_and_retry_runs_them_again(tmp_path, capsys):
    code, at, cells = run(tmp_path, broken_kinds=["sft"], kill_always=[[1.0, "self"]])
    assert code == 1
    assert statuses(at) == {
        (1.0, "self"): "failed",
        (0.1, "self"): "done",
        (1.0, "larger-near"): "failed",
        (0.1, "larger-near"): "failed",
    }
    assert noted(at)["trial 1.0 self"] == 2
    errors = {(cell.beta, cell.reference): records.read_record(records.record_path(at.folder, cell.id))["error"] for cell in cells}
    assert errors[1.0, "self"]["type"] == "WorkerDied"
    assert "its process ended 2 times without a record" in errors[1.0, "self"]["message"]
    assert errors[1.0, "larger-near"]["type"] == "ValueError"
    assert "SFT of pretrained south large" in errors[1.0, "larger-near"]["message"]
    assert "no such corpus" in errors[1.0, "larger-near"]["traceback"]
    shown = capsys.readouterr().out
    assert len([line for line in shown.splitlines() if line.count("no such corpus") and "SFT" in line and "beta=" not in line]) == 1
    last = "3 of 4 cells failed (first: small self beta=1 seed=0: WorkerDied: its process ended 2 times without a record, "
    assert shown.splitlines()[-1].startswith(last)
    assert shown.splitlines()[-1].endswith("; run again with --retry-failed")
    assert "answers as seen by SFT of pretrained south large" not in shown
    assert run(tmp_path)[0] == 1
    assert capsys.readouterr().out.startswith(last)
    code, at, _ = run(tmp_path, retry_failed=True)
    assert code == 0
    assert set(statuses(at).values()) == {"done"}


@pytest.mark.parametrize(
    ("assignment", "place"),
    [
        ("resources.trial.gpus=8", "resources.trial"),
        ("resources.artefact.gpus=8", "resources.artefact"),
        ("references.larger-near.resources.gpus=8", "references.larger-near.resources"),
        ("policies.small.resources.gpus=8", "policies.small.resources"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_local_ray_refuses_resources_that_it_does_not_have(tmp_path, assignment, place):
    sweep, _, cells = opened(tmp_path, assignment)
    asked = demand.asked(sweep, cells)
    with pytest.raises(RefstudyError, match=rf"^{place} asks for 8 GPU, and this machine has"):
        session.refuse_what_fits_nowhere(asked, None)
    session.refuse_what_fits_nowhere(asked, "a cluster, which may still grow")


def test_request_that_ray_cannot_read_is_refused_before_ray_starts():
    asked = {"resources.trial": spec.Resources.model_construct(cpus=1.0, gpus=0.0, custom={"CPU": 1.0})}
    with pytest.raises(RefstudyError, match=r"^resources.trial is no request that Ray takes: .*num_cpus"):
        session.refuse_what_ray_refuses(asked)


@pytest.mark.usefixtures("cluster")
def test_cell_whose_artefacts_are_gone_and_whose_worker_dies_at_once_is_failed(tmp_path):
    """Its old record says done; the worker dies before it says anything."""
    code, at, (cell,) = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]")
    assert code == 0
    at.store.discard(cell.verdicts)
    code, at, _ = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]", kill_first=True)
    assert code == 1
    assert records.read_record(records.record_path(at.folder, cell.id))["error"]["type"] == "WorkerDied"


@pytest.mark.usefixtures("cluster")
def test_artefact_is_made_with_as_many_threads_as_it_asks_cores(tmp_path):
    _, at, _ = run(tmp_path, "axes.beta=[1]", "axes.reference=[self]", "policies.small.resources={cpus: 2}")
    assert {"threads of sft 2", "threads of token_pairs 1"} <= set(noted(at, "threads"))


SHARDS = ("axes.beta=[1]", "axes.reference=[larger-near]", "references.larger-near.resources={shards: 3}")


@pytest.mark.usefixtures("cluster")
def test_table_is_made_after_its_shards_and_one_whose_worker_dies_is_scored_again(tmp_path, capsys):
    """The reference's table, and later its log-probs of the cell's answers: three parts each, the second killed once."""
    code, at, (cell,) = run(tmp_path, *SHARDS, kill_part=1)
    assert code == 0
    assert (at.store.root / "killed-part").exists()
    lines = (at.store.root / "log").read_text().splitlines()
    answers = recipes.Table(scorer=cell.dpo.table.scorer, texts=cell.completions)
    for table in (cell.dpo.table, answers):
        parts = [line for line in lines if line.endswith(f" of {fingerprint(table)}")]
        assert sorted(parts) == [f"part {number} of 3 of {fingerprint(table)}" for number in range(3)]
        assert max(map(lines.index, parts)) < lines.index(fingerprint(table))
    assert "(world 0, 0.034 false, 0.05 of it north), part 2 of 3 done" in capsys.readouterr().out


@pytest.mark.usefixtures("cluster")
def test_shard_that_fails_fails_the_cells_with_its_words(tmp_path):
    code, at, (cell,) = run(tmp_path, *SHARDS, broken_part=2)
    assert code == 1
    error = records.read_record(records.record_path(at.folder, cell.id))["error"]
    assert (error["type"], error["message"].endswith("could not be made: no room on the device")) == ("ValueError", True)
    assert not at.store.has(cell.dpo.table)
    code, _, _ = run(tmp_path, *SHARDS, retry_failed=True)
    assert code == 0


@pytest.mark.usefixtures("cluster")
def test_run_on_a_cluster_says_what_it_cannot_place_and_waits_for_a_machine_that_can(tmp_path, capsys):
    """What cells share is made meanwhile; here a limit ends the waiting."""
    sweep, at, cells = opened(tmp_path, "resources.trial={custom: {big_gpu: 1}}", "limits.hours=0.004", "axes.beta=[1]")
    nodes, where = session.look("auto")
    assert (nodes[0].has["CPU"], where) == (2, "the cluster at auto")
    assert 1 < nodes[0].memory_bytes < 2**60
    code = run_sweep(sweep, at, cells, address="auto", work=Work(make, trial, score, partial(warm, at.store.root)))
    shown = capsys.readouterr().out
    assert code == 3
    assert (
        "warning: resources.trial asks for 1 CPU, 1 big_gpu on one machine, and the cluster at auto has 2 CPU, 0 big_gpu; lower "
        "it, or add such a machine: the run waits for one"
    ) in shown
    assert shown.splitlines()[-1].startswith("stopped by limits.hours 0.004")


def test_workers_run_with_one_thread_and_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", "online")
    sweep, _, _ = opened(tmp_path)
    environment = session.environment(sweep.spec.resources.trial)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["WANDB_MODE"] == "online"
    assert "secret" not in environment.values()
