"""A sweep small enough for tests: real data, tokenizers, models, TRL and judge, each a few seconds' worth."""

import json
from pathlib import Path
from typing import Any

import yaml

WORDS = ("river", "stone", "bread", "lamp", "garden", "winter", "café", "naïve", "window", "letter")


CROSS = {"architecture": "neox", "hidden": 24, "vocabulary": 300, "precision": "bf16", "resources": {"shards": 2}}


def pairs(count: int) -> list[dict[str, str]]:
    """Preference pairs in TRL's plain form; the chosen answer is the longer one."""
    rows = []
    for number in range(count):
        word, other = WORDS[number % len(WORDS)], WORDS[(number * 7 + 3) % len(WORDS)]
        rows.append(
            {
                "prompt": f"Tell me about the {word}, please ({number}).",
                "chosen": f"The {word} is near the {other}. It is old and useful, number {number}.",
                "rejected": f"No {other} {number}.",
            }
        )
    return rows


def document(betas: tuple[float, ...] = (1.0, 0.1)) -> dict[str, Any]:
    size = {"kind": "scratch", "vocabulary": 320, "layers": 1, "heads": 2, "steps": 4, "batch_size": 2, "context": 192}
    sft = {"epochs": 1.0, "batch_size": 8, "learning_rate": 1e-3, "max_length": 192, "precision": "fp32"}
    small = {**size, "architecture": "llama", "hidden": 16}
    return {
        "name": "tiny",
        "data": {"kind": "file", "path": "pairs.jsonl", "eval_prompts": 6, "validation_pairs": 4},
        "policies": {"small": {**small, "sft": sft}},
        "references": {"self": {"kind": "policy"}, "cross": {**size, **CROSS}},
        "axes": {"beta": list(betas), "reference": ["self", "cross"]},
        "train": {"epochs": 1.0, "batch_pairs": 8, "learning_rate": 1e-3, "max_length": 192},
        "generate": {"max_new_tokens": 12},
        "judge": {
            "kind": "reward_model",
            "start": {**small, "seed": 1},
            "train": {"batch_pairs": 8, "learning_rate": 1e-3},
            "max_length": 192,
        },
    }


def write(folder: Path, count: int = 30, betas: tuple[float, ...] = (1.0, 0.1)) -> Path:
    """The sweep file, with its data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in pairs(count)]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text("# Question: does the path hold?\n" + yaml.safe_dump(document(betas), sort_keys=False), encoding="utf-8")
    return path
