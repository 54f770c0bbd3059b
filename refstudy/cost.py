"""What a run would make, and about what it would cost, before it is paid for.

Invariant: an upper bound or an honest blank. A quantity that cannot be known before something is made is None, never a guess.
"""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from refstudy import judging_cost, plan, recipes, records, results
from refstudy.errors import ModelError
from refstudy.grid import Cell, Sweep, label
from refstudy.identity import fingerprint, kind
from refstudy.recipes.along import LOOKS
from refstudy.results import Results
from refstudy.store import Store

TRAINING_FLOPS = {False: 6, True: 4}
"""Floating-point operations a parameter and token: forward 2, backward 4; with LoRA (True) no gradient of the frozen weights."""
FREE = (recipes.Constant, recipes.Column, recipes.Server, recipes.Mixture, recipes.Derived)
"""Scorers whose tables cost this machine no pass of a model."""
CELLS_SHOWN = 60
NAMES_SHOWN = 3

ANSWER_BYTES_PER_TOKEN = 12
"""Bytes of completions.jsonl for one token: its id and its text."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Counts of cells and artefacts, and upper bounds of compute, disk and money; None where nothing is known yet."""

    name: str
    cells: int
    done: int
    failed: int
    """Cells whose record says so; a run leaves them alone unless told to --retry-failed."""
    to_train: int
    to_judge: int
    """Cells that train nothing: they need answers of a kept policy, verdicts, measures or only a record."""
    retrained_for: dict[str, int]
    """By evaluation set: cells whose policy was not kept and is trained again for nothing but their answers to it."""
    sets_missing: dict[str, dict[str, int]]
    """By evaluation set that lacks something: cells that still answer it, beside the sweep's own prompts, and that are still judged
    on it."""
    not_kept: int
    """Finished cells whose policy the sweep wants kept by now, and the store does not have."""
    artefacts_made: dict[str, int]
    artefacts_missing: dict[str, int]
    tables_missing: list[str]
    """References whose tables are to be made."""
    petaflops: float | None
    """1e15 floating-point operations: training and reference tables at full max_length, answers at full max_new_tokens."""
    device_hours: float | None
    seconds_per_cell: float | None
    """Median duration of the cells already finished below this results root."""
    disk_gb: float | None
    price: float | None
    judging: list[judging_cost.Bill]
    """What each judge is asked for the cells that are not finished."""
    unknown: list[str]
    """What compute or disk cannot be reckoned without, in words."""
    cells_listed: list[dict[str, Any]]
    """Every cell: cell_id, policy, reference, beta, seed, settings, and its status in this folder."""
    warnings: list[str] = field(default_factory=list)
    """What finds no room on the machines in view, by `room`."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        unknown = "unknown without " + _first(self.unknown)
        made, lacking = _counted(self.artefacts_made), _counted(self.artefacts_missing)
        compute = (
            unknown
            if self.petaflops is None
            else f"{self.petaflops:,.3g} PFLOP, {self.device_hours:,.3g} device-hours at most for training, answers and reference "
            "tables; models made here and what is scored after the cells come on top"
        )
        lines = [
            f"{self.name}: {self.cells} cells, {self.done} done, {self.failed} failed, "
            f"{self.to_train} to train, {self.to_judge} to judge or record",
            f"shared artefacts made:    {made or 'none'}",
            f"shared artefacts to make: {lacking or 'none'}",
            f"reference tables to make: {', '.join(self.tables_missing) or 'none'}",
            f"compute: {compute}",
            f"disk:    {'unknown too' if self.disk_gb is None else f'{self.disk_gb:,.3g} GB at most of answers, kept policies'}",
        ]
        lines += [each.line for each in self.judging]
        lines += self._set_lines()
        if self.failed:
            lines.append(f"{self.failed} failed cells would run only with --retry-failed")
        if self.not_kept:
            lines.append(
                f"{self.not_kept} finished cells have no kept policy; `refstudy trial SWEEP --cell ID --again` trains one again"
            )
        if self.seconds_per_cell is not None:
            lines.append(f"finished cells took {self.seconds_per_cell:.1f} s each (median)")
        if self.price is not None:
            lines.append(f"price:   {self.price:,.2f}")
        lines += [f"warning: {each}" for each in self.warnings]
        return "\n".join([*lines, *self._cell_lines()])

    def _set_lines(self) -> list[str]:
        return [
            f"evaluation set {name}: cells to answer it {counts['to_answer']}, to judge {counts['to_judge']}{self._again(name)}"
            for name, counts in self.sets_missing.items()
        ]

    def _again(self, name: str) -> str:
        if not self.retrained_for.get(name):
            return ""
        return (
            f", to train again for their answers to it alone {self.retrained_for[name]}: their policies were not kept "
            "(keep: none); with keep: full, or adapter, a later set trains nothing"
        )

    def _cell_lines(self) -> list[str]:
        names = ("policy", "reference", "beta", "seed", "settings")
        lines = [f"{each['cell_id']}  {label(*(each[name] for name in names))}  {each['status']}" for each in self.cells_listed]
        more = len(lines) - CELLS_SHOWN
        return lines if more <= 0 else [*lines[:CELLS_SHOWN], f"... and {more} more cells: see --json"]


def estimate(sweep: Sweep, cells: list[Cell], at: Results) -> Estimate:
    """What a run would make for `cells`, with its cost."""
    pending = results.pending(at, cells, again=False)
    states = _states(cells, pending, at)
    training = [cell for cell in pending if plan.trains(cell, at.store)]
    lacking = plan.shared(pending, at.store)
    tables = {fingerprint(each) for each in lacking if isinstance(each, recipes.Table)}
    flops = _total(_flops(cell, at.store) for cell in pending)
    reference_flops = _total(_table_flops(each, at.store) for each in lacking if isinstance(each, recipes.Table))
    work = None if flops is None or reference_flops is None else flops + reference_flops
    price = sweep.spec.price
    hours = None if work is None else work / (price.device_tflops * 1e12 * price.utilisation) / 3600
    return Estimate(
        name=sweep.name,
        cells=len(cells),
        done=sum(state == "done" for state in states.values()),
        failed=sum(state == "failed" for state in states.values()),
        to_train=len(training),
        to_judge=len(pending) - len(training),
        retrained_for=dict(Counter(name for cell in training for name in plan.retrained_for(cell, at.store))),
        sets_missing=_sets_missing(pending, at.store),
        not_kept=sum(_lacks_policy(cell, at.store) for cell in cells if states[cell.id] == "done"),
        artefacts_made=_made(cells, at.store),
        artefacts_missing=dict(Counter(kind(each) for each in lacking)),
        tables_missing=sorted({cell.reference for cell in pending if fingerprint(cell.dpo.table) in tables}),
        petaflops=None if work is None else work / 1e15,
        device_hours=hours,
        seconds_per_cell=_median_duration(at),
        disk_gb=_disk_gb(pending, at.store),
        price=price.device_hour * hours if hours is not None and price.device_hour else None,
        judging=judging_cost.bills(pending, lambda cell: _looks_along(cell, at.store), at.store),
        unknown=_unknown(pending, [each for each in lacking if isinstance(each, recipes.Table)], at.store),
        cells_listed=[{**cell.row, "status": states[cell.id]} for cell in cells],
    )


def parameters(model: recipes.Model, store: Store) -> int | None:
    """Parameters of a model, from its configuration where it is on this machine, else from a size in its name (7B, 135M)."""
    match model:
        case recipes.Sft() | recipes.Dpo():
            return parameters(model.start, store)
        case recipes.Adapter():
            return parameters(model.base, store)
        case recipes.Rounded():
            return parameters(model.model, store)
        case recipes.Local():
            return _counted_in(Path(model.path))
        case recipes.Pretrained() | recipes.Scratch():
            return _counted_in(store.path(model)) if store.has(model) else None
        case recipes.Hub():
            size = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z])", model.model)
            return round(float(size[1]) * (1e9 if size[2] in "Bb" else 1e6)) if size else None


def _counted_in(folder: Path) -> int | None:
    """Parameters by the headers of the safetensors files in a checkpoint's folder."""
    total = 0
    for file in folder.glob("*.safetensors"):
        total += sum(math.prod(shape) for shape in _shapes(file))
    return total or None


