"""The gate: whether a sweep's cells fell against an earlier run of them, or break a declared limit.

A fall is one beyond noise. Cells are matched by policy, reference, beta, seed and settings. Of a cell that is done on both sides
three questions are asked, each paired by prompt over the prompts that both judged, clustered, one-sided at 0.025, so that alone it
falls when the 95 % interval of the paired difference lies on the bad side:

- win_rate: its mean is lower than it was;
- length_tokens_mean: it is above LENGTH_FACTOR times what it was;
- of a cell that became degenerate, and was not: the measure named in its reason is worse than it was.

All questions of a gate go through Holm's procedure together, so that a re-run of the same code fails by chance in at most one gate
of 40, however many cells it has. What noise cannot explain falls outright: a cell that is missing, not finished, failed, judged by
another judge or on other prompts. The noise is that of prompts and of drawn answers; another seed is another cell.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.frames import answers, prompts_of, verdicts_of
from refstudy import records
from refstudy.errors import DataError, SpecError, StoreError
from refstudy.measures import intervals, names
from refstudy.measures.limits import Limit
from refstudy.measures.multiplicity import falls, holm
from refstudy.measures.repetition import is_repetitive
from refstudy.store import Store
from refstudy.texts import visible

SCHEMA = 1
LEVEL = 0.025
LENGTH_FACTOR = 1.5
"""A mean length beyond this many times the earlier one counts as an explosion."""
BY_PROMPT = {"truncation_rate": "truncated", "repetitive_share": "repetitive"}
"""Measures behind the label degenerate, and the column that each is the mean of."""
COLUMNS = ("p", "length_tokens", "truncated", "repetitive")

Values = dict[str, dict[str, float | None]]
"""Column -> prompt id -> value; None: the judge failed."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A cell as the gate sees it."""

    policy: str
    reference: str
    beta: float | None
    seed: int | None
    settings: dict[str, Any]
    status: str
    degenerate: bool
    reason: str
    """Why it failed or is degenerate."""
    judge: str
    measures: dict[str, float | None]
    clusters: dict[str, str]
    """By prompt id."""
    values: Values

    @property
    def key(self) -> str:
        return json.dumps([self.policy, self.reference, self.beta, self.seed, self.settings], sort_keys=True)

    @property
    def label(self) -> str:
        beta = "" if self.beta is None else f" beta={self.beta:g}"
        extra = "".join(f" {path}={value}" for path, value in self.settings.items())
        return visible(f"{self.policy} {self.reference}{beta} seed={self.seed}{extra}")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One limit that a cell breaks."""

    cell: str
    measure: str
    value: float | str | None
    bound: float | str
    why: str


@dataclass(frozen=True, kw_only=True)
class _Question:
    """Whether a measure of a cell is worse than it was: falls(values) is asked."""

    cell: str
    measure: str
    value: float
    before: float
    bound: float
    values: list[float]
    clusters: list[str]


def states(folder: Path, store: Store) -> list[State]:
    """The present cells of a sweep's folder with what each prompt gave."""
    listed = [cell for cell in records.read_cells(folder) if cell.get("current", True)]
    if not listed:
        records.read_sweep(folder)  # says what the folder is not
        raise StoreError(f"{folder} lists no cells; expected the --results of a `refstudy run`")
    by_id = {record["cell_id"]: record for record in records.read_records(folder)}
    return [_state(cell, by_id.get(cell["cell_id"], {}), store) for cell in listed]


def save(found: Sequence[State], path: Path) -> Path:
    """Writes the cells as a baseline for later gates, which then need neither results nor store."""
    content = {"schema": SCHEMA, "cells": [_as_json(each) for each in found]}
    records.write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False))
    return path


def load(path: Path) -> list[State]:
    """The cells of a baseline that `save` wrote; DataError if the file is no such one."""
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise DataError(f"{path} has schema {content['schema']!r:.20}; this version reads {SCHEMA}: save the baseline again")
        return [_from_json(each) for each in content["cells"]]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; expected what `refstudy gate RESULTS --save FILE` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is no saved gate ({error!s:.100}); expected what `refstudy gate RESULTS --save FILE` wrote"
        ) from error


def chosen(found: Sequence[State], where: Sequence[str]) -> list[State]:
    """The cells that match every NAME=VALUE of `where`; SpecError if none does."""
    kept = [each for each in found if all(_matches(each, condition) for condition in where)]
    if where and not kept:
        some = "; ".join(each.label for each in found[:3])
        raise SpecError(f"--where {' '.join(where)} matches none of {len(found)} cells; expected values as in {some}")
    return kept


