"""Tiny trainings in processes of their own, which are killed, and what comes out of them in the end."""

import gc
import json
import multiprocessing
import os
import resource
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from refstudy import along, generation, models, scoring, shelf, token_pairs
from refstudy.checkpoints import Checkpoint
from refstudy.judges import Verdict
from refstudy.measurement import Measurement
from refstudy.memory import Sharding
from refstudy.recipes import Sampling
from refstudy.training import dpo, reward_model, sft
from refstudy.training.saves import Saving
from tests import tiny

PAIRS, EPOCHS = 21, 4
STEPS = 12
ALWAYS = 1e-9
"""Seconds: a save after every step."""


@dataclass(frozen=True)
class Case:
    """What is trained, beside the settings of the training."""

    rule: str = "last"
    along: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    shared_out: Sharding = "none"
    architecture: str = "llama"


def train(case: Case, saving: Saving | None = None, emit: Callable[[Measurement], None] = lambda each: None) -> dpo.Trained:
    """A policy of 21 pairs in steps of 8, 8 and 5, four times over, with a log every five steps."""
    words = tiny.tokenizer()
    policy = tiny.llama(words) if case.architecture == "llama" else tiny.other_architecture(case.architecture, words)
    reference = tiny.llama(words, seed=1)
    pairs = token_pairs.tokenise(tiny.pairs(PAIRS), words, max_length=48)
    held_out = token_pairs.tokenise(tiny.pairs(6, seed=9), words, max_length=48)
    return dpo.train(
        policy,
        words,
        dpo.Rows(pairs, scoring.score_pairs(reference, words, pairs).table),
        beta=0.5,
        seed=0,
        training=tiny.training(**{"epochs": EPOCHS, "schedule": "cosine", "warmup_share": 0.2, "weight_decay": 0.1} | case.changes),
        emit=emit,
        validation=dpo.Validation(held_out, scoring.score_pairs(reference, words, held_out).table),
        log_every=5,
        along=_along(words) if case.along else None,
        checkpoint=dpo.Checkpoint(case.rule, 2),
        saving=saving,
        shared_out=case.shared_out,
    )


def _along(words: Any) -> dpo.Along:
    """A real evaluation, judged by what tokens the answers have, so that win rates rise and fall."""
    start = shelf.Policy(tiny.llama(words), words, "keep")
    sampling = Sampling(max_new_tokens=4, temperature=1.0, top_p=1.0, seed=0)
    prompts = tiny.prompts(4)
    baseline = generation.generate(start.model, words, prompts, sampling)

    def judge(prompts: Any, candidates: Any, baselines: Any) -> list[Verdict]:
        shares = [(sum(each.token_ids) % 97) / 97 for each in candidates]
        unsaid = {"candidate_reward": None, "baseline_reward": None, "candidate_detail": {}, "baseline_detail": {}}
        return [Verdict(prompt_id=each.prompt_id, p=p, **unsaid) for each, p in zip(prompts, shares, strict=True)]

    examination = along.Examination(prompts, baseline, start, sampling, judge)
    return dpo.Along(examination, 3, examination.recall)


def fine_tune(folder: Path, saving: Saving | None, emit: Callable[[Measurement], None]) -> None:
    """Six steps of SFT, with a log every second."""
    words, draws = tiny.tokenizer(), np.random.default_rng(0)
    rows = [[*tiny.question(draws), {"role": "assistant", "content": tiny.sentence(draws, 5)}] for _ in range(24)]
    folder.mkdir(parents=True, exist_ok=True)
    training = tiny.training(epochs=2)
    sft.train(
        tiny.llama(words), words, rows, training=training, max_length=64, seed=0, destination=folder, emit=emit, log_every=2,
        saving=saving,
    )  # fmt: skip


def train_reward_model(folder: Path, saving: Saving | None, emit: Callable[[Measurement], None]) -> None:
    """Six steps of a reward model, with a log every second."""
    words, start = tiny.tokenizer(), folder.parent / "start"
    folder.mkdir(parents=True, exist_ok=True)
    models.save(tiny.llama(words), words, start)
    training = tiny.training(epochs=2)
    reward_model.train(
        Checkpoint(str(start)), tiny.pairs(24), training=training, max_length=64, seed=0, destination=folder, emit=emit,
        log_every=2, saving=saving,
    )  # fmt: skip


def numbers(trained: dpo.Trained) -> dict[str, Any]:
    """All that a training says of itself but its times."""
    return {name: getattr(trained, name) for name in ("history", "final", "stopped", "along", "validations")}


def weights(trained: dpo.Trained) -> dict[str, torch.Tensor]:
    return {name: weight.detach().contiguous() for name, weight in trained.model.named_parameters()}


