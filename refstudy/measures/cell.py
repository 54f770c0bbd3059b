"""All measures of one cell, from its prompts, answers, verdicts, divergence and training log.

Invariant: a measure that these inputs cannot give is absent from the result; no value is NaN or infinite.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refstudy.measures import divergence, intervals, lengths, repetition
from refstudy.measures.win_rate import win_rate
from refstudy.texts import Completion, Prompt

TRAINING_MEASURES = {
    "reward_accuracy": "reward_accuracy",
    "policy_accuracy": "policy_accuracy",
    "loss": "train_loss_final",
    "reward_margin": "reward_margin_final",
    "validation_loss": "validation_loss",
    "validation_reward_accuracy": "validation_reward_accuracy",
    "validation_policy_accuracy": "validation_policy_accuracy",
    "checkpoint_step": "checkpoint_step",
}
"""Key of a training log's `final` -> measure."""


def measure(
    prompts: Sequence[Prompt],
    candidates: Sequence[Completion],
    baselines: Sequence[Completion],
    verdicts: Sequence[Mapping[str, Any]],
    divergences: Sequence[Mapping[str, Any]],
    training: Mapping[str, float],
) -> dict[str, float]:
    """Every measure of a cell by name; rates in [0, 1], lengths in the unit of their name, KL in nats.

    verdicts: {"prompt_id", "p", "candidate_reward", "candidate_detail"}; divergences: {"prompt_id", "kl_nats", "tokens"}, of the
    candidate to the start policy on its own answers, may be empty; training: the `final` of the training log, may be empty.
    """
    clusters = {prompt.prompt_id: prompt.cluster for prompt in prompts}
    values = {
        **_win_rates(prompts, clusters, verdicts),
        **length_measures(candidates, clusters),
        **repetition_measures(candidates),
        **_gold(verdicts),
        **_divergence(divergences),
        **{name: float(training[key]) for key, name in TRAINING_MEASURES.items() if key in training},
        "length_ratio": _length_ratio(candidates, baselines),
    }
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def length_measures(answers: Sequence[Completion], clusters: Mapping[str, str]) -> dict[str, float]:
    """Lengths in tokens (the end token counted), characters and words, with the clustered interval of the mean in tokens."""
    terminated = [answer.terminated for answer in answers]
    units = {
        "tokens": [len(answer.token_ids) for answer in answers],
        "characters": [lengths.characters(answer.text) for answer in answers],
        "words": [lengths.words(answer.text) for answer in answers],
    }
    values: dict[str, float] = {}
    for unit, sizes in units.items():
        of = lengths.summary(sizes, terminated)
        values |= {f"length_{unit}_mean": of.mean, f"length_{unit}_median": of.median, f"length_{unit}_p95": of.p95}
        values[f"length_{unit}_terminated_mean"] = of.terminated_mean
    mean = mean_by_prompt([(answer.prompt_id, float(len(answer.token_ids))) for answer in answers], clusters)
    low = max(mean.low, 0.0) if math.isfinite(mean.low) else math.nan
    return values | {"length_mean_low": low, "length_mean_high": mean.high, "truncation_rate": lengths.truncation_rate(terminated)}


def repetition_measures(answers: Sequence[Completion]) -> dict[str, float]:
    """seq-rep-4 and diversity (means over answers), the share of repetitive answers, and of distinct answers."""
    ids = [answer.token_ids[:-1] if answer.terminated else answer.token_ids for answer in answers]
    repetitive = [repetition.is_repetitive(tokens, answer.text) for tokens, answer in zip(ids, answers, strict=True)]
    return {
        "seq_rep_4": float(np.mean([repetition.seq_rep(tokens) for tokens in ids])),
        "diversity": float(np.mean([repetition.diversity(tokens) for tokens in ids])),
        "repetitive_share": float(np.mean(repetitive)),
        "distinct_answers": repetition.distinct_share([answer.text for answer in answers]),
    }


def mean_by_prompt(rows: Sequence[tuple[str, float]], clusters: Mapping[str, str]) -> intervals.Estimate:
    """The clustered mean over prompts of (prompt_id, value) rows; several rows of one prompt are averaged first."""
    ids = [prompt_id for prompt_id, _ in rows]
    _, means, prompt_clusters = intervals.average_within([value for _, value in rows], ids, [clusters[each] for each in ids])
    return intervals.mean(means, prompt_clusters)


def _win_rates(prompts: Sequence[Prompt], clusters: Mapping[str, str], verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    held_out = {prompt.prompt_id: bool(prompt.meta["held_out"]) for prompt in prompts if "held_out" in prompt.meta}
    overall = _win_rate(verdicts, clusters)
    values = {
        "win_rate": overall.estimate.value,
        "win_rate_se": overall.estimate.standard_error,
        "win_rate_low": overall.estimate.low,
        "win_rate_high": overall.estimate.high,
        "tie_share": overall.tie_share,
        "judge_failures": overall.failures,
        "prompts": len(prompts),
    }
    for name, wanted in (("win_rate_seen", False), ("win_rate_held_out", True)):
        part = [row for row in verdicts if held_out.get(row["prompt_id"]) is wanted]
        values[name] = _win_rate(part, clusters).estimate.value
    return values


def _win_rate(verdicts: Sequence[Mapping[str, Any]], clusters: Mapping[str, str]) -> Any:
    ids = [row["prompt_id"] for row in verdicts]
    return win_rate([row["p"] for row in verdicts], ids, [clusters[each] for each in ids])


def _gold(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean gold reward, statements an answer, and precision, where the world gives them.

    The reward of a learned judge has no unit and stands as `judge_reward`.
    """
    rewards = [row["candidate_reward"] for row in verdicts if row.get("candidate_reward") is not None]
    reward = float(np.mean(rewards)) if rewards else math.nan
    details = [row["candidate_detail"] for row in verdicts if "stated" in (row.get("candidate_detail") or {})]
    if not details:
        return {"judge_reward": reward}
    stated = sum(detail["stated"] for detail in details) / len(details)
    return {"gold_reward": reward, "statements_mean": stated, "precision": precision(details)}


def precision(details: Sequence[Mapping[str, Any]]) -> float:
    """True statements among all that repeat nothing, pooled over answers; NaN if nothing was stated."""
    true, false = (sum(detail[name] for detail in details) for name in ("true", "false"))
    return true / (true + false) if true + false else math.nan


def _divergence(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    of = divergence.summary([row["kl_nats"] for row in rows], [row["tokens"] for row in rows])
    return {"kl_start_nats": of.nats_per_answer, "kl_start_nats_per_token": of.nats_per_unit}


def _length_ratio(candidates: Sequence[Completion], baselines: Sequence[Completion]) -> float:
    """Mean length in tokens of the candidate's answers / of the baseline's."""
    baseline = sum(len(answer.token_ids) for answer in baselines) / max(len(baselines), 1)
    return sum(len(answer.token_ids) for answer in candidates) / len(candidates) / baseline if baseline else math.nan
