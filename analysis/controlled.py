"""Length-controlled win rates of a sweep's cells and points, with a difficulty of prompts that is taken once and then kept.

The difficulty of a prompt is what the cells of a calibration set win on it. The set is the cells that were done when the grid was
first finished; it is written beside the records as difficulty_NAME.json, and read from there ever after.

Invariant: a cell that is added later is measured by that same difficulty, so it changes no win rate that was there before, nor its
interval until the grid is so large that fewer resamples are drawn. Policies, judges and prompts each have a calibration set of
their own; one that the file lacks is added to it, none is replaced.
"""

import functools
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import length_control
from analysis.frames import CONTROLLED_COLUMNS, Results
from analysis.length_control import Calibration, Judged, LengthControlled
from refstudy import records
from refstudy.errors import DataError

DRAWS = 1_000
"""Resamples behind an interval: a twentieth of a second for a cell of 768 prompts."""
MANY, FEWER_DRAWS = 400, 200
"""Beyond so many cells and points each interval rests on fewer resamples, so that the report of a thousand cells takes a minute."""
THREADS = 2
SEED = 0
"""Of the resamples: cells on the same prompts share them, and the same results give the same interval."""
SWEEP = "sweep"
"""What the sweep's own prompts are called, beside the names of evaluation sets."""
REASONS, NAMES = 4, 6
"""Refusals, and cells of each, that are told before the rest is counted."""
COLUMNS = tuple(column.name for column in CONTROLLED_COLUMNS)
Key = tuple[str, str, str]
"""Policy, and the ids of judge and prompts: cells that differ in one of these tell nothing of each other's prompts."""


@dataclass(frozen=True)
class Difficulty:
    """The calibration sets of one file, by what they are about."""

    name: str
    groups: dict[Key, Calibration]


def control(results: Results, points: pd.DataFrame, name: str, is_complete: bool) -> tuple[Results, pd.DataFrame, list[str]]:
    """(the results, the points, what is to be said), the first two with COLUMNS filled for cells and points that are done.

    is_complete: whether the grid has come to its end, so that a calibration set may be taken; before that there is no number.
    """
    unknown = points.assign(lc_win_rate=math.nan, lc_low=math.nan, lc_high=math.nan, lc_refusal=None)
    try:
        found = difficulty(results, name, is_complete)
    except DataError as error:
        return results, unknown, [str(error)]
    if not found.groups:
        return results, unknown, [] if results.done.empty else [_too_early()]
    several = [key for key in points["cells"] if len(key) > 1]
    draws = resamples(len(results.done) + len(several))
    keys = [*((cell_id,) for cell_id in results.done["cell_id"]), *several]
    with ThreadPoolExecutor(THREADS) as pool:  # the fits are numpy's, which lets go of the interpreter
        of_key = dict(zip(keys, pool.map(lambda key: _row(results, key, found, draws), keys), strict=True))
    rows = [{"cell_id": cell_id, **of_key[(cell_id,)]} for cell_id in results.done["cell_id"]]
    by_cell = pd.DataFrame(rows, columns=["cell_id", *COLUMNS])
    cells = results.cells.drop(columns=list(COLUMNS)).merge(by_cell, on="cell_id", how="left")
    controlled = replace(results, cells=cells.astype({"lc_refusal": object}))
    filled = points.assign(**{column: [of_key[key][column] for key in points["cells"]] for column in COLUMNS})
    return controlled, filled, _said(controlled, found, draws)


def resamples(fits: int) -> int:
    """How many resamples each of so many intervals rests on."""
    return DRAWS if fits <= MANY else min(DRAWS, FEWER_DRAWS)


def difficulty(results: Results, name: str, is_complete: bool) -> Difficulty:
    """The calibration sets of difficulty_NAME.json; once the grid is complete, with those that the file lacks, which it then has.

    DataError where the file is there and cannot be read: nothing is then taken in its place.
    """
    path = results.folder / f"difficulty_{name}.json"
    kept = _read(path, name) if path.exists() else Difficulty(name, {})
    if not is_complete:
        return kept
    fresh: dict[Key, dict[str, dict[str, float | None]]] = {}
    for cell_id, rows in results.prompts.groupby("cell_id", sort=False):
        key = _key(results.records[str(cell_id)])
        if key not in kept.groups:
            fresh.setdefault(key, {})[str(cell_id)] = _given(rows)
    if fresh:
        kept = Difficulty(name, kept.groups | {key: Calibration(name, p) for key, p in fresh.items()})
        _write(path, kept)
    return kept


def _row(results: Results, cell_ids: Sequence[str], found: Difficulty, draws: int) -> dict[str, Any]:
    """COLUMNS of a cell, or of the cells of one point, which are averaged prompt by prompt first."""
    try:
        of = _controlled(results, cell_ids, found, draws)
    except DataError as error:
        return {"lc_win_rate": math.nan, "lc_low": math.nan, "lc_high": math.nan, "lc_refusal": str(error)}
    return {"lc_win_rate": of.value, "lc_low": of.low, "lc_high": of.high, "lc_refusal": of.refusal}


