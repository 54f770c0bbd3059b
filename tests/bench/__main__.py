"""`make bench`: a whole sweep by refstudy against the same cells as separate TRL runs. Writes bench.json and prints a table.

    python -m tests.bench [--rounds N] [--parts miniature real_text] [--pairs FILE] [--results FOLDER] [--smoke]

A round is every cell once each way; the ways take turns in coming first. Models, pairs and the answers that are judged against are
given to both sides, and made first where they are missing. Times of a busy machine are no measure: its load is written down.
"""

import argparse
import json
import os
import shutil
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refstudy.store import Store
from tests.bench import machine, outcome, parts, sides
from tests.bench.parts import Part

WAYS = ("refstudy", "live", "precomputed")


def main() -> None:
    given = arguments()
    results = (given.results or parts.ROOT / "results" / ("bench-smoke" if given.smoke else "bench")).absolute()
    results.mkdir(parents=True, exist_ok=True)
    chosen = parts.smoke(results) if given.smoke else parts.full(results, given.pairs)
    begun = time.perf_counter()
    report: dict[str, Any] = {
        "begun_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "smoke": given.smoke,
        "rounds": given.rounds,
        "machine": machine.about(),
        "load_before": os.getloadavg()[0],
    }
    for part in chosen:
        if part.name in given.parts:
            report[part.name] = measured(part, results / part.name, given.rounds)
    report["duration_s"] = round(time.perf_counter() - begun, 1)
    (results / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    print(outcome.table(report))
    print(results / "bench.json")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="a sweep against separate TRL runs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=("miniature", "real_text"), default=["miniature", "real_text"])
    parser.add_argument("--pairs", type=Path, default=parts.REAL_PAIRS, help="JSONL of real pairs: prompt, chosen, rejected")
    parser.add_argument("--results", type=Path, default=None, help="default: results/bench")
    parser.add_argument("--smoke", action="store_true", help="everything at a tiny size, in two minutes")
    return parser.parse_args()


def measured(part: Part, folder: Path, rounds: int) -> dict[str, Any]:
    """The part's figures, with the raw times of every run."""
    given = folder / "given" / "store"
    say(part, "what both sides are given: models, pairs, prompts, answers to judge against")
    folder.mkdir(parents=True, exist_ok=True)
    here = ["--here"] if part.is_small else []
    parts.run(parts.python("tests.bench.prepare", part.sweep, "--store", given, *here), folder / "prepare.log")
    _, cells = part.read()
    few = parts.spread(cells, part.baseline_cells)
    raw: dict[str, list[Any]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
            say(part, f"round {number + 1} of {rounds}: {way}, {len(cells) if way == 'refstudy' else len(few)} cells")
            if way == "refstudy":
                raw[way].append(sides.sweep(part, cells, given, folder / "refstudy"))
            else:
                raw[way].append(sides.baseline(few, given, folder / f"{way}-{number}", precompute=way == "precomputed"))
    controls = sides.baseline(parts.spread(few, part.controls), given, folder / "fp32", bf16=False)["cells"]
    bare = run_bare(part, folder) if part.bare_cells else None
    found = outcome.part_figures(part, cells, few, Store(folder / "refstudy" / "store"), raw, controls, bare)
    runs = {"refstudy": [asdict(each) for each in raw["refstudy"]], "live": raw["live"], "precomputed": raw["precomputed"]}
    return found | {"runs": runs, "controls_fp32": controls, "bare": bare}


def run_bare(part: Part, folder: Path) -> dict[str, Any]:
    """One more beta beside plain loops, on a store with all that a trial reads and nothing that one makes."""
    say(part, "one more beta beside a bare loop")
    at = folder / "bare"
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir()
    store = parts.copy_store(folder / "given" / "store", at / "store")
    for kind in ("token_pairs", "table"):
        shutil.copytree(folder / "refstudy" / "store" / kind, store.root / kind, copy_function=os.link, dirs_exist_ok=True)
    command = parts.python(
        "tests.bench.bare", part.sweep, "--store", store.root, "--out", at / "bare.json", "--cells", part.bare_cells
    )
    command += ["--cold"] if part.is_long else []
    parts.run(command, at / "bare.log", **parts.worker_environment())
    of_loop = parts.python("tests.bench.loop_memory", part.sweep, "--store", store.root, "--out", at / "loop_memory.json")
    parts.run(of_loop, at / "loop_memory.log", **parts.worker_environment())
    found: dict[str, Any] = json.loads((at / "bare.json").read_text())
    return found | json.loads((at / "loop_memory.json").read_text())


def say(part: Part, words: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {part.name}: {words}", flush=True)


if __name__ == "__main__":
    main()
