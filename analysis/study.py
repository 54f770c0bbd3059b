"""One or several results folders as the frames a researcher works with: cells, prompts, curves and references.

Invariant: a row says where it comes from (`sweep`) and what it is a replicate of (`replicate`); every column is declared in
`Study.columns`; the checks have run before anybody sees a number.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import checks, frames
from analysis.frames import Column, Results
from refstudy import records
from refstudy.errors import DataError, StoreError
from refstudy.store import Store

WORLD = "data.world"
COMPATIBILITY = "compatibility.json"
PLACE = ("policy", "reference", "seed", "settings")
"""What a row of compatibility.json is about."""

ADDED_COLUMNS = (
    Column("sweep", "sweep.json, name", "name; folders of one name are parts of one study"),
    Column("folder", "the results folder", "path"),
    Column("setting", "settings, data.world apart, where they differ among the cells", "words; empty: the same in all cells"),
    Column("world", "settings.data.world, or the recipe of the pairs", "seed of the miniature's world; empty: real data"),
    Column("replicate", "world, or without one seed", "what is drawn anew: intervals of findings are over it"),
    Column("policy_family", "labels.policy_family", "name"),
    Column("reference_size", "recipe of the reference", "declared size; empty: none is declared"),
    Column("scorer_id", "recipe of the reference", "id: equal where two names are one reference"),
    Column("keep", "recipe of the reference", "part of D that a derived column keeps; empty: not derived"),
    Column("of_id", "recipe of the reference", "scorer_id of what a derived column is made from"),
    Column("table_id", "recipes.table", "id of the reference table that the cell was trained with"),
)
"""What the cell frame has beside frames.CELL_COLUMNS and frames.REFERENCE_KL."""

CURVE_COLUMNS = (
    Column("cell_id", "cell_id", "id"),
    Column("step", "training.json, history.step", "optimizer steps"),
    Column("epoch", "training.json, history.epoch", "passes over the pairs"),
    Column("loss", "training.json, history.loss", "nats a pair; not comparable across beta or reference"),
    Column("gradient_norm", "training.json, history.gradient_norm", "before clipping"),
    Column("learning_rate", "training.json, history.learning_rate", "1"),
    Column("reward_accuracy", "training.json, history.reward_accuracy", "[0, 1]; of the pairs since the last row"),
    Column("policy_accuracy", "training.json, history.policy_accuracy", "[0, 1]; of the pairs since the last row"),
    Column("reward_margin", "training.json, history.reward_margin", "nats, times beta"),
    Column("chosen_logp", "training.json, history.chosen_logp", "nats an answer"),
    Column("rejected_logp", "training.json, history.rejected_logp", "nats an answer"),
)
"""A row for each logged step of each cell that is done; what a trainer did not log is NaN."""


MEASURE_COLUMNS = (
    Column("sweep", "sweep.json, name", "name"),
    Column("policy", "compatibility.json", "name"),
    Column("reference", "compatibility.json", "name"),
    Column("seed", "compatibility.json", "1"),
    Column("setting", "settings, data.world apart, where they differ among the cells", "words"),
    Column("replicate", "world, or without one seed", "what is drawn anew"),
)
"""Measures of compatibility, known before training, are named and explained in refstudy.measures.compatibility."""


@dataclass(frozen=True)
class Study:
    """Frames over one or several sweeps; rows of different sweeps are told apart by `sweep`."""

    cells: pd.DataFrame
    """frames.CELL_COLUMNS, frames.REFERENCE_KL and ADDED_COLUMNS: every cell, whatever its status."""
    prompts: pd.DataFrame
    """frames.PROMPT_COLUMNS and `sweep`."""
    curves: pd.DataFrame
    """CURVE_COLUMNS and `sweep`."""
    references: pd.DataFrame
    """frames.REFERENCE_COLUMNS, `sweep`, `setting` and `replicate`: the references' own scores."""
    measures: pd.DataFrame
    """MEASURE_COLUMNS and a column for each measure of compatibility.json, where that was written."""
    columns: pd.DataFrame
    """table, name, source, unit: a row for each declared column."""
    faults: list[str]
    """What the checks say; read it before anything else."""

    @property
    def done(self) -> pd.DataFrame:
        """The cells of the present grids that are done."""
        return self.cells[self.cells["current"] & (self.cells["status"] == "done")].copy()


def load(*folders: Path | str, store: Path | str | None = None, earlier: bool = False) -> Study:
    """The study in one or several results folders, each with the store it was made with, or with `store`.

    earlier: also cells of earlier grids of a folder, so that a study run in parts is seen before its last run lists them all.

    Folders whose sweeps share a name are parts of one study (other worlds of one grid, say). DataError if two of them hold
    different cells for one place of the grid: such folders answer different questions and are loaded one at a time.
    """
    if not folders:
        raise DataError("no results folder was given; expected one at least, such as results/quickstart")
    stores = [_store(Path(folder), store) for folder in folders]
    return joined([frames.load(folder, each, earlier) for folder, each in zip(folders, stores, strict=True)], stores)


