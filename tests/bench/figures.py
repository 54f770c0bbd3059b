"""What the raw runs of a part come to: speed-ups, whether both sides did the same, and where the time went.

Invariant: pure functions of what was measured. Formulas with their symbols: P parameters of the policy without its embedding and
head, H those of the head, T tokens of one epoch with the prompt counted with each answer, U the same with the prompt counted once,
C tokens of the answers alone.
"""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.counting import PROBE

ROUNDING_NATS = 0.05
"""Standard deviation of a log-prob ratio's rounding in bf16 autocast for answers of ROUNDING_TOKENS tokens: a mean absolute
difference of 0.04 nats (see `precision` of models in a sweep file), times sqrt(pi / 2)."""
ROUNDING_TOKENS = 17
SIGMAS = 3
OF_TASKS = {"warm": "start", "make": "make", "tokenise": "tokenise", "score": "score", "references": "references"}
"""The phase that a task's time belongs to."""
EXACT = 1e-3
"""What two runs in fp32 may differ by, in nats: a few hundred steps of other sums in another order."""


@dataclass(frozen=True)
class Size:
    """A model as arithmetic sees it: parameters that every token meets, and those of the head."""

    body: int
    head: int

    @property
    def whole(self) -> int:
        return self.body + self.head


@dataclass(frozen=True)
class Texts:
    """Tokens of one epoch of a part's pairs."""

    pairs: int
    each_answer: int
    """T."""
    prompt_once: int
    """U."""
    answers: int
    """C."""


def size(config: Mapping[str, Any], parameters: int) -> Size:
    """Out of a checkpoint's config.json and its count of parameters, each counted once: looking up an embedding costs nothing."""
    table = config["vocab_size"] * config["hidden_size"]
    return Size(parameters - (table if config["tie_word_embeddings"] else 2 * table), table)


# Speed ------------------------------------------------------------------------------------------------------------------------


def speedup(baselines_s: Sequence[float], sweeps_s: Sequence[float], scale: float) -> float:
    """How many times as long the baseline takes as the sweep: ratio of medians over rounds, the baseline's scaled to all cells."""
    return scale * statistics.median(baselines_s) / statistics.median(sweeps_s)


def processor_s(counts: Sequence[Mapping[str, Any]], run: Mapping[str, float]) -> float:
    """Seconds of processor time that a sweep's workers and its driver took, from their start; Ray's own processes are not in it."""
    workers: dict[int, float] = defaultdict(float)
    for line in counts:
        workers[line["pid"]] = max(workers[line["pid"]], line["process_cpu_s"])
    return sum(workers.values()) + run["driver_cpu_s"]


# Equality ---------------------------------------------------------------------------------------------------------------------


def tolerances(beta: float, is_rounded: bool, answer_tokens: float, pairs: int) -> dict[str, float]:
    """What the last loss and reward margin, means over `pairs` visits, may differ by between two runs of one cell, in nats.

    In fp32 EXACT. In bf16 policy and reference are rounded anew: the margin of a pair is off by e with standard deviation
    s = beta * sqrt(2) * ROUNDING_NATS * sqrt(answer_tokens / ROUNDING_TOKENS). Means are off by SIGMAS s / sqrt(pairs), and the
    loss, convex in the margin with a second derivative of at most 1/4, by E[e^2] / 8 = s^2 / 8 more.
    """
    if not is_rounded:
        return {"loss": EXACT, "reward_margin": EXACT}
    spread = beta * math.sqrt(2 * answer_tokens / ROUNDING_TOKENS) * ROUNDING_NATS
    noise = EXACT + SIGMAS * spread / math.sqrt(pairs)
    return {"loss": noise + spread**2 / 8, "reward_margin": noise}


def compared(ours: Mapping[str, float], theirs: Mapping[str, float], allowed: Mapping[str, float]) -> dict[str, Any]:
    """One cell both ways: the differences of last loss and reward margin, what is allowed, and whether they are equal by that."""
    away = {name: abs(ours[name] - theirs[name]) for name in allowed}
    return {
        "ours": {name: ours[name] for name in allowed},
        "theirs": {name: theirs[name] for name in allowed},
        "difference": away,
        "allowed": dict(allowed),
        "equal": all(away[name] <= allowed[name] for name in allowed),  # false where one is no number
    }


# Where the time went ----------------------------------------------------------------------------------------------------------


