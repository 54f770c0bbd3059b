"""One JSON file per cell: what a trial measured, or why it failed. The records are the truth about a sweep.

Invariant: a record is written whole or not at all. A torn one is named and counts as not there, so that its cell runs again.
"""

import contextlib
import copy
import json
import math
import os
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy import copies
from refstudy.errors import StoreError
from refstudy.measures.limits import degenerate
from refstudy.processes import Heartbeat, keeps, this_process
from refstudy.provenance import now

SCHEMA = 1
SWEEP = "sweep.json"
IMPORTED = "imported"
"""The folder in a sweep's folder whose records are of what was brought from elsewhere, apart from the grid's cells."""
STATUSES = ("planned", "running", "done", "failed")

NUMBER = (int, float, type(None))
FIELDS: dict[str, tuple[tuple[type, ...], Any]] = {
    "schema": ((int,), SCHEMA),
    "cell_id": ((str,), ""),
    "status": ((str,), "planned"),
    "policy": ((str,), ""),
    "reference": ((str,), ""),
    "beta": (NUMBER, None),
    "seed": ((int, type(None)), None),
    "settings": ((dict,), {}),
    "labels": ((dict,), {}),
    "recipes": ((dict,), {}),
    "measures": ((dict,), {}),
    "degenerate": ((bool, type(None)), None),
    "reason": ((str, type(None)), None),
    "stopped": ((dict, type(None)), None),
    "phases_s": ((dict,), {}),
    "duration_s": (NUMBER, None),
    "started_at": ((str, type(None)), None),
    "finished_at": ((str, type(None)), None),
    "error": ((dict, type(None)), None),
    "provenance": ((dict,), {}),
    "recipe": ((dict,), {}),
    "along": ((list,), []),
    "alarms": ((list,), []),
}
"""Every field of a record: the types it may have, and what stands there while nothing is known."""

OPTIONAL: dict[str, tuple[type, ...]] = {"evaluations": (dict,)}
"""Fields that only some records have; `evaluations`: {set: {"measures", "degenerate", "reason", "recipes", "recipe"}}."""
ADDED_LATER = ("along", "alarms")
"""Fields that earlier records lack; they are read as if nothing had been known."""

MEASURED = {
    "win_rate": "win_rate",
    "win_rate_se": "win_rate_se",
    "length_mean": "length_tokens_mean",
    "truncation_rate": "truncation_rate",
    "gold_reward": "gold_reward",
    "precision": "precision",
    "kl_start_nats": "kl_start_nats",
}
"""Fields of a status row, and the measure that each shows."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """What a sweep's folder holds: its readable records, and a sentence for each file that is none."""

    records: list[Record]
    faults: list[str]


def record_path(folder: Path | str, cell_id: str) -> Path:
    """The record's file in a sweep's folder; refuses an id that would lead out of it."""
    if not cell_id or cell_id != os.path.basename(cell_id) or cell_id.startswith("."):
        raise StoreError(f"cell id {cell_id!r} cannot name a file; expected letters, digits, '-', '_' and '.' inside")
    return Path(folder) / "cells" / f"{cell_id}.json"


def write_record(folder: Path | str, record: Record) -> Path:
    """Writes the record in one step and returns its path; fields left out take their empty value, NaN becomes null."""
    whole = _finite({**{name: empty for name, (_, empty) in FIELDS.items()}, **record})
    fault = _fault(whole)
    if fault:
        raise StoreError(f"this is no record: {fault}; got the fields {sorted(record)}")
    path = record_path(folder, whole["cell_id"])
    write_json(path, whole)
    return path


def read_records(folder: Path | str) -> list[Record]:
    """All readable records of a sweep's folder, by cell id, those of earlier grids too; `scan` also names what is unreadable."""
    return scan(folder).records


def scan(folder: Path | str) -> Scan:
    """All records of a sweep's folder with their present status: a running cell without a sign of life counts as planned."""
    records, faults = [], []
    copies.refresh(Path(folder) / "cells")
    for path in sorted((Path(folder) / "cells").glob("*.json")):
        try:
            records.append(read_record(path))
        except StoreError as error:
            faults.append(str(error))
    return Scan(records, faults)


