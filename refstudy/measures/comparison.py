"""Two sets of answers to the same prompts, compared prompt by prompt.

Invariant: every difference is paired by prompt and its interval clustered; what one side lacks is left out on both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refstudy.measures import intervals, lengths
from refstudy.measures.intervals import Estimate
from refstudy.measures.win_rate import WinRate, win_rate
from refstudy.texts import Completion, Message, Prompt


@dataclass(frozen=True, kw_only=True)
class Side:
    """A set of answers, and what is known of them."""

    title: str
    prompts: list[Prompt]
    answers: list[Completion]
    p: Mapping[str, float | None] | None = None
    """By prompt id: P(the answer beats the baseline's) in [0, 1], None where the judge failed; None: never judged."""
    rewards: Mapping[str, float] | None = None
    """By prompt id: the judge's reward, where it gives one."""
    baseline: str | None = None
    """Names the baseline answers behind `p`: win rates of two sides are comparable where it and the judge are the same."""
    judge: str | None = None
    counted_by: str | None = None
    """Names the tokenizer of `token_ids`; None: the tokens are not known."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt with both answers."""

    prompt: Prompt
    a: Completion
    b: Completion
    p_a: float | None
    """Against the common baseline."""
    p_b: float | None
    direct: float | None
    """P(A beats B), judged directly."""
    disagreement: tuple[float, float, float]
    """How far the sides are apart, the largest first: verdicts in [0, 1], rewards, share of the longer text that is surplus."""


@dataclass(frozen=True, kw_only=True)
class LengthDifference:
    unit: str
    a: float
    """Mean of A's answers."""
    b: float
    difference: Estimate
    """A - B, paired by prompt."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    a: Side
    b: Side
    direct: WinRate | None
    """A against B, judged directly."""
    p_a: WinRate | None
    """A against the common baseline, on the common prompts; None where baseline or judge differ."""
    p_b: WinRate | None
    difference: Estimate | None
    """p_a - p_b, paired by prompt, where both judges gave a verdict."""
    lengths: list[LengthDifference]
    same_text: int
    """Prompts to which both give the same answer."""
    examples: list[Example]
    """All common prompts, those with the largest disagreement first."""


def compare(a: Side, b: Side, direct: Mapping[str, float | None] | None = None) -> Comparison:
    """A against B on the prompts that both answer; direct: P(A beats B) by prompt id, where a judge was asked."""
    ours, theirs = {each.prompt_id: each for each in a.answers}, {each.prompt_id: each for each in b.answers}
    asked = {prompt.prompt_id: (prompt.messages, prompt.turns) for prompt in b.prompts}
    answered = [prompt for prompt in a.prompts if prompt.prompt_id in ours and prompt.prompt_id in theirs]
    prompts = [prompt for prompt in answered if _is_same((prompt.messages, prompt.turns), asked[prompt.prompt_id])]
    clusters = {prompt.prompt_id: prompt.cluster for prompt in prompts}
    comparable = _comparable(a, b)
    examples = [_example(prompt, a, b, ours[prompt.prompt_id], theirs[prompt.prompt_id], direct or {}) for prompt in prompts]
    return Comparison(
        a=a,
        b=b,
        direct=None if direct is None else _rate(direct, clusters),
        p_a=_rate(a.p, clusters) if comparable else None,
        p_b=_rate(b.p, clusters) if comparable else None,
        difference=_difference(a.p, b.p, clusters) if comparable else None,
        lengths=_lengths(a, b, [(ours[each], theirs[each]) for each in clusters], list(clusters.values())),
        same_text=sum(ours[each].text == theirs[each].text for each in clusters),
        examples=sorted(examples, key=lambda each: each.disagreement, reverse=True),
    )


def _is_same(one: tuple[list[Message], list[str]], other: tuple[list[Message], list[str]]) -> bool:
    """Whether two prompts of one id read the same: two worlds name their prompts alike. A file may give ids and no texts."""
    return one == other or not one[0] or not other[0]


def _comparable(a: Side, b: Side) -> bool:
    return a.judge is not None and (a.judge, a.baseline) == (b.judge, b.baseline)


def _rate(p: Mapping[str, float | None] | None, clusters: Mapping[str, str]) -> WinRate | None:
    if p is None:
        return None
    ids = [each for each in clusters if each in p]
    return win_rate([p[each] for each in ids], ids, [clusters[each] for each in ids])


def _difference(
    p: Mapping[str, float | None] | None, other: Mapping[str, float | None] | None, clusters: Mapping[str, str]
) -> Estimate | None:
    if p is None or other is None:
        return None
    both = [
        (one - two, clusters[each])
        for each in clusters
        if (one := p.get(each)) is not None and (two := other.get(each)) is not None
    ]
    of = intervals.mean([gap for gap, _ in both], [cluster for _, cluster in both])
    return replace(of, low=float(np.clip(of.low, -1, 1)), high=float(np.clip(of.high, -1, 1)))


def _lengths(a: Side, b: Side, answers: Sequence[tuple[Completion, Completion]], clusters: Sequence[str]) -> list[LengthDifference]:
    """In tokens where both sides are counted in the same ones, and in characters and words."""
    units = {
        "tokens": [(float(len(one.token_ids)), float(len(two.token_ids))) for one, two in answers],
        "characters": [(float(lengths.characters(one.text)), float(lengths.characters(two.text))) for one, two in answers],
        "words": [(float(lengths.words(one.text)), float(lengths.words(two.text))) for one, two in answers],
    }
    if a.counted_by is None or a.counted_by != b.counted_by:
        del units["tokens"]
    return [_length(unit, sizes, clusters) for unit, sizes in units.items() if sizes]


def _length(unit: str, sizes: Sequence[tuple[float, float]], clusters: Sequence[str]) -> LengthDifference:
    count = len(sizes)
    return LengthDifference(
        unit=unit,
        a=math.fsum(one for one, _ in sizes) / count,
        b=math.fsum(two for _, two in sizes) / count,
        difference=intervals.mean([one - two for one, two in sizes], clusters),
    )


def _example(prompt: Prompt, a: Side, b: Side, one: Completion, two: Completion, direct: Mapping[str, float | None]) -> Example:
    comparable = _comparable(a, b)
    p_a = (a.p or {}).get(prompt.prompt_id) if comparable else None
    p_b = (b.p or {}).get(prompt.prompt_id) if comparable else None
    verdict = direct.get(prompt.prompt_id)
    apart = [abs(2 * verdict - 1)] if verdict is not None else []
    apart += [abs(p_a - p_b)] if p_a is not None and p_b is not None else []
    surplus = abs(len(one.text) - len(two.text)) / max(len(one.text), len(two.text), 1)
    return Example(
        prompt=prompt,
        a=one,
        b=two,
        p_a=p_a,
        p_b=p_b,
        direct=verdict,
        disagreement=(max(apart, default=0.0), _reward_gap(prompt.prompt_id, a, b), surplus),
    )


def _reward_gap(prompt_id: str, a: Side, b: Side) -> float:
    one, two = (a.rewards or {}).get(prompt_id), (b.rewards or {}).get(prompt_id)
    return abs(one - two) if one is not None and two is not None and a.judge == b.judge else 0.0