@dataclass(frozen=True)
class Ending:
    """What a training in a process of its own came to."""

    code: int
    """-9: killed."""
    words: list[str]
    """What it told in words."""
    numbers: dict[str, Any] = field(default_factory=dict)
    resumed_at: list[int] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    answers: list[list[int]] = field(default_factory=list)
    """What the policy answers once the other workers are gone: tokens, the likeliest ones."""


def answers(trained: dpo.Trained) -> list[list[int]]:
    """Tokens of greedy answers of the policy, adapters merged."""
    model = trained.model.merge_and_unload() if hasattr(trained.model, "merge_and_unload") else trained.model
    sampling = Sampling(max_new_tokens=6, temperature=0.0, top_p=1.0, seed=0)
    return [each.token_ids for each in generation.generate(model, tiny.tokenizer(), tiny.prompts(4), sampling)]


def in_process(folder: Path, case: Case, *, kill_at: tuple[int, float] | None = None, file_bytes: int | None = None) -> Ending:
    """Trains in a process of its own, which saves below `folder` after every step.

    `kill_at`: it is killed so many seconds after the state of a step was saved; `file_bytes`: the kernel refuses to make its files
    longer, as a full disk does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    log, out = folder / "told.jsonl", folder / "out"
    log.unlink(missing_ok=True)
    process = context.Process(target=_child, args=(folder, case, log, out, file_bytes, None))
    process.start()
    if kill_at is not None:
        step, after_s = kill_at
        while max(saved_steps(folder), default=0) < step and process.is_alive():
            time.sleep(0.001)
        time.sleep(after_s)
        process.kill()
    process.join(120)
    assert process.exitcode is not None
    told = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    words = [each for row in told for each in row["words"]]
    if process.exitcode:
        return Ending(process.exitcode, words)
    return Ending(0, words, **json.loads((out / "numbers.json").read_text()), weights=load_file(out / "weights.safetensors"))


def saved_steps(folder: Path) -> list[int]:
    """The steps whose states lie below `folder`."""
    return sorted(int(each.name.split("-")[1]) for each in (folder / "states").glob("step-*"))


def by_workers(folder: Path, case: Case, count: int, *, kill_at: int | None = None) -> Ending:
    """Trains in so many processes that share each step; what the first one came to. `kill_at`: all are killed once the state of
    a step was saved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, out = folder / "told.jsonl", folder / "out"
    places = [Place(number, count, port) for number in range(count)]
    processes = [context.Process(target=_child, args=(folder, case, log, out, None, each)) for each in places]
    for each in processes:
        each.start()
    if kill_at is not None:
        while max(saved_steps(folder), default=0) < kill_at and all(each.is_alive() for each in processes):
            time.sleep(0.001)
        for each in processes:
            each.kill()
    for each in processes:
        each.join(300)
    if any(each.exitcode for each in processes):
        return Ending(processes[0].exitcode or -1, [])
    return Ending(0, [], **json.loads((out / "numbers.json").read_text()), weights=load_file(out / "weights.safetensors"))


@dataclass(frozen=True)
class Place:
    """One of several workers."""

    rank: int
    count: int
    port: int

    def join(self) -> None:
        names = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        torch.distributed.init_process_group("gloo")


def lies_in_parts(thing: Any) -> bool:
    """Whether it is a tensor of FSDP2's, or an optimizer of DeepSpeed's that has half of the weights that it trains."""
    if type(thing).__name__ == "DeepSpeedZeroOptimizer":
        own = sum(each.numel() for each in thing.single_partition_of_fp32_groups)
        return own < 0.6 * sum(weight.numel() for group in thing.bit16_groups for weight in group)
    return isinstance(thing, DTensor)


def _child(folder: Path, case: Case, log: Path, out: Path, file_bytes: int | None, place: Place | None) -> None:
    warnings.simplefilter("ignore")
    if place is not None:
        place.join()
        if place.rank > 0:
            train(replace(case, rule="last", along=False), Saving(folder / "states", ALWAYS))
            return torch.distributed.destroy_process_group()

    def emit(measurement: Measurement) -> None:
        parts = sum(lies_in_parts(each) for each in gc.get_objects()) if case.shared_out != "none" else 0
        with open(log, "a") as file:
            file.write(json.dumps({"step": measurement.step, "words": measurement.alarms, "parts": parts}) + "\n")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, limits[1]))
    trained = train(case, Saving(folder / "states", ALWAYS), emit)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out.mkdir(exist_ok=True)
    save_file(weights(trained), out / "weights.safetensors")
    told_answers = answers(trained)  # after the weights: merging an adapter changes them
    (out / "numbers.json").write_text(
        json.dumps({"numbers": numbers(trained), "resumed_at": trained.resumed_at, "answers": told_answers})
    )
