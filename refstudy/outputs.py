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
from refstudy.texts import Message, Prompt, Said

TEXTS = ("output", "answer", "completion", "text", "response")
"""Columns that may hold the answer, in the order in which they are looked for; AlpacaEval's files have it in `output`."""
SHOWN = 60
"""Characters of a prompt that an error shows."""


@dataclass(frozen=True)
class Row:
    """A row of a file: what it is about, and its values."""

    where: str
    prompt_id: str | None
    messages: list[Message] | None
    turns: list[str]
    """The user's turns after `messages`, where it names several to be answered."""
    values: dict[str, Any]

    @property
    def key(self) -> str:
        return self.prompt_id if self.prompt_id is not None else _key(self.messages or [], self.turns)


def answers(recipe: recipes.Answers, prompts: Sequence[Prompt]) -> list[Said]:
    """The answer to each of `prompts`, in their order: of a file or dataset, or the chosen answers that stand beside prompts of
    held-out pairs.

    Rows have one of TEXTS, or `messages` that end with the assistant's; beside it `prompt_id`, or one of `turns.COLUMNS`. An
    answer ended by itself unless its row says `terminated: false` or `finish_reason: length`. To a prompt of several turns the
    answer is a list with one text for each, or `messages` that have them in their places. DataError if a prompt has no answer, or
    several.
    """
    if recipe.source is None:
        return [Said(_chosen(prompt), True) for prompt in prompts]
    rows = [_row(where, values) for where, values in data.read_source(recipe.source)]
    return [_said(row, prompt.turns) for (row,), prompt in zip(_joined(rows, prompts), prompts, strict=True)]


def conversations(path: Path) -> list[tuple[Prompt, Said]]:
    """(prompt, answer) of each row of a file that belongs to no sweep."""
    found: dict[str, tuple[Prompt, Said]] = {}
    for row in [_row(where, values) for where, values in read_rows(path)]:
        messages = row.messages or []
        cluster = _key(messages) if messages else row.key
        prompt = Prompt(prompt_id=row.key, messages=messages, cluster=cluster, turns=row.turns)
        if row.key in found:
            raise DataError(f"{row.where} answers a prompt that an earlier row answers; expected one answer to each prompt")
        found[row.key] = (prompt, _said(row, row.turns))
    return list(found.values())


def _chosen(prompt: Prompt) -> str:
    chosen = prompt.meta.get("chosen")
    if not isinstance(chosen, str):
        raise DataError(f"prompt {prompt.prompt_id!r} has no chosen answer beside it; expected prompts of held-out pairs")
    return chosen


def _row(where: str, values: dict[str, Any]) -> Row:
    named = values.get("prompt_id")
    prompt_id = None if named is None or named == "" else str(named)
    messages, more = None, []
    if any(column in values for column in turns.COLUMNS):
        try:
            messages, more = turns.prompt(values), turns.further_turns(values)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if prompt_id is None and not messages:
        names = ", ".join(map(str, values)) or "no columns"
        raise DataError(
            f"{where} says of no prompt that it answers it; expected prompt_id or one of {', '.join(turns.COLUMNS)}: {names}"
        )
    return Row(where, prompt_id, messages, more, values)


def _joined(rows: Sequence[Row], prompts: Sequence[Prompt]) -> list[list[Row]]:
    """The rows of each prompt: those with its id, else those with its text, in turn where several prompts read the same."""
    by_id, by_text = dict[str, list[Row]](), dict[str, list[Row]]()
    for row in rows:
        if row.prompt_id is not None:
            by_id.setdefault(row.prompt_id, []).append(row)
        for key in _keys(row):
            by_text.setdefault(key, []).append(row)
    alike = Counter(_key(prompt.messages, prompt.turns) for prompt in prompts)
    found: list[list[Row]] = []
    turn: Counter[str] = Counter()
    for prompt in prompts:
        text = _key(prompt.messages, prompt.turns)
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
            f"{len(missing):,} of {len(prompts):,} prompts have no answer in the file (first: {first.prompt_id!r}, {_shown(first)})"
            "; expected one for each, found by prompt_id or by the prompt's text as it stands in the sweep"
        )
    for prompt, rows in zip(prompts, found, strict=True):
        if len(rows) > 1:
            raise _too_many(prompt, len(rows), 1, rows)


def _too_many(prompt: Prompt, got: int, expected: int, rows: Sequence[Row]) -> DataError:
    places = ", ".join(row.where for row in rows[:2])
    return DataError(
        f"prompt {prompt.prompt_id!r} ({_shown(prompt)}) has {got} answers ({places}); expected {expected}: keep those of one model"
    )


def _shown(prompt: Prompt) -> str:
    return repr(prompt.messages[-1]["content"][:SHOWN]) if prompt.messages else "an empty prompt"


def _keys(row: Row) -> list[str]:
    """The texts by which a row is found: what it says was asked, and of whole conversations also the user's turns alone, since the
    answers between them may be the model's own."""
    if not row.messages:
        return []
    users = [message["content"] for message in row.messages if message["role"] == "user"]
    first = next(place for place, message in enumerate(row.messages) if message["role"] == "user")
    alone = {_key(row.messages, row.turns), _key(row.messages[: first + 1], users[1:])} if len(users) > 1 else set()
    return sorted(alone) or [_key(row.messages, row.turns)]


def _key(messages: Sequence[Message], more: Sequence[str] = ()) -> str:
    return json.dumps([*messages, *more], ensure_ascii=False, sort_keys=True)


def _said(row: Row, further_turns: Sequence[str]) -> Said:
    """The row's answer; to a prompt of several turns the last of as many."""
    texts = _texts(row, further_turns)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{row.where} has no answer as text; expected one of {', '.join(TEXTS)}, or messages that end with it")
    if len(texts) != 1 + len(further_turns):
        raise DataError(
            f"{row.where} has {len(texts)} answers for the user's {1 + len(further_turns)} turns; expected one to each, as a "
            "list or in `messages`"
        )
    for text in texts:
        turns.check_text(text, f"{row.where}: the answer")
    return Said(texts[-1], _terminated(row), tuple(texts[:-1]))


def _texts(row: Row, further_turns: Sequence[str]) -> list[Any]:
    for column in TEXTS:
        if column in row.values:
            value = row.values[column]
            return value if isinstance(value, list) and further_turns else [value]
    messages = row.values.get("messages")
    messages = messages if isinstance(messages, list) else []
    said = [each.get("content") for each in messages if isinstance(each, dict) and each.get("role") == "assistant"]
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return [None]
    return said if further_turns else said[-1:]


def _terminated(row: Row) -> bool:
    ended = row.values.get("terminated", row.values.get("finish_reason") != "length")
    if not isinstance(ended, bool):
        raise DataError(f"{row.where}: terminated is {ended!r:.40}; expected true or false")
    return ended
