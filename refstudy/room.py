"""Whether a sweep finds room: what it asks of machines beside what they have, and what its models take beside their memory.

Invariant: estimates and warnings, never refusals: a cluster may grow, and what is not known warns of nothing. No torch and no
Ray here.
"""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy import cost, demand, memory, plan, recipes, results, spec
from refstudy.errors import ModelError
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.memory import Shape, gb
from refstudy.recipes import Recipe
from refstudy.results import Results
from refstudy.store import Store

HERE = "this machine"
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
ASKING_S = 10.0
"""How long the driver's tool is waited for that tells a GPU's memory."""
NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
}
"""What architectures call the same in their config.json."""


@dataclass(frozen=True)
class Node:
    """A machine: what it sets aside for tasks, by Ray's names (CPU, GPU, custom ones), and its memory where that is known."""

    has: Mapping[str, float]
    memory_bytes: int | None = None
    """Of the machine, for tasks."""
    gpu_bytes: int | None = None
    """Of its smallest GPU."""


def here() -> list[Node]:
    """This machine, as a Ray of its own would find it; GPUs by NVIDIA's driver."""
    gpus = _gpu_bytes()
    return [Node({"CPU": os.cpu_count() or 1, "GPU": len(gpus)}, _memory_bytes(), min(gpus, default=None))]


def lacking(sweep: Sweep, cells: list[Cell], at: Results, nodes: Sequence[Node], where: str = HERE) -> list[str]:
    """`warnings` about all that a run would make for the cells."""
    pending = results.pending(at, cells, again=False)
    return warnings(sweep, pending, plan.shared(pending, at.store), at.store, nodes, where)


def warnings(
    sweep: Sweep, cells: Sequence[Cell], shared: Sequence[Recipe], store: Store, nodes: Sequence[Node], where: str = HERE
) -> list[str]:
    """What of the cells' work these machines cannot place, and what its models may find no memory for; each a line.

    `cells` are those to run, `shared` what is made before them; without cells nothing is said.
    """
    if not cells:
        return []
    found = [_not_installed(cells)]
    found += [_unplaced(name, resources, nodes, where) for name, resources in demand.asked(sweep, cells).items()]
    found += [_crowded(each, nodes, where) for each in _loads(sweep, cells, shared, store)]
    return list(dict.fromkeys(each for each in found if each is not None))


def shape(model: recipes.Model, store: Store) -> Shape | None:
    """The model's size by its config.json and weights' headers; None where these are not on this machine, or it lacks a size."""
    count, config = _count(model, store), _config(model, store)
    sizes = {name: _size(config, called) for name, called in NAMES.items()}
    hidden, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    if count is None or hidden is None or layers is None:
        return None
    return Shape(count, hidden, layers, sizes["intermediate_size"] or 4 * hidden, config.get("vocab_size", 0), None)


def _count(model: recipes.Model, store: Store) -> int | None:
    """Parameters; None where they are not known, or the weights cannot be read: whoever loads them says so."""
    with contextlib.suppress(ModelError):
        return cost.parameters(model, store)
    return None


def _size(config: Mapping[str, Any], called: Sequence[str]) -> int | None:
    return next((config[each] for each in called if isinstance(config.get(each), int)), None)


def _not_installed(cells: Sequence[Cell]) -> str | None:
    """That a library which the cells name is not on this machine, by which the nodes may be judged."""
    if all(each.resources.sharding != "deepspeed" for each in cells) or importlib.util.find_spec("deepspeed") is not None:
        return None
    return (
        "resources.trial.sharding is deepspeed, and DeepSpeed is not installed on this machine; cells fail on nodes without it: "
        "run `pip install 'refstudy[deepspeed]'` on all nodes, or set sharding: fsdp"
    )


# Places -----------------------------------------------------------------------------------------------------------------------


