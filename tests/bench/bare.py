"""One more beta against the same work run bare: `python -m tests.bench.bare SWEEP --store STORE --out FILE`.

In one process, turn by turn: a trial of refstudy (as a warm worker runs it), and plain loops with the same mathematics that train,
generate and judge the same cell. What the loops read is in memory before their clock begins. Two loops are timed, each answer with
its prompt and both answers behind one prompt, and the faster one is what the trial is held against.

Invariant: the loops' last loss equals the trial's. A loop that computes something else is no measure.
"""

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from refstudy import artefacts, generation, grid, make, plan, recipes, results, shelf, tables, token_pairs, trial
from refstudy.grid import Cell
from refstudy.judges import judging
from refstudy.measurement import silent
from refstudy.store import Store
from tests.bench.counting import forget_peak, memory_gb

LOG_STEPS = 10
"""The last loss is the mean over so many steps, as TRL logs it."""
IGNORED = -1


def main() -> None:
    parser = argparse.ArgumentParser(description="one more beta, and the same work run bare")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="with models, pairs, tokens and reference tables")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=2, help="how many cells are run both ways")
    parser.add_argument("--cold", action="store_true", help="without a trial before them to get warm: of long cells")
    given = parser.parse_args()
    gc.collect()
    gc.freeze()  # as on a worker: no collection looks through what was imported
    runtime_gb = memory_gb("VmRSS")
    sweep = grid.read(given.sweep, [])
    at = results.place(sweep, given.store.parent / "one_more_beta", given.store)
    cells = grid.cells(sweep)[: given.cells + (not given.cold)]
    results.begin(at, sweep, cells)
    make.make_all(plan.shared(cells, at.store), at.store)
    if not given.cold:
        timed_trial(cells[0], at)
    rounds = [one_round(cell, at) for cell in cells[-given.cells :]]
    bound = training_memory_gb(cells[0], at.store)
    given.out.write_text(json.dumps({"rounds": rounds, **summary(rounds), "runtime_gb": runtime_gb, **bound}, indent=1))


