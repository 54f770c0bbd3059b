"""What both sides of a benchmark are given: models, pairs, prompts and the answers that they are judged against, in a store.

    python -m tests.bench.prepare SWEEP --store FOLDER

Invariant: nothing that a reference or a trial makes is given. Tokens and reference tables are refstudy's own time, as tokenising
and scoring are a baseline's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from refstudy import driver, grid, make, plan, recipes, records, results
from refstudy.grid import Cell
from refstudy.measurement import Emit
from refstudy.recipes import Recipe
from refstudy.records import Record
from refstudy.store import Store
from refstudy.work import Work

TIMED = (recipes.TokenPairs, recipes.Table)
"""What the plan shares between cells, and yet the sweep is timed for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--here", action="store_true", help="in this process, without Ray")
    given = parser.parse_args()
    prepare(given.sweep, given.store, given.here)


def prepare(sweep: Path, store: Path, here: bool) -> None:
    """Makes what is given and missing, in this process or as the sweep's own driver would make it."""
    read = grid.read(sweep, [])
    cells, at = grid.cells(read), results.place(read, store.parent / "prepared", store)
    wanted = [each for each in plan.shared(cells, at.store) if not isinstance(each, TIMED)]
    if here:
        make.make_all(wanted, at.store)
    elif wanted:
        driver.run_sweep(read, at, cells, retry_failed=True, work=Work(given_alone, no_trial))


def given_alone(wanted: Sequence[Recipe], store: Store, emit: Emit) -> None:
    make.make_all([each for each in wanted if not isinstance(each, TIMED)], store, emit)


def no_trial(cell: Cell, store: Store, folder: Path, emit: Emit) -> Record:
    record = results.heading(cell) | {"status": "done", "measures": {}, "duration_s": 0.0}
    records.write_record(folder, record)
    return record


if __name__ == "__main__":
    main()
