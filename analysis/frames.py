"""A sweep's folder as frames with declared columns: what is measured of cells is read here, once, and nowhere else.

Invariant: every cell that the sweep lists has one row, whatever its status; a value that is absent is NaN or None, never a guess.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from refstudy import records, texts
from refstudy.errors import DataError, StoreError
from refstudy.measures import limits
from refstudy.measures.cell import length_measures
from refstudy.store import Store


@dataclass(frozen=True)
class Column:
    name: str
    source: str
    """Dotted path in the record, or what it is computed from."""
    unit: str


CELL_COLUMNS = (
    Column("cell_id", "cell_id", "id"),
    Column("status", "status", "planned, running, done or failed"),
    Column("policy", "policy", "name"),
    Column("reference", "reference", "name"),
    Column("beta", "beta", "1"),
    Column("seed", "seed", "1"),
    Column("reference_kind", "labels.reference_kind", "kind of the reference's entry; policy is self"),
    Column("family", "labels.family", "name"),
    Column("win_rate", "measures.win_rate", "[0, 1]"),
    Column("win_rate_se", "measures.win_rate_se", "[0, 1]"),
    Column("win_rate_low", "measures.win_rate_low", "[0, 1]"),
    Column("win_rate_high", "measures.win_rate_high", "[0, 1]"),
    Column("win_rate_seen", "measures.win_rate_seen", "[0, 1]"),
    Column("win_rate_held_out", "measures.win_rate_held_out", "[0, 1]"),
    Column("tie_share", "measures.tie_share", "[0, 1]"),
    Column("judge_failures", "measures.judge_failures", "verdicts"),
    Column("prompts", "measures.prompts", "prompts"),
    Column("length_tokens", "measures.length_tokens_mean", "tokens of the policy"),
    Column("length_low", "measures.length_mean_low", "tokens of the policy"),
    Column("length_high", "measures.length_mean_high", "tokens of the policy"),
    Column("length_tokens_median", "measures.length_tokens_median", "tokens of the policy"),
    Column("length_tokens_p95", "measures.length_tokens_p95", "tokens of the policy"),
    Column("length_tokens_terminated", "measures.length_tokens_terminated_mean", "tokens of the policy"),
    Column("length_characters", "measures.length_characters_mean", "code points"),
    Column("length_words", "measures.length_words_mean", "words"),
    Column("truncation_rate", "measures.truncation_rate", "[0, 1]"),
    Column("seq_rep_4", "measures.seq_rep_4", "[0, 1]"),
    Column("distinct_answers", "measures.distinct_answers", "[0, 1]"),
    Column("gold_reward", "measures.gold_reward", "reward an answer"),
    Column("precision", "measures.precision", "[0, 1]"),
    Column("statements", "measures.statements_mean", "statements an answer"),
    Column("kl_start_nats", "measures.kl_start_nats", "nats an answer"),
    Column("kl_start_nats_per_token", "measures.kl_start_nats_per_token", "nats a token"),
    Column("reward_accuracy", "measures.reward_accuracy", "[0, 1]; of the training pairs, each at its last visit"),
    Column("policy_accuracy", "measures.policy_accuracy", "[0, 1]; of the training pairs, each at its last visit"),
    Column("validation_reward_accuracy", "measures.validation_reward_accuracy", "[0, 1]; of the validation pairs"),
    Column("validation_policy_accuracy", "measures.validation_policy_accuracy", "[0, 1]; of the validation pairs"),
    Column("train_loss_final", "measures.train_loss_final", "nats a pair; not comparable across beta or reference"),
    Column("degenerate", "measures and limits", "yes or no"),
    Column("reason", "measures and limits", "limits exceeded"),
    Column("stopped_step", "stopped.step", "step; empty: trained to the end"),
    Column("stopped_reason", "stopped.reason", "words"),
    Column("temperature", "recipe.candidate.sampling.temperature", "1, of the answers; 0: greedy"),
    Column("top_p", "recipe.candidate.sampling.top_p", "(0, 1], of the answers"),
    Column("duration_s", "duration_s", "s"),
    Column("finished_at", "finished_at", "UTC"),
    Column("error", "error.message", "words"),
    Column("error_type", "error.type", "name"),
)
"""The columns of the cell frame that stand in the record; `panel`, `current`, `baseline_id` and the settings are added."""

PROMPT_COLUMNS = (
    Column("cell_id", "cell_id", "id"),
    Column("prompt_id", "verdicts.jsonl", "id"),
    Column("cluster", "prompts.jsonl", "what prompts share; intervals resample it"),
    Column("held_out", "prompts.jsonl, meta.held_out", "yes, no or unknown"),
    Column("p", "verdicts.jsonl", "P(candidate beats baseline) in [0, 1], NaN where the judge failed"),
    Column("twice", "verdicts.jsonl", "yes or no; whether the judge was asked in both orders"),
    Column("p_first", "verdicts.jsonl", "likewise, the candidate shown first; NaN: no verdict, or not asked"),
    Column("p_second", "verdicts.jsonl", "likewise, the candidate shown second"),
    Column("label", "verdicts.jsonl", "1: the candidate is objectively better, 0: the baseline; NaN: nobody knows"),
    Column("length_tokens", "completions.jsonl", "tokens of the policy, end token counted"),
    Column("length_characters", "completions.jsonl", "code points"),
    Column("baseline_length_characters", "completions.jsonl of the baseline", "code points"),
)

CONTROLLED_COLUMNS = (
    Column("lc_win_rate", "length_control.of_sweep", "[0, 1]; at the baseline's length, by this sweep's own fit"),
    Column("lc_low", "length_control.of_sweep", "[0, 1]"),
    Column("lc_high", "length_control.of_sweep", "[0, 1]"),
    Column("lc_refusal", "length_control.refusal", "words; why there is no number"),
)
"""What analysis.controlled fills; empty before. No record has them: they rest on other cells."""

REFERENCE_COLUMNS = (
    Column("reference", "references.json", "name"),
    Column("policy", "references.json", "name"),
    Column("seed", "references.json", "1"),
    Column("own_win_rate", "references.json", "[0, 1]; of the reference's own answers"),
    Column("own_win_rate_se", "references.json", "[0, 1]"),
    Column("own_win_rate_low", "references.json", "[0, 1]"),
    Column("own_win_rate_high", "references.json", "[0, 1]"),
    Column("own_length_tokens_mean", "references.json", "tokens of the reference"),
    Column("own_truncation_rate", "references.json", "[0, 1]"),
)

KL_COLUMNS = (
    Column("kl_reference_nats", "reference_kl.json", "nats an answer"),
    Column("kl_reference_nats_per_byte", "reference_kl.json", "nats a byte of answer"),
    Column("retokenised_share", "reference_kl.json", "[0, 1]; answers whose tokens as drawn are not those of their text"),
)
REFERENCE_KL = tuple(column.name for column in KL_COLUMNS)
"""What reference_kl.json may say of a cell."""

GRID_COLUMNS = (
    Column("current", "sweep.json", "yes or no; no: a cell of an earlier grid of this folder"),
    Column("settings", "settings", "values of all further axes by their dotted path"),
    Column("baseline_id", "recipes.baseline", "id of the answers that the cell was judged against"),
    Column("panel", "policy and settings that differ", "title of a small multiple"),
)
"""What the cell frame says of a cell's place in its grid."""