def one_round(cell: Cell, at: results.Results) -> dict[str, Any]:
    """The cell each way, in an order that depends on its beta's place: no way is always first."""
    ways: list[Any] = [lambda: timed_trial(cell, at), lambda: bare(cell, at.store, False), lambda: bare(cell, at.store, True)]
    names = ["trial", "bare", "bare_shared_prompt"]
    turn = int(cell.id, 16) % 3
    found = {names[index]: ways[index]() for index in (*range(turn, 3), *range(turn))}
    return {"cell": cell.label, **found}


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median ratio of a trial to the faster of the bare ways, and the largest difference of their last losses."""
    ratios = [each["trial"]["whole_s"] / min(each["bare"]["whole_s"], each["bare_shared_prompt"]["whole_s"]) for each in rounds]
    processor = [each["trial"]["cpu_s"] / min(each[way]["cpu_s"] for way in ("bare", "bare_shared_prompt")) for each in rounds]
    away = [abs(each[way]["loss"] - each["trial"]["loss"]) for each in rounds for way in ("bare", "bare_shared_prompt")]
    return {
        "one_more_beta": statistics.median(ratios),
        "one_more_beta_in_processor_time": statistics.median(processor),
        "ratios": ratios,
        "largest_loss_difference": max(away),
    }


def timed_trial(cell: Cell, at: results.Results) -> dict[str, Any]:
    forget_peak()
    begun, used = time.perf_counter(), time.process_time()
    record = trial.run_trial(cell, at.store, at.folder)
    whole_s, cpu_s = time.perf_counter() - begun, time.process_time() - used
    if record["status"] != "done":
        raise RuntimeError(f"{cell.label}: {record.get('error')}")
    log = artefacts.read_log(cell.log, at.store)
    last = log["history"][-1]["loss"]
    peak = memory_gb("VmHWM")
    return {"whole_s": whole_s, "cpu_s": cpu_s, "loss": last, "phases_s": record["phases_s"] | log["phases_s"], "peak_gb": peak}


# The plain loops --------------------------------------------------------------------------------------------------------------


def bare(cell: Cell, store: Store, shared_prompt: bool) -> dict[str, Any]:
    """Wall time in seconds of training, generation and judging, and the last loss."""
    texts, recipe = cell.dpo.table.texts, cell.dpo
    assert isinstance(texts, recipes.TokenPairs)
    pairs = artefacts.read_token_pairs(texts, store)
    reference = reference_margins(artefacts.read_pair_table(recipe.table, store), pairs)
    policy = shelf.load_policy(recipe.start, store)
    prompts = artefacts.read_prompts(cell.completions.prompts, store)
    baseline = artefacts.read_completions(cell.verdicts.baseline, store)
    begun, used = time.perf_counter(), time.process_time()
    losses = train(policy.model, pairs, reference, recipe, shared_prompt)
    trained = time.perf_counter()
    answers = generation.generate(policy.model.eval(), policy.tokenizer, prompts, cell.completions.sampling)
    generated = time.perf_counter()
    judging.judged(cell.verdicts.judge, prompts, answers, baseline, store, silent)
    ended = time.perf_counter()
    steps = len(losses) // LOG_STEPS * LOG_STEPS or len(losses)
    return {
        "whole_s": ended - begun,
        "cpu_s": time.process_time() - used,
        "loss": float(np.mean(losses[max(0, steps - LOG_STEPS) : steps])),
        "phases_s": {"train": trained - begun, "generate": generated - trained, "judge": ended - generated},
    }


def reference_margins(table: tables.PairTable, pairs: Sequence[token_pairs.TokenPair]) -> np.ndarray:
    """log p_ref(chosen) - log p_ref(rejected) of each pair, (N,) nats."""
    chosen, rejected = tables.join(table, list(pairs))
    return np.asarray(chosen) - np.asarray(rejected)


def train(
    model: Any, pairs: Sequence[token_pairs.TokenPair], reference: np.ndarray, recipe: recipes.Dpo, shared_prompt: bool
) -> list[float]:
    """DPO's loss at each step (Rafailov et al., arXiv 2305.18290, equation 7), the model trained in place."""
    settings, pad = recipe.train, model.config.get_text_config().pad_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    batches = list(order(len(pairs), settings.batch_size, settings.epochs, recipe.seed))
    warmup = math.ceil(len(batches) * settings.warmup_share)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear(step, warmup, len(batches)))
    micro, logps, losses = settings.micro_batch or settings.batch_size, rows_sharing if shared_prompt else rows_apart, []
    model.train()
    for rows in batches:
        loss = 0.0
        by_length = sorted(rows, key=lambda row: -_length(pairs[row]))
        for first in range(0, len(rows), micro):
            part = by_length[first : first + micro]
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                chosen, rejected = logps(model, [pairs[row] for row in part], pad)
            margin = recipe.beta * (chosen - rejected - torch.tensor(reference[part], dtype=torch.float32))
            share = -logsigmoid(margin).sum() / len(rows)
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def order(count: int, batch: int, epochs: float, seed: int) -> Any:
    """The rows of each step: accelerate's seeded shuffle, which the trainers use."""
    steps = math.ceil(math.ceil(count / batch) * epochs)
    for epoch in range(math.ceil(epochs)):
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for first in range(0, count, batch):
            if steps == 0:
                return
            steps -= 1
            yield rows[first : first + batch]


