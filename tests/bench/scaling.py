"""How a whole sweep's time grows with its cells, references and pairs: `python -m tests.bench.scaling`.

Every point is a sweep by refstudy from an empty trial state, as `make bench` runs it; growth of planning and of the driver alone is
`tests.bench.growth`. Writes growth.json beside bench.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from refstudy.store import Store
from tests.bench import figures, machine, outcome, parts, sides
from tests.bench.parts import Part

BETAS = [10, 5, 3, 2, 1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.01]
REFERENCES = ["self", "larger-same", "larger-near", "larger-far"]
POINTS = (
    *(("cells", 2 * betas, {"beta": betas, "reference": 2, "pairs": 1000}) for betas in (3, 6, 12)),
    *(("references", references, {"beta": 6, "reference": references, "pairs": 1000}) for references in (1, 2, 4)),
    *(("pairs", pairs, {"beta": 3, "reference": 2, "pairs": pairs}) for pairs in (1000, 2000, 4000)),
)
"""(what grows, to how many, the sweep: betas, references, pairs)"""


def main() -> None:
    parser = argparse.ArgumentParser(description="time of a sweep by cells, references and pairs")
    parser.add_argument("--results", type=Path, default=parts.ROOT / "results" / "bench")
    parser.add_argument("--grows", nargs="+", choices=("cells", "references", "pairs"), default=["cells", "references", "pairs"])
    given = parser.parse_args()
    folder = given.results.absolute()
    report: dict[str, Any] = {"machine": machine.about(), "points": []}
    known: dict[str, dict[str, Any]] = {}
    for what, count, sweep in POINTS:
        if what in given.grows:
            name = "-".join(f"{key}{value}" for key, value in sweep.items())
            known.setdefault(name, measured(folder / "growth", name, sweep))
            report["points"].append({"grows": what, "to": count, **known[name]})
            print(line(report["points"][-1]), flush=True)
    (folder / "growth.json").write_text(json.dumps(report, indent=1) + "\n")
    print(folder / "growth.json")


def measured(folder: Path, name: str, sweep: dict[str, int]) -> dict[str, Any]:
    """One sweep: its wall time, what a further cell costs a worker, and the two shares that must not grow."""
    folder.mkdir(parents=True, exist_ok=True)
    at, given = folder / f"{name}.yaml", folder / "given" / "store"
    at.write_text(yaml.safe_dump(document(sweep), sort_keys=False))
    parts.run(parts.python("tests.bench.prepare", at, "--store", given), folder / "prepare.log")
    part = Part(name, at, baseline_cells=0, bare_cells=0, controls=0)
    _, cells = part.read()
    run = sides.sweep(part, cells, given, folder / "run")
    store = Store(folder / "run" / "store")
    phases = figures.phases(run.counts, run.run, run.logs)
    trials = [each["ended"] - each["begun"] for each in run.counts if each["what"] == "trial"]
    own = {cell.reference: cell for cell in cells if cell.reference in ("self", "larger-same")}
    return {
        "cells": len(cells),
        "wall_s": run.wall_s,
        "worker_s_per_cell": sum(trials) / len(trials),
        "score_s": phases.get("score", 0.0),
        "reference_token_ratio": figures.reference_token_ratio(run.counts, outcome.texts_of(cells[0], store), len(own))
        if set(own) == {cell.reference for cell in cells}
        else None,  # another tokenizer counts its own tokens
        "overhead_share": figures.overhead_share(run.counts, run.run, phases, machine.cores()),
    }


def document(sweep: dict[str, int]) -> dict[str, Any]:
    """The quickstart's sweep with so many betas, references and pairs, for one epoch."""
    found: dict[str, Any] = yaml.safe_load((parts.ROOT / "sweeps" / "quickstart.yaml").read_text())
    found |= {"name": "bench_growth", "wandb": {"enabled": False}}
    found["data"] |= {"pairs": sweep["pairs"], "eval_prompts": 256}
    found["axes"] = {"beta": BETAS[: sweep["beta"]], "reference": REFERENCES[: sweep["reference"]], "seed": [0]}
    found["train"] |= {"epochs": 1}
    return found


def line(point: dict[str, Any]) -> str:
    ratio = "" if point["reference_token_ratio"] is None else f", reference tokens {point['reference_token_ratio']:.4f}"
    return (
        f"{point['grows']:>10} {point['to']:>5}: {point['cells']:>3} cells in {point['wall_s']:7.1f} s, "
        f"{point['worker_s_per_cell']:.2f} s a cell, overhead {point['overhead_share']:.4f}{ratio}"
    )


if __name__ == "__main__":
    main()
