"""What the workers of a timed run do, counted: passes of models, tokens, times of store and logging, memory.

Invariant: tokens are counted where a model meets them, in its forward pass, and never reckoned from what was planned. What is no
padding token is a token: no text has one. Trying whether a model may be computed on lines is a stage of its own, `probe`: these
tokens are met beside a pass, are no part of it, and stand in every sum of what was spent.
"""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from refstudy import work
from refstudy.grid import Cell
from refstudy.identity import fingerprint, kind
from refstudy.measurement import Emit, Measurement, silent
from refstudy.recipes import Recipe, Table
from refstudy.records import Record
from refstudy.store import Store
from refstudy.work import Work

COUNTS = "counts.jsonl"
PROBE = "probe"
STORE_METHODS = ("has", "path", "claim", "wait", "publish")


def counted_work(folder: Path, own: Work) -> Work:
    """Workers' own functions, each with counters around it."""
    return Work(
        make=functools.partial(make, folder, own),
        trial=functools.partial(trial, folder, own),
        score=functools.partial(score, folder, own),
        warm=functools.partial(warm, folder, own),
    )


def warm(folder: Path, own: Work) -> None:
    with counted(folder, "warm", "", silent):
        own.warm()


def make(folder: Path, own: Work, wanted: Sequence[Recipe], store: Store, emit: Emit) -> None:
    with counted(folder, _task_kind(wanted), " ".join(fingerprint(each) for each in wanted), emit) as counts:
        own.make(wanted, store, counts.emit)


def score(folder: Path, own: Work, wanted: Sequence[Recipe], number: int, of: int, store: Store, emit: Emit) -> None:
    with counted(folder, "score", f"part {number} of {of}", emit) as counts:
        own.score(wanted, number, of, store, counts.emit)


def trial(folder: Path, own: Work, cell: Cell, store: Store, at: Path, emit: Emit) -> Record:
    with counted(folder, "trial", cell.id, emit) as counts:
        record = own.trial(cell, store, at, counts.emit)
        counts.phases_s = record["phases_s"] if record["status"] == "done" else {}
    return record


def _task_kind(wanted: Sequence[Recipe]) -> str:
    """tokenise, score (a reference's pass over pairs), references (what is made after the cells), or make."""
    kinds = {kind(each) for each in wanted}
    if kinds == {"token_pairs"}:
        return "tokenise"
    if len(wanted) == 1 and isinstance(wanted[0], Table) and kind(wanted[0].texts) == "token_pairs":
        return "score"
    return "references" if kinds & {"table", "verdicts"} else "make"


# On workers -------------------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What one task or trial did."""

    inner: Emit
    stage: str = "load"
    passes: dict[str, dict[str, float]] = field(default_factory=dict)
    """By stage and the parameters of the model: forward passes, places computed (padding included), tokens."""
    phases_s: dict[str, float] = field(default_factory=dict)
    log_s: float = 0.0
    """Time in logging: progress files and the mirror."""
    store_s: float = 0.0
    inside: bool = False

    def emit(self, measurement: Measurement) -> Any:
        self.stage = measurement.stage
        begun = time.perf_counter()
        answer = self.inner(measurement)
        self.log_s += time.perf_counter() - begun
        return answer

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """What is met while the context lasts belongs to another stage than the one last announced."""
        own, self.stage = self.stage, stage
        try:
            yield
        finally:
            self.stage = own

    def meet(self, parameters: int, pad_id: int | None, embedding: Any, ids: tuple[Any, ...]) -> None:
        """Counts the ids that a model of so many parameters looks up."""
        of = self.passes.setdefault(f"{self.stage}/{parameters}", {"passes": 0, "places": 0, "tokens": 0})
        of["passes"] += 1
        of["places"] += ids[0].numel()
        of["tokens"] += int((ids[0] != pad_id).sum())


@contextmanager
def counted(folder: Path, what: str, of: str, emit: Emit) -> Iterator[Counts]:
    """Counts what the block does in this process, and adds a line to the folder's counts when it ends."""
    first = time.time()
    work.warm_here()  # as the work itself does
    from refstudy import models, shared_prompt, trial  # noqa: F401

    counts, own_load, own_difference = Counts(emit), models.load, shared_prompt.difference

    def load(*args: Any, **options: Any) -> Any:
        model, tokenizer = own_load(*args, **options)
        parameters = sum(weight.numel() for weight in model.parameters())
        # Where ids become vectors: whatever rows are laid together or padded above, these are the places that are computed.
        meet = functools.partial(counts.meet, parameters, tokenizer.pad_token_id)
        model.get_input_embeddings().register_forward_pre_hook(meet)
        return model, tokenizer

    def difference(*args: Any) -> str:
        with counts.within(PROBE):
            return own_difference(*args)

    begun, used, resident, anonymous = time.time(), os.times(), memory_gb("VmRSS"), memory_gb("RssAnon")
    forget_peak()
    trying = mock.patch.object(shared_prompt, "difference", difference)
    with mock.patch.object(models, "load", load), trying, _timed_store(counts):
        yield counts
    now = os.times()
    line = {
        "what": what,
        "of": of,
        "pid": os.getpid(),
        "begun": begun,
        "import_s": begun - first,
        "ended": time.time(),
        "cpu_s": now.user + now.system - used.user - used.system,
        "process_cpu_s": now.user + now.system,
        "passes": counts.passes,
        "phases_s": counts.phases_s,
        "log_s": counts.log_s,
        "store_s": counts.store_s,
        "resident_before_gb": resident,
        "anonymous_before_gb": anonymous,
        "peak_gb": memory_gb("VmHWM"),
        "files_after_gb": memory_gb("RssFile"),
    }
    with open(folder / COUNTS, "a") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def _timed_store(counts: Counts) -> Iterator[None]:
    own = {name: getattr(Store, name) for name in STORE_METHODS}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(*args: Any, **options: Any) -> Any:
            if counts.inside:
                return method(*args, **options)
            counts.inside, begun = True, time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                counts.inside = False
                counts.store_s += time.perf_counter() - begun

        return run

    for name, method in own.items():
        setattr(Store, name, timed(method))
    try:
        yield
    finally:
        for name, method in own.items():
            setattr(Store, name, method)


def memory_gb(name: str) -> float:
    """A field of this process' status in GiB: VmRSS now, VmHWM the most since the peak was forgotten; RssFile of VmRSS the pages of
    files, such as code of libraries, and RssAnon what the process itself wrote."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 2**20
    return 0.0


def forget_peak() -> None:
    """Sets VmHWM to what is resident now (Linux, proc(5): clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