def linear(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate: up to 1 over the warm-up, then down to 0."""
    return step / max(1, warmup) if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def rows_apart(model: Any, pairs: Sequence[token_pairs.TokenPair], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of chosen and of rejected answers, (B,) each; every answer is a row with its prompt."""
    rows = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs] + [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, targets = torch.full((len(rows), width), pad), torch.full((len(rows), width), IGNORED)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(rows):
        whole = len(prompt) + len(answer)
        ids[row, :whole], mask[row, :whole] = torch.tensor(prompt + answer), 1
        targets[row, len(prompt) - 1 : whole - 1] = torch.tensor(answer)
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    sums = _sums(model, hidden, targets)
    return sums[: len(pairs)], sums[len(pairs) :]


def rows_sharing(model: Any, pairs: Sequence[token_pairs.TokenPair], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with one row a pair, prompt, chosen, rejected: the rejected answer stands where the chosen one begins, and sees the
    prompt and itself alone."""
    width = max(_length(pair) for pair in pairs)
    ids, places = torch.full((len(pairs), width), pad), torch.zeros((len(pairs), width), dtype=torch.long)
    sees = torch.eye(width, dtype=torch.bool).repeat(len(pairs), 1, 1)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    gathered: list[tuple[int, int, int, int]] = []
    for row, pair in enumerate(pairs):
        prompt, middle = len(pair.prompt_ids), len(pair.prompt_ids) + len(pair.chosen_ids)
        end = middle + len(pair.rejected_ids)
        ids[row, :end] = torch.tensor(pair.prompt_ids + pair.chosen_ids + pair.rejected_ids)
        places[row, :middle], places[row, middle:end] = torch.arange(middle), torch.arange(prompt, prompt + end - middle)
        sees[row, :end, :end] |= causal[:end, :end]
        sees[row, middle:end, prompt:middle] = False
        gathered += [(row, prompt - 1 + at, token, row) for at, token in enumerate(pair.chosen_ids)]
        froms = [prompt - 1, *range(middle, end - 1)]
        gathered += [(row, at, token, len(pairs) + row) for at, token in zip(froms, pair.rejected_ids, strict=True)]
    hidden = model.model(input_ids=ids, attention_mask=sees[:, None], position_ids=places, use_cache=False).last_hidden_state
    row_of, place, token, answer = (torch.tensor(each) for each in zip(*gathered, strict=True))
    logps = model.lm_head(hidden[row_of, place]).float().log_softmax(-1).gather(1, token[:, None])[:, 0]
    sums = torch.zeros(2 * len(pairs)).index_add(0, answer, logps)
    return sums[: len(pairs)], sums[len(pairs) :]


def _sums(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wanted = targets != IGNORED
    logps = model.lm_head(hidden[wanted]).float().log_softmax(-1).gather(1, targets[wanted][:, None])[:, 0]
    return torch.zeros(len(targets)).index_add(0, wanted.nonzero()[:, 0], logps)


def _length(pair: token_pairs.TokenPair) -> int:
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


# Memory -----------------------------------------------------------------------------------------------------------------------


def training_memory_gb(cell: Cell, store: Store) -> dict[str, float]:
    """GiB of a policy, its gradients and optimizer by their sizes, and of one batch as the plain loop needs it at its peak."""
    texts = cell.dpo.table.texts
    assert isinstance(texts, recipes.TokenPairs)
    model = shelf.load_policy(cell.dpo.start, store).model.train()
    weights = sum(weight.numel() for weight in model.parameters())
    pairs = sorted(artefacts.read_token_pairs(texts, store), key=lambda pair: -_length(pair))
    micro = cell.dpo.train.micro_batch or cell.dpo.train.batch_size
    policy_gb = 4 * 4 * weights / 2**30  # weights, gradients and Adam's two moments, in fp32
    return {"policy_and_optimizer_gb": policy_gb, "one_batch_gb": _kept_gb(model, pairs[:micro], cell)}


def _kept_gb(model: Any, pairs: Sequence[token_pairs.TokenPair], cell: Cell) -> float:
    """GiB of what the backward pass of the longest batch keeps, each storage once, weights left out."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    bf16 = cell.dpo.train.precision == "bf16"
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        rows_apart(model, pairs, model.config.get_text_config().pad_token_id)
    return sum(kept.values()) / 2**30


if __name__ == "__main__":
    main()
