"""How long the report of a thousand cells takes, and how large it is: `python -m tests.bench.report`.

The records and answers are synthetic: two policies, ten references, ten betas and five seeds, 768 prompts a cell.
"""

import argparse
import tempfile
import time
from pathlib import Path

from analysis import report
from refstudy.store import Store
from tests.analysis import synthetic

BETAS = (30, 10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
REFERENCES = ("self", "larger-same", "larger-near", "larger-far", *(f"other-{number}" for number in range(6)))
MEGABYTE = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="200 cells each")
    parser.add_argument(
        "--times", type=int, default=3, help="how often the report is written; the first one also takes the difficulty of prompts"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as at:
        folder, store = built(Path(at), args.seeds)
        for _ in range(args.times):
            wall, processor = timed(folder, store)
            sizes = ", ".join(f"{name} {(folder / name).stat().st_size / MEGABYTE:.2f} MB" for name in ("report.html", "report.md"))
            print(f"{args.seeds * 200} cells: {wall:.1f} s, {processor:.1f} s of processor time; {sizes}", flush=True)


def built(at: Path, seeds: int) -> tuple[Path, Store]:
    begun = time.perf_counter()
    built = synthetic.build(at, betas=BETAS, references=REFERENCES, policies=("small", "medium"), seeds=range(seeds), entities=192)
    print(f"synthetic results written in {time.perf_counter() - begun:.0f} s", flush=True)
    return built


def timed(folder: Path, store: Store) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    report.write(folder, store)
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
