"""Two sides compared, for people: sentences, examples side by side, and one HTML page that opens from disk.

Invariant: the page loads nothing and runs nothing; whatever a model, a judge or a file says is text, on the page and in the
terminal.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from analysis.samples import shown
from refstudy import texts
from refstudy.errors import DataError, StoreError
from refstudy.measures.comparison import Comparison, Example
from refstudy.measures.intervals import Estimate
from refstudy.measures.win_rate import WinRate
from refstudy.texts import visible

PAGE_EXAMPLES = 200
"""Examples on a page, those with the largest disagreement."""


@dataclass(frozen=True)
class Shown:
    """An example as text that is safe to show."""

    prompt: list[tuple[str, str]]
    """(role, what was said)"""
    a: str
    b: str
    about_a: str
    about_b: str
    verdict: str
    """Who wins, in words; empty where nobody judged."""


def sentences(of: Comparison, notes: list[str]) -> list[str]:
    """What the comparison says, each sentence with its interval; what it cannot say comes last."""
    if not of.examples:
        raise DataError(
            f"{of.a.title} and {of.b.title} have no prompt in common ({len(of.a.answers):,} and {len(of.b.answers):,} answers); "
            "expected answers to the same prompts, by prompt_id or text"
        )
    told = [_direct(of.direct), _against_baseline(of), *_lengths(of), _extent(of)]
    return [visible(each) for each in [*told, *notes] if each]


def names(of: Comparison) -> tuple[str, str]:
    """The titles of both sides as they can be shown."""
    return visible(of.a.title), visible(of.b.title)


def examples(of: Comparison, count: int) -> list[Shown]:
    """The `count` examples with the largest disagreement: verdicts first, then the judge's rewards, then length."""
    return [_shown(of, each) for each in of.examples[:count]]


def rows(of: Comparison, count: int) -> list[tuple[str, str, str]]:
    """(prompt and verdict, A's answer, B's answer) of the first examples, for the terminal."""
    return [
        (
            "\n".join([*(f"{role}: {said}" for role, said in each.prompt), *([each.verdict] if each.verdict else [])]),
            f"{each.a}\n({each.about_a})",
            f"{each.b}\n({each.about_b})",
        )
        for each in examples(of, count)
    ]


def as_json(of: Comparison, notes: list[str]) -> dict[str, Any]:
    """The numbers of a comparison, without the texts; what is undefined is null."""
    sentences(of, notes)  # refuses sides without a common prompt
    rates = {"head_to_head": of.direct, "a_against_baseline": of.p_a, "b_against_baseline": of.p_b}
    return {
        "a": of.a.title,
        "b": of.b.title,
        "prompts": len(of.examples),
        "same_text": of.same_text,
        **{name: None if rate is None else _numbers(rate.estimate) | _finite(ties=rate.tie_share) for name, rate in rates.items()},
        "difference": None if of.difference is None else _numbers(of.difference),
        "lengths": [{"unit": each.unit, "a": each.a, "b": each.b, "difference": _numbers(each.difference)} for each in of.lengths],
        "notes": notes,
    }


def write(of: Comparison, notes: list[str], path: Path) -> Path:
    """Writes the page and returns its path."""
    told = sentences(of, notes)
    found = examples(of, PAGE_EXAMPLES)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.get_template("compare_template.html").render(
        names=names(of), sentences=told, examples=found, total=len(of.examples)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}; expected a file in a writable folder") from error
    return path


def _direct(rate: WinRate | None) -> str:
    if rate is None:
        return ""
    failed = f", {rate.failures} without a verdict" if rate.failures else ""
    return (
        f"Head to head A beats B in {_bounded(rate.estimate, '.3f')} of {rate.estimate.n:,} prompts "
        f"(ties count half; {rate.tie_share:.1%} are ties{failed}): {_side(rate.estimate, 0.5, 'A is better', 'B is better')}."
    )


def _against_baseline(of: Comparison) -> str:
    if of.p_a is None or of.p_b is None or of.difference is None:
        judged = of.a.p is not None and of.b.p is not None
        return "Their win rates are not against the same baseline by the same judge, so they make no difference." if judged else ""
    return (
        f"Against the same baseline answers A wins {of.p_a.estimate.value:.3f} and B {of.p_b.estimate.value:.3f}: "
        f"A - B = {_bounded(of.difference, '+.3f')}, paired over {of.difference.n:,} prompts: "
        f"{_side(of.difference, 0.0, 'A is better', 'B is better')}."
    )


def _lengths(of: Comparison) -> list[str]:
    return [
        f"Mean length in {each.unit}: A {each.a:.1f}, B {each.b:.1f}; A - B = {_bounded(each.difference, '+.1f')}, paired: "
        f"{_side(each.difference, 0.0, 'A is longer', 'B is longer')}."
        for each in of.lengths
    ]


def _extent(of: Comparison) -> str:
    left = [f"{len(side.answers) - len(of.examples):,} answers of {name}" for side, name in ((of.a, "A"), (of.b, "B"))]
    unused = [text for text in left if not text.startswith("0 ")]
    rest = f"; {' and '.join(unused)} have no counterpart" if unused else ""
    return f"Both answer {len(of.examples):,} prompts, {of.same_text:,} of them with the same text{rest}."


def _bounded(of: Estimate, form: str) -> str:
    bounds = "no interval" if math.isnan(of.low) else f"95 % interval {of.low:{form}} to {of.high:{form}}"
    return f"{of.value:{form}} ({bounds})"


def _side(of: Estimate, middle: float, above: str, below: str) -> str:
    """Which side the interval is on, in words."""
    if of.low > middle:
        return above
    return below if of.high < middle else "not separable"


def _shown(of: Comparison, example: Example) -> Shown:
    return Shown(
        prompt=[(visible(message["role"]), shown(message["content"])) for message in texts.asked(example.prompt)],
        a=shown(texts.answer_text(example.prompt, example.a)),
        b=shown(texts.answer_text(example.prompt, example.b)),
        about_a=_about(example.a.token_ids, example.a.text, example.a.terminated, example.p_a, of.a.counted_by),
        about_b=_about(example.b.token_ids, example.b.text, example.b.terminated, example.p_b, of.b.counted_by),
        verdict=_verdict(example),
    )


def _about(token_ids: list[int], text: str, terminated: bool, p: float | None, counted_by: str | None) -> str:
    length = f"{len(text)} characters" if counted_by is None else f"{len(token_ids)} tokens"
    cut = "" if terminated else ", cut at the limit"
    return f"{length}{cut}" + ("" if p is None else f", against the baseline p = {p:.2f}")


def _verdict(example: Example) -> str:
    """The direct verdict if there is one, else who does better against the baseline."""
    if example.direct is not None:
        return f"{_winner(example.direct, 0.5)} (P(A beats B) = {example.direct:.2f})"
    if example.p_a is None or example.p_b is None:
        return ""
    return f"{_winner(example.p_a, example.p_b)} against the baseline"


def _winner(one: float, other: float) -> str:
    return "a tie" if one == other else "A wins" if one > other else "B wins"


def _numbers(of: Estimate) -> dict[str, Any]:
    return _finite(**asdict(of))


def _finite(**values: float) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