def read_record(path: Path | str) -> Record:
    """The record in one file, checked field by field."""
    path = Path(path)
    record = {**{name: copy.copy(FIELDS[name][1]) for name in ADDED_LATER}, **_parse(path)}
    fault = _fault(record)
    if not fault and record["cell_id"] != path.stem:
        fault = f"it is of cell {record['cell_id']!r}"
    if fault:
        raise StoreError(f"{path} is no record: {fault}; the cell will run again")
    if record["status"] == "running" and not _is_running(path, record):
        record["status"] = "planned"
    return record


@contextlib.contextmanager
def running(folder: Path | str, record: Record) -> Iterator[None]:
    """Shows the cell as running, with a heartbeat, while the block runs; leaves the last word to the record written inside."""
    started = {"status": "running", "started_at": now(), **record, "provenance": {"process": this_process()}}
    path = write_record(folder, {**started, "status": "running"})
    heartbeat = Heartbeat(lambda: copies.touch(path))
    try:
        yield
    finally:
        heartbeat.stop()
        with contextlib.suppress(StoreError, OSError):
            if _parse(path).get("status") == "running":
                copies.remove(path)


def note(folder: Path | str, cell_id: str, **fields: Any) -> None:
    """Puts fields into the record of a running cell, if it still says so; what cannot be read or written is passed over."""
    with contextlib.suppress(StoreError):
        path = record_path(folder, cell_id)
        record = _parse(path)
        if record.get("status") == "running":
            write_record(folder, {**record, **fields})


def write_sweep(folder: Path | str, sweep: dict[str, Any]) -> None:
    """Writes sweep.json: `{"name", "cells": [{"cell_id", "policy", "reference", "beta", "seed", "settings"}], ...}`.

    Its cells become current; cells of an earlier sweep.json that are not among them stay, with "current": false.
    """
    cells = [{**cell, "current": True} for cell in sweep["cells"]]
    named = {cell["cell_id"] for cell in cells}
    earlier = [{**cell, "current": False} for cell in read_cells(folder) if cell["cell_id"] not in named]
    write_json(Path(folder) / SWEEP, {**sweep, "cells": cells + earlier})


def read_sweep(folder: Path | str) -> dict[str, Any]:
    """sweep.json as it was written; refuses a folder without one."""
    path = Path(folder) / SWEEP
    copies.refresh_file(path)
    if not path.is_file():
        raise StoreError(f"{folder} is no folder of a sweep: it has no {SWEEP}; expected the --results of a `refstudy run`")
    return _parse(path)


def read_cells(folder: Path | str) -> list[dict[str, Any]]:
    """The cells that sweep.json lists; none if it is absent or torn (running the sweep writes it again)."""
    try:
        cells = read_sweep(folder).get("cells")
    except StoreError:
        return []
    listed = cells if isinstance(cells, list) else []
    return [cell for cell in listed if isinstance(cell, dict) and isinstance(cell.get("cell_id"), str)]


