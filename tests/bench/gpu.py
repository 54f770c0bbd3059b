"""The same bench on a GPU: `make bench-gpu`, or `python -m tests.bench.gpu --tiny` to try its path on a CPU.

Policies of about 0.5B and 1.5B parameters in the shapes of Qwen2.5 and of Llama 3.2, with random weights, on the longest real rows;
full fine-tuning and LoRA, in bf16. Random weights cost what trained ones cost, except that their answers never end. Writes
bench_gpu.json with the device's name, speed-ups against separate TRL runs, and MFU of training.

Two things are compared by the step, each in a process of its own: LoRA cells on one frozen base together (`grouped`, where tuning
is LoRA), and kernels for the attention of a line (`attention`, once a shape).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from refstudy import models, pretraining
from refstudy.texts import Message
from tests.bench import __main__ as bench
from tests.bench import attention, grouped, machine, outcome, parts
from tests.bench.parts import Part

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "kind": "qwen2", "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "kind": "qwen2", "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "llama3.2-1b": {
        "kind": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
}  # fmt: skip
TINY = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONTEXT = 4096
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "target": "all-linear"}
BETAS = [1, 0.1, 0.01]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description="the bench on a GPU")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tuning", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--pairs", type=Path, default=parts.REAL_PAIRS)
    parser.add_argument("--results", type=Path, default=parts.ROOT / "results" / "bench-gpu")
    parser.add_argument("--share", type=float, default=1.0, help="of a GPU that a trial takes: 0.5 runs two at a time")
    parser.add_argument("--peak-tflops", type=float, default=None, help="of a device in bf16; default: measured")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--together", type=int, default=len(BETAS), help="LoRA cells that train on one base at a time")
    parser.add_argument("--turns", type=int, default=10, help="steps by which ways to compute one are compared")
    parser.add_argument("--tiny", action="store_true", help="shapes and data so small that a CPU runs them")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        print("bench-gpu: no GPU on this machine; nothing is measured. `--tiny` tries the path on the CPU")
        return
    folder = given.results.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine.about(), "tiny": given.tiny, "share": given.share, "attention": {}}
    for shape in given.shapes:
        for tuning in given.tuning:
            name = f"{shape}-{tuning}"
            part = prepared(folder / name, shape, tuning, given)
            found = bench.measured(part, folder / name, given.rounds)
            report[name] = found | {"mfu_training": mfu_training(found, tuning, given.peak_tflops)}
            if tuning == "lora":
                report[name]["grouped"] = by_the_step("grouped", part, folder / name, given.turns, "--together", given.together)
            if shape not in report["attention"]:
                report["attention"][shape] = by_the_step("attention", part, folder / name, given.turns)
            (folder / "bench_gpu.json").write_text(json.dumps(report, indent=1) + "\n")
            print(table(report, name, shape))
    print(folder / "bench_gpu.json")


def table(report: dict[str, Any], name: str, shape: str) -> str:
    """The rows of one shape and way of tuning, those of the shape's attention below."""
    lines = [outcome.table(report, [name])]
    lines += [grouped.words(report[name]["grouped"])] if "grouped" in report[name] else []
    lines += [attention.words(report["attention"][shape])]
    return "\n".join([*lines, f"{name}: MFU of training {report[name]['mfu_training']:.3f} on {report['machine']['device']}"])


