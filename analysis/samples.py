"""Answers of chosen cells to the same prompts, side by side.

Invariant: prompts are chosen by their place, never by what was answered, so that samples show what is usual.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import Results, answers_file, prompts_of, verdicts_file
from refstudy.errors import DataError, StoreError
from refstudy.store import Store
from refstudy.texts import Completion, Prompt, told, visible

PROMPTS = 6
CUT_CHARACTERS = 1_200
PANELS = 4
UNREADABLE = (StoreError, DataError, OSError, KeyError, TypeError, ValueError)
"""What reading an artefact that is torn, or gone, may raise."""

_PROMPT = re.compile(r'\s*\{\s*"prompt_id"\s*:\s*("(?:[^"\\]|\\.)*")')
"""How a line begins that says first which prompt it is about, as refstudy.texts writes it."""


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    terminated: bool
    p: float | None
    """P(it beats the baseline answer); None for the baseline itself and where the judge failed."""


@dataclass(frozen=True)
class Samples:
    panel: str
    titles: list[str]
    """One for each column of answers, the baseline first."""
    rows: list[tuple[Prompt, list[Answer | None]]]


def choose(results: Results, points: pd.DataFrame, best: pd.DataFrame, store: Store) -> list[Samples]:
    """For each panel (at most four): the baseline's answers, those of each reference's best cell, and of the smallest beta."""
    found = []
    for panel in list(dict.fromkeys(points["panel"]))[:PANELS]:
        columns = _columns(points[points["panel"] == panel], best[best["panel"] == panel])
        try:
            found.append(_samples(results, panel, columns, store))
        except (*UNREADABLE, StopIteration) as error:
            results.faults.append(f"The sample answers of {panel} cannot be shown: {error}")
    return found


def _columns(points: pd.DataFrame, best: pd.DataFrame) -> dict[str, str]:
    """Cell id -> title."""
    columns = {row["cells"][0]: f"{row['reference']}, beta {row['beta']:g} (its best)" for row in best.to_dict("records")}
    own = points[points["self"].astype(bool)] if points["self"].any() else points
    smallest = min(own.to_dict("records"), key=lambda row: row["beta"])
    columns.setdefault(smallest["cells"][0], f"{smallest['reference']}, beta {smallest['beta']:g} (the smallest)")
    return columns


def _samples(results: Results, panel: str, columns: dict[str, str], store: Store) -> Samples:
    first = results.records[next(iter(columns))]
    prompts = spread(first, store, PROMPTS)
    wanted = {prompt.prompt_id for prompt in prompts}
    sides = [baseline(store, first, wanted), *(candidate(store, results.records[cell_id], wanted) for cell_id in columns)]
    rows = [(prompt, [side.get(prompt.prompt_id) for side in sides]) for prompt in prompts]
    return Samples(panel, ["baseline", *columns.values()], rows)


def spread(record: dict[str, Any], store: Store, most: int) -> list[Prompt]:
    """At most so many of a cell's prompts, evenly spaced in their order."""
    prompts = prompts_of(store, record["recipes"]["baseline"])
    count = min(most, len(prompts))
    return [prompts[round((number + 0.5) * len(prompts) / count - 0.5)] for number in range(count)]


def baseline(store: Store, record: dict[str, Any], wanted: Collection[str]) -> dict[str, Answer]:
    """The baseline's answers to the prompts that are wanted, by prompt id."""
    return _answers(answers_file(store, record, "baseline"), wanted, {})


def candidate(store: Store, record: dict[str, Any], wanted: Collection[str]) -> dict[str, Answer]:
    """The cell's own answers to the prompts that are wanted, by prompt id."""
    p = {row["prompt_id"]: row["p"] for row in about(verdicts_file(store, record), wanted)}
    return _answers(answers_file(store, record, "completions"), wanted, p)


def _answers(path: Path, wanted: Collection[str], p: dict[str, float | None]) -> dict[str, Answer]:
    found = [Completion(**row) for row in about(path, wanted)]
    return {
        row.prompt_id: Answer(shown(told(row)), len(row.token_ids), bool(row.terminated), p.get(row.prompt_id)) for row in found
    }


def about(path: Path, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines that are about the prompts wanted; a line about another is not parsed as a whole."""
    for line in path.read_bytes().decode("utf-8-sig").split("\n"):
        first = _PROMPT.match(line)
        if line.strip() and (first is None or json.loads(first.group(1)) in wanted):
            row = json.loads(line)
            if row["prompt_id"] in wanted:
                yield row


def shown(text: str) -> str:
    """`text` as a page can hold it: characters that control or reverse are written out, a very long text is cut and says so."""
    rest = len(text) - CUT_CHARACTERS
    return visible(text[:CUT_CHARACTERS]) + (f" [{rest} more characters]" if rest > 0 else "")
