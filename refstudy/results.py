"""The folder of a sweep: where its files lie, and how a sweep and its cells are found again from it.

Invariant: everything about a run that is no artefact lies in this one folder; the store lies beside it unless said otherwise.
"""

from dataclasses import dataclass
from pathlib import Path

from refstudy import copies, entries, recipes, records, spec, sweepfile
from refstudy.entries import Place
from refstudy.errors import PASSING, RefstudyError, SpecError, StoreError
from refstudy.grid import Cell, Sweep
from refstudy.identity import describe, fingerprint
from refstudy.provenance import provenance
from refstudy.records import Record
from refstudy.store import Store


@dataclass(frozen=True)
class Results:
    """A sweep's folder and the store that it draws on."""

    folder: Path
    store: Store

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"

    @property
    def references(self) -> Path:
        return self.folder / "references.json"

    @property
    def reference_kl(self) -> Path:
        return self.folder / "reference_kl.json"

    @property
    def compatibility(self) -> Path:
        return self.folder / "compatibility.json"


def place(sweep: Sweep, folder: Path | None, store: Path | None) -> Results:
    """Where a sweep's results lie: `folder` or results/<name>, with the artefacts in `store` or in store/ beside it."""
    at = (folder or Path("results") / sweep.name).absolute()
    artefacts = Store(store or copies.beside(at, "store"))
    if copies.location(at) == copies.location(artefacts.root):
        raise SpecError(f"--results {at} is the store of the artefacts; expected another folder, such as {at.parent}/NAME")
    copies.refresh(at, deep=False)
    return Results(at, artefacts)


def opened(folder: Path, store: Path | None = None) -> Results:
    """The results in an existing folder, with the store they were made with; StoreError if no sweep was run there."""
    listed, at = records.read_sweep(folder), folder.absolute()
    copies.refresh(at, deep=False)
    return Results(at, Store(store or copies.store_root(str(listed.get("store", copies.beside(at, "store"))))))


def begin(results: Results, sweep: Sweep, cells: list[Cell]) -> None:
    """Writes the sweep as it runs and the list of its cells, which become current, before anything is made."""
    copies.refuse_unsafe(results.store.root)
    records.write_text(results.folder / "sweep.yaml", sweepfile.write(entries.located(sweep.document, sweep.place)))
    content = {
        "name": sweep.name,
        "question": sweep.question,
        "sweep_folder": str(sweep.place.folder),
        "store": copies.location(results.store.root),
        "started_at": records.now(),
        "provenance": provenance(),
        "cells": [cell.row for cell in cells],
    }
    if sweep.spec.eval:
        content["evaluation_sets"] = list(sweep.spec.eval)
    records.write_sweep(results.folder, content)


def enlist(results: Results, sweep: Sweep, cells: list[Cell], only: Cell | None = None) -> None:
    """Adds those of `cells` (or `only` this one) that the folder does not list yet, not as current: its sweep stays as it was run.

    A folder without a sweep, or with a torn list, begins with this one and all its cells.
    """
    copies.refresh_file(results.folder / records.SWEEP)
    try:
        content = records.read_sweep(results.folder)
    except StoreError:
        begin(results, sweep, cells)
        return
    listed = records.read_cells(results.folder)
    known = {row["cell_id"] for row in listed}
    wanted = cells if only is None else [only]
    added = [{**cell.row, "current": False} for cell in wanted if cell.id not in known]
    if added:
        records.write_json(results.folder / records.SWEEP, {**content, "cells": listed + added})


def sweep(results: Results) -> Sweep:
    """The sweep that a folder was last run with."""
    path = results.folder / "sweep.yaml"
    listed = records.read_sweep(results.folder)
    document = sweepfile.read(path)
    where = Place(Path(str(listed.get("sweep_folder", results.folder))))
    return Sweep(str(listed.get("name")), str(listed.get("question", "")), document, spec.check(document, str(path)), where)


def mirror(results: Results) -> tuple[str, spec.WandbEntry]:
    """(the sweep's name, where its runs go in wandb: the default where its file cannot be read any more)."""
    try:
        read = sweep(results)
        return read.name, read.spec.wandb
    except RefstudyError:
        return str(records.read_sweep(results.folder).get("name", results.folder.name)), spec.WandbEntry()