def status_rows(folder: Path | str) -> list[dict[str, Any]]:
    """A row for each cell of the folder in the sweep's order, cells of earlier grids last; what is not measured is None.

    Whether a cell is degenerate is derived here from its measures and the limits of today.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"{folder} is no folder; expected the --results of a `refstudy run`, such as results/quickstart")
    records = {record["cell_id"]: record for record in read_records(folder)}
    planned = {cell["cell_id"]: cell for cell in read_cells(folder)}
    return [_row(planned.get(cell_id, {}), records.get(cell_id, {})) for cell_id in dict.fromkeys([*planned, *records])]


def failure(error: Exception, why: str = "") -> Record:
    """The fields of a failed record: type, message, with `why` before it, and traceback of what went wrong."""
    lines = "".join(traceback.format_exception(error))
    return {"status": "failed", "error": {"type": type(error).__name__, "message": f"{why}{error}", "traceback": lines}}


def write_json(path: Path, content: dict[str, Any], hasty: bool = False) -> None:
    """Writes a JSON file that is there whole or not at all, also after a power cut; NaN and infinities become null."""
    write_text(path, json.dumps(_finite(content), ensure_ascii=False, indent=1, allow_nan=False), hasty)


def write_text(path: Path, text: str, hasty: bool = False) -> None:
    """Writes a text file that is there whole or not at all, also after a power cut; `hasty`: at an address, by one short try."""
    with copies.writing(path, text.encode("utf-8"), hasty):
        _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}; free space or make the folder writable, "
            "or choose another --results"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _row(cell: dict[str, Any], record: Record) -> dict[str, Any]:
    source = {**record, **cell}
    status = record.get("status", "planned")
    finished = status in ("done", "failed")
    measures = record.get("measures", {}) if finished else {}
    is_degenerate, reason = degenerate(measures) if status == "done" else (None, None)
    named = {name: source.get(name) for name in ("cell_id", "policy", "reference", "beta", "seed")}
    return {
        **named,
        "status": status,
        "current": bool(cell.get("current", bool(cell))),
        "degenerate": is_degenerate,
        "reason": "; ".join(filter(None, (reason, unread(measures), _error_line(record)))) or None if finished else None,
        "alarms": [str(each.get("words")) for each in record.get("alarms", []) if isinstance(each, dict) and status != "planned"],
        **{name: measures.get(measure) for name, measure in MEASURED.items()},
        "win_rate_on_sets": {name: each["measures"].get("win_rate") for name, each in record.get("evaluations", {}).items()},
        "duration_s": record.get("duration_s") if finished else None,
        "finished_at": record.get("finished_at") if finished else None,
    }


def unread(measures: dict[str, Any]) -> str | None:
    """How many answers the judge gave no verdict on, in words; None if it gave one on each."""
    failures, prompts = measures.get("judge_failures"), measures.get("prompts")
    return f"no verdict of the judge on {failures:g} of {prompts:g} prompts" if failures and prompts else None


def _error_line(record: Record) -> str | None:
    error = record.get("error") or {}
    return f"{error.get('type')}: {error.get('message')}" if error else None


def _is_running(path: Path, record: Record) -> bool:
    process = record["provenance"].get("process")
    return keeps(process if isinstance(process, dict) else {}, path)


def _parse(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is torn or no JSON ({error}); run the sweep again") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is a JSON {type(value).__name__}; expected an object")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _fault(record: dict[str, Any]) -> str | None:
    """What is wrong with the record's fields, in words; None if nothing is."""
    for name, (types, _) in FIELDS.items():
        if name not in record:
            return f"it lacks {name!r}"
        if not isinstance(record[name], types) or (isinstance(record[name], bool) and bool not in types):
            return f"{name!r} is {record[name]!r:.80}; expected {' or '.join(each.__name__ for each in types)}"
    for name, types in OPTIONAL.items():
        if not isinstance(record.get(name, {}), types):
            return f"{name!r} is {record[name]!r:.80}; expected {' or '.join(each.__name__ for each in types)}"
    if record["schema"] != SCHEMA:
        return f"its schema is {record['schema']}; this version reads {SCHEMA}"
    if record["status"] not in STATUSES:
        return f"its status is {record['status']!r:.80}; expected one of {', '.join(STATUSES)}"
    return _measures_fault(record)


def _measures_fault(record: dict[str, Any]) -> str | None:
    """Which measures, of the sweep's own prompts or of an evaluation set, are no numbers."""
    of_sets = record.get("evaluations", {})
    for name, each in of_sets.items():
        if not isinstance(each, dict) or not isinstance(each.get("measures"), dict) or not isinstance(each.get("recipes"), dict):
            return f"its evaluation {name!r} is no object with measures and recipes"
    found = {"": record["measures"], **{f"{name}/": each["measures"] for name, each in of_sets.items()}}
    wrong = [
        f"{prefix}{name}"
        for prefix, measures in found.items()
        for name, value in measures.items()
        if isinstance(value, bool) or not isinstance(value, NUMBER)
    ]
    return f"the measures {wrong} are no numbers" if wrong else None


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities as null, which is how JSON says "undefined"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value