@dataclass(frozen=True)
class Results:
    """All that a sweep's folder and the store say about it."""

    folder: Path
    sweep: dict[str, Any]
    text: str
    """The sweep file as it was run."""
    records: dict[str, records.Record]
    """By cell id."""
    cells: pd.DataFrame
    """CELL_COLUMNS, REFERENCE_KL, CONTROLLED_COLUMNS, `panel`, `current`, `baseline_id`."""
    prompts: pd.DataFrame
    """PROMPT_COLUMNS, of the current cells that are done."""
    baselines: pd.DataFrame
    """baseline_id, length_tokens, length_low, length_high."""
    references: pd.DataFrame
    """REFERENCE_COLUMNS, `settings` and `panel`; empty before the references' own scores are made."""
    faults: list[str]
    """What could not be read, in sentences."""
    imported: pd.DataFrame = field(default_factory=pd.DataFrame)
    """As `cells`: what was brought from elsewhere and judged as the cells are; `reference` is its name, beta is NaN."""

    @property
    def done(self) -> pd.DataFrame:
        """The cells of the present grid that are done: what figures and estimates rest on."""
        return self.cells[self.cells["current"] & (self.cells["status"] == "done")].copy()

    def rows_of(self, cell_ids: Iterable[str]) -> pd.DataFrame:
        """The prompt rows of some cells, in the frame's order; by place, for the frame of a thousand cells has a million rows."""
        places = [self._places[each] for each in dict.fromkeys(cell_ids) if each in self._places]
        return self.prompts.iloc[np.sort(np.concatenate(places))] if places else self.prompts.iloc[:0]

    @cached_property
    def _places(self) -> dict[Any, Any]:
        """cell id -> places of its rows in the prompt frame"""
        return dict(self.prompts.groupby("cell_id", sort=False).indices)


