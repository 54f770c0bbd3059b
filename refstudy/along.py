"""Short evaluations of a policy while it trains: answers to prompts of their own, judged against those of its start.

Invariant: an evaluation reads the policy and changes nothing of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel

from refstudy import divergence, generation
from refstudy.judges import Verdict
from refstudy.measures import cell as cell_measures
from refstudy.measures import names
from refstudy.recipes import Sampling
from refstudy.shelf import Policy
from refstudy.texts import Completion, Prompt

Judge = Callable[[list[Prompt], list[Completion], list[Completion]], Sequence[Verdict]]
"""(prompts, the policy's answers, the start's answers) -> verdicts on the policy's."""


class Examination:
    """The evaluations along one training: called with the policy, gives the measures `names.ALONG` that apply.

    `start`, the policy before training, stays in memory for the KL divergence; `baseline` are its answers to `prompts`.
    """

    def __init__(self, prompts: list[Prompt], baseline: list[Completion], start: Policy, sampling: Sampling, judge: Judge) -> None:
        self.prompts, self.baseline, self.start, self.sampling, self.judge = prompts, baseline, start, sampling, judge
        self._best_win_rate = 0.0

    def __call__(self, policy: PreTrainedModel) -> dict[str, float]:
        tokenizer, system_role = self.start.tokenizer, self.start.system_role
        drawn = generation.drawn(policy, tokenizer, self.prompts, self.sampling, system_role=system_role)
        answers, system = drawn.completions, self.sampling.system
        kl = divergence.kl_nats(
            policy, self.start.model, tokenizer, self.prompts, answers, system, system_role=system_role, states=drawn.states
        )
        verdicts = self.judge(self.prompts, answers, self.baseline)
        found = cell_measures.measure(
            prompts=self.prompts,
            candidates=answers,
            baselines=self.baseline,
            verdicts=[_row(each) for each in verdicts],
            divergences=[{"kl_nats": nats, "tokens": tokens} for nats, tokens in zip(kl.kl_nats, kl.tokens, strict=True)],
            training={},
        )
        return {name: found[name] for name in names.ALONG if name in found} | self._fall(found.get("win_rate"))

    def recall(self, curve: list[dict[str, float]]) -> None:
        """Goes on from evaluations that another process made of the same training."""
        self._best_win_rate = max([0.0, *(row["win_rate"] for row in curve if "win_rate" in row)])

    def _fall(self, win_rate: float | None) -> dict[str, float]:
        if win_rate is None:
            return {}
        self._best_win_rate = max(self._best_win_rate, win_rate)
        return {"win_rate_fall": self._best_win_rate - win_rate}


def _row(verdict: Verdict) -> dict[str, Any]:
    return {
        "prompt_id": verdict.prompt_id,
        "p": verdict.p,
        "candidate_reward": verdict.candidate_reward,
        "candidate_detail": verdict.candidate_detail,
    }
