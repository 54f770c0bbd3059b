"""The gold judge: in the miniature the reward of an answer is known, and the better one wins.

Invariant: a pure function of world, prompts and texts.
"""

from collections.abc import Sequence
from typing import Any

from refstudy.judges import Verdict, check_same_prompts
from refstudy.miniature import reward
from refstudy.miniature.reward import GoldScore
from refstudy.miniature.world import World
from refstudy.texts import Completion, Prompt


def judge(
    world: World, prompts: Sequence[Prompt], candidate: Sequence[Completion], baseline: Sequence[Completion]
) -> list[Verdict]:
    """A verdict for each prompt: 1 if the candidate's gold reward is higher, 0 if the baseline's is, 0.5 if they tie."""
    check_same_prompts(prompts, candidate, baseline)
    return [
        _verdict(prompt, reward.score(world, prompt, ours.text), reward.score(world, prompt, theirs.text))
        for prompt, ours, theirs in zip(prompts, candidate, baseline, strict=True)
    ]


def _verdict(prompt: Prompt, candidate: GoldScore, baseline: GoldScore) -> Verdict:
    return Verdict(
        prompt_id=prompt.prompt_id,
        p=0.5 if candidate.reward == baseline.reward else float(candidate.reward > baseline.reward),
        candidate_reward=candidate.reward,
        baseline_reward=baseline.reward,
        candidate_detail=_detail(candidate),
        baseline_detail=_detail(baseline),
    )


def _detail(score: GoldScore) -> dict[str, Any]:
    """stated, true, false, repeated, asked, precision; the reward stands beside them in the verdict."""
    parts = {name: value for name, value in vars(score).items() if name != "reward"}
    return {**parts, "precision": score.precision}
