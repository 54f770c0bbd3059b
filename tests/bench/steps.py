"""A step of a cell's training on its own, and ways to compute it that are timed turn by turn in one process.

Invariant: a way counts only where it computes what the way that is there now computes. One that a device or a library refuses is
written down with its error, and the others are measured without it.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refstudy import artefacts
from refstudy.grid import Cell
from refstudy.line import Line, lay
from refstudy.models import best_device
from refstudy.store import Store
from refstudy.token_pairs import TokenPair
from refstudy.training.lines import common
from tests.bench import bare, outcome

Way = Callable[[], tuple[dict[str, Any], Callable[[], float]]]
"""Makes a way ready and warm: what is known of it, and a step by it, which tells its seconds."""


@dataclass(frozen=True)
class Step:
    """Pairs of an optimizer step, and log p_ref(chosen) - log p_ref(rejected) of each, (B,) nats."""

    pairs: Sequence[TokenPair]
    reference: np.ndarray

    def cut(self, at_once: int) -> "list[Step]":
        """The step in micro batches of so many pairs."""
        firsts = range(0, len(self.pairs), at_once)
        return [Step(self.pairs[first : first + at_once], self.reference[first : first + at_once]) for first in firsts]


def first(cell: Cell, store: Store) -> Step:
    """The first step that the cell trains, of pairs as the store has them in tokens, against the reference's table."""
    pairs, train = artefacts.read_token_pairs(outcome.token_pairs_of(cell), store), cell.dpo.train
    reference = bare.reference_margins(artefacts.read_pair_table(cell.dpo.table, store), pairs)
    rows = next(bare.order(len(pairs), train.batch_size, train.epochs, cell.dpo.seed))
    return Step([pairs[row] for row in rows], reference[rows])


def line(pairs: Sequence[TokenPair]) -> Line:
    """The pairs as training lays them: what both answers begin with in common once."""
    rows = [(pair.prompt_ids + pair.chosen_ids, pair.prompt_ids + pair.rejected_ids) for pair in pairs]
    return lay(rows, [common(*both) for both in rows])


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes until the device has done it."""
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def wait() -> None:
    """Returns when the GPU, if there is one, has done what it was given."""
    if best_device() == "cuda":
        torch.cuda.synchronize()


def compared(ways: Mapping[str, Way], turns: int) -> dict[str, dict[str, Any]]:
    """What is known of each way, its median seconds over the turns, and its gain over the first.

    Of a way that raised, whatever a kernel or a library raises on this device, its error in one line.
    """
    found: dict[str, dict[str, Any]] = {}
    running: dict[str, Callable[[], float]] = {}
    for name, prepare in ways.items():
        try:
            found[name], running[name] = prepare()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"}
    medians = turn_by_turn(running, turns)
    now = medians.get(next(iter(ways)))
    for name, median in medians.items():
        found[name] |= {"seconds": median, "gain": None if now is None else now / median}
    return found


def turn_by_turn(ways: Mapping[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """The median of the seconds that each way told of itself; no way is always first."""
    told: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(turns):
        at = turn % max(1, len(names))
        for name in (*names[at:], *names[:at]):
            told[name].append(ways[name]())
    return {name: statistics.median(each) for name, each in told.items()}


def difference(ours: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]) -> float:
    """The largest difference between tensors, by the largest value of theirs; not a number where that is zero."""
    apart = [((one - other).abs().max(), other.abs().max()) for one, other in zip(ours, theirs, strict=True)]
    most, largest = (float(torch.stack(each).max()) for each in zip(*apart, strict=True))
    return most / largest if largest else float("nan")


def forget_peak() -> None:
    """Frees what nobody holds, and lets the device's peak begin again."""
    gc.collect()
    if best_device() == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    """GiB that tensors took on the GPU at most since `forget_peak`; None without one."""
    return torch.cuda.max_memory_allocated() / 2**30 if best_device() == "cuda" else None


def row(title: str, way: Mapping[str, Any] | None, name: str, form: str) -> str:
    """A row of the bench's table: a figure of a way, or why there is none."""
    if way is None or ("error" not in way and way[name] is None):
        return f"{title:44}{'not measured':>24}"
    if "error" in way:
        return f"{title:44}  {way['error'][:80]}"
    return f"{title:44}{form.format(way[name]):>24}" + ("" if way["equal"] else " (not equal: does not count)")
