"""A language model as judge, behind an OpenAI-compatible chat server: vLLM, SGLang, llama.cpp, Ollama or OpenAI.

    judge: {kind: llm, model: Qwen/Qwen2.5-7B-Instruct, base_url: http://127.0.0.1:8000/v1}

Each pair of answers is shown in both orders, at temperature 0, and a prompt's verdict is the mean of the two: a judge that prefers
a place rather than an answer ends at 0.5. A prompt with an order that could not be read has no verdict, because the other order
alone is as biased as its place.

Invariant: what was answered is kept as it comes, by judge, conversation, both texts and order, and is not asked again, by this cell
or another. The API key is in request headers only. A server's tokenizer may take the text of a special token inside an answer for
that token; nothing here changes what the judge reads.
"""

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from refstudy import journal, recipes
from refstudy.endpoint import Body, Endpoint, Pace, endpoint, fetch
from refstudy.errors import JudgeAway, JudgeError, ModelError, RequestError, ServerAway
from refstudy.identity import fingerprint
from refstudy.judges import Judged, Verdict, check_same_prompts, question
from refstudy.measurement import Emit, Measurement, silent
from refstudy.texts import Completion, Message, Prompt

REFUSALS = 8
"""A server that refuses so many requests before it has answered one is taken to refuse all."""
READS = get_args(question.How)


@dataclass(frozen=True)
class Reply:
    """What the judge said of two answers in one order, as it is kept."""

    p: float | None
    read: str
    mass: float | None
    said: str
    """How its text begins."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class _Question:
    """Two answers to a prompt, in the order in which they are shown."""

    prompt_id: str
    messages: list[Message]
    first: str
    second: str
    turns: tuple[str, ...] = ()
    """Further turns of the user, to which `first` and `second` are the last answers; those before stand beside these."""
    earlier_first: tuple[str, ...] = ()
    earlier_second: tuple[str, ...] = ()


def judge(
    recipe: recipes.LlmJudge,
    prompts: Sequence[Prompt],
    candidate: Sequence[Completion],
    baseline: Sequence[Completion],
    kept: Path,
    emit: Emit = silent,
) -> Judged:
    """A verdict for each prompt, the mean of both orders, with tokens and their price in the summary.

    `kept`, a journal, holds what the judge has said already, of any cell, and takes what it says now. JudgeError if the server
    gives up, or refuses all.
    """
    check_same_prompts(prompts, candidate, baseline)
    begun = time.perf_counter()
    orders = [_both(*row) for row in zip(prompts, candidate, baseline, strict=True)]
    questions = {_key(recipe, each): each for both in orders for each in both}
    known = {key: reply for key, reply in _read(kept).items() if key in questions}
    asked = _ask(recipe, {key: each for key, each in questions.items() if key not in known}, kept, len(known), emit)
    replies = known | asked
    verdicts = [_verdict(both[0].prompt_id, *(replies.get(_key(recipe, each)) for each in both)) for both in orders]
    return Judged(verdicts, _summary(recipe, verdicts, known, asked) | {"duration_s": time.perf_counter() - begun})


def address(recipe: recipes.LlmJudge) -> Endpoint:
    """The judge's endpoint; ModelError if its base_url is no address, or carries a password."""
    at = endpoint(recipe.base_url, "chat/completions", recipe.timeout_s, recipe.retries, recipe.key_variable)
    return replace(
        at,
        expected="an OpenAI-compatible chat server",
        needs="the conversation and both answers must fit into the judge's context, and it must know `logprobs` (top_logprobs: 0 "
        f"asks for none) and `{recipe.limit}` (see the entry's `limit`)",
        fault=question.without_message,
        pace=None if recipe.requests_per_minute is None else Pace(recipe.requests_per_minute),
    )


def _both(prompt: Prompt, ours: Completion, theirs: Completion) -> tuple[_Question, _Question]:
    """The candidate shown first, and shown second."""
    one, two = (
        _Question(
            prompt_id=prompt.prompt_id,
            messages=prompt.messages,
            first=first.text,
            second=second.text,
            turns=tuple(prompt.turns),
            earlier_first=tuple(first.earlier),
            earlier_second=tuple(second.earlier),
        )
        for first, second in ((ours, theirs), (theirs, ours))
    )
    return one, two


def _key(recipe: recipes.LlmJudge, asked: _Question) -> str:
    """What a reply is kept under. Equal answers are one question whatever their order, so that their verdict is a tie."""
    parts: list[Any] = [fingerprint(recipe), asked.messages, asked.first, asked.second]
    parts += [asked.turns, asked.earlier_first, asked.earlier_second] if asked.turns else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(kept: Path) -> dict[str, Reply]:
    replies = {}
    for row in journal.rows(kept):
        try:
            reply = Reply(**{name: value for name, value in row.items() if name != "key"})
            key = row["key"]
        except (TypeError, KeyError):
            continue
        if isinstance(key, str) and _is_sound(reply):
            replies[key] = reply
    return replies