def load(folder: Path | str, store: Store, earlier: bool = False) -> Results:
    """The results in `folder` (a sweep's folder), with verdicts and answers of its cells from `store`.

    earlier: cells of earlier grids of the folder count as current, so that a grid run in parts is seen whole before it ends.
    """
    folder = Path(folder)
    sweep = records.read_sweep(folder)
    scan = records.scan(folder)
    by_id = {record["cell_id"]: record for record in scan.records}
    faults = list(scan.faults)
    cells = _cells(sweep, by_id, earlier).merge(_reference_kl(folder, faults), on="cell_id", how="left")
    done = {cell_id: by_id[cell_id] for cell_id in cells.loc[cells["current"] & (cells["status"] == "done"), "cell_id"]}
    brought = records.scan(folder / records.IMPORTED)
    faults += brought.faults
    source = folder / "sweep.yaml"
    return Results(
        folder=folder,
        sweep=sweep,
        text=source.read_text(encoding="utf-8") if source.is_file() else "",
        records=by_id,
        cells=cells,
        prompts=_prompts(done, store, faults),
        imported=_cells({}, {record["cell_id"]: record for record in brought.records}).reindex(columns=cells.columns),
        baselines=_baselines(done, store, faults),
        references=_references(folder, cells, faults),
        faults=faults,
    )


def on_set(results: Results, name: str, store: Store) -> Results:
    """The same results as measured on an evaluation set, in the same frames: the cells that the set was made for, with their
    labels, measures and answers on it. Neither reference scores nor KL are made for sets."""
    by_id = {
        cell_id: {**record, **of, "recipes": {**record["recipes"], **of["recipes"]}}
        for cell_id, record in results.records.items()
        if record["status"] == "done" and (of := record.get("evaluations", {}).get(name))
    }
    sweep = {**results.sweep, "cells": [cell for cell in results.sweep.get("cells", []) if cell["cell_id"] in by_id]}
    faults: list[str] = []
    nowhere = pd.DataFrame(columns=["cell_id", *REFERENCE_KL]).astype(dict.fromkeys(REFERENCE_KL, float))
    cells = _cells(sweep, by_id).merge(nowhere, on="cell_id", how="left")
    # A set's own label stands: what its lengths may be held against depends on its baseline, which measures do not tell.
    cells["degenerate"] = [bool(by_id[cell_id]["degenerate"]) for cell_id in cells["cell_id"]]
    cells["reason"] = [by_id[cell_id]["reason"] for cell_id in cells["cell_id"]]
    done = {cell_id: by_id[cell_id] for cell_id in cells.loc[cells["current"], "cell_id"]}
    return replace(
        results,
        sweep=sweep,
        records=by_id,
        cells=cells,
        prompts=_prompts(done, store, faults),
        baselines=_baselines(done, store, faults),
        references=results.references.iloc[:0],
        faults=faults,
    )


def answers(store: Store, record: Mapping[str, Any], kind: str) -> list[texts.Completion]:
    """The answers of a cell, kind "completions", or of its baseline, kind "baseline"."""
    return texts.read_completions(answers_file(store, record, kind))


def answers_file(store: Store, record: Mapping[str, Any], kind: str) -> Path:
    """The file of those answers: a completion a line."""
    return _answers_folder(store, record["recipes"].get(kind)) / "completions.jsonl"


def prompts_of(store: Store, completions_id: str) -> list[texts.Prompt]:
    """The prompts that a set of answers answers, found by the recipe that lies beside the answers."""
    recipe = read_json(_answers_folder(store, completions_id) / "recipe.json")
    kind, _, identity = recipe["canonical"]["prompts"]["recipe"].partition(":")
    return texts.read_prompts(artefact(store, kind, identity) / "prompts.jsonl")


