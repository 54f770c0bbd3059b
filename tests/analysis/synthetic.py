"""A results folder and store that look like a sweep's: random, plausible, and not an experiment. For tests of the analysis only."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from refstudy import records
from refstudy.measures import limits
from refstudy.measures.cell import measure
from refstudy.store import Store
from refstudy.texts import Completion, Prompt

WORDS = ["river", "amber", "stone", "silver", "north", "quiet", "market", "harbour", "maple", "copper", "lantern", "violet"]
YAML = """\
# Question: does the best beta depend on how good, and how related, the reference is?
# Run:  refstudy run sweeps/example.yaml
name: example
axes: {beta: [10, 1, 0.1, 0.01], reference: [self, larger-same, larger-far]}
"""
STRENGTH = {"self": 0.0, "larger-same": 0.06, "larger-near": 0.04, "larger-far": -0.35}
VERSIONS = {"refstudy": "0.1.0", "torch": "2.13.0"}


def build(
    root: Path,
    betas=(10, 3, 1, 0.3, 0.1, 0.01),
    references=("self", "larger-same", "larger-near", "larger-far"),
    policies=("small",),
    seeds=(0,),
    settings=({},),
    entities=48,
    prompts_each=4,
    broken=(),
    text=None,
) -> tuple[Path, Store]:
    """(results folder, store). `broken`: statuses given to the first cells; `text`: what every answer says, if not statements."""
    folder, store = root / "example", Store(root / "store")
    (folder / "cells").mkdir(parents=True)
    rng = np.random.default_rng(5)
    prompts = _prompts(store, entities, prompts_each)
    baselines = {seed: _answers(prompts, 17.0, rng, text) for seed in seeds}
    for seed, answers in baselines.items():
        _artefact(store, "completions", f"base{seed}", "completions.jsonl", [asdict(row) for row in answers], prompts="prompts0")
    grid = [(p, r, b, s, x) for x in settings for p in policies for r in references for b in betas for s in seeds]
    cells, rewards = [], rng.normal(0, 0.9, size=len(prompts))
    for number, (policy, reference, beta, seed, setting) in enumerate(grid):
        status = broken[number] if number < len(broken) else "done"
        cell = {"policy": policy, "reference": reference, "beta": beta, "seed": seed, "settings": setting}
        cells.append({"cell_id": f"c{number:04d}", **cell})
        _record(folder, store, cells[-1], status, prompts, baselines[seed], rewards, rng, text)
    (folder / "sweep.yaml").write_text(YAML)
    provenance = {
        "versions": VERSIONS,
        "commit": "a" * 40,
        "host": "box",
        "python": "3.11.9",
        "cores": 2,
        "machine": "Linux x86_64",
    }
    records.write_sweep(
        folder, {"name": "example", "cells": cells, "started_at": "2026-01-01T00:00:00+00:00", "provenance": provenance}
    )
    own = {"self": 0.5, "larger-same": 0.83, "larger-near": 0.82, "larger-far": 0.82}
    scores = [
        {"reference": r, "policy": p, "seed": s, "settings": settings[0], "own_win_rate": own.get(r, 0.7), "own_win_rate_se": 0.02}
        | {"own_win_rate_low": own.get(r, 0.7) - 0.04, "own_win_rate_high": own.get(r, 0.7) + 0.04, "own_length_tokens_mean": 17.2}
        for r in references
        for p in policies
        for s in seeds
    ]
    (folder / "references.json").write_text(json.dumps({"references": scores}))
    kl = {cell["cell_id"]: {"kl_reference_nats": 3.0, "kl_reference_nats_per_byte": 0.04} for cell in cells}
    (folder / "reference_kl.json").write_text(json.dumps(kl))
    return folder, store


def _record(folder, store, cell, status, prompts, baseline, rewards, rng, text):
    base = {
        **cell,
        "status": status,
        "labels": {"reference_kind": "policy" if cell["reference"] == "self" else "miniature", "family": "north"},
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:00:31+00:00",
        "duration_s": 31.0,
        "phases_s": {"train": 20.0, "generate": 6.0},
        "provenance": {"versions": VERSIONS, "commit": "a" * 40, "host": "box", "python": "3.11.9"},
    }
    if status == "failed":
        records.write_record(
            folder, {**base, "error": {"type": "TrainingError", "message": "loss is nan at step 7", "traceback": "..."}}
        )
    elif status == "done":
        done = _done(store, cell, prompts, baseline, rewards, rng, text)
        records.write_record(folder, {**base, **done})


def _done(store, cell, prompts, baseline, rewards, rng, text):
    distance = math.log10(cell["beta"]) - (0.3 if cell["reference"] != "self" else -0.6)
    centre = 0.72 + STRENGTH.get(cell["reference"], 0.02) - 0.045 * distance**2
    length = 17 + max(0.0, 2.2 - 1.6 * math.log10(cell["beta"]))
    far = cell["reference"] == "larger-far" and cell["beta"] >= 1
    answers = _answers(prompts, 70.0 if far else length, rng, text, share_cut=0.8 if far else 0.0)
    logit = math.log(min(max(centre, 0.03), 0.97) / (1 - min(max(centre, 0.03), 0.97))) + rewards + rng.normal(0, 0.5, len(prompts))
    verdicts = [
        {
            "prompt_id": prompt.prompt_id,
            "p": float(rng.random() < 1 / (1 + math.exp(-value))) if rng.random() > 0.1 else 0.5,
            "candidate_reward": float(value),
            "baseline_reward": 0.0,
            "candidate_detail": {"stated": 4, "true": int(true), "false": 4 - int(true), "asked": 4},
            "baseline_detail": {"stated": 4, "true": 2, "false": 2, "asked": 4},
        }
        for prompt, value, true in zip(prompts, logit, rng.integers(1, 5, len(prompts)), strict=True)
    ]
    kl = [{"prompt_id": p.prompt_id, "kl_nats": 0.6 / cell["beta"] ** 0.6, "tokens": 17} for p in prompts]
    identity = cell["cell_id"]
    _artefact(store, "completions", identity, "completions.jsonl", [asdict(row) for row in answers], prompts="prompts0")
    _artefact(store, "verdicts", f"v{identity}", "verdicts.jsonl", verdicts)
    final = {"loss": 0.4, "reward_margin": 0.9, "reward_accuracy": 0.72, "policy_accuracy": 0.61}
    final |= {"validation_reward_accuracy": 0.66, "validation_policy_accuracy": 0.58}
    measures = measure(prompts, answers, baseline, verdicts, kl, final)
    degenerate, reason = limits.degenerate(measures)
    recipes = {"completions": identity, "baseline": f"base{cell['seed']}", "verdicts": f"v{identity}", "dpo": "d" * 16}
    sampling, source = {"temperature": 1, "top_p": 1}, {"kind": "dpo", "id": "d" * 16, "start": {"kind": "sft", "id": "s" * 16}}
    candidate = {"kind": "completions", "sampling": sampling, "source": source}
    recipe = {"kind": "verdicts", "candidate": candidate, "judge": {"kind": "gold_judge", "id": "j" * 16}}
    return {"measures": measures, "degenerate": degenerate, "reason": reason, "recipes": recipes, "recipe": recipe}


def _prompts(store, entities, each):
    prompts = [
        Prompt(
            prompt_id=f"p{entity:02d}-{number}",
            messages=[{"role": "user", "content": f"Tell me {2 + number % 5} things about land{entity}."}],
            cluster=f"land{entity}",
            meta={"held_out": entity % 4 == 3},
        )
        for entity in range(entities)
        for number in range(each)
    ]
    _artefact(store, "miniature_prompts", "prompts0", "prompts.jsonl", [asdict(row) for row in prompts])
    return prompts


def _answers(prompts, length, rng, text, share_cut=0.0):
    answers = []
    for prompt in prompts:
        count = max(3, int(rng.normal(length, 4)))
        ids = [int(each) for each in rng.integers(1, 400, size=count)]
        said = text or " ".join(rng.choice(WORDS) for _ in range(count))
        ended = bool(rng.random() >= share_cut)
        answers.append(Completion(prompt_id=prompt.prompt_id, text=said, token_ids=ids, terminated=ended, logp_sum_nats=-20.0))
    return answers


def _artefact(store, kind, identity, name, rows, prompts=None):
    folder = store.root / kind / identity
    folder.mkdir(parents=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    canonical = {"kind": kind} | ({"prompts": {"recipe": f"miniature_prompts:{prompts}"}} if prompts else {})
    (folder / "recipe.json").write_text(json.dumps({"canonical": canonical, "description": {}}))
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))


def compatibility(folder: Path, slopes: dict[str, float], seeds=(0,), policy="small", betas=(1, 0.1)) -> None:
    """compatibility.json with a row for each reference and seed: D = 3 + slope * length difference, a residual spread of 6."""
    rows = []
    for reference, slope in slopes.items():
        spread = 0.0 if reference == "self" else 10.0
        measures = {"pairs": 40.0, "intercept_nats": 3.0, "intercept_se_nats": 0.5, "slope_nats_per_token": slope}
        measures |= {"abs_slope_nats_per_token": abs(slope), "difference_spread_nats": spread, "bits_per_byte": 0.25}
        measures |= {"intercept_over_residual_spread": 0.5, "residual_spread_nats": 6.0} if spread else {}
        measures |= {f"saturation_beta_{beta:g}": beta * spread for beta in betas}
        lengths = [
            {"length_difference_tokens": x, "pairs": 20, "mean_nats": 3 + slope * x, "spread_nats": 6.0} for x in (-4.0, 8.0)
        ]
        for seed in seeds:
            about = {"reference": reference, "policy": policy, "seed": seed, "settings": {}, "betas": list(betas)}
            told = {"measures": measures, "by_length": lengths, "words": f"demands {abs(slope):g} nats", "not_measured": None}
            rows.append(about | told)
    (folder / "compatibility.json").write_text(json.dumps({"references": rows}))


def token_shifts(folder: Path, store: Store) -> None:
    """Shifts of every done cell on 25 answers of " a" and the end token: -1 / beta nats on the end token, 0.25 on the other."""
    for path in (folder / "cells").glob("*.json"):
        record = records.read_record(path)
        if record["status"] != "done":
            continue
        at = store.root / "token_shifts" / f"t{record['cell_id']}"
        at.mkdir(parents=True)
        after = np.array([-1.75, -0.1 - 1 / record["beta"]] * 25)
        columns = {"token_id": np.array([7, 2] * 25), "before_nats": np.array([-2.0, -0.1] * 25), "after_nats": after}
        pd.DataFrame(columns).to_parquet(at / "token_shifts.parquet")
        (at / "summary.json").write_text(json.dumps({"answers": 25, "end_token_id": 2, "tokens": {"7": " a", "2": "<|end|>"}}))
        (at / "manifest.json").write_text(json.dumps({"files": {}}))
        records.write_record(folder, {**record, "recipes": {**record["recipes"], "token_shifts": at.name}})