def cell(wanted: str, among: list[Cell]) -> Cell:
    """The one cell whose id begins with `wanted`."""
    found = [each for each in among if each.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    what = "no cell" if not found else f"{len(found)} cells"
    ids = ", ".join(f"{each.id} ({each.label})" for each in (found or among)[:3])
    raise SpecError(f"{what} of the sweep has an id that begins with {wanted!r}; expected one of {ids}, ...: see `refstudy status`")


def recorded(wanted: str, known: dict[str, Record]) -> Record:
    """The record of the one finished cell whose id begins with `wanted`, of earlier grids too."""
    found = [each for each in known if each.startswith(wanted) and known[each]["status"] == "done"]
    if len(found) != 1:
        what = "no finished cell" if not found else f"{len(found)} finished cells"
        raise SpecError(f"{what} of the folder has an id that begins with {wanted!r}: see `refstudy status`, and run the sweep")
    return known[found[0]]


def holding(wanted: str, root: Path) -> Results:
    """The results folder below `root` whose sweep lists a cell with an id that begins with `wanted`."""
    folders = [path.parent for path in sorted(root.glob("*/sweep.json"))]
    found = [each for each in folders if any(row["cell_id"].startswith(wanted) for row in records.read_cells(each))]
    if len(found) != 1:
        where = ", ".join(str(each) for each in found) or "none of them"
        raise SpecError(
            f"cell {wanted!r} is in {where} of the {len(folders)} sweeps below {root}; say which with --results results/<sweep>"
        )
    return opened(found[0])


def pending(results: Results, cells: list[Cell], again: bool) -> list[Cell]:
    """The cells without a finished record, or without what a finished cell has in the store; failed ones only if `again`, but for
    those that failed since a server was away."""
    known = {record["cell_id"]: record for record in records.read_records(results.folder)}
    return [each for each in cells if _is_pending(each, known.get(each.id), results.store, again)]


def is_finished(cell: Cell, record: Record | None, store: Store) -> bool:
    """Whether the record says done and tells of each evaluation set as it is now, and the store has all that it speaks of."""
    if record is None or record["status"] != "done":
        return False
    told = {name: each["recipes"].get("verdicts") for name, each in record.get("evaluations", {}).items()}
    says_all = all(told.get(each.name) == fingerprint(each.verdicts) for each in cell.evaluations)
    return says_all and all(store.has(goal) for goal in cell.goals)


def _is_pending(cell: Cell, record: Record | None, store: Store, again: bool) -> bool:
    if record is not None and record["status"] == "failed":
        return again or has_passed(record)
    return not is_finished(cell, record, store)


def has_passed(record: Record) -> bool:
    """Whether a cell failed by something that may be back by now."""
    return record["status"] == "failed" and (record["error"] or {}).get("type") in PASSING


def heading(cell: Cell) -> Record:
    """The part of a record that is known before the trial runs."""
    table = cell.dpo.table
    parts = (cell.dpo, table, cell.log, cell.completions, cell.verdicts.baseline, cell.divergence, cell.verdicts)
    names = ("dpo", "table", "training_log", "completions", "baseline", "divergence", "verdicts")
    ids = {name: fingerprint(part) for name, part in zip(names, parts, strict=True)}
    if cell.token_shifts is not None:
        ids["token_shifts"] = fingerprint(cell.token_shifts)
    if cell.curve is not None:
        ids["along_curve"] = fingerprint(cell.curve)
    told: set[str] = set()
    heading = {
        **cell.row,
        "labels": cell.labels,
        "recipes": ids,
        "recipe": describe(cell.verdicts, told),
    }
    sets = {each.name: _set_heading(each.verdicts, told) for each in cell.evaluations}
    return heading | ({"evaluations": sets} if sets else {})


def _set_heading(verdicts: recipes.Verdicts, told: set[str]) -> Record:
    """What a record says of an evaluation set before it is measured; recipes that are `told` already stand there by id."""
    parts = {"completions": verdicts.candidate, "baseline": verdicts.baseline, "verdicts": verdicts}
    return {
        "measures": {},
        "degenerate": None,
        "reason": None,
        "recipes": {name: fingerprint(part) for name, part in parts.items()},
        "recipe": describe(verdicts, told - {fingerprint(part) for part in parts.values()}),
    }
