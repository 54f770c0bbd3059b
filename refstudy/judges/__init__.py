"""Judges: for each prompt the probability that the candidate answer beats the baseline answer.

Invariant: a verdict is about one prompt and says on what it rests; what a judge cannot decide is None, never 0.5.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refstudy.errors import JudgeError
from refstudy.texts import Completion, Prompt, read_objects

FILE = "verdicts.jsonl"
SUMMARY = "summary.json"

OF_ORDERS = ("p_first", "p_second", "read", "label_mass")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    prompt_id: str
    p: float | None
    """P(the candidate beats the baseline) in [0, 1], 0.5 for a tie; None: the judge gave no verdict."""
    candidate_reward: float | None
    baseline_reward: float | None
    candidate_detail: dict[str, Any]
    baseline_detail: dict[str, Any]
    p_first: float | None = None
    """The same with the candidate shown first; of judges that are asked in both orders."""
    p_second: float | None = None
    """The same with the candidate shown second: still P(the candidate beats the baseline)."""
    read: list[str] | None = None
    """How the verdict of each of the two orders was read: logprobs, letter, or none; refused: the server took no such request."""
    label_mass: list[float | None] | None = None
    """P(the judge's next token is one of its two labels) in each order, where log-probs were read."""
    label: int | None = None
    """1: the candidate is objectively the better one, 0: the baseline is; None: nobody knows."""


@dataclass(frozen=True)
class Judged:
    """What a judge has to say: its verdicts, and what is worth knowing about how they came about."""

    verdicts: list[Verdict]
    summary: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, verdicts: Iterable[Verdict]) -> None:
    """Writes verdicts.jsonl, one object a line, in prompt order; what only some judges know stands there for these."""
    with open(folder / FILE, "w", encoding="utf-8") as file:
        for verdict in verdicts:
            file.write(json.dumps(_row(verdict), ensure_ascii=False) + "\n")


def read(folder: Path) -> list[Verdict]:
    """The verdicts that `write` wrote."""
    return [Verdict(**row) for _, row in read_objects(folder / FILE)]


def check_same_prompts(prompts: Sequence[Prompt], candidate: Sequence[Completion], baseline: Sequence[Completion]) -> None:
    """JudgeError unless both sides answer exactly these prompts, in this order."""
    asked = [prompt.prompt_id for prompt in prompts]
    for side, answers in (("candidate", candidate), ("baseline", baseline)):
        answered = [answer.prompt_id for answer in answers]
        if answered != asked:
            missing = sorted(set(asked) - set(answered))
            first = f"first without an answer: {missing[0]}" if missing else "another order, or prompts that were not asked"
            raise JudgeError(
                f"the {side} has {len(answered)} answers for {len(asked)} prompts ({first}); generate its answers again"
            )


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow for large negative x."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _row(verdict: Verdict) -> dict[str, Any]:
    unknown = {"label"} if verdict.label is None else set()
    unknown |= set(OF_ORDERS) if verdict.read is None else set()
    return {name: value for name, value in vars(verdict).items() if name not in unknown}
