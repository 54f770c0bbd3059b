"""LoRA cells on one frozen base, one after another and together: `python -m tests.bench.grouped SWEEP --store STORE --out FILE`.

Cells that differ in beta alone train on the same pairs against the same base, each with an adapter of its own. Timed is forward and
backward of one step of all of them, without the optimizer: a pass for each cell, as trials do now, or one pass over as many copies
of the line as there are cells, a copy an adapter; by peft's `adapter_names`, and by products of stacked adapters.

Invariant: every adapter gets the gradient that it gets alone. That is checked in fp32, whatever the step is timed in.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction

from refstudy import grid, line_attention, models, shelf
from refstudy.grid import Cell
from refstudy.line import Layout
from refstudy.recipes import Lora
from refstudy.store import Store
from refstudy.training import settings
from tests.bench import steps
from tests.bench.steps import Step

TOLERANCE = 1e-4
"""Largest difference of a gradient in fp32, by the largest one of its adapter. Another last bit in the weights of half a billion
parameters changes gradients by 6e-6 of that; a kernel that adds in another order errs by a few such roundings, a wrong adapter or
beta by tenths."""
CHECKED_PAIRS = 2
TILE = 32_768
"""Words of the vocabulary whose logits are in memory at a time: TRL's own."""
SPREAD = 0.02
"""Standard deviation of the adapters' second factors, which peft sets to zero: then all adapters would be the same function."""

Computing = Callable[[PeftModel, list[str]], AbstractContextManager[Any]]
"""While it lasts, row k of a batch is computed with the k-th of the adapters."""


@dataclass(frozen=True)
class Group:
    """Cells on one base."""

    policy: PeftModel
    """In eval mode: peft mixes adapters in no other, and without dropout both modes are the same."""
    betas: dict[str, float]
    """By the name of the cell's adapter."""
    precision: str


@dataclass(frozen=True)
class Part:
    """A micro batch of B pairs on the device: a line of N tokens, A of them answers'."""

    inputs: dict[str, Any]
    before: torch.Tensor
    """(A,) the places in the line before each token of an answer."""
    targets: torch.Tensor
    """(A,) the tokens that stand there."""
    answers: torch.Tensor
    """(A,) which of the 2 B answers each belongs to; chosen ones are even."""
    reference: torch.Tensor
    """(B,) nats."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.grouped", description="LoRA cells on one frozen base")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="with models, tokens and reference tables")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--together", type=int, default=3, help="cells that train on one base")
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    cells = grid.cells(grid.read(given.sweep, []))
    given.out.write_text(json.dumps(measured(cells, Store(given.store), given.together, given.turns), indent=1) + "\n")


def measured(cells: Sequence[Cell], store: Store, together: int, turns: int) -> dict[str, Any]:
    """Seconds of a step of `together` cells each way, and whether each way gives the gradients of the first one.

    Betas are the sweep's, from the first on again where it has fewer than that.
    """
    betas = list(islice(cycle(dict.fromkeys(cell.beta for cell in cells)), together))
    step, group = steps.first(cells[0], store), adapted(cells[0], store, betas)
    return {
        "cells": together,
        "betas": betas,
        "pairs": len(step.pairs),
        "tokens": len(steps.line(step.pairs).ids),
        "precision": group.precision,
        "turns": turns,
        "tolerance": TOLERANCE,
        "ways": steps.compared({name: partial(prepared, group, way, step) for name, way in WAYS.items()}, turns),
    }


def adapted(cell: Cell, store: Store, betas: Sequence[float]) -> Group:
    """The cell's base with an adapter for each beta; ValueError where the cell trains no LoRA, or one with dropout."""
    train = cell.dpo.train
    if train.lora is None or train.lora.dropout:
        raise ValueError(f"{cell.label}: expected a LoRA without dropout: peft mixes adapters in eval mode alone")
    torch.manual_seed(cell.seed)
    return group_of(shelf.load_policy(cell.dpo.start, store).model, train.lora, betas, train.precision)