def by_the_step(what: str, part: Part, folder: Path, turns: int, *more: object) -> dict[str, Any]:
    """What `grouped` or `attention` found on the tokens and tables that the sweep left; {"error": ...} in one line if nothing.

    In a process of its own: it leaves the device's memory empty, and its end is not the bench's.
    """
    out = folder / f"{what}.json"
    out.unlink(missing_ok=True)
    bench.say(part, f"{what}, by the step")
    command = parts.python(f"tests.bench.{what}", part.sweep, "--store", folder / "refstudy" / "store", "--out", out)
    try:
        parts.run([*command, "--turns", str(turns), *map(str, more)], folder / f"{what}.log", **parts.worker_environment())
    except RuntimeError as error:
        return {"error": str(error).splitlines()[-1][:200]}
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def mfu_training(found: dict[str, Any], tuning: str, peak_tflops: float | None) -> float:
    """Useful FLOPs of training, 6 a parameter and token (LoRA: 4) with each prompt counted once, by what the devices could have
    computed in the time that training took."""
    arithmetic = found["arithmetic"]
    peak = arithmetic["peak_flops"] if peak_tflops is None else peak_tflops * 1e12 * machine.slots()
    useful = arithmetic["training_floor_flops"] * (4 / 6 if tuning == "lora" else 1)
    return float(useful / (peak * found["phases_s"]["train"] / machine.slots()))


def prepared(folder: Path, shape: str, tuning: str, given: argparse.Namespace) -> Part:
    """The part of one shape and way of tuning, its checkpoints and data written into `folder` where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if given.tiny:
        parts.write_tiny_pairs(folder, 40)
    else:
        parts.write_longest(given.pairs, folder)
    for name, seed in (("policy", 0), ("judge", 1)):
        if not (folder / name / "config.json").exists():
            write_checkpoint(folder, name, SHAPES[shape] | (TINY if given.tiny else {}), seed)
    at = folder / "sweep.yaml"
    at.write_text(yaml.safe_dump(document(shape, tuning, given), sort_keys=False), encoding="utf-8")
    return Part(f"{shape}-{tuning}", at, baseline_cells=len(BETAS), bare_cells=0, controls=0, is_small=True)


def write_checkpoint(folder: Path, name: str, shape: dict[str, Any], seed: int) -> None:
    """Random weights in a shape, with a small tokenizer of the data's own text: vocabulary beyond it stands for no token."""
    rows = [json.loads(line) for line in (folder / "longest.jsonl").read_text(encoding="utf-8").splitlines()]
    conversations: list[list[Message]] = [[{"role": "user", "content": row["prompt"] + row["chosen"]}] for row in rows]
    words = pretraining.train_tokenizer(conversations, min(32_768, shape["vocab_size"]), CONTEXT)
    kind = {key: value for key, value in shape.items() if key != "kind"}
    ends = {"bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape["kind"], max_position_embeddings=CONTEXT, **kind, **ends))
    models.save(model, words, folder / name)


def document(shape: str, tuning: str, given: argparse.Namespace) -> dict[str, Any]:
    """A sweep of the shape against itself; the judge is trained from another draw of it."""
    gpus = 0.0 if given.tiny else given.share
    trial = {"cpus": 1, "gpus": gpus}
    length = 192 if given.tiny else 2048
    learning = {"learning_rate": 5e-6, "precision": "fp32" if given.tiny else "bf16"}
    return {
        "name": f"bench_gpu_{shape.replace('.', '_').replace('-', '_')}_{tuning}",
        "data": {"kind": "file", "path": "longest.jsonl", "eval_prompts": 8 if given.tiny else 64, "pairs": None},
        "policies": {"small": {"kind": "model", "model": "policy", "family": shape}},
        "references": {"self": {"kind": "policy", "precision": learning["precision"]}},
        "axes": {"beta": BETAS, "reference": ["self"], "seed": [0]},
        "train": {
            "epochs": 1,
            "batch_pairs": 2 if given.tiny else 8,
            "max_length": length,
            "lora": LORA if tuning == "lora" else None,
        }
        | learning,
        "generate": {"max_new_tokens": 8 if given.tiny else 256, "temperature": 1.0},
        "judge": {
            "kind": "reward_model",
            "start": {"kind": "model", "model": "judge"},
            "train": {"epochs": 1, "batch_pairs": 8, "micro_batch": 2} | learning,
            "max_length": length,
        },
        "resources": {"trial": trial, "artefact": {"cpus": 1, "gpus": 1.0 if gpus else 0.0}},
        "wandb": {"enabled": False},
    }


if __name__ == "__main__":
    main()
