"""A trial on several devices: Ray Train starts its workers, the first of which runs it, while the others train with it.

Invariant: there is one record, the first worker's; how many workers there are changes no recipe. An exception in any of them is the
cell's failure, the death of any of them ends all and is left to Tune, which starts the trial again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import train

from refstudy import copies, records, results, spec
from refstudy.errors import SpecError
from refstudy.grid import Cell
from refstudy.records import Record
from refstudy.results import Results
from refstudy.work import Job

TIMEOUT_S = 24 * 3600
"""So long the other workers wait while the first one generates, or is judged."""


def run(cell: Cell, job: Job, first: Callable[[Cell, Job], Record]) -> Record:
    """The record of the cell, which the first worker writes by `first`; raises where a worker died."""
    from ray.train.torch import TorchConfig, TorchTrainer  # imports torch, for which the driver would wait a second

    at, progress = job.opened(), copies.here(job.progress)
    endings = progress / f"workers-{cell.id}"
    endings.mkdir(exist_ok=True)
    for old in endings.iterdir():
        old.unlink()
    told = {"cell": cell, "job": job, "first": first, "endings": endings}
    trainer = TorchTrainer(
        _on_worker,
        train_loop_config=told,
        scaling_config=_scaling(cell.resources),
        torch_config=TorchConfig(backend="nccl" if cell.resources.gpus else "gloo", timeout_s=TIMEOUT_S),
        run_config=train.RunConfig(name=f"train-{cell.id}", storage_path=str(progress)),
    )
    try:
        trainer.fit()
    except train.TrainingFailedError as error:
        return _failed(cell, at.folder, endings, error)
    return records.read_record(records.record_path(at.folder, cell.id))


def refuse(cells: Iterable[Cell], at: Results) -> None:
    """SpecError where trials of several workers have no folder in which these could leave word for each other."""
    several = [cell.resources.workers for cell in cells if cell.resources.workers > 1]
    if several and copies.of(at.folder) is not None:
        raise SpecError(
            f"resources.trial.workers is {several[0]}, and the results are at {copies.location(at.folder)}, where a trial runs on "
            "one device; give --results a path that the nodes share, or take one worker"
        )


def concurrent(trial: spec.Resources) -> int:
    """How many trials of several workers the cluster has room for at once; at least one, since it may still grow."""
    has = ray.cluster_resources()
    asked = {"CPU": trial.cpus, "GPU": trial.gpus, **trial.custom}
    room = [has.get(name, 0.0) // (amount * trial.workers) for name, amount in asked.items() if amount]
    return max(1, int(min(room)))


def _scaling(trial: spec.Resources) -> train.ScalingConfig:
    each = {"CPU": trial.cpus, **({"GPU": trial.gpus} if trial.gpus else {}), **trial.custom}
    return train.ScalingConfig(num_workers=trial.workers, use_gpu=trial.gpus > 0, resources_per_worker=each)


def _failed(cell: Cell, folder: Path, endings: Path, error: train.TrainingFailedError) -> Record:
    """The failed record of a cell whose workers ended by exceptions; raises the error if one of them died."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    ended = {int(file.name): json.loads(file.read_bytes()) for file in endings.iterdir()}
    if not ended or any(rank not in ended for rank in failures):
        raise error
    rank = min(ended)
    if rank > 0:
        fields = results.heading(cell) | {"status": "failed", "error": ended[rank]}
        records.write_record(folder, fields | {"duration_s": 0.0, "finished_at": records.now()})
    return records.read_record(records.record_path(folder, cell.id))


def _on_worker(told: dict[str, Any]) -> None:
    """What each worker does."""
    from refstudy import policies  # imports torch: only where something is made
    from refstudy.training import workers

    rank, endings = train.get_context().get_world_rank(), told["endings"]
    cell, job = told["cell"], told["job"]
    workers.take_device()
    try:
        if rank > 0:
            return policies.take_part(job.opened().store)
        record = told["first"](cell, job)
    except Exception as error:
        failure = records.failure(error)["error"]
        (endings / str(rank)).write_text(json.dumps(failure | {"message": f"worker {rank + 1}: {failure['message']}"}))
        raise
    if record["status"] != "done":
        (endings / "0").write_text(json.dumps(record["error"]))
        raise RuntimeError(f"the cell's record says failed: {record['error']['message']}")  # ends the others, wherever they wait
    workers.dismiss()