def fallen(now: Sequence[State], before: Sequence[State]) -> list[Failure]:
    """What fell against `before`, in its order of cells."""
    if before and not any(each.status == "done" for each in before):
        raise DataError(f"none of the {len(before)} cells of the baseline is done; expected an earlier run that is finished")
    present = {each.key: each for each in now}
    failures: list[Failure] = []
    questions: list[_Question] = []
    for old in before:
        if old.status != "done":
            continue  # it was no better
        new = present.get(old.key)
        outright = _outright(new, old)
        failures += outright
        if new is not None and not outright:
            questions += _questions(new, old)
    adjusted = holm([falls(each.values, each.clusters) for each in questions])
    failures += [_told(each, p, len(questions)) for each, p in zip(questions, adjusted, strict=True) if p < LEVEL]
    order = {each.label: number for number, each in enumerate(before)}
    return sorted(failures, key=lambda each: order[each.cell])


def in_words(failure: Failure) -> str:
    """The failure in one line: cell, measure, value, bound, and why."""
    value = f"{failure.value:.4g}" if isinstance(failure.value, float) else str(failure.value)
    bound = f"{failure.bound:.4g}" if isinstance(failure.bound, float) else str(failure.bound)
    return visible(f"{failure.cell}: {failure.measure} is {value}, the bound is {bound}: {failure.why}").replace("\n", " ")


def broken(now: Sequence[State], limits: Sequence[Limit]) -> list[Failure]:
    """The declared limits that cells break; a cell without the measure breaks it. SpecError for a measure that no cell has."""
    known = sorted({name for each in now for name, value in each.measures.items() if value is not None})
    for limit in limits:
        if known and limit.measure not in known:
            hint = names.hint(limit.measure, known)
            raise SpecError(f"--limit '{limit}': no cell has the measure {limit.measure}; {hint}")
    return [_broken(each, limit) for each in now for limit in limits if not limit.holds(_numbers(each.measures))]


def _broken(state: State, limit: Limit) -> Failure:
    value = state.measures.get(limit.measure)
    why = (
        f"{limit} is declared" if value is not None else f"{limit} is declared; the cell is {state.status} and has no such measure"
    )
    return Failure(cell=state.label, measure=limit.measure, value=value, bound=str(limit), why=why)


def _numbers(measures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in measures.items() if value is not None}


def _outright(new: State | None, old: State) -> list[Failure]:
    """What no noise explains: the cell is gone, unfinished or failed, or cannot be compared."""
    if new is None or new.status != "done":
        status = "missing" if new is None else new.status
        why = f"it was done before{': ' + new.reason if new and new.reason else ''}"
        return [Failure(cell=old.label, measure="status", value=status, bound="done", why=visible(why))]
    if new.judge != old.judge:
        why = "win rates of two judges cannot be compared: save a baseline judged as the cells are"
        return [Failure(cell=old.label, measure="judge", value=new.judge, bound=old.judge, why=why)]
    if not new.clusters.keys() & old.clusters.keys():
        why = "no prompt is in both runs: save a baseline on the present prompts"
        return [Failure(cell=old.label, measure="prompts", value=0, bound=len(old.clusters), why=why)]
    if _given(old) and not _given(new) & _given(old):
        why = f"the judge gave a verdict on none of the {len(_given(old)):,} prompts that it judged before"
        return [Failure(cell=old.label, measure="win_rate", value=None, bound="a verdict", why=why)]
    if _newly_degenerate(new, old) and not _reasons(new) & BY_PROMPT.keys():
        why = "it is newly degenerate, by what is not measured prompt by prompt"
        return [Failure(cell=old.label, measure="degenerate", value=visible(new.reason), bound="not degenerate", why=why)]
    return []


def _given(state: State) -> set[str]:
    """The prompts that the judge gave a verdict on."""
    return {prompt_id for prompt_id, p in state.values["p"].items() if p is not None}


def _newly_degenerate(new: State, old: State) -> bool:
    return new.degenerate and not old.degenerate


def _reasons(state: State) -> set[str]:
    """The measures that the label's reason names: "truncation_rate 0.6 > 0.5; repetitive_share 0.3 > 0.2"."""
    return {part.split()[0] for part in state.reason.split(";") if part.strip()}


def _questions(new: State, old: State) -> list[_Question]:
    found = [
        _question(new, old, "win_rate", "p", lambda now, was: now - was, 1.0),
        _question(new, old, "length_tokens_mean", "length_tokens", lambda now, was: LENGTH_FACTOR * was - now, LENGTH_FACTOR),
    ]
    if _newly_degenerate(new, old):
        for name in sorted(_reasons(new) & BY_PROMPT.keys()):
            found.append(_question(new, old, name, BY_PROMPT[name], lambda now, was: was - now, 1.0))
    return [each for each in found if each is not None]


