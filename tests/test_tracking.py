import json
import logging
import struct
import threading
import time
import types
from pathlib import Path

import pytest

from refstudy import tracking
from refstudy.measurement import Measurement
from refstudy.tracking import Tracker

CELL = {
    "cell_id": "c0ffee",
    "policy": "small",
    "reference": "larger-near",
    "beta": 0.3,
    "seed": 0,
    "settings": {"train.learning_rate": 0.0002},
    "recipes": {"dpo": "0123456789abcdef"},
}
RECORD = {
    "status": "done",
    "measures": {"win_rate": 0.71, "length_tokens_mean": 17.5},
    "degenerate": False,
    "reason": None,
    "duration_s": 14.0,
    "evaluations": {"alpaca": {"measures": {"win_rate": 0.4}, "recipes": {}}},
}

BLOCK, HEADER = 32768, 7


def read_run(path: Path) -> list:
    """The records of a wandb run file: a LevelDB log of protobufs (7 bytes of file header, blocks of 32 KiB, each chunk with
    checksum, length and type: 1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, records = path.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if kind == 0:
            break
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            records.append(Record.FromString(parts))
            parts = b""
    return records


def warnings(caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == tracking.log.name]


def run_files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("*run-*/*.wandb"))


def ended(path: Path) -> list:
    """The run's records once its last one is there: wandb's own process writes the file, a moment after `finish`."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        records = read_run(path)
        if any(each.WhichOneof("record_type") == "exit" for each in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no exit record")


def finished_run(folder: Path, record=RECORD) -> list:
    tracker = Tracker(CELL, "quickstart", folder)
    tracker.numbers(lambda: {"reference/intercept_over_residual_spread": 0.45})
    for step in (5, 10):
        assert tracker.emit(Measurement("train", step, 10, {"loss": 1 / step, "reward_margin": 0.5 * step})) is None
    tracker.emit(Measurement("generate", 3, 768, {"answers": 3.0}))
    tracker.emit(Measurement("along", 10, 10, {"win_rate": 0.6, "kl_start_nats": 1.5}, ("kl_start_nats 1.5 > 1 at step 10",)))
    tracker.samples(lambda: [{"prompt": "Name 2 facts.", "answer": "Öl und Zinn.", "p": 0.8}])
    tracker.finish(record)
    return ended(run_files(folder)[-1])


def test_offline_run_file_holds_config_steps_summary_and_group(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    records = finished_run(tmp_path)
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["beta"], config["reference"], config["recipes"]) == (0.3, "larger-near", {"dpo": "0123456789abcdef"})
    assert (run.run_id, run.run_group, run.project) == ("c0ffee-1", "quickstart", "refstudy")
    assert run.display_name == "small larger-near beta=0.3 seed=0"
    steps = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in each.history.item}
        for each in records
        if each.WhichOneof("record_type") == "history"
    ]
    assert [(step["_step"], step["train/loss"]) for step in steps if "train/loss" in step] == [(5, 0.2), (10, 0.1)]
    assert not any("generate/answers" in step for step in steps)
    assert [(step["along/win_rate"], step["along/kl_start_nats"]) for step in steps if "along/win_rate" in step] == [(0.6, 1.5)]
    alerts = [each.alert for each in records if each.WhichOneof("record_type") == "alert"]
    assert [(alert.title, alert.text, alert.level, alert.wait_duration) for alert in alerts] == [
        ("refstudy alarm", "kl_start_nats 1.5 > 1 at step 10", "WARN", 1)
    ]
    assert any(name.split("/")[0] == "samples" for step in steps for name in step)
    summary = {}
    for each in records:
        if each.WhichOneof("record_type") == "summary":
            summary.update({item.key: json.loads(item.value_json) for item in each.summary.update})
    assert (summary["win_rate"], summary["eval/alpaca/win_rate"], summary["status"]) == (0.71, 0.4, "done")
    assert summary["reference/intercept_over_residual_spread"] == 0.45
    assert [each.exit.exit_code for each in records if each.WhichOneof("record_type") == "exit"] == [0]
    (table,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [["Name 2 facts.", "Öl und Zinn.", 0.8]]
    assert warnings(caplog) == []


def test_each_attempt_at_a_cell_has_its_own_run_id(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for _ in range(2):
        finished_run(tmp_path, {**RECORD, "status": "failed"})
    assert [path.stem for path in run_files(tmp_path)] == ["run-c0ffee-1", "run-c0ffee-2"]
    assert [each.exit.exit_code for each in ended(run_files(tmp_path)[-1]) if each.WhichOneof("record_type") == "exit"] == [1]


def test_wandb_mode_disabled_is_respected(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = Tracker(CELL, "quickstart", tmp_path)
    tracker.finish(RECORD)
    assert run_files(tmp_path) == []
    assert warnings(caplog) == []


class FakeRun:
    def __init__(self, broken: str) -> None:
        self.broken = broken
        self.summary = self

    def log(self, values, step=None):
        self._perhaps("log")

    def update(self, values):
        self._perhaps("summary")

    def finish(self, exit_code):
        self._perhaps("finish")

    def alert(self, title, text, level, wait_duration):
        self._perhaps("alert")

    def _perhaps(self, call):
        if call == self.broken:
            raise ConnectionError("no route\nto host")


def fake_wandb(monkeypatch, init):
    fake = types.SimpleNamespace(init=init, Settings=lambda **options: options, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)


@pytest.mark.parametrize("broken", ["init", "log", "alert", "summary", "finish"])
def test_wandb_that_raises_gives_one_warning_and_then_silence(tmp_path, monkeypatch, caplog, broken):
    def init(**options):
        if broken == "init":
            raise SystemExit("no API key")
        return FakeRun(broken)

    fake_wandb(monkeypatch, init)
    tracker = Tracker(CELL, "quickstart", tmp_path)
    for step in range(3):
        tracker.emit(Measurement("train", step, 3, {"loss": 1.0}, ("an alarm",)))
    tracker.samples(lambda: [{"prompt": "a"}])
    tracker.finish(RECORD)
    assert [each.levelno for each in warnings(caplog)] == [logging.WARNING]
    assert "\n" not in warnings(caplog)[0].getMessage()
    assert "the trial goes on" in warnings(caplog)[0].getMessage()


def test_wandb_that_hangs_is_left_behind_and_not_waited_for_again(tmp_path, monkeypatch, caplog):
    released = threading.Event()
    started = []

    def init(**options):
        started.append(options["id"])
        released.wait(30)
        return FakeRun("")

    fake_wandb(monkeypatch, init)
    before = time.monotonic()
    for _ in range(2):
        tracker = Tracker(CELL, "quickstart", tmp_path)
        tracker.emit(Measurement("train", 1, 3, {"loss": 1.0}))
        tracker.finish(RECORD, timeout_s=0.2)
    assert time.monotonic() - before < 20
    assert started == ["c0ffee-1"]
    assert [each.getMessage().split("(")[1].split(")")[0] for each in warnings(caplog)] == [
        "no answer for 0.2 s",
        "an earlier run of this process still hangs in it",
    ]
    released.set()
    tracking.wait_for_quiet(10)
    assert not any(thread.is_alive() for thread in tracking._left_hanging)
