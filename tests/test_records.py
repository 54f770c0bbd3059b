import errno
import io
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from refstudy import records
from refstudy.errors import StoreError
from refstudy.processes import BEAT_S, MISSED_BEATS, this_process
from refstudy.records import read_records, record_path, running, scan, status_rows, write_record, write_sweep

ROW_FIELDS = {
    "cell_id", "policy", "reference", "beta", "seed", "status", "current", "degenerate", "reason", "win_rate", "win_rate_se",
    "win_rate_on_sets", "length_mean", "truncation_rate", "gold_reward", "precision", "kl_start_nats", "duration_s",
    "finished_at", "alarms",
}  # fmt: skip


def done(cell_id: str = "a1", **fields):
    return {
        "cell_id": cell_id,
        "status": "done",
        "policy": "small",
        "reference": "self",
        "beta": 0.1,
        "seed": 0,
        "measures": {"win_rate": 0.62, "win_rate_se": 0.02, "length_tokens_mean": 17.5, "kl_start_nats": 3.25},
        "degenerate": False,
        "duration_s": 14.0,
        "finished_at": "2026-01-02T03:04:05+00:00",
        **fields,
    }


def cell(cell_id: str, beta: float = 0.1):
    return {"cell_id": cell_id, "policy": "small", "reference": "self", "beta": beta, "seed": 0, "settings": {}}


def test_record_is_read_back_as_written_with_every_field(tmp_path):
    write_record(tmp_path, done(measures={"win_rate": 0.1 + 0.2}))
    (record,) = read_records(tmp_path)
    assert record["measures"] == {"win_rate": 0.1 + 0.2}
    assert set(record) == set(records.FIELDS)
    assert record["error"] is None
    assert [each.name for each in (tmp_path / "cells").iterdir()] == ["a1.json"]


def test_record_of_an_evaluation_set_is_read_back_and_its_undefined_measures_are_null(tmp_path):
    write_record(tmp_path, done(evaluations={"alpaca": {"measures": {"win_rate": 0.4, "seq_rep_4": math.nan}, "recipes": {}}}))
    (record,) = read_records(tmp_path)
    assert record["evaluations"] == {"alpaca": {"measures": {"win_rate": 0.4, "seq_rep_4": None}, "recipes": {}}}
    assert set(record) == {*records.FIELDS, *records.OPTIONAL}


def test_undefined_measure_is_written_as_null(tmp_path):
    write_record(tmp_path, done(measures={"win_rate": math.nan, "length_tokens_mean": math.inf}))
    assert read_records(tmp_path)[0]["measures"] == {"win_rate": None, "length_tokens_mean": None}


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "finished"},
        {"measures": {"win_rate": "high"}},
        {"measures": {"win_rate": True}},
        {"beta": "0.1"},
        {"seed": False},
        {"evaluations": []},
        {"evaluations": {"alpaca": {"measures": {}}}},
        {"evaluations": {"alpaca": {"measures": {"win_rate": "high"}, "recipes": {}}}},
    ],
)
def test_wrong_record_is_refused_before_it_is_written(tmp_path, wrong):
    with pytest.raises(StoreError, match="this is no record"):
        write_record(tmp_path, done(**wrong))
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize("cell_id", ["", "../a", "a/b", ".", "..", ".hidden", "/etc/passwd"])
def test_cell_id_cannot_lead_out_of_the_folder(tmp_path, cell_id):
    with pytest.raises(StoreError, match="cannot name a file"):
        record_path(tmp_path, cell_id)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x00\xff", b"[]", b"null", b"{}", b'{"cell_id": "torn"}', b"[" * 100_000, b'{"beta": NaN}', b"9" * 5000],
)
def test_torn_record_is_named_and_its_cell_counts_as_planned(tmp_path, content):
    write_sweep(tmp_path, {"name": "s", "cells": [cell("a1"), cell("torn")]})
    write_record(tmp_path, done("a1"))
    record_path(tmp_path, "torn").write_bytes(content)
    found = scan(tmp_path)
    assert [record["cell_id"] for record in found.records] == ["a1"]
    assert len(found.faults) == 1
    assert "torn.json" in found.faults[0]
    assert [row["status"] for row in status_rows(tmp_path)] == ["done", "planned"]


def test_record_under_another_cells_name_is_refused(tmp_path):
    path = write_record(tmp_path, done("a1"))
    os.rename(path, path.with_name("b2.json"))
    assert "it is of cell 'a1'" in scan(tmp_path).faults[0]


def test_failed_write_keeps_the_earlier_record(tmp_path, monkeypatch):
    write_record(tmp_path, done())

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(StoreError, match=r"a1\.json cannot be written: No space left on device"):
        write_record(tmp_path, done(duration_s=99.0))
    assert read_records(tmp_path)[0]["duration_s"] == 14.0
    assert [each.name for each in (tmp_path / "cells").iterdir()] == ["a1.json"]


def test_running_cell_shows_until_its_record_is_written(tmp_path):
    with running(tmp_path, {**cell("a1"), "recipes": {"dpo": "0123"}}):
        assert [row["status"] for row in status_rows(tmp_path)] == ["running"]
        write_record(tmp_path, done())
    assert [row["status"] for row in status_rows(tmp_path)] == ["done"]


def test_cell_that_left_no_record_is_planned_again(tmp_path):
    write_sweep(tmp_path, {"name": "s", "cells": [cell("a1")]})
    with pytest.raises(KeyboardInterrupt), running(tmp_path, cell("a1")):
        raise KeyboardInterrupt
    assert [row["status"] for row in status_rows(tmp_path)] == ["planned"]
    assert read_records(tmp_path) == []