def _question(new: State, old: State, measure: str, column: str, gap: Any, factor: float) -> _Question | None:
    """The question over the prompts that have a value on both sides; None without any, where there is nothing to ask."""
    now, was = new.values[column], old.values[column]
    both = [(x, y, new.clusters[each]) for each in now if (x := now[each]) is not None and (y := was.get(each)) is not None]
    if not both:
        return None
    before = math.fsum(y for _, y, _ in both) / len(both)
    return _Question(
        cell=old.label,
        measure=measure,
        value=math.fsum(x for x, _, _ in both) / len(both),
        before=before,
        bound=factor * before,
        values=[gap(x, y) for x, y, _ in both],
        clusters=[cluster for _, _, cluster in both],
    )


def _told(question: _Question, p: float, asked: int) -> Failure:
    of = intervals.mean(question.values, question.clusters)
    sign = "room to the bound" if question.measure != "win_rate" else "difference"
    why = (
        f"it was {question.before:.4g} on the same {of.n:,} prompts; {sign} {of.value:+.4g} (95 % interval {of.low:+.4g} to "
        f"{of.high:+.4g}), p {p:.2g} by Holm over {asked} questions"
    )
    return Failure(cell=question.cell, measure=question.measure, value=question.value, bound=question.bound, why=why)


def _matches(state: State, condition: str) -> bool:
    name, separator, wanted = condition.partition("=")
    if not separator:
        raise SpecError(f"--where {condition!r} is no condition; expected NAME=VALUE, such as reference=self or beta=0.1")
    own = {"policy": state.policy, "reference": state.reference, "beta": state.beta, "seed": state.seed, **state.settings}
    if name not in own:
        raise SpecError(f"--where {condition}: cells have no {name!r}; expected one of {', '.join(own)}")
    return str(own[name]) == wanted or _same_number(own[name], wanted)


def _same_number(value: Any, text: str) -> bool:
    try:
        return not isinstance(value, bool) and float(value) == float(text)
    except (TypeError, ValueError):
        return False


def _state(cell: Mapping[str, Any], record: Mapping[str, Any], store: Store) -> State:
    status = record.get("status", "planned")
    done = status == "done"
    error = record.get("error") or {}
    clusters, values = _by_prompt(record, store) if done else ({}, {name: {} for name in COLUMNS})
    return State(
        policy=str(cell.get("policy")),
        reference=str(cell.get("reference")),
        beta=cell.get("beta"),
        seed=cell.get("seed"),
        settings=cell.get("settings") or {},
        status=status,
        degenerate=bool(record.get("degenerate")) if done else False,
        reason=(record.get("reason") or "") if done else ": ".join(str(error[key]) for key in ("type", "message") if key in error),
        judge=_judge(record),
        measures=dict(record.get("measures") or {}) if done else {},
        clusters=clusters,
        values=values,
    )


def _judge(record: Mapping[str, Any]) -> str:
    judge = (record.get("recipe") or {}).get("judge") or {}
    return str(judge.get("id") or judge.get("recipe", "").partition(":")[2])


def _by_prompt(record: Mapping[str, Any], store: Store) -> tuple[dict[str, str], Values]:
    """Clusters and values of a finished cell, prompt by prompt."""
    clusters = {prompt.prompt_id: prompt.cluster for prompt in prompts_of(store, record["recipes"]["completions"])}
    values: Values = {name: {} for name in COLUMNS}
    for verdict in verdicts_of(store, record):
        values["p"][verdict["prompt_id"]] = verdict["p"]
    for answer in answers(store, record, "completions"):
        ids = answer.token_ids[:-1] if answer.terminated else answer.token_ids
        values["length_tokens"][answer.prompt_id] = len(answer.token_ids)
        values["truncated"][answer.prompt_id] = int(not answer.terminated)
        values["repetitive"][answer.prompt_id] = int(is_repetitive(ids, answer.text))
    return clusters, values


def _as_json(state: State) -> dict[str, Any]:
    ids = list(state.clusters)
    columns = {name: [state.values[name].get(each) for each in ids] for name in COLUMNS}
    fields = {name: value for name, value in vars(state).items() if name not in ("clusters", "values")}
    return fields | {"prompts": ids, "clusters": [state.clusters[each] for each in ids], "values": columns}


def _from_json(content: dict[str, Any]) -> State:
    ids = content.pop("prompts")
    content["clusters"] = dict(zip(ids, content["clusters"], strict=True))
    content["values"] = {name: dict(zip(ids, content["values"][name], strict=True)) for name in COLUMNS}
    return State(**content)
