"""`refstudy run`, with counts of what its workers do: `python -m tests.bench.sweep COUNTS run SWEEP ...`.

It is the command itself with its own driver; only the functions that workers run have a clock and counters around them. Each task
and trial leaves a line in COUNTS/counts.jsonl, the run as a whole COUNTS/run.json.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from refstudy import cli, driver, work
from refstudy.grid import Sweep
from tests.bench import counting

RUN = "run.json"


def main() -> None:
    folder = Path(sys.argv.pop(1)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    times, clock, own_run = {"begun": time.time()}, time.perf_counter(), driver.run_sweep

    def timed_run(sweep: Sweep, *args: Any, **options: Any) -> int:
        begun, used = time.perf_counter(), _cpu_s()
        try:
            return own_run(sweep, *args, **options, work=counting.counted_work(folder, work.work_of(sweep.spec.train)))
        finally:
            times.update(run_s=time.perf_counter() - begun, driver_cpu_s=_cpu_s() - used)

    driver.run_sweep = timed_run
    try:
        cli.main()
    finally:
        times["whole_s"] = time.perf_counter() - clock
        (folder / RUN).write_text(json.dumps(times))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
