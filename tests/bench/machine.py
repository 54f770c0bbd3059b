"""The machine that a benchmark ran on, and what its cores can compute at best."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "ray", "datasets", "numpy")
SIDE, REPEATS = 2048, 3


def about() -> dict[str, Any]:
    processor = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory_kb = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cores": cores(),
        "processor": processor[0] if processor else platform.processor(),
        "memory_gb": round(memory_kb[0] / 2**20, 1) if memory_kb else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def slots() -> int:
    """Trials that run at a time: one on each GPU, else one on each core."""
    return torch.cuda.device_count() if torch.cuda.is_available() else cores()


def peak_flops(precision: str) -> float:
    """Floating-point operations a second of all slots: the best of a few products of large square matrices on one core, or one GPU,
    times slots."""
    dtype, device = torch.bfloat16 if precision == "bf16" else torch.float32, "cuda" if torch.cuda.is_available() else "cpu"
    side = 4 * SIDE if device == "cuda" else SIDE
    one, other = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    threads, best_s = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS + 1):
            begun = time.perf_counter()
            (one @ other)[0, 0].item()  # waits for a GPU to be done
            best_s = min(best_s, time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return 2 * side**3 / best_s * slots()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