def group_of(base: PreTrainedModel, lora: Lora, betas: Sequence[float], precision: str) -> Group:
    """Adapters on the base (changed in place), drawn from torch's global generator: no two compute the same."""
    names, adapter = [f"cell_{number}" for number in range(len(betas))], settings.lora(lora)
    policy = get_peft_model(base, adapter, adapter_name=names[0])
    for name in names[1:]:
        policy.add_adapter(name, adapter)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=SPREAD)
    return Group(policy.eval(), dict(zip(names, betas, strict=True)), precision)


def prepared(group: Group, way: Callable[..., float], step: Step) -> tuple[dict[str, Any], Callable[[], float]]:
    """(what is known of a way before it is timed, a step by it as seconds); the way is warm."""
    few = parts_of(Step(step.pairs[:CHECKED_PAIRS], step.reference[:CHECKED_PAIRS]), CHECKED_PAIRS)
    in_fp32, in_step = (difference(each, way, few) for each in (replace(group, precision="fp32"), group))
    at_once = fitting(group, way, step)
    found = {"pairs_at_once": at_once, "peak_gb": steps.peak_gb(), "difference": in_fp32, "difference_in_step": in_step}
    return found | {"equal": in_fp32 <= TOLERANCE}, partial(way, group, parts_of(step, at_once))


def difference(group: Group, way: Callable[..., float], parts: Sequence[Part]) -> float:
    """The largest difference of a gradient from that of its cell alone, by the largest gradient of its adapter."""
    expected, found = (gradients(group, each, parts) for each in (one_after_another, way))
    return float(torch.tensor([steps.difference(found[name], expected[name]) for name in group.betas]).max())


def gradients(group: Group, way: Callable[..., float], parts: Sequence[Part]) -> dict[str, list[torch.Tensor]]:
    """Gradients of each adapter after a step; none is left on it."""
    way(group, parts)
    weights = list(group.policy.named_parameters())
    found = {name: [weight.grad for at, weight in weights if f".{name}." in at] for name in group.betas}
    group.policy.zero_grad()
    return found


def fitting(group: Group, way: Callable[..., float], step: Step) -> int:
    """How many pairs at once fit into the device's memory: the whole step, or half as many as often as needed."""
    at_once = len(step.pairs)
    while True:
        steps.forget_peak()
        try:
            way(group, parts_of(step, at_once))
            return at_once
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
        at_once = math.ceil(at_once / 2)


def parts_of(step: Step, at_once: int) -> list[Part]:
    """The step's micro batches on the device."""
    return [part_of(each, torch.device(models.best_device())) for each in step.cut(at_once)]


