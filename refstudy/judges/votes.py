"""Votes as a judge: what people, or programs elsewhere, said of these answers, read from a JSONL file.

    judge: {kind: votes, path: votes.jsonl}

One vote a line. About which prompt: `prompt_id`, or `prompt` (its text), or `prompt_sha256` (of that text, UTF-8). What it says:
`winner`, one of candidate, baseline and tie, or `p`, P(the candidate beats the baseline) in [0, 1]. A file that serves several
cells says in `candidate` and `baseline`, the texts, or `candidate_sha256` and `baseline_sha256`, their hashes, which answers were
seen; a vote on other answers is no vote on these. `annotator` may say who voted.

Invariant: the votes on a prompt are averaged, each as it is; a prompt without any has no verdict.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy.errors import DataError, JudgeError
from refstudy.judges import Judged, Verdict, check_same_prompts
from refstudy.texts import Completion, Prompt, answer_text, asked_text, read_objects

WINNERS = {"candidate": 1.0, "baseline": 0.0, "tie": 0.5}
PROMPT_KEYS = ("prompt_id", "prompt", "prompt_sha256")
KNOWN = {
    *(*PROMPT_KEYS, "winner", "p", "annotator"),
    *("candidate", "baseline", "candidate_sha256", "baseline_sha256"),
}


@dataclass(frozen=True)
class Vote:
    about: str
    """A prompt's id, or "sha256:" and the hash of its text."""
    p: float
    annotator: str | None
    candidate: str | None
    """sha256 of the answer that was seen; None: the vote does not say."""
    baseline: str | None


def read(path: Path) -> list[Vote]:
    """The votes of a file; DataError names the line that is none."""
    return [_vote(row, f"{path}, line {number}") for number, row in read_objects(path)]


def judge(
    votes: Sequence[Vote], prompts: Sequence[Prompt], candidate: Sequence[Completion], baseline: Sequence[Completion]
) -> Judged:
    """A verdict for each prompt: the mean of its votes. JudgeError if not one vote is about these answers."""
    check_same_prompts(prompts, candidate, baseline)
    by_prompt: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_prompt[vote.about].append(vote)
    found = [_found(by_prompt, *row) for row in zip(prompts, candidate, baseline, strict=True)]
    if not any(found):
        raise JudgeError(
            f"none of the {len(votes):,} votes is about these {len(prompts):,} prompts and answers (first prompt: "
            f"{prompts[0].prompt_id!r}); expected votes by prompt_id, prompt or prompt_sha256, and on these answers where they "
            "name some: see `refstudy export CELL --alpaca-eval FILE` for the texts"
        )
    verdicts = [_verdict(prompt, each) for prompt, each in zip(prompts, found, strict=True)]
    return Judged(verdicts, _summary(votes, found))


def _found(by_prompt: dict[str, list[Vote]], prompt: Prompt, ours: Completion, theirs: Completion) -> list[Vote]:
    """The votes on this prompt and, where they say which answers they saw, on these answers."""
    named = [*by_prompt.get(prompt.prompt_id, []), *by_prompt.get(f"sha256:{_sha256(asked_text(prompt))}", [])]
    sides = ((answer_text(prompt, ours), "candidate"), (answer_text(prompt, theirs), "baseline"))
    return [vote for vote in named if all(getattr(vote, side) in (None, _sha256(text)) for text, side in sides)]


def _verdict(prompt: Prompt, votes: list[Vote]) -> Verdict:
    return Verdict(
        prompt_id=prompt.prompt_id,
        p=sum(vote.p for vote in votes) / len(votes) if votes else None,
        candidate_reward=None,
        baseline_reward=None,
        candidate_detail={"votes": len(votes)},
        baseline_detail={},
    )


def _summary(votes: Sequence[Vote], found: list[list[Vote]]) -> dict[str, Any]:
    """How many votes count, on how many prompts they differ, and where one annotator said two things."""
    used = [vote for each in found for vote in each]
    return {
        "verdicts": len(found),
        "no_verdict": sum(not each for each in found),
        "votes": len(used),
        "votes_on_other_answers": len(votes) - len(set(map(id, used))),
        "votes_that_name_no_answers": sum(vote.candidate is None and vote.baseline is None for vote in used),
        "prompts_with_several_votes": sum(len(each) > 1 for each in found),
        "prompts_in_conflict": sum(_conflict(each) for each in found),
        "annotators_in_conflict_with_themselves": sum(_conflict(own) for each in found for own in _by_annotator(each)),
    }


def _conflict(votes: list[Vote]) -> bool:
    """Whether one vote prefers the candidate and another the baseline."""
    return any(vote.p > 0.5 for vote in votes) and any(vote.p < 0.5 for vote in votes)


def _by_annotator(votes: list[Vote]) -> list[list[Vote]]:
    own: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.annotator is not None:
            own[vote.annotator].append(vote)
    return list(own.values())


def _vote(row: dict[str, Any], where: str) -> Vote:
    unknown = sorted(set(row) - KNOWN)
    about = [key for key in PROMPT_KEYS if row.get(key) is not None]
    if unknown or len(about) != 1:
        got = f"unknown key {unknown[0]!r:.40}" if unknown else f"{len(about)} of {', '.join(PROMPT_KEYS)}"
        raise DataError(f"{where} has {got}; expected one of {', '.join(PROMPT_KEYS)}, and of the other keys {_others()}")
    texts = {key: row[key] for key in KNOWN - {"p"} if row.get(key) is not None}
    wrong = [key for key, value in sorted(texts.items()) if not isinstance(value, str)]
    if wrong:
        raise DataError(f"{where}: {wrong[0]} is {row[wrong[0]]!r:.40}; expected a string")
    given = texts[about[0]]
    return Vote(
        about={"prompt_id": given, "prompt": f"sha256:{_sha256(given)}", "prompt_sha256": f"sha256:{given.lower()}"}[about[0]],
        p=_p(row, where),
        annotator=texts.get("annotator"),
        candidate=_seen(texts, "candidate"),
        baseline=_seen(texts, "baseline"),
    )


def _p(row: dict[str, Any], where: str) -> float:
    winner, p = row.get("winner"), row.get("p")
    if (winner is None) == (p is None):
        raise DataError(f"{where}: expected either `winner` or `p`")
    if winner is not None:
        if winner not in WINNERS:
            raise DataError(f"{where}: winner is {winner!r:.40}; expected {', '.join(WINNERS)}")
        return WINNERS[winner]
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise DataError(f"{where}: p is {p!r:.40}; expected a number in [0, 1], the probability that the candidate is better")
    return float(p)


def _seen(texts: dict[str, str], side: str) -> str | None:
    if side in texts:
        return _sha256(texts[side])
    known = texts.get(f"{side}_sha256")
    return known.lower() if known is not None else None


def _others() -> str:
    return ", ".join(sorted(KNOWN - set(PROMPT_KEYS)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