def places(resources: spec.Resources, node: Node) -> int:
    """How many tasks, or workers of a trial, the machine has room for at once, by what they declare."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.custom}
    room = [_times(node.has.get(name, 0.0), amount) for name, amount in wanted.items() if amount]
    return min(room)


def _times(has: float, amount: float) -> int:
    """How often an amount goes into what is there; a hair more is none, since Ray counts in ten-thousandths."""
    return math.floor(has / amount + 1e-4)


def _unplaced(name: str, resources: spec.Resources, nodes: Sequence[Node], where: str) -> str | None:
    """Why the request is never placed on these machines as they are; None: it can be."""
    room = sum(places(resources, node) for node in nodes)
    if room >= resources.workers:
        return None
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.custom}
    asks = ", ".join(f"{amount:g} {each}" for each, amount in wanted.items() if amount)
    most = ", ".join(f"{max((node.has.get(each, 0.0) for node in nodes), default=0.0):g} {each}" for each in wanted if wanted[each])
    what = f"{resources.workers} workers with {asks} each" if resources.workers > 1 else f"{asks} on one machine"
    has = f"{where} has {most}" if len(nodes) == 1 else f"the largest of {len(nodes)} machines of {where} have {most}"
    has += f", room for {room} of them" if resources.workers > 1 else ""
    do = (
        "lower it, or run on a cluster with --address"
        if where == HERE
        else "lower it, or add such a machine: the run waits for one"
    )
    return f"{name} asks for {what}, and {has}; {do}"


# Memory -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Load:
    """A task that holds models in memory."""

    what: str
    resources: spec.Resources
    least_bytes: int
    """Weights, and in training their gradients and moments: that much it takes for certain, as far as the count is right."""
    most_bytes: int | None
    """With activations; None: not known."""
    at_once: int
    """Tasks of the kind that there are to run."""
    do: str


def _loads(sweep: Sweep, cells: Sequence[Cell], shared: Sequence[Recipe], store: Store) -> Iterator[_Load]:
    training = [cell for cell in cells if plan.trains(cell, store)]
    alike: dict[str, Cell] = {}
    for cell in training:
        of = (cell.policy, fingerprint(cell.dpo.start), cell.dpo.train, _max_length(cell), cell.resources)
        alike.setdefault(repr(of), cell)
    for cell in alike.values():
        yield from _trial(cell, len(training), store)
    known = demand.by_model(sweep, cells)
    for recipe in shared:
        yield from _pass(recipe, demand.of(recipe, known) or sweep.spec.resources.artefact, store)


def _trial(cell: Cell, trials: int, store: Store) -> Iterator[_Load]:
    """A trial: its training, or afterwards policy and start side by side, whose KL is measured."""
    count, sized = _count(cell.dpo.start, store), shape(cell.dpo.start, store)
    if count is None:
        return
    train, workers, sharding = cell.dpo.train, cell.resources.workers, cell.resources.sharding
    lora, max_length = train.lora, _max_length(cell)
    adapter = None if lora is None else (memory.lora_parameters(sized, lora) if sized else 0)
    whole = memory.FP32_BYTES * count
    both, beside = 2 * whole, whole * _models_beside(cell)
    most = None if sized is None else max(both, beside + memory.training_bytes(sized, train, max_length, workers, sharding))
    yield _Load(
        f"a trial of policy {cell.policy}",
        cell.resources,
        max(both, beside + memory.held_bytes(count, adapter, workers, sharding)),
        most,
        trials,
        "give it a larger device, lower train.micro_batch, or set train.checkpointing, train.lora or resources.trial.sharding",
    )


def _models_beside(cell: Cell) -> int:
    """Whole models on the first worker while it trains: the start, for evaluations along training, and the policy gathered for
    these and for validation losses where it lies in parts."""
    evaluates = (cell.dpo.along or cell.along) is not None
    gathers = cell.resources.sharding == "fsdp" and (evaluates or cell.dpo.checkpoint != "last")
    return evaluates + gathers


def _pass(recipe: Recipe, resources: spec.Resources, store: Store) -> Iterator[_Load]:
    """A reference's pass over the pairs: its weights at least."""
    if not isinstance(recipe, recipes.Table) or not demand.is_shared_out(recipe):
        return
    model = demand.loaded(recipe)
    assert isinstance(model, recipes.Model)
    count = _count(model, store)
    spread = resources.gpus if _rounding(model)[1] else 1  # device_map spreads the layers over all GPUs of the task
    if count is not None and spread:
        weights = math.ceil(_rounding(model)[0] * count / max(1.0, spread))
        do = "give its entry a larger device, precision: bf16, quantise, or device_map: auto with more gpus"
        yield _Load(plan.title(recipe), resources, weights, None, resources.shards, do)