def _shapes(file: Path) -> list[list[int]]:
    """The tensors' shapes by the header of a safetensors file: 8 bytes of its length, then JSON."""
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        return [[int(each) for each in tensor["shape"]] for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(
            f"{file} is no safetensors file: its header is torn, or it is a pointer of git-lfs; expected the weights themselves: "
            "copy or download it again (`git lfs pull`)"
        ) from None


def _flops(cell: Cell, store: Store) -> float | None:
    """Training of one cell with what is looked at along it, unless its policy is kept or not asked for, and answers it lacks."""
    texts = _token_pairs(cell.dpo.table)
    size, pairs, drawn = parameters(cell.dpo.start, store), _pair_count(texts, store), _drawn_tokens(cell, store)
    trains = plan.trains(cell, store)
    if not trains and drawn == 0:
        return 0.0
    if size is None or drawn is None or (trains and pairs is None):
        return None
    tokens = 2 * pairs * cell.dpo.train.epochs * texts.max_length if trains and pairs is not None else 0.0
    looked_at = _looked_at(cell, pairs) if trains and pairs is not None else 0.0
    return TRAINING_FLOPS[cell.dpo.train.lora is not None] * size * tokens + 2 * size * (drawn + looked_at)


def _looked_at(cell: Cell, pairs: int) -> float:
    """Tokens that pass a model forward in the looks along a training: answers drawn, and read by policy and start for their KL;
    validation pairs where they choose the checkpoint."""
    steps, tokens = _steps(cell, pairs), 0.0
    if cell.along is not None:
        prompts = cell.along.baseline.prompts.count or 0  # of a source without a count: not known before it is read
        tokens += _looks(steps, cell.along.every) * 3 * prompts * cell.along.sampling.max_new_tokens
    if cell.dpo.checkpoint == "lowest_validation_loss" and cell.dpo.validation is not None:
        held_out = _token_pairs(cell.dpo.validation)
        count = held_out.pairs.validation if isinstance(held_out.pairs, recipes.Preferences) else held_out.pairs.count
        tokens += _looks(steps, cell.dpo.checkpoint_every) * 2 * count * held_out.max_length
    return tokens


def _looks_along(cell: Cell, store: Store) -> int | None:
    """How often a cell's policy is judged along its training; None where its pairs were not read yet."""
    pairs = _pair_count(_token_pairs(cell.dpo.table), store)
    return None if cell.along is None or pairs is None else _looks(_steps(cell, pairs), cell.along.every)


def _steps(cell: Cell, pairs: int) -> int:
    train = cell.dpo.train
    return math.ceil(math.ceil(pairs / train.batch_size) * train.epochs)


def _looks(steps: int, every: int) -> int:
    """How often a training of so many steps is looked at: every so many of them, and at the last."""
    return math.ceil(steps / (every or max(1, math.ceil(steps / LOOKS))))


def _drawn_tokens(cell: Cell, store: Store) -> int | None:
    """Tokens of all answers that the cell's policy still has to give, at most; None where a set of prompts was not read yet."""
    total = 0
    for each in cell.answers:
        answers = 0 if store.has(each) else _answer_count(each.prompts, store)
        if answers is None:
            return None
        total += answers * each.sampling.max_new_tokens
    return total


def _table_flops(table: recipes.Table, store: Store) -> float | None:
    """One pass of the scorer over both answers of each pair."""
    if isinstance(table.scorer, FREE) or isinstance(table.texts, recipes.Selection):
        return 0.0
    texts = _token_pairs(table)
    size, pairs = parameters(_loaded(table), store), _pair_count(texts, store)
    return None if size is None or pairs is None else 2.0 * size * 2 * pairs * texts.max_length


def _loaded(table: recipes.Table) -> recipes.Model:
    """The model whose pass makes the table."""
    model = table.scorer.model if isinstance(table.scorer, recipes.Prior) else table.scorer
    assert isinstance(model, recipes.Model)
    return model


def _token_pairs(table: recipes.Table) -> recipes.TokenPairs:
    """The pairs that a table is about; of a selection all that it selects from, which bounds it from above."""
    texts = table.texts.pairs if isinstance(table.texts, recipes.Selection) else table.texts
    assert isinstance(texts, recipes.TokenPairs)
    return texts


def _pair_count(texts: recipes.TokenPairs, store: Store) -> int | None:
    if isinstance(texts.pairs, recipes.MiniaturePairs):
        return texts.pairs.count
    if store.has(texts.pairs):
        return _lines(store.path(texts.pairs) / "pairs.jsonl")
    return texts.pairs.validation if texts.pairs.part == "validation" else texts.pairs.limit


def _prompt_count(prompts: recipes.AnyPrompts, store: Store) -> int | None:
    if store.has(prompts):
        return _lines(store.path(prompts) / "prompts.jsonl")
    known = judging_cost.known_prompts(prompts, store)
    return prompts.count if known is None else len(known)


def _answer_count(prompts: recipes.AnyPrompts, store: Store) -> int | None:
    """Answers to a set of prompts, one to each turn; of a set that must be downloaded first one to each prompt."""
    known = judging_cost.known_prompts(prompts, store) if isinstance(prompts, recipes.Prompts) else None
    return _prompt_count(prompts, store) if known is None else sum(1 + len(each.turns) for each in known)


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _unknown(pending: list[Cell], tables: list[recipes.Table], store: Store) -> list[str]:
    """The sizes and counts that are not known yet, each once."""
    training = [cell for cell in pending if plan.trains(cell, store)]
    answering = [cell for cell in pending if _drawn_tokens(cell, store) != 0]
    passes = [each for each in tables if not isinstance(each.scorer, FREE) and not isinstance(each.texts, recipes.Selection)]
    models = [*(cell.dpo.start for cell in (*training, *answering)), *(_loaded(each) for each in passes)]
    pairs = [_token_pairs(each) for each in (*(cell.dpo.table for cell in training), *passes)]
    prompts = [each.prompts for cell in pending for each in cell.answers if not store.has(each)]
    found = [f"the parameters of {plan.title(each)}" for each in models if parameters(each, store) is None]
    found += [f"the pairs of {_dataset(each.pairs)}, not read yet" for each in pairs if _pair_count(each, store) is None]
    found += [f"the prompts of {_dataset(each)}, not read yet" for each in prompts if _prompt_count(each, store) is None]
    return list(dict.fromkeys(found))


def _dataset(texts: recipes.Preferences | recipes.MiniaturePairs | recipes.AnyPrompts) -> str:
    match texts:
        case recipes.Preferences() | recipes.Prompts():
            source = texts.source
            return source.path or source.dataset if isinstance(source, recipes.HubData) else source.path
        case recipes.HeldOutPrompts():
            return _dataset(texts.pairs)
        case recipes.OtherPrompts():
            return _dataset(texts.of)
        case _:
            return f"world {texts.world}"


def _disk_gb(pending: list[Cell], store: Store) -> float | None:
    """Answers that are still to be given, and kept policies of the cells to train; None if a kept policy's size is unknown."""
    total = 0.0
    for cell in pending:
        drawn = _drawn_tokens(cell, store)
        if drawn is None:
            return None
        total += drawn * ANSWER_BYTES_PER_TOKEN
        if cell.keep == "full" and plan.trains(cell, store):
            size = parameters(cell.dpo.start, store)
            if size is None:
                return None
            total += 4 * size
    return total / 1e9


def _sets_missing(pending: list[Cell], store: Store) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for cell in pending:
        for each in cell.evaluations:
            own = each.completions == cell.completions
            lacks = {"to_answer": not own and not store.has(each.completions), "to_judge": not store.has(each.verdicts)}
            counts = found.setdefault(each.name, dict.fromkeys(lacks, 0))
            found[each.name] = {name: counts[name] + lacks[name] for name in lacks}
    return {name: counts for name, counts in found.items() if any(counts.values())}


def _states(cells: list[Cell], pending: list[Cell], at: Results) -> dict[str, str]:
    """Each cell's status by id; one that ended and would run again by the same command is planned."""
    known = {record["cell_id"]: record["status"] for record in records.read_records(at.folder)}
    again = {cell.id for cell in pending if known.get(cell.id) in ("done", "failed")}
    return {cell.id: "planned" if cell.id in again else known.get(cell.id, "planned") for cell in cells}


def _lacks_policy(cell: Cell, store: Store) -> bool:
    return cell.keep != "none" and not store.has(cell.dpo)


def _median_duration(at: Results) -> float | None:
    seconds = [
        record["duration_s"]
        for record in records.read_records(at.folder)
        if record["status"] == "done" and record["duration_s"] and record["phases_s"].get("train", 0) > 1
    ]
    return statistics.median(seconds) if seconds else None


def _made(cells: Iterable[Cell], store: Store) -> dict[str, int]:
    goals = [goal for cell in cells for goal in plan.cell_goals(cell)]
    own = {fingerprint(each) for cell in cells for each in (*plan.cell_goals(cell), cell.dpo)}
    shared = [each for each in recipes.closure(goals) if fingerprint(each) not in own and not isinstance(each, plan.GIVEN)]
    return dict(Counter(kind(each) for each in shared if store.has(each)))


def _total(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _first(names: list[str]) -> str:
    """The names; of many their number and the first three."""
    if len(names) <= NAMES_SHOWN:
        return "; ".join(names)
    return f"{len(names)} quantities ({'; '.join(names[:NAMES_SHOWN])}; and {len(names) - NAMES_SHOWN} more: see --json)"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
