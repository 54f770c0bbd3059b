"""Answers of a model that runs elsewhere, behind an OpenAI-compatible chat server such as vLLM's.

Invariant: what the server has answered is kept line by line before the next answer is read, so that half a pass is never lost.
A server tells neither tokens nor log-probs that could be relied on: an answer is its text, and whether the model ended it.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refstudy import chat, recipes
from refstudy.endpoint import Body, endpoint, fetch
from refstudy.errors import ModelError
from refstudy.measurement import Emit, Measurement, silent
from refstudy.texts import Prompt, Said, dialogue

ENDED = {"stop": True, "eos_token": True, "end_turn": True, "length": False}
"""What a server says of an answer's end -> whether the model ended it."""
SEEDS = 2**31
"""Seeds lie below: servers read them as signed 32-bit numbers or larger ones."""


def answers(
    served: recipes.ChatServer, prompts: list[Prompt], sampling: recipes.Sampling, partial: Path, emit: Emit = silent
) -> list[Said]:
    """The served model's answer to each prompt, in the order of the prompts; to one of several turns the answer to the last, after
    its own answers to those before.

    `partial` keeps each answer as soon as it is there, and what it holds is not asked again; it is the caller's to remove. After
    the first failure nothing new is asked; what is under way is kept, then ModelError is raised.
    """
    given: dict[str, list[Said]] = {prompt.prompt_id: [] for prompt in prompts}
    of = sum(1 + len(prompt.turns) for prompt in prompts)
    for turn in range(max((1 + len(prompt.turns) for prompt in prompts), default=0)):
        asked = [prompt for prompt in prompts if len(prompt.turns) >= turn]
        bodies = {
            each.prompt_id: request(served.model, each, sampling, [said.text for said in given[each.prompt_id]]) for each in asked
        }
        tell = functools.partial(_tell, emit, sum(map(len, given.values())), of)
        for prompt_id, said in _turn(served, bodies, partial, tell).items():
            given[prompt_id].append(said)
    found = [given[prompt.prompt_id] for prompt in prompts]
    return [Said(each[-1].text, each[-1].terminated, tuple(before.text for before in each[:-1])) for each in found]


def _tell(emit: Emit, before: int, of: int, new: int) -> None:
    emit(Measurement("generate", before + new, of, {}))


def _turn(served: recipes.ChatServer, bodies: dict[str, Body], partial: Path, tell: Callable[[int], None]) -> dict[str, Said]:
    """The answer to each request, by prompt id; `tell` hears how many there are."""
    client = endpoint(served.base_url, "chat/completions", served.timeout_s, served.retries, served.key_variable)
    keys = {prompt_id: _key(body) for prompt_id, body in bodies.items()}
    kept = _read(partial)
    known = {prompt_id: kept[key] for prompt_id, key in keys.items() if key in kept}
    missing = {prompt_id: body for prompt_id, body in bodies.items() if prompt_id not in known}
    stop, failure = threading.Event(), None
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "a", encoding="utf-8") as out:
        out.write("\n" if out.tell() else "")  # ends a line that was torn with its process
        for prompt_id, fetched in fetch(client, served.concurrency, missing, missing.__getitem__, stop):
            try:
                known[prompt_id] = said = read(fetched())
            except ModelError as error:
                where = f"server {served.base_url} (model {served.model!r}), prompt {prompt_id!r}"
                failure = failure or type(error)(f"{where}: {error}")
                stop.set()
                continue
            row = {"key": keys[prompt_id], "text": said.text, "terminated": said.terminated}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            tell(len(known))
    if failure is not None:
        raise failure
    return known


def request(model: str, prompt: Prompt, sampling: recipes.Sampling, earlier: Sequence[str] = ()) -> Body:
    """The body of one chat request, for the turn after those that have the answers `earlier`; its seed is the prompt's and turn's
    own, by id and text, so that no two share random numbers."""
    about = [sampling.seed, sampling.draw, prompt.prompt_id, prompt.messages, *prompt.turns[: len(earlier)]]
    name = json.dumps(about, ensure_ascii=False, sort_keys=True)
    return {
        "model": model,
        "messages": chat.conversation(dialogue(prompt, earlier), sampling.system),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % SEEDS,
        "n": 1,
        "stream": False,
    }


def read(answer: dict[str, Any]) -> Said:
    """The answer in a server's response; ModelError for what is no answer, such as one that a filter withheld."""
    try:
        choice = answer["choices"][0]
        text, end = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"the answer has no choices[0].message.content with a finish_reason (it is {answer!s:.120}); expected a chat "
            "server of OpenAI's form: mend base_url"
        ) from error
    if end not in ENDED or not isinstance(text, str | None):
        raise ModelError(
            f"the answer ended with {end!r:.40} and is {text!r:.60}; expected a text that ended with one of {', '.join(ENDED)}: "
            "leave the prompt out, or ask a server that answers it"
        )
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError("the answer holds half a character (a lone surrogate); expected well-formed text") from error
    return Said(text or "", ENDED[end])


def _key(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read(partial: Path) -> dict[str, Said]:
    """The answers kept so far, as far as whole lines hold them; empty without a file."""
    found: dict[str, Said] = {}
    for line in partial.read_bytes().split(b"\n") if partial.exists() else ():
        try:
            row = json.loads(line)
            if isinstance(row["text"], str) and isinstance(row["terminated"], bool):
                found[row["key"]] = Said(row["text"], row["terminated"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # torn by the end of its process
    return found
