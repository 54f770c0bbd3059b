"""A sweep over local checkpoints with random weights, for checks of references: sound ones and faulty ones of every sort."""

import json
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoTokenizer

from tests import checkpoints

SILENT = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
"""Drops what the assistant says."""
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Ends no turn."""
PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Another template over the same vocabulary, and a sound one."""

ROWS = [
    {
        "prompt": f"{number}. Why is the sky blue?",
        "chosen": f"Because of {number}.",
        "rejected": "I do not know. " * (number % 3 + 1) + "No.",
    }
    for number in range(12)
]


def write_models(folder: Path) -> Path:
    """Checkpoints of four families, a reward model, and copies of one with a fault each."""
    for style in ("smollm2", "qwen2.5", "llama-3"):
        checkpoints.write(style, folder / style)
    checkpoints.write("smollm2", folder / "larger", seed=1, hidden=64)
    checkpoints.write_reward_model("qwen2.5", folder / "judge")
    for name, template in (("no-template", None), ("silent", SILENT), ("endless", ENDLESS)):
        checkpoints.write("smollm2", folder / name, seed=2)
        (folder / name / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
    checkpoints.write("smollm2", folder / "short", seed=3)
    config = json.loads((folder / "short" / "config.json").read_text())
    (folder / "short" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 48}))
    return folder


def write(folder: Path, models: Path, references: dict[str, Any], rows: list[dict[str, str]] | None = None, **train: Any) -> Path:
    """A sweep file of the SmolLM2 policy with `references` beside self, and its pairs beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in (ROWS if rows is None else rows)]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {
        "name": "checked",
        "data": {"kind": "file", "path": "pairs.jsonl", "eval_prompts": 2},
        "policies": {"small": model(models, "smollm2")},
        "references": {"self": {"kind": "policy"}, **references},
        "axes": {"beta": [1.0, 0.1]},
        "train": {"epochs": 1.0, "batch_pairs": 4, "learning_rate": 1e-3, "max_length": 256, **train},
        "generate": {"max_new_tokens": 4},
        "judge": {"kind": "reward_model", "model": str(models / "judge"), "max_length": 256},
        "wandb": {"enabled": False},
    }
    path = folder / "checked.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def model(models: Path, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "model", "model": str(models / name), **more}
