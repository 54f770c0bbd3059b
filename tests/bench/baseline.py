"""One cell as it is run without refstudy: an own process, TRL's DPOTrainer with its defaults, answers, verdicts, a file of results.

    python -m tests.bench.baseline JOB.json

A plain script, as a user writes it. Of refstudy it uses only what reads pairs and prompts and what judges, so that both sides have
the same data and the same verdicts. Set are the settings that must be equal for equal results, and nothing that makes it slower.
Its own clock begins with the first line; whoever starts it measures the whole.
"""

import time

BEGUN = time.perf_counter()

import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from datasets import Dataset, disable_progress_bars  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

from refstudy import texts  # noqa: E402
from refstudy.judges import gold, reward_model  # noqa: E402
from refstudy.miniature import world  # noqa: E402

GENERATED_AT_ONCE = 64


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    disable_progress_bars()
    phases = {"start": time.perf_counter() - BEGUN}
    clock = time.perf_counter()

    def lap(phase):
        nonlocal clock
        now = time.perf_counter()
        phases[phase], clock = now - clock, now

    tokenizer = AutoTokenizer.from_pretrained(job["policy"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["policy"], dtype=torch.float32)
    lora = job["lora"] and LoraConfig(
        r=job["lora"]["rank"],
        lora_alpha=job["lora"]["alpha"],
        lora_dropout=job["lora"]["dropout"],
        target_modules=job["lora"]["target"],
    )
    reference = None  # with adapters TRL switches them off for the policy's own start
    if not lora or job["reference"] != job["policy"]:
        reference = AutoModelForCausalLM.from_pretrained(job["reference"], dtype=torch.float32)
    pairs = texts.read_pairs(Path(job["pairs"]))
    lap("load")

    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=model,
            ref_model=reference,
            args=config(job, folder),
            train_dataset=Dataset.from_list([as_text(tokenizer, pair) for pair in pairs]),
            processing_class=tokenizer,
            peft_config=lora,
        )
        lap("tokenise and score" if job["precompute"] else "tokenise")
        result = trainer.train()
        lap("train")
    logged = [each for each in trainer.state.log_history if "loss" in each]

    prompts = texts.read_prompts(Path(job["prompts"]))
    answers = generate(trainer.model.eval(), tokenizer, prompts, job)
    lap("generate")
    verdicts = judge(job, prompts, answers, model.device)
    lap("judge")
    out = {
        "train_loss": result.training_loss,
        "history": [{"step": each["step"], "loss": each["loss"], "reward_margin": each["rewards/margins"]} for each in logged],
        "win_rate": sum(each.p for each in verdicts) / len(verdicts),
        "length_tokens_mean": sum(len(each.token_ids) for each in answers) / len(answers),
        "train_tokens": trained_tokens(trainer, job),
        "answers": [each.text for each in answers],
        "verdicts": [each.p for each in verdicts],
    }
    lap("record")
    out |= {"phases_s": phases, "cpu_s": time.process_time(), "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    Path(job["out"]).write_text(json.dumps(out))


def config(job, folder):
    """TRL's defaults, and of the rest what the two sides must share: data order, optimisation, beta."""
    given = {} if job["bf16"] is None else {"bf16": job["bf16"]}  # None: TRL's default
    return DPOConfig(
        output_dir=folder,
        beta=job["beta"],
        seed=job["seed"],
        data_seed=job["seed"],
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=job["batch_pairs"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type=job["schedule"],
        warmup_steps=job["warmup_share"],
        max_grad_norm=job["clip"],
        weight_decay=job["weight_decay"],
        max_length=job["max_length"],
        precompute_ref_log_probs=job["precompute"],
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **given,
    )


def as_text(tokenizer, pair):
    """The pair in TRL's plain form: the prompt as the template writes it, the answers as they are; TRL ends them itself."""
    prompt = tokenizer.apply_chat_template(pair.messages, tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}


def generate(model, tokenizer, prompts, job):
    """An answer to each prompt, sampled at the sweep's temperature over the whole vocabulary, in batches of like length."""
    torch.manual_seed(job["seed"])
    tokenizer.padding_side = "left"
    asked = [tokenizer.apply_chat_template(each.messages, tokenize=False, add_generation_prompt=True) for each in prompts]
    order = sorted(range(len(asked)), key=lambda row: len(asked[row]))
    found = {}
    for first in range(0, len(order), GENERATED_AT_ONCE):
        rows = order[first : first + GENERATED_AT_ONCE]
        batch = tokenizer([asked[row] for row in rows], return_tensors="pt", padding=True, add_special_tokens=False).to(
            model.device
        )
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            out = model.generate(
                **batch,
                max_new_tokens=job["max_new_tokens"],
                do_sample=True,
                temperature=job["temperature"],
                top_k=0,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        for row, ids in zip(rows, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            found[row] = completion(tokenizer, prompts[row].prompt_id, ids)
    return [found[row] for row in range(len(prompts))]


def completion(tokenizer, prompt_id, ids):
    ended = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id) + 1] if ended else ids
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return texts.Completion(prompt_id=prompt_id, text=text, token_ids=kept, terminated=ended, logp_sum_nats=None)


def judge(job, prompts, answers, device):
    """Each answer against the given one to the same prompt."""
    baseline = texts.read_completions(Path(job["baseline_answers"]))
    if job["judge"]["kind"] == "gold":
        return gold.judge(world.draw(job["judge"]["world"]), prompts, answers, baseline)
    tokenizer = AutoTokenizer.from_pretrained(job["judge"]["model"])
    model = AutoModelForSequenceClassification.from_pretrained(job["judge"]["model"], num_labels=1, dtype=torch.float32).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    return reward_model.judge(
        model.to(device), tokenizer, job["judge"]["max_length"], prompts, answers, baseline, ends_with_turn=True
    )


def trained_tokens(trainer, job):
    """Tokens of prompt and answer that the steps were about, each answer with its prompt, padding left out."""
    rows = trainer.train_dataset
    lengths = [
        min(len(row["prompt_ids"]) + len(row[answer]), job["max_length"])
        for row in rows
        for answer in ("chosen_ids", "rejected_ids")
    ]
    return sum(lengths) * job["epochs"]


if __name__ == "__main__":
    main()