def part_of(step: Step, device: torch.device) -> Part:
    """The pairs as one line, with what the loss needs of it."""
    line = steps.line(step.pairs)
    answers = [ids for pair in step.pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    before = torch.cat([row[-len(ids) - 1 : -1] for row, ids in zip(line.rows, answers, strict=True)])
    counts = torch.tensor([len(ids) for ids in answers])
    return Part(
        line.inputs(device),
        before.to(device),
        torch.tensor([token for ids in answers for token in ids], device=device),
        torch.arange(len(answers)).repeat_interleave(counts).to(device),
        torch.tensor(step.reference, device=device),
    )


# The ways ---------------------------------------------------------------------------------------------------------------------


def one_after_another(group: Group, parts: Sequence[Part]) -> float:
    """Seconds of the cells' passes, each waited for, as a trial waits for its gradients' norm.

    Changing the adapter is not timed, for no trial does that.
    """
    group.policy.zero_grad()
    spent_s = 0.0
    for name in group.betas:
        group.policy.set_adapter(name)
        spent_s += steps.seconds(partial(passed, group, parts, [name]))
    return spent_s


def in_one_pass(group: Group, parts: Sequence[Part], computing: Computing) -> float:
    """Seconds of one pass for all cells."""
    names = list(group.betas)
    group.policy.zero_grad()
    group.policy.base_model.set_adapter(names)  # all of them are to have gradients

    def work() -> None:
        with computing(group.policy, names):
            passed(group, parts, names)

    return steps.seconds(work)


def by_names(policy: PeftModel, names: list[str]) -> AbstractContextManager[Any]:
    """peft's own, as `adapter_names` of a forward pass does it: each layer picks each adapter's rows, and adds to them in place."""
    return policy._enable_peft_forward_hooks(adapter_names=names)


@contextmanager
def by_stacks(policy: PeftModel, names: list[str]) -> Iterator[None]:
    """Each layer multiplies all rows by all adapters in two products, without copies of rows."""
    layers = [each for each in policy.modules() if isinstance(each, LoraLayer)]
    for layer in layers:
        layer.forward = partial(_stacked, layer, names)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward")


def _stacked(layer: Any, names: list[str], rows: torch.Tensor) -> torch.Tensor:
    """(K, N, out) of rows (K, N, in)."""
    down = torch.stack([layer.lora_A[name].weight for name in names])
    up = torch.stack([layer.lora_B[name].weight * layer.scaling[name] for name in names])
    return layer.base_layer(rows) + torch.bmm(torch.bmm(rows, down.mT), up.mT)


WAYS: dict[str, Callable[..., float]] = {
    "one_after_another": one_after_another,
    "adapter_names": partial(in_one_pass, computing=by_names),
    "stacked": partial(in_one_pass, computing=by_stacks),
}
"""What trials do now comes first: the others are held against it."""


def passed(group: Group, parts: Sequence[Part], names: Sequence[str]) -> None:
    """Adds the gradients of the sum of the named cells' losses (Rafailov et al., arXiv 2305.18290, equation 7)."""
    pairs = sum(len(part.reference) for part in parts)
    with line_attention.attending(group.policy.get_base_model()):
        for part in parts:
            betas = torch.tensor([group.betas[name] for name in names], device=part.reference.device)
            with torch.autocast(part.reference.device.type, torch.bfloat16, enabled=group.precision == "bf16"):
                margins = margins_of(group.policy, part, len(names))
            (-logsigmoid(betas[:, None] * margins).sum() / pairs).backward()


def margins_of(policy: PeftModel, part: Part, copies: int) -> torch.Tensor:
    """(K, B) nats by which each copy's policy prefers the chosen answers more than the reference does.

    Copies are computed family by family also where families are short: side by side they are laid for one line alone.
    """
    inputs, base = dict(part.inputs), policy.get_base_model()
    if copies > 1:
        inputs |= {name: inputs[name].expand(copies, -1) for name in ("input_ids", "position_ids")}
        inputs |= {"line": Layout(inputs["line"].families, None)}
    hidden = base.base_model(**inputs, use_cache=False).last_hidden_state[:, part.before].flatten(0, 1)
    head = base.get_output_embeddings()
    # the head that training has: logits in tiles, computed once more on the way back
    logps = ChunkedLogProbFunction.apply(hidden, head.weight, head.bias, part.targets.repeat(copies), 1.0, TILE, None, 1.0, ())[0]
    sums = torch.zeros(copies, 2 * len(part.reference), dtype=torch.float64, device=hidden.device)
    sums = sums.index_add(1, part.answers, logps.double().unflatten(0, (copies, -1)))
    return sums[:, ::2] - sums[:, 1::2] - part.reference


# In words ---------------------------------------------------------------------------------------------------------------------


def words(found: dict[str, Any]) -> str:
    """Rows for the bench's table."""
    if "error" in found:
        return f"LoRA cells together: {found['error']}"
    cells = f"{found['cells']} LoRA cells"
    lines = [steps.row(f"{cells}, {name} (s a step)", way, "seconds", "{:.4f}") for name, way in found["ways"].items()]
    lines += [steps.row(f"  gain of {name}", found["ways"][name], "gain", "{:.2f}") for name in list(WAYS)[1:]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
