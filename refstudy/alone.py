"""One cell run alone, in this process, without Ray: for debugging, and for what a cluster scheduler starts by itself.

Invariant: a finished cell stays as it is until all that replaces it has been made.
"""

from collections.abc import Iterable

from refstudy import artefacts, make, plan, records, reference_compatibility, results, tracking, trial
from refstudy.errors import RefstudyError
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.measurement import Emit, Measurement
from refstudy.recipes import Recipe
from refstudy.records import Record
from refstudy.results import Results
from refstudy.store import Store


def run_cell(cell: Cell, at: Results, sweep: Sweep, cells: list[Cell], again: bool) -> Record:
    """The cell's record, after making all that it needs; a finished one is returned as it is unless `again`."""
    results.enlist(at, sweep, cells, only=cell)
    known = {record["cell_id"]: record for record in records.read_records(at.folder)}.get(cell.id)
    is_done = known is not None and known["status"] == "done"
    if known is not None and results.is_finished(cell, known, at.store) and not again:
        return known
    failure = _make_shared(cell, at.store, again)
    if failure is not None:
        record = results.heading(cell) | failure | {"duration_s": 0.0, "finished_at": records.now()}
        if not is_done:
            records.write_record(at.folder, record)
        return record
    return tracking.mirrored(
        results.heading(cell),
        lambda emit: _run_again(cell, at, emit, is_done) if again else trial.run_trial(cell, at.store, at.folder, emit),
        lambda: tracking.sample_answers(cell, at.store),
        lambda: reference_compatibility.tracked(cell, at.store),
        _print,
        sweep.name,
        at.folder,
        sweep.spec.wandb,
    )


def _make_shared(cell: Cell, store: Store, again: bool) -> Record | None:
    """The fields of a failed record if what the cell needs could not be made; what the user can mend is raised instead."""
    wanted = plan.shared([cell], store)
    if again:  # what evaluations along training read is planned for cells alone that have to be trained
        named = {fingerprint(each) for each in wanted}
        wanted += [each for each in plan.missing(plan.along_needs(cell.along), store) if fingerprint(each) not in named]
    for number, recipe in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {plan.title(recipe)}", flush=True)
        try:
            make.make(recipe, store, _print, save_every_s=cell.save_every_s)
        except RefstudyError:
            raise
        except Exception as error:
            return records.failure(error, f"{plan.title(recipe)} could not be made: ")
    return None


def _run_again(cell: Cell, at: Results, emit: Emit, is_done: bool) -> Record:
    """The record of a trial that makes all of the cell's own anew, in a store aside, and replaces what was there if it is done.

    A failed one leaves a finished cell as it was.
    """
    own = {fingerprint(each) for each in _own(cell)}
    below = _below([*plan.cell_goals(cell), *plan.along_needs(cell.along)])
    lent = [each for each in below if fingerprint(each) not in own and at.store.has(each)]
    with at.store.aside(lent) as anew:
        record = trial.run_trial(cell, anew, anew.root / "results", emit)
        if record["status"] == "done":
            _replace(cell, at.store, anew)
        if record["status"] == "done" or not is_done:
            records.write_record(at.folder, record)
    return record


def _replace(cell: Cell, store: Store, anew: Store) -> None:
    """Puts what was made anew into the store; with other answers than before, what was made of the old ones goes."""
    own = _own(cell)
    if store.has(cell.completions) and _answers(cell, store) != _answers(cell, anew):
        removed = store.discard_above(own)
        store.discard(cell.dpo)
        print(f"other answers than before: {removed} artefacts made of the old ones are removed, and made again when needed")
    for each in own:
        if anew.has(each):
            store.replace(each, anew)


def _own(cell: Cell) -> tuple[Recipe, ...]:
    """What the cell's trial makes."""
    beside = [each for each in (cell.token_shifts, cell.curve) if each is not None]
    return (*plan.cell_goals(cell), *beside, cell.dpo)


def _below(goals: Iterable[Recipe]) -> list[Recipe]:
    """The goals and all that making them reads, each once."""
    found: dict[str, Recipe] = {}
    waiting = list(goals)
    while waiting:
        recipe = waiting.pop()
        if found.setdefault(fingerprint(recipe), recipe) is recipe:
            waiting.extend(plan.needs(recipe))
    return list(found.values())


def _answers(cell: Cell, store: Store) -> list[tuple[str, str]]:
    return [(each.prompt_id, each.text) for each in artefacts.read_completions(cell.completions, store)]


def _print(measurement: Measurement) -> None:
    values = "".join(f"  {name} {value:.4g}" for name, value in measurement.values.items())
    of = f"/{measurement.of}" if measurement.of else ""
    print(f"  {measurement.stage} {measurement.step}{of}{values}", flush=True)
    for words in measurement.alarms:
        print(f"  ALARM {words}", flush=True)
