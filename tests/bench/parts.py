"""The parts of the benchmark, and what a cell of theirs is for a baseline: paths and settings.

Invariant: both sides start from the same files. Whatever a baseline is told stands in the cell's recipe.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from refstudy import checkpoints, grid, recipes
from refstudy.artefacts import COMPLETIONS, PAIRS, PROMPTS
from refstudy.grid import Cell, Sweep
from refstudy.store import Store
from tests import sweeps

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REAL_PAIRS = ROOT.parent / "shared" / "data" / "preferences" / "hh_helpful_2000.jsonl"
LONGEST = 250
"""Rows of the real pairs, the longest ones, that the part on real text reads."""


@dataclass(frozen=True)
class Part:
    """A sweep to be timed."""

    name: str
    sweep: Path
    baseline_cells: int
    """How many of the cells the baselines run; their time is scaled to all cells."""
    bare_cells: int
    """How many cells are run bare, and as trials beside that; 0: none. Where one is long enough, none is run before to get warm."""
    controls: int
    """How many cells the baseline runs once more in fp32, where the sweep trains in fp32: not timed, held to fp32's tolerance."""
    is_long: bool = False
    """Whether a cell takes minutes."""
    is_small: bool = False
    """Whether what is given is made quicker in one process than on Ray."""

    def read(self) -> tuple[Sweep, list[Cell]]:
        sweep = grid.read(self.sweep, [])
        return sweep, grid.cells(sweep)


FULL = (
    Part("miniature", HERE / "miniature.yaml", baseline_cells=8, bare_cells=2, controls=2),
    Part("real_text", HERE / "real_text.yaml", baseline_cells=6, bare_cells=1, controls=0, is_long=True),
)


def full(folder: Path, source: Path) -> list[Part]:
    """The parts of `make bench`; that on real text reads the longest of the pairs in `source`, and is left out without them."""
    if not source.exists():
        print(f"bench: no real pairs at {source}: the part on real text is left out; give their path with --pairs", flush=True)
        return list(FULL[:1])
    write_longest(source, folder)
    beside = folder / "real_text.yaml"
    shutil.copyfile(FULL[1].sweep, beside)
    return [FULL[0], replace(FULL[1], sweep=beside)]


def smoke(folder: Path) -> list[Part]:
    """Both parts so small that all of them runs in two minutes; of tiny models, judged by a tiny reward model."""
    found = []
    for name, references, betas in (("miniature", 2, [5.0, 0.1]), ("real_text", 1, [0.1])):
        at = sweeps.write(folder / f"{name}-sweep", count=40)
        document = sweeps.document(tuple(betas))
        document |= {"name": f"bench_{name}", "wandb": {"enabled": False}}
        larger = {**copy.deepcopy(document["policies"]["small"]), "hidden": 24}
        document["references"] = dict(list({"self": {"kind": "policy"}, "larger-same": larger}.items())[:references])
        document["data"] |= {"validation_pairs": 0}  # a table over them would be another pass
        document["train"] |= {"batch_pairs": 2, "learning_rate": 1e-4}  # more steps than TRL's default logs after
        document["axes"] = {"beta": betas, "reference": list(document["references"]), "seed": [0]}
        at.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        first = name == "miniature"
        found.append(Part(name, at, baseline_cells=len(betas), bare_cells=int(first), controls=int(first), is_small=True))
    return found


def spread(cells: Sequence[Cell], count: int) -> list[Cell]:
    """`count` cells at even distances in the order of the grid: of every reference, over the whole range of beta."""
    count = min(count, len(cells))
    return [cells[len(cells) * number // count] for number in range(count)]


def job(cell: Cell, store: Store, out: Path, *, precompute: bool, bf16: bool | None = None) -> dict[str, Any]:
    """What `baseline` needs to run the cell. bf16 None: TRL's default."""
    pairs, train = _pairs(cell), cell.dpo.train
    return {
        "cell_id": cell.id,
        "policy": _checkpoint(cell.dpo.start, store),
        "reference": _checkpoint(cell.dpo.table.scorer, store),
        "lora": asdict(train.lora) if train.lora else None,
        "pairs": str(store.path(pairs.pairs) / PAIRS),
        "prompts": str(store.path(cell.completions.prompts) / PROMPTS),
        "baseline_answers": str(store.path(cell.verdicts.baseline) / COMPLETIONS),
        "judge": _judge(cell, store),
        "beta": cell.beta,
        "seed": cell.seed,
        "epochs": train.epochs,
        "batch_pairs": train.batch_size,
        "learning_rate": train.learning_rate,
        "schedule": train.schedule,
        "warmup_share": train.warmup_share,
        "clip": train.clip,
        "weight_decay": train.weight_decay,
        "max_length": pairs.max_length,
        "max_new_tokens": cell.completions.sampling.max_new_tokens,
        "temperature": cell.completions.sampling.temperature,
        "precompute": precompute,
        "bf16": bf16,
        "out": str(out),
    }


def _pairs(cell: Cell) -> recipes.TokenPairs:
    texts = cell.dpo.table.texts
    assert isinstance(texts, recipes.TokenPairs)
    return texts


def _checkpoint(model: Any, store: Store) -> str:
    return checkpoints.checkpoint(model, store).path_or_name


def _judge(cell: Cell, store: Store) -> dict[str, Any]:
    match cell.verdicts.judge:
        case recipes.GoldJudge() as judge:
            return {"kind": "gold", "world": judge.world}
        case recipes.RewardJudge() as judge:
            return {"kind": "reward_model", "model": str(store.path(judge.model)), "max_length": judge.max_length}
        case judge:
            raise AssertionError(f"no baseline judges with {judge}")


def write_longest(source: Path, folder: Path, count: int = LONGEST) -> Path:
    """longest.jsonl in `folder`: the `count` rows of a JSONL file with the most characters, in the file's order."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    longest = sorted(range(len(lines)), key=lambda row: -_characters(lines[row]))[:count]
    at = folder / "longest.jsonl"
    at.write_text("".join(lines[row] for row in sorted(longest)), encoding="utf-8")
    return at


def write_tiny_pairs(folder: Path, count: int) -> None:
    """longest.jsonl of made-up rows, for trying a path."""
    lines = [json.dumps(row) for row in sweeps.pairs(count)]
    (folder / "longest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _characters(line: str) -> int:
    row = json.loads(line)
    return len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"]))


def environment(**more: str) -> dict[str, str]:
    """Of every process that is timed: this code, one thread for each of two processes, nothing from the hub."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, **threads, **quiet, "PYTHONPATH": str(ROOT), **more}


def worker_environment() -> dict[str, str]:
    """What a worker of a run has around it, for work that is compared with a worker's."""
    from refstudy import session, spec

    return session.environment(spec.Resources())


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(command: Sequence[str], log: Path, **more: str) -> None:
    """Runs a command to its end; RuntimeError with the end of its output where it fails."""
    with open(log, "w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment(**more), cwd=ROOT).returncode
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}")


def copy_store(source: Path, target: Path) -> Store:
    """A store with the same artefacts, by hard links: what a run adds to it is not in the other."""
    shutil.copytree(source, target, copy_function=os.link)
    return Store(target)
