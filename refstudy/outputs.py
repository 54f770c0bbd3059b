"""Answers that somebody already has: read from files or datasets and joined to prompts, or standing beside them.

Invariant: every prompt gets exactly one answer, or the file is refused with the number of those that lack one and the first of
them; a text is data, whatever stands in it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy import data, recipes, turns
from refstudy.datafiles import read_rows
from refstudy.errors import DataError
from refstudy.texts import Message, Prompt

TEXTS = ("output", "answer", "completion", "text", "response")
"""Columns that may hold the answer, in the order in which they are looked for; AlpacaEval's files have it in `output`."""
ASKED = ("prompt", "messages", "instruction", "turns")
"""Columns that may hold what was asked, as `turns.prompt` reads them."""
SHOWN = 60
"""Characters of a prompt that an error shows."""


@dataclass(frozen=True)
class Row:
    """A row of a file: what it is about, and its values."""

    where: str
    prompt_id: str | None
    messages: list[Message] | None
    values: dict[str, Any]

    @property
    def key(self) -> str:
        return self.prompt_id if self.prompt_id is not None else _key(self.messages or [])


def answers(recipe: recipes.Answers, prompts: Sequence[Prompt]) -> list[tuple[str, bool]]:
    """(text, whether it ended by itself) for each of `prompts`, in their order: of a file or dataset, or the chosen answers that
    stand beside prompts of held-out pairs.

    Rows have one of TEXTS, or `messages` that end with the assistant's; beside it `prompt_id`, or one of ASKED. An answer ended by
    itself unless its row says `terminated: false` or `finish_reason: length`. DataError if a prompt has no answer, or several.
    """
    if recipe.source is None:
        return [(_chosen(prompt), True) for prompt in prompts]
    rows = [_row(where, values) for where, values in data.read_source(recipe.source)]
    return [(_text(row), _terminated(row)) for (row,) in _joined(rows, prompts)]


def conversations(path: Path) -> list[tuple[Prompt, str, bool]]:
    """(prompt, answer, whether it ended by itself) of each row of a file that belongs to no sweep."""
    found: dict[str, tuple[Prompt, str, bool]] = {}
    for row in [_row(where, values) for where, values in read_rows(path)]:
        messages = row.messages or []
        prompt = Prompt(prompt_id=row.key, messages=messages, cluster=_key(messages) if messages else row.key)
        if row.key in found:
            raise DataError(f"{row.where} answers a prompt that an earlier row answers; expected one answer to each prompt")
        found[row.key] = (prompt, _text(row), _terminated(row))
    return list(found.values())


def _chosen(prompt: Prompt) -> str:
    chosen = prompt.meta.get("chosen")
    if not isinstance(chosen, str):
        raise DataError(f"prompt {prompt.prompt_id!r} has no chosen answer beside it; expected prompts of held-out pairs")
    return chosen


def _row(where: str, values: dict[str, Any]) -> Row:
    named = values.get("prompt_id")
    prompt_id = None if named is None or named == "" else str(named)
    messages = None
    if any(column in values for column in ASKED):
        try:
            messages = turns.prompt(values)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if prompt_id is None and not messages:
        names = ", ".join(map(str, values)) or "no columns"
        raise DataError(f"{where} says of no prompt that it answers it; expected prompt_id or one of {', '.join(ASKED)}: {names}")
    return Row(where, prompt_id, messages, values)


def _joined(rows: Sequence[Row], prompts: Sequence[Prompt]) -> list[list[Row]]:
    """The rows of each prompt: those with its id, else those with its text, in turn where several prompts read the same."""
    by_id, by_text = dict[str, list[Row]](), dict[str, list[Row]]()
    for row in rows:
        if row.prompt_id is not None:
            by_id.setdefault(row.prompt_id, []).append(row)
        if row.messages:
            by_text.setdefault(_key(row.messages), []).append(row)
    alike = Counter(_key(prompt.messages) for prompt in prompts)
    found: list[list[Row]] = []
    turn: Counter[str] = Counter()
    for prompt in prompts:
        text = _key(prompt.messages)
        own, same = by_id.get(prompt.prompt_id), by_text.get(text, [])
        if own is None and len(same) > 1:
            if len(same) != alike[text]:
                raise _too_many(prompt, len(same), alike[text], same)
            own = [same[turn[text]]]
            turn[text] += 1
        found.append(own if own is not None else same)
    _check(found, prompts)
    return found


def _check(found: Sequence[list[Row]], prompts: Sequence[Prompt]) -> None:
    missing = [prompt for prompt, rows in zip(prompts, found, strict=True) if not rows]
    if missing:
        first = missing[0]
        raise DataError(
            f"{len(missing):,} of {len(prompts):,} prompts have no answer in the file (first: {first.prompt_id!r}, {_said(first)})"
            "; expected one for each, found by prompt_id or by the prompt's text as it stands in the sweep"
        )
    for prompt, rows in zip(prompts, found, strict=True):
        if len(rows) > 1:
            raise _too_many(prompt, len(rows), 1, rows)


def _too_many(prompt: Prompt, got: int, expected: int, rows: Sequence[Row]) -> DataError:
    places = ", ".join(row.where for row in rows[:2])
    return DataError(
        f"prompt {prompt.prompt_id!r} ({_said(prompt)}) has {got} answers ({places}); expected {expected}: keep those of one model"
    )


def _said(prompt: Prompt) -> str:
    return repr(prompt.messages[-1]["content"][:SHOWN]) if prompt.messages else "an empty prompt"


def _key(messages: Sequence[Message]) -> str:
    return json.dumps(messages, ensure_ascii=False, sort_keys=True)


def _text(row: Row) -> str:
    for column in TEXTS:
        if column in row.values:
            text = row.values[column]
            break
    else:
        text = _last_message(row.values.get("messages"))
    if not isinstance(text, str):
        raise DataError(f"{row.where} has no answer as text; expected one of {', '.join(TEXTS)}, or messages that end with it")
    turns.check_text(text, f"{row.where}: the answer")
    return text


def _last_message(messages: Any) -> Any:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None


def _terminated(row: Row) -> bool:
    ended = row.values.get("terminated", row.values.get("finish_reason") != "length")
    if not isinstance(ended, bool):
        raise DataError(f"{row.where}: terminated is {ended!r:.40}; expected true or false")
    return ended
