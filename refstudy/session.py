"""A connection to Ray: how it is started or reached, what every worker is told, and what cannot be asked of it.

Invariant: no key and no token is handed to Ray, since it shows the environment of its workers to whoever asks.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from refstudy import demand, room, spec
from refstudy.errors import RefstudyError
from refstudy.room import Node

WAITING_WORKERS = 4
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the run itself ends on SIGINT; Tune's own handler would wait for trials
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "200",  # as for Tune's own lists of trials: an autoscaler counts those that wait
    # A few workers that made shared artefacts wait for the passes after the trials: by Ray's own limit, one worker a core, it would
    # end them, and others would import all again. Only a few, since each holds half a GiB meanwhile.
    "RAY_num_workers_soft_limit": str((os.cpu_count() or 1) + WAITING_WORKERS),
}
WORKER_SETTINGS = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Without these, glibc gives the memory of every step back and takes it again: 88 ms a step instead of 56 for a small model.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "134217728",
    "MALLOC_ARENA_MAX": "1",  # each trial has a thread of its own, whose own arena would give nothing back
    # Arrow's own allocator touches 14 MiB to read a table of one, and more for each further table.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # oneDNN and PyTorch's door to it keep what they have prepared for each shape of a product: by default for 1,024 shapes, half a
    # GiB of a model with 23 million parameters. Texts have other lengths at each step: what is met again is met soon.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}
FORWARDED = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL", "HF_HUB_OFFLINE", "HF_HOME"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
)
"""What workers on other nodes take over from here; no key or token, since Ray shows these settings."""

ASK_HEAD_EVERY_S, HEAD_AWAY_S = 2.0, 30.0
OBJECT_STORE_BYTES = 100 * 2**20
"""Only recipes and cells travel through Ray."""


@contextlib.contextmanager
def connected(address: str | None, asked: Mapping[str, spec.Resources]) -> Iterator[None]:
    """A connection to Ray, to a local one on all cores if no address is given; ends it and all its workers afterwards."""
    refuse_what_ray_refuses(asked)
    if ray.is_initialized():
        yield
        return
    os.environ.update(RAY_SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # deaths are recorded and shown by the run itself
    how: dict[str, Any] = {"address": address} if address else {"address": "local", "object_store_memory": OBJECT_STORE_BYTES}
    if not address:
        how["include_dashboard"] = False
    try:
        told = {"env_vars": environment(asked["resources.trial"])}
        ray.init(**how, log_to_driver=False, logging_level=logging.ERROR, runtime_env=told)
    except Exception as error:  # Ray raises its bare class where a machine without time to spare starts it too slowly
        do = (
            "check the address, and RAY_AUTH_MODE if the cluster asks for a token"
            if address
            else "run again when the machine is less busy, or one cell without Ray: refstudy trial SWEEP --cell ID"
        )
        where = f"reached at {address}" if address else "started on this machine"
        raise RefstudyError(f"Ray cannot be {where}: {first_line(error)}; {do}") from error
    try:
        refuse_what_fits_nowhere(asked, address)
        yield
    finally:
        ray.shutdown()


def machines(address: str | None) -> tuple[list[Node], str]:
    """The living machines of the connected Ray, and what they are called; of this machine what is known of its memory too."""
    if not address:
        return room.here(), room.HERE
    alive = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    return [Node(has, int(has["memory"]) if "memory" in has else None) for has in alive], f"the cluster at {address}"


def look(address: str) -> tuple[list[Node], str]:
    """`machines` of a cluster that is asked for nothing else."""
    with connected(address, {"resources.trial": spec.Resources()}):
        return machines(address)


class Head:
    """The head of a cluster, by default of the one that this process is connected to, as far as its port answers.

    Ray itself waits a minute for it, and then ends the process in the middle of whatever it does.
    """

    def __init__(self, place: str | None = None) -> None:
        self._place = place or str(ray.get_runtime_context().gcs_address)
        self._asked_at = self._answered_at = time.monotonic()

    def loss(self) -> str | None:
        """That the head is lost, in words; None if it is not. To be asked every now and then."""
        if time.monotonic() - self._asked_at < ASK_HEAD_EVERY_S:
            return None
        host, _, port = self._place.rpartition(":")
        self._asked_at = time.monotonic()
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=ASK_HEAD_EVERY_S):
            self._answered_at = time.monotonic()
        if time.monotonic() - self._answered_at < HEAD_AWAY_S:
            return None
        return f"the loss of the cluster's head (no answer at {self._place} for {HEAD_AWAY_S:g} s; start the cluster again)"


def environment(trial: spec.Resources) -> dict[str, str]:
    """Environment of every worker: as many threads as a trial has cores, and the memory allocator's settings."""
    forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    return {**WORKER_SETTINGS, **demand.threads(trial), **forwarded}


def options(resources: spec.Resources) -> dict[str, Any]:
    return {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "resources": dict(resources.custom)}


def refuse_what_ray_refuses(asked: Mapping[str, spec.Resources]) -> None:
    """RefstudyError for a request that Ray cannot read, such as a custom resource named CPU."""
    for name, resources in asked.items():
        try:
            ray.remote(_nothing).options(**options(resources))
        except ValueError as error:
            raise RefstudyError(f"{name} is no request that Ray takes: {first_line(error)}") from error


def refuse_what_fits_nowhere(asked: Mapping[str, spec.Resources], address: str | None) -> None:
    """A local Ray would wait for ever for a device that it does not have; a cluster may still grow."""
    if address:
        return
    has = ray.cluster_resources()
    for name, resources in asked.items():
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.custom}
        for resource, of_each in wanted.items():
            amount = of_each * resources.workers
            if amount > has.get(resource, 0.0):
                raise RefstudyError(
                    f"{name} asks for {amount:g} {resource}, and this machine has {has.get(resource, 0.0):g}; "
                    "lower it, or run on a cluster with --address"
                )


def slots() -> int:
    """How many tasks are handed to Ray at once; it queues those that do not fit yet."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _nothing() -> None:
    """What a request is tried on before Ray is started."""


def last_line(error: Exception | str) -> str:
    """What an error of Ray comes down to: the last line of its traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]


def first_line(error: Exception | str) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
