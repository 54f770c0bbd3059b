"""What the report's answer browser shows: the answers of every cell to the same prompts, as data for the page.

Invariant: texts are data, never markup; prompts are chosen by their place, and fewer are taken before the page grows too large.
"""

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.frames import Results
from analysis.samples import Answer, baseline, candidate, shown, spread
from refstudy.errors import DataError, StoreError
from refstudy.store import Store

PROMPTS = 40
ANSWERS = 24_000
"""Answers on a page at most: with 1,000 cells 24 prompts of each, some 10 MB."""


def payload(results: Results, store: Store) -> Markup:
    """The browser's data as JSON that cannot end the element it stands in: panels with their prompts, baselines and cells."""
    done = results.done
    count = max(1, min(PROMPTS, ANSWERS // max(len(done), 1)))
    panels = []
    for name, cells in done.groupby("panel", sort=False):
        prompts = _prompts(results, cells, store, count)
        if prompts:
            panels.append(
                {"name": name, "prompts": prompts, "sets": _sets(results, cells, store, [each["id"] for each in prompts])}
            )
    text = json.dumps(panels, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _prompts(results: Results, cells: pd.DataFrame, store: Store, count: int) -> list[dict[str, Any]]:
    """The prompts of a panel's first readable cell, evenly spaced."""
    for cell_id in cells["cell_id"]:
        try:
            prompts = spread(results.records[cell_id], store, count)
        except (StoreError, DataError, OSError, KeyError):
            continue
        turns = [[{"role": turn["role"], "text": shown(turn["content"])} for turn in each.messages] for each in prompts]
        return [{"id": each.prompt_id, "turns": said} for each, said in zip(prompts, turns, strict=True)]
    return []


def _sets(results: Results, cells: pd.DataFrame, store: Store, prompt_ids: list[str]) -> list[dict[str, Any]]:
    """Sets of answers to choose from: each baseline, then each cell; one that cannot be read is a fault and left out."""
    several = cells["seed"].nunique() > 1
    sets = []
    for _, seed in cells.drop_duplicates("baseline_id")[["baseline_id", "seed"]].itertuples(index=False):
        record = results.records[cells.loc[cells["seed"] == seed, "cell_id"].iloc[0]]
        title = f"baseline, seed {seed}" if several else "baseline"
        sets += _set(results, title, record, lambda of: baseline(store, of), prompt_ids)
    for row in cells.to_dict("records"):
        title = f"{row['reference']}, beta {row['beta']:g}" + (f", seed {row['seed']}" if several else "")
        sets += _set(results, title, results.records[row["cell_id"]], lambda of: candidate(store, of), prompt_ids)
    return sets


def _set(
    results: Results, title: str, record: dict[str, Any], read: Callable[[dict[str, Any]], dict[str, Answer]], prompt_ids: list[str]
) -> list[dict[str, Any]]:
    try:
        found = read(record)
    except (StoreError, DataError, OSError, KeyError) as error:
        results.faults.append(f"The answers of {title} cannot be browsed: {error}")
        return []
    return [{"title": title, "answers": [_answer(found.get(prompt_id)) for prompt_id in prompt_ids]}]


def _answer(answer: Answer | None) -> list[Any] | None:
    """[text, tokens, 1 if it ended else 0, P(it beats the baseline) or null]"""
    return None if answer is None else [answer.text, answer.tokens, int(answer.terminated), _rounded(answer.p)]


def _rounded(p: float | None) -> float | None:
    return None if p is None else round(p, 3)