def verdicts_of(store: Store, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A cell's verdicts, in prompt order."""
    return [row for _, row in texts.read_objects(verdicts_file(store, record))]


def verdicts_file(store: Store, record: Mapping[str, Any]) -> Path:
    """The file of a cell's verdicts: one a line."""
    return artefact(store, "verdicts", record["recipes"].get("verdicts")) / "verdicts.jsonl"


def artefact(store: Store, kind: str, identity: str | None) -> Path:
    """The folder of an artefact by the id that stands in a record; the recipe itself is not at hand here."""
    folder = store.folder(kind, identity or "none")
    if not (folder / "manifest.json").is_file():
        raise StoreError(f"{kind} '{identity}' is not in the store ({store.root}); run the sweep again: it makes what is missing")
    return folder


def _answers_folder(store: Store, identity: str | None) -> Path:
    """Answers that a model gave here or on a server, or that came from a file."""
    given = store.folder("answers", identity or "none")
    return artefact(store, "answers" if (given / "manifest.json").is_file() else "completions", identity)


def _cells(sweep: Mapping[str, Any], by_id: Mapping[str, records.Record], earlier: bool = False) -> pd.DataFrame:
    listed = {cell["cell_id"]: cell for cell in sweep.get("cells", [])}
    rows = []
    for cell_id in dict.fromkeys([*listed, *by_id]):
        source = {**listed.get(cell_id, {}), **by_id.get(cell_id, {})}
        row = {column.name: at(source, column.source) for column in CELL_COLUMNS}
        row |= {"status": row["status"] or "planned", **_label(source)}
        row |= {
            "current": earlier or listed.get(cell_id, {}).get("current", cell_id in listed),
            "settings": source.get("settings") or {},
        }
        rows.append(row | {"baseline_id": (source.get("recipes") or {}).get("baseline")})
    frame = pd.DataFrame(rows, columns=[*(column.name for column in CELL_COLUMNS), "current", "settings", "baseline_id"])
    measured = [column.name for column in CELL_COLUMNS if column.source.startswith("measures.")]
    numbers = [*measured, "beta", "stopped_step", "temperature", "top_p", "duration_s"]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    frame["panel"] = panels(frame, varied(frame))
    return frame.assign(lc_win_rate=math.nan, lc_low=math.nan, lc_high=math.nan, lc_refusal=None)


def _label(source: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a cell is degenerate and why, by its measures and the limits of today, whatever was said when it was recorded."""
    is_degenerate, reason = limits.degenerate(source.get("measures") or {})
    return {"degenerate": is_degenerate, "reason": reason}


def varied(frame: pd.DataFrame) -> list[str]:
    """The settings that differ among the current cells."""
    values: dict[str, set[str]] = {}
    for settings in frame.loc[frame["current"], "settings"]:
        for key, value in settings.items():
            values.setdefault(key, set()).add(json.dumps(value))
    return [key for key, seen in values.items() if len(seen) > 1]


def panels(frame: pd.DataFrame, varied: list[str]) -> list[str]:
    """Policy and the settings that differ, as the title of a small multiple."""
    return [
        ", ".join([str(policy), *(f"{key} {_plain(settings[key])}" for key in varied if key in settings)])
        for policy, settings in zip(frame["policy"], frame["settings"], strict=True)
    ]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _prompts(done: Mapping[str, records.Record], store: Store, faults: list[str]) -> pd.DataFrame:
    known: dict[str, dict[str, texts.Prompt]] = {}
    baselines: dict[str, dict[str, int]] = {}
    rows: list[tuple[Any, ...]] = []
    for cell_id, record in done.items():
        try:
            rows += _prompt_rows(cell_id, record, store, known, baselines)
        except (StoreError, DataError, OSError, KeyError, TypeError, ValueError) as error:
            faults.append(f"The prompts of cell {cell_id} cannot be read, so it takes part in no paired difference: {error}")
    return pd.DataFrame(rows, columns=[column.name for column in PROMPT_COLUMNS])


def _prompt_rows(
    cell_id: str,
    record: Mapping[str, Any],
    store: Store,
    known: dict[str, dict[str, texts.Prompt]],
    baselines: dict[str, dict[str, int]],
) -> Iterator[tuple[Any, ...]]:
    """PROMPT_COLUMNS of each prompt of a cell; tuples, for dicts of a thousand cells take seconds and a gigabyte."""
    prompts = _prompts_by_id(store, record["recipes"]["completions"], known)
    own = {answer.prompt_id: answer for answer in answers(store, record, "completions")}
    identity = record["recipes"].get("baseline")
    if identity not in baselines:
        baselines[identity] = _baseline_lengths(store, record)
    for verdict in verdicts_of(store, record):
        prompt = prompts[verdict["prompt_id"]]
        yield (
            cell_id,
            prompt.prompt_id,
            prompt.cluster,
            prompt.meta.get("held_out"),
            _number(verdict["p"]),
            bool(verdict.get("read")),
            *(_number(verdict.get(name)) for name in ("p_first", "p_second", "label")),
            len(own[prompt.prompt_id].token_ids),
            len(own[prompt.prompt_id].text),
            baselines[identity].get(prompt.prompt_id, math.nan),
        )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _baseline_lengths(store: Store, record: Mapping[str, Any]) -> dict[str, int]:
    """Characters of the baseline's answers by prompt id; empty where they cannot be read, which `_baselines` says."""
    try:
        return {each.prompt_id: len(each.text) for each in answers(store, record, "baseline")}
    except (StoreError, DataError, OSError):
        return {}


def _prompts_by_id(store: Store, completions_id: str, known: dict[str, dict[str, texts.Prompt]]) -> dict[str, texts.Prompt]:
    recipe = read_json(_answers_folder(store, completions_id) / "recipe.json")
    key = recipe["canonical"]["prompts"]["recipe"]
    if key not in known:
        known[key] = {prompt.prompt_id: prompt for prompt in prompts_of(store, completions_id)}
    return known[key]


def _baselines(done: Mapping[str, records.Record], store: Store, faults: list[str]) -> pd.DataFrame:
    rows = []
    for identity, record in {record["recipes"].get("baseline"): record for record in done.values()}.items():
        try:
            clusters = {prompt.prompt_id: prompt.cluster for prompt in prompts_of(store, record["recipes"]["baseline"])}
            of = length_measures(answers(store, record, "baseline"), clusters)
        except (StoreError, DataError, OSError, KeyError) as error:
            faults.append(f"The baseline answers cannot be read, so figures lack their length: {error}")
            continue
        low, high = of["length_mean_low"], of["length_mean_high"]
        rows.append({"baseline_id": identity, "length_tokens": of["length_tokens_mean"], "length_low": low, "length_high": high})
    return pd.DataFrame(rows, columns=["baseline_id", "length_tokens", "length_low", "length_high"])


def baselines_by_panel(results: Results) -> pd.DataFrame:
    """Mean length of the baseline answers for each panel over its draws, one for each seed; their range and number."""
    draws = results.done[["panel", "baseline_id"]].drop_duplicates().merge(results.baselines, on="baseline_id")
    lengths = draws.groupby("panel", sort=False)["length_tokens"]
    return lengths.agg(length_tokens="mean", least="min", most="max", draws="size").reset_index()


def _references(folder: Path, cells: pd.DataFrame, faults: list[str]) -> pd.DataFrame:
    """The references' own scores: one row for each reference, policy, seed and setting that was judged."""
    names = [column.name for column in REFERENCE_COLUMNS]
    rows = optional_json(folder / "references.json", faults).get("references", [])
    frame = pd.DataFrame([{name: row.get(name) for name in [*names, "settings"]} for row in rows], columns=[*names, "settings"])
    frame[names[2:]] = frame[names[2:]].apply(pd.to_numeric)
    frame["panel"] = panels(frame, varied(cells))
    return frame


def _reference_kl(folder: Path, faults: list[str]) -> pd.DataFrame:
    """reference_kl.json, by cell id."""
    names = list(REFERENCE_KL)
    found = optional_json(folder / "reference_kl.json", faults)
    rows = [{"cell_id": cell_id, **{name: values.get(name) for name in names}} for cell_id, values in found.items()]
    frame = pd.DataFrame(rows, columns=["cell_id", *names]).astype({"cell_id": object})
    frame[names] = frame[names].apply(pd.to_numeric)
    return frame


def optional_json(path: Path, faults: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except ValueError as error:
        faults.append(f"{path.name} cannot be read and is left out: {error}")
        return {}


def read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is a JSON {type(value).__name__}; expected an object")
    return value


def at(source: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where any part is missing."""
    value: Any = source
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