def joined(parts: Sequence[Results], stores: Sequence[Store]) -> Study:
    """The study that consists of loaded results, with the store of each."""
    cells = pd.concat([_cells(part) for part in parts], ignore_index=True)
    _refuse_two_of_one_place(cells)
    cells = cells.drop_duplicates(subset=["sweep", "cell_id"], keep="first").reset_index(drop=True)
    cells["setting"] = _settings(cells)
    faults = [f"{_name(part)}: {said}" if len(parts) > 1 else said for part in parts for said in checks.run(part)]
    curves = [_curves(part, store, faults) for part, store in zip(parts, stores, strict=True)]
    measures = _measures(parts, cells, faults)
    return Study(
        cells=cells,
        prompts=_unique(pd.concat([part.prompts.assign(sweep=_name(part)) for part in parts]), ["sweep", "cell_id", "prompt_id"]),
        curves=_unique(pd.concat(curves), ["sweep", "cell_id", "step"]),
        references=_references(parts, cells),
        measures=measures,
        columns=_declared(measures),
        faults=faults,
    )


def _store(folder: Path, given: Path | str | None) -> Store:
    """The store that a folder's sweep was run with, or store/ beside the folder where that one has moved away."""
    named = Path(str(records.read_sweep(folder).get("store") or folder.absolute().parent / "store"))
    return Store(given or (named if named.is_dir() else folder.absolute().parent / "store"))


def _name(part: Results) -> str:
    return str(part.sweep.get("name") or part.folder.name)


def _cells(part: Results) -> pd.DataFrame:
    """The cells of one folder with ADDED_COLUMNS, `setting` apart."""
    facts = [_facts(part.records.get(cell_id, {})) for cell_id in part.cells["cell_id"]]
    names = ["policy_family", "reference_size", "scorer_id", "keep", "of_id", "table_id", "world"]
    added = pd.DataFrame(facts, columns=names, index=part.cells.index).astype(object)
    frame = pd.concat([part.cells, added], axis=1).assign(sweep=_name(part), folder=str(part.folder))
    listed = [settings.get(WORLD) for settings in frame["settings"]]
    frame["world"] = [own if one is None else one for one, own in zip(listed, frame["world"], strict=True)]
    frame["replicate"] = [seed if world is None else world for world, seed in zip(frame["world"], frame["seed"], strict=True)]
    return frame


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record's recipe declares of the reference and of the world."""
    source = _at(record, "recipe", "candidate", "source")
    scorer, texts, derived = _at(source, "table", "scorer"), _at(source, "table", "texts"), {}
    if scorer.get("kind") == "derived":
        derived = {"keep": scorer.get("keep"), "of_id": _id(_at(scorer, "of"))}
    elif texts.get("kind") == "selection":
        derived = {"keep": "selection_only", "of_id": _id(_at(texts, "of"))}
    return {
        "policy_family": _at(record, "labels").get("policy_family"),
        "reference_size": _at(scorer, "start").get("size"),
        "scorer_id": _id(scorer),
        "table_id": _at(record, "recipes").get("table"),
        "world": _world(texts),
        **derived,
    }


