"""What the report's answer browser shows: the answers of every cell to the same prompts, as data for the page.

Invariant: texts are data, never markup; prompts are chosen by their place, the same for every cell, and fewer are taken before the
page grows too large, which it says.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.frames import Results, prompts_of
from analysis.samples import UNREADABLE, Answer, baseline, candidate, shown, spread
from refstudy import texts
from refstudy.store import Store
from refstudy.texts import Prompt

PROMPTS = 40
ANSWERS = 24_000
"""Answers on a page at most: with 1,000 cells 24 prompts of each, some 10 MB where an answer has 400 characters."""
BYTES = 16_000_000
"""Of the browser's data at most: where answers are long there are fewer prompts."""


@dataclass(frozen=True)
class Browsed:
    """The data of the page's browser."""

    panels: list[dict[str, Any]]
    """name, of (prompts there are), prompts, sets of answers."""

    @property
    def as_json(self) -> Markup:
        """JSON that cannot end the element it stands in."""
        text = json.dumps(self.panels, ensure_ascii=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))

    @property
    def shown(self) -> str:
        """Which prompts are there, as a sentence; empty without any."""
        if not self.panels:
            return ""
        counts = sorted({(len(panel["prompts"]), panel["of"]) for panel in self.panels})
        chosen = "; ".join(f"{count} of {total:,} prompts" for count, total in counts)
        return f"The same prompts for every cell, evenly spaced by their place and not chosen by what was answered: {chosen}."


def browse(sources: Sequence[tuple[str, Results]], store: Store) -> Browsed:
    """The answers to the prompts of each source: the sweep's own (named ""), and evaluation sets by name."""
    whole = sum(len(results.done) for _, results in sources)
    count = max(1, min(PROMPTS, ANSWERS // max(whole, 1)))
    found = [panel for name, results in sources for panel in _panels(name, results, store, count)]
    return Browsed(bounded(found))


def bounded(panels: list[dict[str, Any]], most: int = BYTES) -> list[dict[str, Any]]:
    """The panels with as many prompts, evenly spaced, as fit into `most` bytes of UTF-8; one prompt at least."""
    size = sum(len(json.dumps(panel, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")) for panel in panels)
    longest = max((len(panel["prompts"]) for panel in panels), default=0)
    if size <= most or longest <= 1:
        return panels
    kept = max(1, min(longest - 1, longest * most // size))
    return bounded([_thinned(panel, kept) for panel in panels], most)


def _thinned(panel: dict[str, Any], count: int) -> dict[str, Any]:
    prompts = panel["prompts"]
    places = evenly(len(prompts), min(count, len(prompts)))
    sets = [{**each, "answers": [each["answers"][place] for place in places]} for each in panel["sets"]]
    return {**panel, "prompts": [prompts[place] for place in places], "sets": sets}


def evenly(total: int, count: int) -> list[int]:
    """`count` places among `total`, evenly spaced."""
    return [round((number + 0.5) * total / count - 0.5) for number in range(count)]


def _panels(name: str, results: Results, store: Store, count: int) -> list[dict[str, Any]]:
    panels = []
    for panel, cells in results.done.groupby("panel", sort=False):
        prompts, total = _prompts(results, cells, store, count)
        if prompts:
            turns = [[{"role": turn["role"], "text": shown(turn["content"])} for turn in texts.asked(each)] for each in prompts]
            asked = [{"id": each.prompt_id, "turns": said} for each, said in zip(prompts, turns, strict=True)]
            sets = _sets(results, cells, store, [each.prompt_id for each in prompts])
            panels.append({"name": f"{panel}, on {name}" if name else str(panel), "of": total, "prompts": asked, "sets": sets})
    return panels


def _prompts(results: Results, cells: pd.DataFrame, store: Store, count: int) -> tuple[list[Prompt], int]:
    """(prompts of a panel's first readable cell, evenly spaced; how many there are)."""
    for cell_id in cells["cell_id"]:
        try:
            record = results.records[cell_id]
            return spread(record, store, count), len(prompts_of(store, record["recipes"]["baseline"]))
        except UNREADABLE:
            continue
    return [], 0


def _sets(results: Results, cells: pd.DataFrame, store: Store, prompt_ids: list[str]) -> list[dict[str, Any]]:
    """Sets of answers to choose from: each baseline, then each cell; one that cannot be read is a fault and left out."""
    several, wanted = cells["seed"].nunique() > 1, set(prompt_ids)
    sets = []
    for _, seed in cells.drop_duplicates("baseline_id")[["baseline_id", "seed"]].itertuples(index=False):
        record = results.records[cells.loc[cells["seed"] == seed, "cell_id"].iloc[0]]
        title = f"baseline, seed {seed}" if several else "baseline"
        sets += _set(results, title, record, lambda of: baseline(store, of, wanted), prompt_ids)
    for row in cells.to_dict("records"):
        title = f"{row['reference']}, beta {row['beta']:g}" + (f", seed {row['seed']}" if several else "")
        sets += _set(results, title, results.records[row["cell_id"]], lambda of: candidate(store, of, wanted), prompt_ids)
    return sets


def _set(
    results: Results, title: str, record: dict[str, Any], read: Callable[[dict[str, Any]], dict[str, Answer]], prompt_ids: list[str]
) -> list[dict[str, Any]]:
    try:
        found = read(record)
    except UNREADABLE as error:
        results.faults.append(f"The answers of {title} cannot be browsed: {error}")
        return []
    return [{"title": title, "answers": [_answer(found.get(prompt_id)) for prompt_id in prompt_ids]}]


def _answer(answer: Answer | None) -> list[Any] | None:
    """[text, tokens, 1 if it ended else 0, P(it beats the baseline) or null]"""
    return None if answer is None else [answer.text, answer.tokens, int(answer.terminated), _rounded(answer.p)]


def _rounded(p: float | None) -> float | None:
    return None if p is None else round(p, 3)
