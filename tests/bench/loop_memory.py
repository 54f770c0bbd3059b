"""Memory that a plain loop takes as it trains a cell: `python -m tests.bench.loop_memory SWEEP --store STORE --out FILE`.

A process of its own with a worker's settings, which reads the pairs and the table before its memory is looked at; then it loads the
policy and trains it by the loop of `bare`. That is what policy, optimizer and one batch take of a process: beside their tensors
what an allocator leaves free between blocks, and pages of libraries that are touched first.
"""

import argparse
import gc
import json
from pathlib import Path

from refstudy import artefacts, grid, make, recipes, shelf, trial
from refstudy.store import Store
from tests.bench import bare
from tests.bench.counting import forget_peak, memory_gb

LOADED = make, trial
"""Imported as by a worker, whose runtime they are."""


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of a plain loop")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="with models, pairs, tokens and reference tables")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    recipe, store = grid.cells(grid.read(given.sweep, []))[0].dpo, Store(given.store)
    assert isinstance(recipe.table.texts, recipes.TokenPairs)
    pairs = artefacts.read_token_pairs(recipe.table.texts, store)
    reference = bare.reference_margins(artefacts.read_pair_table(recipe.table, store), pairs)
    gc.collect()
    resident, anonymous = memory_gb("VmRSS"), memory_gb("RssAnon")
    forget_peak()
    bare.train(shelf.load_policy(recipe.start, store).model, pairs, reference, recipe, shared_prompt=False)
    peak = memory_gb("VmHWM")
    found = {"loop_gb": peak - resident, "loop_anonymous_gb": peak - memory_gb("RssFile") - anonymous}
    given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