def _is_sound(reply: Reply) -> bool:
    if (reply.p is None) is not (reply.read == "none") or reply.read not in READS:
        return False
    shares = [each for each in (reply.p, reply.mass) if each is not None]
    return all(isinstance(each, int | float) and 0 <= each <= 1 for each in shares) and all(
        isinstance(each, int) for each in (reply.prompt_tokens, reply.completion_tokens)
    )


def _ask(recipe: recipes.LlmJudge, missing: dict[str, _Question], kept: Path, known: int, emit: Emit) -> dict[str, Reply]:
    """Replies by key; those that the server refuses for what stands in them are left out.

    After the first failure nothing new is asked; what is under way is waited for and kept, then the failure is raised.
    """
    if not missing:
        return {}
    at, stop = address(recipe), threading.Event()
    replies: dict[str, Reply] = {}
    refusals: list[ModelError] = []
    failure: ModelError | None = None
    with journal.adding(kept) as out:
        for key, fetched in fetch(at, recipe.concurrency, missing, lambda key: _request(recipe, missing[key]), stop):
            try:
                replies[key] = _reply(recipe, fetched(), at)
            except RequestError as error:
                refusals.append(_named(recipe, missing[key], error))
                if not replies and not known and len(refusals) >= REFUSALS:
                    stop.set()
                continue
            except ModelError as error:
                failure = failure or _named(recipe, missing[key], error)
                stop.set()
                continue
            journal.add(out, {"key": key, **asdict(replies[key])})
            emit(_progress(known + len(replies) + len(refusals), known + len(missing), replies[key]))
    if failure or (refusals and not replies and not known):
        first = failure or refusals[0]
        raise (JudgeAway if isinstance(first, ServerAway) else JudgeError)(str(first))
    return replies


def _request(recipe: recipes.LlmJudge, asked: _Question) -> Body:
    first, second = (*asked.earlier_first, asked.first), (*asked.earlier_second, asked.second)
    content = question.fill(recipe.template, recipe.labels, asked.messages, first, second, asked.turns)
    body: Body = {
        "model": recipe.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0.0,
        recipe.limit: recipe.max_tokens,
    }
    return body | ({"logprobs": True, "top_logprobs": recipe.top_logprobs} if recipe.top_logprobs else {})


def _reply(recipe: recipes.LlmJudge, answer: Body, at: Endpoint) -> Reply:
    reading = question.read(answer, recipe.labels)
    said = at.without_key(question.text(answer))[: question.SAID]
    prompt, completion = (_tokens(answer, name) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(reading.p, reading.read, reading.mass, said, prompt, completion)


def _tokens(answer: Body, name: str) -> int:
    """What the server counted; 0 if it counts nothing."""
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else 0


def _progress(done: int, of: int, reply: Reply) -> Measurement:
    return Measurement("judge", done, of, {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens})


def _named(recipe: recipes.LlmJudge, asked: _Question, error: ModelError) -> ModelError:
    return type(error)(f"judge {recipe.model!r:.80}, prompt {asked.prompt_id}: {error}")


def _verdict(prompt_id: str, first: Reply | None, second: Reply | None) -> Verdict:
    """first: the reply with the candidate shown first; second: with the candidate shown second; None: refused by the server."""
    p_first = None if first is None else first.p
    p_second = None if second is None or second.p is None else 1 - second.p
    return Verdict(
        prompt_id=prompt_id,
        p=None if p_first is None or p_second is None else (p_first + p_second) / 2,
        candidate_reward=None,
        baseline_reward=None,
        candidate_detail={},
        baseline_detail={},
        p_first=p_first,
        p_second=p_second,
        read=["refused" if reply is None else reply.read for reply in (first, second)],
        label_mass=[None if reply is None else reply.mass for reply in (first, second)],
    )


def _summary(recipe: recipes.LlmJudge, verdicts: list[Verdict], known: dict[str, Reply], asked: dict[str, Reply]) -> dict[str, Any]:
    """Tokens and price of what was asked now, and of what had been asked before, in an earlier pass or for another cell."""
    reads = Counter(how for verdict in verdicts for how in verdict.read or [])
    silent_orders = Counter(reply.said for reply in (known | asked).values() if reply.read == "none")
    return {
        "verdicts": len(verdicts),
        "no_verdict": sum(verdict.p is None for verdict in verdicts),
        "reads": dict(reads),
        "unread": dict(silent_orders.most_common(5)),
        **_spent(recipe, asked, ""),
        **_spent(recipe, known, "_kept"),
    }


def _spent(recipe: recipes.LlmJudge, replies: dict[str, Reply], suffix: str) -> dict[str, float]:
    prompt, completion = (sum(getattr(each, name) for each in replies.values()) for name in ("prompt_tokens", "completion_tokens"))
    cost = (prompt * recipe.prompt_price + completion * recipe.completion_price) / 1e6
    spent = {"requests": len(replies), "prompt_tokens": prompt, "completion_tokens": completion, "cost": cost}
    return {f"{name}{suffix}": value for name, value in spent.items() if math.isfinite(value)}