def phases(
    counts: Sequence[Mapping[str, Any]], run: Mapping[str, float], logs: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Seconds of a run by what they went into, added over its workers; `whole` and `report` are seconds of the run.

    `logs`: by cell the training's own phases. start: from the command to the first work, and importing in every worker.
    """
    found: dict[str, float] = defaultdict(float)
    first = min(line["begun"] - line["import_s"] for line in counts)
    found["start"] = first - run["begun"] + sum(line["import_s"] for line in counts)
    for line in counts:
        took = line["ended"] - line["begun"]
        if line["what"] != "trial":
            found[OF_TASKS[line["what"]]] += took
            continue
        own, log = line["phases_s"], logs[line["of"]]
        trained = sum(log.values())
        found["load"] += own["train"] - trained + log["prepare"]
        found["train"] += trained - log["prepare"]
        found["generate"] += own["generate"]
        found["judge"] += own["judge"]
        found["divergence"] += own["divergence"] + own.get("token_shifts", 0.0)
        found["record"] += took - sum(own.values()) + own["measure"]
    found["between trials"] = _gaps_s(counts)
    found["report"] = run["whole_s"] - run["run_s"]
    found["whole"] = run["whole_s"]
    return {name: round(seconds, 3) for name, seconds in found.items()}


def overhead_share(
    counts: Sequence[Mapping[str, Any]], run: Mapping[str, float], measured: Mapping[str, float], cores: int
) -> float:
    """Share of the run's core-seconds that driver, store and logging take: the driver's own processor time, workers' time in the
    store, in logging, in records, and between two trials."""
    inside = sum(line["store_s"] + line["log_s"] for line in counts)
    return (run["driver_cpu_s"] + inside + measured["record"] + measured["between trials"]) / (cores * run["run_s"])


def _gaps_s(counts: Sequence[Mapping[str, Any]]) -> float:
    workers = defaultdict(list)
    for line in counts:
        if line["what"] == "trial":
            workers[line["pid"]].append((line["begun"], line["ended"]))
    ordered = [sorted(spans) for spans in workers.values()]
    return sum(later[0] - earlier[1] for spans in ordered for earlier, later in itertools.pairwise(spans))


# Tokens and arithmetic --------------------------------------------------------------------------------------------------------


def counted(counts: Sequence[Mapping[str, Any]], task: str, stages: Sequence[str] | None = None) -> dict[str, float]:
    """Places and tokens that models met in one kind of task, added over tasks, models and stages (None: all)."""
    total = {"places": 0.0, "tokens": 0.0}
    for line in counts:
        for key, of in line["passes"].items() if line["what"] == task else ():
            if stages is None or key.split("/")[0] in stages:
                total = {name: total[name] + of[name] for name in total}
    return total


def reference_token_ratio(counts: Sequence[Mapping[str, Any]], texts: Texts, references: int) -> float:
    """Tokens that passes over the pairs met, by those of one pass for each reference: U where it reads prompts once. Without those
    on which it was tried whether a reference may read them once: `probe_share`."""
    met = counted(counts, "score")["tokens"] - counted(counts, "score", (PROBE,))["tokens"]
    one_pass = texts.prompt_once if met < references * texts.each_answer else texts.each_answer
    return met / (references * one_pass)


def probe_share(counts: Sequence[Mapping[str, Any]]) -> float:
    """Tokens on which references were tried before their passes, by all tokens that they met there."""
    return counted(counts, "score", (PROBE,))["tokens"] / counted(counts, "score")["tokens"]


def padding_share(counts: Sequence[Mapping[str, Any]]) -> float:
    """Share of the places computed in training that hold no token."""
    met = counted(counts, "trial", ("train",))
    return 1 - met["tokens"] / met["places"]


def floor_flops(policy: Size, references: Sequence[Size], texts: Texts, epochs: float, cells: int) -> float:
    """6 (P U + H C) for each epoch of a cell, 2 (P U + H C) for each reference once."""
    training = 6 * (policy.body * texts.prompt_once + policy.head * texts.answers) * epochs * cells
    return training + sum(2 * (each.body * texts.prompt_once + each.head * texts.answers) for each in references)


def spent_flops(
    counts: Sequence[Mapping[str, Any]], policy: Size, references: Mapping[int, Size], texts: Texts, epochs: float, cells: int
) -> float:
    """The same with the places that were really computed, padding and probes among them; `references` by their parameters. Heads
    are counted at the answers, where training and scoring compute them."""
    met = counted(counts, "trial", ("train",))["places"]
    total = 6 * (policy.body * met + policy.head * texts.answers * epochs * cells)
    total += 2 * policy.body * counted(counts, "trial", (PROBE,))["places"]
    for line in counts:
        for key, of in line["passes"].items() if line["what"] == "score" else ():
            total += 2 * references[int(key.split("/")[1])].body * of["places"]
    return total + sum(2 * each.head * texts.answers for each in references.values())