def _rounding(model: recipes.Model) -> tuple[float, bool]:
    """(bytes of a weight in memory, whether its layers are spread over the devices)."""
    if isinstance(model, recipes.Rounded):
        return memory.ROUNDED_BYTES[model.quantise or model.precision], _rounding(model.model)[1]
    return memory.FP32_BYTES, getattr(model, "device_map", None) is not None


def _crowded(load: _Load, nodes: Sequence[Node], where: str) -> str | None:
    """Why the task may find no memory on these machines; None: it does on one of them, or nothing is known."""
    known = [_share(load, node) for node in nodes if places(load.resources, node)]
    if not known or any(each is None for each in known):
        return None
    has = max(each for each in known if each is not None)
    needs = load.least_bytes if load.least_bytes > has else load.most_bytes or 0
    if needs <= has:
        return None
    how = "at least" if needs == load.least_bytes else "at most"
    device = "its GPU" if load.resources.gpus else "its share of the machine"
    return (
        f"{load.what} takes {how} {gb(needs):g} GB by estimate, and {device} ({where}) has {gb(has):g} GB: it may end for want of "
        f"memory; {load.do}"
    )


def _share(load: _Load, node: Node) -> int | None:
    """Bytes that a task has on a machine: of a GPU its share, else of the machine's memory, which tasks at once divide evenly."""
    if load.resources.gpus:
        return None if node.gpu_bytes is None else int(node.gpu_bytes * min(1.0, load.resources.gpus))
    if node.memory_bytes is None:
        return None
    return node.memory_bytes // max(1, min(places(load.resources, node), load.at_once * load.resources.workers))


def _max_length(cell: Cell) -> int:
    texts = cell.dpo.table.texts
    texts = texts.pairs if isinstance(texts, recipes.Selection) else texts
    assert isinstance(texts, recipes.TokenPairs)
    return texts.max_length


# What this machine has ---------------------------------------------------------------------------------------------------------


def _config(model: recipes.Model, store: Store) -> Mapping[str, Any]:
    """The config.json of a checkpoint in a folder or in the hub's cache; empty where there is none to read."""
    try:
        folder = _folder(model, store)
        found = json.loads((folder / "config.json").read_bytes()) if folder is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found = found if isinstance(found, dict) else {}
    inner = found.get("text_config")
    return inner if isinstance(inner, dict) else found


def _folder(model: recipes.Model, store: Store) -> Path | None:
    match model:
        case recipes.Local():
            return Path(model.path)
        case recipes.Sft() | recipes.Dpo():
            return _folder(model.start, store)
        case recipes.Adapter():
            return _folder(model.base, store)
        case recipes.Rounded():
            return _folder(model.model, store)
        case recipes.Pretrained() | recipes.Scratch():
            return store.path(model) if store.has(model) else None
        case recipes.Hub():
            return _in_cache(model)


def _in_cache(model: recipes.Hub) -> Path | None:
    """The model's folder in the hub's cache on this machine."""
    import huggingface_hub  # only where a model is on the hub

    found = huggingface_hub.try_to_load_from_cache(model.model, "config.json", revision=model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _memory_bytes() -> int | None:
    """This machine's memory, or as much of it as its container may take."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max": the container has no limit of its own
        found = min(found, int(CGROUP_LIMIT.read_text()))
    return found


def _gpu_bytes() -> list[int]:
    """The memory of each GPU that a Ray started here would use, by nvidia-smi; none where there is none, or no such driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        told = subprocess.run(
            [tool, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=ASKING_S, check=True,
        ).stdout  # fmt: skip
        rows = [[each.strip() for each in line.split(",")] for line in told.splitlines() if line.strip()]
        mib = {name: int(row[2]) for row in rows for name in row[:2]}
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [row[0] for row in rows] if visible is None else [each.strip() for each in visible.split(",")]
    return [mib[each] * 2**20 for each in named if each in mib]
