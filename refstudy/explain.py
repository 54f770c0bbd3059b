"""Why a cell would run: which leaves of its recipe differ from those of the nearest finished cell."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from refstudy import plan
from refstudy.grid import Cell
from refstudy.identity import describe
from refstudy.records import Record
from refstudy.store import Store


@dataclass(frozen=True)
class Difference:
    path: str
    here: Any
    there: Any


@dataclass(frozen=True)
class Nearest:
    """The finished record that differs in the fewest leaves."""

    record: Record
    differences: list[Difference]


def nearest(cell: Cell, records: Iterable[Record]) -> Nearest | None:
    """The nearest finished cell, None if none is finished; leaves compared by their path in the recipe."""
    here = leaves(describe(cell.verdicts))
    found = [
        Nearest(record, differences(here, leaves(record["recipe"])))
        for record in records
        if record["status"] == "done" and record["recipe"]
    ]
    return min(found, key=lambda each: len(each.differences), default=None)


def work(cell: Cell, store: Store) -> str:
    """What the cell's trial would do with what the store has."""
    if sets := plan.retrained_for(cell, store):
        return f"train again, since its policy was not kept, to answer evaluation set {', '.join(sets)}; then judge and record"
    if plan.trains(cell, store):
        return "train, generate, judge and record"
    if not all(store.has(each) for each in cell.answers):
        return "generate, judge and record: its policy was kept"
    if not all(store.has(each) for each in (cell.verdicts, *(of.verdicts for of in cell.evaluations))):
        return "judge and record: its answers are made already"
    return "only record: everything is made already"


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The scalars of a described recipe by dotted path. Ids are left out: they differ wherever anything below them does."""
    if isinstance(value, dict):
        items = [(key, each) for key, each in value.items() if key != "id"]
    elif isinstance(value, list):
        items = [(str(index), each) for index, each in enumerate(value)]
    else:
        return {path: value}
    return {at: leaf for key, each in items for at, leaf in leaves(each, f"{path}.{key}" if path else key).items()}


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[Difference]:
    """Leaves that differ or stand on one side only (the other side then says "absent"), each leaf of the sweep once."""
    paths = list(dict.fromkeys([*here, *there]))
    pairs = [(path, here.get(path, "absent"), there.get(path, "absent")) for path in paths]
    found = [Difference(path, mine, theirs) for path, mine, theirs in pairs if mine != theirs]
    # A recipe told by its id differs wherever a leaf below it does, and that leaf stands where the recipe is written out.
    return _once([each for each in found if _key(each.path) != "recipe"] or found)


def _once(found: list[Difference]) -> list[Difference]:
    """One leaf of the sweep stands in several recipes: of equal differences of one key, the one with the shortest path."""
    kept: dict[str, Difference] = {}
    for each in sorted(found, key=lambda each: each.path.count(".")):
        kept.setdefault(repr((_key(each.path), each.here, each.there)), each)
    return list(kept.values())


def _key(path: str) -> str:
    return path.rpartition(".")[2]