def _controlled(results: Results, cell_ids: Iterable[str], found: Difficulty, draws: int) -> LengthControlled:
    parts = []
    for cell_id in cell_ids:
        calibration = found.groups.get(_key(results.records[cell_id]))
        if calibration is None:
            raise DataError(f"difficulty_{found.name}.json has no calibration set for this policy, judge and prompts yet")
        rows = results.rows_of((cell_id,))
        if rows.empty or rows["baseline_length_characters"].isna().any():
            raise DataError("its verdicts, or the baseline's answers, cannot be read")
        gamma = length_control.difficulty(calibration, cell_id, rows["prompt_id"].tolist())
        parts.append(rows.assign(difficulty=gamma))
    names = ["p", "length_characters", "baseline_length_characters", "difficulty"]
    by_prompt = parts[0] if len(parts) == 1 else _averaged(parts, names)
    judged = Judged(*(by_prompt[name].to_numpy(dtype=np.float64) for name in names))
    clusters = by_prompt["cluster"].tolist()
    return length_control.of_sweep(judged, _counts(tuple(clusters), draws), clusters)


def _averaged(parts: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    return pd.concat(parts).groupby(["prompt_id", "cluster"], sort=False)[list(names)].mean().reset_index()


@functools.lru_cache(maxsize=4)
def _counts(clusters: tuple[str, ...], draws: int) -> NDArray[np.float64]:
    """The resamples of these prompts: the same for every cell that answered them."""
    return length_control.resample(clusters, np.random.default_rng(SEED), draws)


def _given(rows: pd.DataFrame) -> dict[str, float | None]:
    """p by prompt id; None where the judge failed."""
    return {str(prompt_id): None if math.isnan(p) else float(p) for prompt_id, p in zip(rows["prompt_id"], rows["p"], strict=True)}


def _key(record: records.Record) -> Key:
    recipe = record.get("recipe") or {}
    return str(record["policy"]), _id(recipe.get("judge")), _id((recipe.get("candidate") or {}).get("prompts"))


def _id(described: Any) -> str:
    """The id of a recipe as a record describes it: written out, or by its id where it stood before."""
    of = described if isinstance(described, dict) else {}
    return str(of.get("id") or str(of.get("recipe", "")).rpartition(":")[2])


def _read(path: Path, name: str) -> Difficulty:
    try:
        content = json.loads(path.read_bytes())
        groups = {
            (str(each["policy"]), str(each["judge"]), str(each["prompts"])): Calibration(
                name,
                {
                    cell_id: {prompt: None if p is None else float(p) for prompt, p in of.items()}
                    for cell_id, of in each["p"].items()
                },
            )
            for each in content["groups"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path.name} cannot be read ({type(error).__name__}: {error}), so there are no length-controlled win rates; put the "
            "file back, or remove it and all of them are measured anew, by the cells that are done now"
        ) from error
    return Difficulty(name, groups)


def _write(path: Path, found: Difficulty) -> None:
    groups = [
        {"policy": policy, "judge": judge, "prompts": prompts, "cells": list(of.p), "p": of.p}
        for (policy, judge, prompts), of in found.groups.items()
    ]
    # Without indentation, which Python's own encoder writes: of a thousand cells that takes 9 s more.
    records.write_text(path, json.dumps({"name": found.name, "groups": groups}, ensure_ascii=False, allow_nan=False))


def _too_early() -> str:
    return (
        "Length-controlled win rates come once every cell of the grid is finished: the difficulty of prompts is then taken from "
        "these cells, and kept."
    )


def _said(results: Results, found: Difficulty, draws: int) -> list[str]:
    """What a reader must know of the numbers, and where there are none."""
    done = results.done
    cells = sum(len(of.p) for of in found.groups.values())
    told = [
        "Length-controlled: the win rate at the baseline's length, by a logistic fit with a difficulty of prompts that is kept in "
        f"difficulty_{found.name}.json (taken from {cells} cells). It is this sweep's own, and not AlpacaEval's. "
        f"Intervals: {draws:,} resamples of clusters of prompts."
    ]
    groups = list(done[done["lc_refusal"].notna()].groupby("lc_refusal", sort=False))
    for reason, group in groups[:REASONS]:
        names = [f"{row.reference} at beta {row.beta:g}" for row in group.itertuples()]
        rest = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        told.append(f"None for {', '.join(names[:NAMES])}{rest}: {reason}.")
    if more := sum(len(group) for _, group in groups[REASONS:]):
        told.append(f"None for {more} more of the cells; `lc_refusal` in the tables beside the report says why.")
    return told