def test_running_cell_of_a_dead_process_counts_as_planned(tmp_path):
    write_record(tmp_path, done(status="running", provenance={"process": {**this_process(), "started": -1}}))
    assert read_records(tmp_path)[0]["status"] == "planned"
    (row,) = status_rows(tmp_path)
    assert row["status"] == "planned"
    assert row["win_rate"] is None


def test_running_cell_of_another_host_counts_as_planned_after_three_missed_beats(tmp_path):
    process = {"pid": 1, "host": "elsewhere", "started": 1}
    path = write_record(tmp_path, done(status="running", provenance={"process": process}))
    assert read_records(tmp_path)[0]["status"] == "running"
    late = time.time() - MISSED_BEATS * BEAT_S - 1
    os.utime(path, (late, late))
    assert read_records(tmp_path)[0]["status"] == "planned"


def test_status_row_has_the_declared_fields_and_measures(tmp_path):
    write_record(tmp_path, done())
    (row,) = status_rows(tmp_path)
    assert set(row) == ROW_FIELDS
    assert (row["win_rate"], row["win_rate_se"], row["length_mean"], row["kl_start_nats"]) == (0.62, 0.02, 17.5, 3.25)
    assert row["gold_reward"] is None
    json.dumps(row, allow_nan=False)


def test_record_from_before_alarms_is_read_without_any(tmp_path):
    path = write_record(tmp_path, done())
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("along", "alarms")}
    path.write_text(json.dumps(old))
    (record,) = read_records(tmp_path)
    assert (record["along"], record["alarms"], record["status"]) == ([], [], "done")


def test_alarm_noted_on_a_running_cell_shows_in_its_status(tmp_path):
    words = "length_ratio 2.5 > 2 at step 40"
    with running(tmp_path, cell("a1")):
        records.note(tmp_path, "a1", alarms=[{"words": words}])
        (row,) = status_rows(tmp_path)
        assert (row["status"], row["alarms"], row["beta"]) == ("running", [words], 0.1)
        write_record(tmp_path, done())
        records.note(tmp_path, "a1", alarms=[{"words": words}])
    assert status_rows(tmp_path)[0]["alarms"] == [], "a finished record is not written into"
    records.note(tmp_path, "absent", alarms=[])
    assert [record["cell_id"] for record in read_records(tmp_path)] == ["a1"]


def test_status_calls_degenerate_what_todays_limits_do_whatever_the_record_said(tmp_path):
    """A policy whose answers shrank to a tenth of its start's, recorded before there was a limit for that."""
    path = write_record(tmp_path, done(measures={"length_ratio": 0.1, "win_rate": 0.1}, degenerate=False))
    before = path.read_bytes()
    (row,) = status_rows(tmp_path)
    assert (row["degenerate"], row["reason"]) == (True, "length_ratio 0.1 < 0.25")
    assert path.read_bytes() == before


def test_status_of_a_failed_cell_gives_the_error_as_reason(tmp_path):
    write_record(
        tmp_path, done(status="failed", measures={}, error={"type": "ModelError", "message": "no tokenizer", "traceback": "..."})
    )
    assert status_rows(tmp_path)[0]["reason"] == "ModelError: no tokenizer"


def test_cells_of_earlier_grids_stay_in_sweep_and_status(tmp_path):
    write_sweep(tmp_path, {"name": "s", "cells": [cell("a1", 0.1), cell("b2", 1.0)]})
    write_record(tmp_path, done("a1"))
    write_record(tmp_path, done("old"))  # its sweep.json was lost
    write_sweep(tmp_path, {"name": "s", "cells": [cell("b2", 1.0), cell("c3", 10.0)]})
    current = {each["cell_id"]: each["current"] for each in records.read_cells(tmp_path)}
    assert current == {"b2": True, "c3": True, "a1": False}
    assert [(row["cell_id"], row["status"], row["current"]) for row in status_rows(tmp_path)] == [
        ("b2", "planned", True),
        ("c3", "planned", True),
        ("a1", "done", False),
        ("old", "done", False),
    ]


def test_torn_sweep_file_leaves_the_records_readable(tmp_path):
    write_record(tmp_path, done("a1"))
    (tmp_path / "sweep.json").write_text('{"cells": [')
    assert [row["cell_id"] for row in status_rows(tmp_path)] == ["a1"]
    with pytest.raises(StoreError, match=r"sweep\.json is torn"):
        records.read_sweep(tmp_path)


def test_status_of_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no folder; expected the --results of a `refstudy run`"):
        status_rows(tmp_path / "nowhere")


def test_status_of_a_thousand_cells_opens_each_file_once(tmp_path, monkeypatch):
    write_sweep(tmp_path, {"name": "s", "cells": [cell(f"c{number}") for number in range(1000)]})
    text = json.dumps({**{name: empty for name, (_, empty) in records.FIELDS.items()}, **done("NAME")})
    (tmp_path / "cells").mkdir()
    for number in range(1000):
        (tmp_path / "cells" / f"c{number}.json").write_text(text.replace("NAME", f"c{number}"))
    opened, plain = Counter(), io.open

    def counted(file, *arguments, **options):
        opened[str(file)] += 1
        return plain(file, *arguments, **options)

    monkeypatch.setattr(io, "open", counted)
    assert len(status_rows(tmp_path)) == 1000
    assert set(opened.values()) == {1}
    assert len(opened) <= 1003


@pytest.mark.parametrize("module", ["store", "records", "provenance", "processes", "grid"])
def test_module_imports_nothing_heavy(module):
    script = (
        f"import sys, refstudy.{module}; print(sorted({{'torch', 'ray', 'wandb', 'transformers', 'numpy'}} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