def _at(value: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The object at a path; empty where there is none."""
    found: Any = value
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _id(recipe: Mapping[str, Any]) -> str | None:
    """The id of a recipe that is written out, or told by its id because it was written out before."""
    return recipe.get("id") or str(recipe.get("recipe", "")).partition(":")[2] or None


def _world(texts: Mapping[str, Any]) -> Any:
    """The miniature's world that the pairs are of; None for other data."""
    pairs = texts
    while _at(pairs, "pairs"):
        pairs = _at(pairs, "pairs")
    return pairs.get("world") if pairs.get("kind") == "miniature_pairs" else None


def _settings(cells: pd.DataFrame) -> list[str]:
    """The settings other than the world that differ among the current cells of a sweep, in words."""
    told = [json.dumps({key: each for key, each in settings.items() if key != WORLD}) for settings in cells["settings"]]
    kept = {sweep: _varied([json.loads(told[index]) for index in group.index]) for sweep, group in cells.groupby("sweep")}
    return [
        ", ".join(f"{key} {json.loads(text)[key]}" for key in kept[sweep] if key in json.loads(text))
        for text, sweep in zip(told, cells["sweep"], strict=True)
    ]


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that not all settings have with one value."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]


def _refuse_two_of_one_place(cells: pd.DataFrame) -> None:
    """DataError where two folders of one sweep's name hold different cells for one place of its grid."""
    current = _placed(cells[cells["current"]])
    current["world"] = current["world"].astype(str)
    place = ["sweep", "policy", "reference", "beta", "seed", "at", "world"]
    for key, group in current.groupby(place, dropna=False):
        if group["cell_id"].nunique() > 1:
            where, cell = " and ".join(group["folder"].unique()), f"{key[1]} {key[2]} beta={key[3]:g} seed={key[4]}"
            raise DataError(
                f"{where} hold different cells for {cell} of sweep '{key[0]}'; expected parts of one study: load them one at a "
                "time, or name the sweeps differently"
            )


def _curves(part: Results, store: Store, faults: list[str]) -> pd.DataFrame:
    """The training history of a folder's cells."""
    rows: list[dict[str, Any]] = []
    for cell_id in part.done["cell_id"]:
        identity = part.records[cell_id]["recipes"].get("training_log")
        if identity is None:
            continue
        try:
            path = frames.artefact(store, "training_log", identity) / "training.json"
            rows += [{"cell_id": cell_id, **row} for row in json.loads(path.read_bytes())["history"]]
        except (StoreError, OSError, ValueError, KeyError, TypeError) as error:
            faults.append(f"The training history of cell {cell_id} cannot be read: {error}")
    names = [column.name for column in CURVE_COLUMNS]
    frame = pd.DataFrame(rows, columns=names)
    frame[names[1:]] = frame[names[1:]].apply(pd.to_numeric)
    return frame.assign(sweep=_name(part))


def _references(parts: Sequence[Results], cells: pd.DataFrame) -> pd.DataFrame:
    """The references' own scores of all parts, each at the setting and replicate of its cells."""
    scores = pd.concat([part.references.assign(sweep=_name(part)) for part in parts], ignore_index=True)
    place = ["sweep", "policy", "reference", "seed", "at"]
    known = _placed(cells[cells["current"]])[[*place, "setting", "replicate"]].drop_duplicates(subset=place)
    return _unique(_placed(scores).merge(known, on=place, how="inner"), place).drop(columns="at")


def _measures(parts: Sequence[Results], cells: pd.DataFrame, faults: list[str]) -> pd.DataFrame:
    """What compatibility.json of each part says of the references, each at the setting and replicate of its cells."""
    rows = []
    for part in parts:
        path = part.folder / COMPATIBILITY
        try:
            found = json.loads(path.read_bytes())["references"] if path.is_file() else []
            rows += [{**{name: row[name] for name in PLACE}, **_numbers(row["measures"]), "sweep": _name(part)} for row in found]
        except (ValueError, KeyError, TypeError) as error:
            faults.append(f"{path.name} of {part.folder} cannot be read and is left out: {error!r}")
    place = ["sweep", "policy", "reference", "seed", "at"]
    known = _placed(cells[cells["current"]])[[*place, "setting", "replicate"]].drop_duplicates(subset=place)
    frame = _placed(pd.DataFrame(rows, columns=None if rows else ["sweep", *PLACE]))
    return _unique(frame.merge(known, on=place, how="inner"), place).drop(columns=["at", "settings"])


def _numbers(measures: Mapping[str, Any] | None) -> dict[str, float]:
    """The measures of a reference that are numbers; none where it could not be measured."""
    return {name: float(value) for name, value in (measures or {}).items() if isinstance(value, int | float)}


def _placed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its settings as text, by which rows are joined."""
    return frame.assign(at=[json.dumps(each or {}, sort_keys=True) for each in frame["settings"]])


def _unique(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    return frame.drop_duplicates(subset=list(names), keep="first").reset_index(drop=True)


def _declared(measures: pd.DataFrame) -> pd.DataFrame:
    named = {column.name for column in MEASURE_COLUMNS}
    measured = (
        Column(str(name), f"{COMPATIBILITY}, measures.{name}", "as its name says") for name in measures if name not in named
    )
    own = Column("sweep", "sweep.json, name", "name")
    at = (own, *(column for column in ADDED_COLUMNS if column.name in ("setting", "replicate")))
    of = {
        "cells": (*frames.CELL_COLUMNS, *frames.CONTROLLED_COLUMNS, *frames.KL_COLUMNS, *frames.GRID_COLUMNS, *ADDED_COLUMNS),
        "prompts": (*frames.PROMPT_COLUMNS, own),
        "curves": (*CURVE_COLUMNS, own),
        "measures": (*MEASURE_COLUMNS, *measured),
        "references": (
            *frames.REFERENCE_COLUMNS,
            *(each for each in frames.GRID_COLUMNS if each.name in ("panel", "settings")),
            *at,
        ),
    }
    return pd.DataFrame([{"table": table, **vars(column)} for table, columns in of.items() for column in columns])
