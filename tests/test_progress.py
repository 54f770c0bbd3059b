import io
import json

import pytest
from rich.console import Console

from refstudy import progress
from refstudy.measurement import Measurement
from refstudy.progress import Board, Display, Item, Reporter, ended_line, render, running_line, short_s


def cells(count: int) -> list[Item]:
    return [
        Item(f"cell{n:04d}", "cells", f"small self beta={n}", row={"reference": "self", "beta": float(n)}) for n in range(count)
    ]


def shown(board: Board, now: float, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(board, now, height))
    return console.file.getvalue()


def test_board_follows_what_a_worker_reports(tmp_path):
    board = Board(tmp_path)
    board.add(cells(2))
    report = Reporter(tmp_path, "cell0000")
    assert board.poll() == []
    assert board.items["cell0000"].state == "running"
    report(Measurement("train", 40, 282, {"loss": 0.6}))
    board.poll()
    assert board.items["cell0000"].at == "train 40/282"
    report.end("done", {"win_rate": 0.71, "length_mean": 17.25})
    assert [item.key for item in board.poll()] == ["cell0000"]
    assert board.poll() == []
    assert board.items["cell0000"].row == {"reference": "self", "beta": 0.0, "win_rate": 0.71, "length_mean": 17.25}
    assert board.counts() == {"cells": (1, 2)}


def test_reporter_writes_at_most_two_measurements_a_second_of_one_stage(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    report = Reporter(tmp_path, "a")
    written = []
    for step in range(100):
        clock[0] += 1 / 128
        report(Measurement("train", step, 100, {}))
        written.append(json.loads((tmp_path / "a.json").read_text())["step"])
    assert sorted(set(written)) == [0, 65]  # the first of the stage, and one after half a second


def test_alarm_of_a_worker_is_said_once_at_once(tmp_path):
    board = Board(tmp_path)
    board.add(cells(1))
    report = Reporter(tmp_path, "cell0000")
    console = Console(file=io.StringIO(), width=120)
    display = Display(board, console)
    report(Measurement("along", 40, 282, {"length_ratio": 2.5}, ("length_ratio 2.5 > 2 at step 40",)))
    display.update()
    report(Measurement("along", 80, 282, {"length_ratio": 2.7}, ("truncation_rate 0.4 > 0.3 at step 80",)))
    display.update()
    report.end("done", {})
    display.update()
    lines = [line.split("] ")[1] for line in console.file.getvalue().splitlines() if "ALARM" in line]
    assert lines == [
        "ALARM small self beta=0: length_ratio 2.5 > 2 at step 40",
        "ALARM small self beta=0: truncation_rate 0.4 > 0.3 at step 80",
    ]


def test_reporter_on_a_full_or_missing_disk_is_silent(tmp_path):
    report = Reporter(tmp_path / "nowhere", "a")
    report(Measurement("train", 1, 2, {}))
    report.end("done")
    assert list(tmp_path.iterdir()) == []


def test_board_passes_over_torn_and_unknown_files(tmp_path):
    board = Board(tmp_path)
    board.add(cells(1))
    (tmp_path / "cell0000.json").write_text('{"state": "run')
    (tmp_path / "other.json").write_text('{"state": "done"}')
    assert board.poll() == []
    assert board.items["cell0000"].state == "planned"


def test_time_left_comes_from_finished_cells_by_hand(tmp_path):
    """Two cells took 10 s and 20 s, mean 15 s. One runs since 5 s (10 s left), two wait (30 s), two ran at once: 40 / 2 = 20 s."""
    board = Board(tmp_path)
    board.add(cells(5))
    for key, state, started, ended in (("cell0000", "done", 0, 10), ("cell0001", "done", 10, 30), ("cell0002", "running", 95, 0)):
        item = board.items[key]
        item.state, item.started, item.ended = state, started, ended
    board.width = 2
    assert board.left_s(board.items["cell0002"], now=100) == 10
    assert board.all_left_s(now=100) == 20


def test_time_left_of_the_first_cell_comes_from_its_steps_by_hand(tmp_path):
    """30 of 120 steps took 10 s; the other 90 take 30 s."""
    board = Board(tmp_path)
    item = Item("a", "cells", "a", "running", "train", 30, 120, started=50)
    assert board.left_s(item, now=60) == 30
    assert board.all_left_s(now=60) is None


def test_table_shows_status_results_and_time_left(tmp_path):
    board = Board(tmp_path)
    board.add([Item("m", "models", "pretrained north large", "running", "pretrain", 350, 800, started=90), *cells(3)])
    first, second, _ = board.of("cells")
    first.state, first.started, first.ended = "done", 60, 80
    first.row |= {"win_rate": 0.7123, "length_mean": 17.25}
    second.state, second.phase, second.step, second.of, second.started = "running", "train", 40, 282, 95
    lines = shown(board, now=100).splitlines()
    assert "models 0/1   cells 1/3" in lines[0]
    assert "pretrained north large   pretrain 350/800   10 s" in lines[1]
    assert lines[3].split() == ["cell0000", "self", "0", "done", "0.712", "17.2"]
    assert lines[4].split() == ["cell0001", "self", "1", "running", "train", "40/282", "15", "s"]
    assert lines[5].split() == ["cell0002", "self", "2", "planned"]


def test_table_of_a_thousand_cells_keeps_to_the_screen_and_shows_running_ones(tmp_path):
    board = Board(tmp_path)
    board.add(cells(1000))
    board.items["cell0777"].state = "running"
    lines = shown(board, now=100, height=24).splitlines()
    assert len(lines) <= 24
    assert any(line.startswith("cell0777") for line in lines)
    assert lines[-1].strip() == "... 980 more"


def test_lines_without_a_terminal_name_each_end_and_what_is_under_way(tmp_path):
    board = Board(tmp_path)
    board.add(cells(2))
    output = io.StringIO()
    with Display(board, Console(file=output, width=60)) as display:
        display.say("two cells to run")
        Reporter(tmp_path, "cell0000").end("done", {"win_rate": 0.71, "length_mean": 17.25})
        Reporter(tmp_path, "cell0001").end("failed", {"reason": "ModelError: no tokenizer in [/models/x]"})
    lines = output.getvalue().splitlines()
    assert lines[0].endswith("s] two cells to run")
    assert "cells 1/2: small self beta=0 done in 0.0 s, win rate 0.710, length 17.2" in output.getvalue()
    assert "cells 2/2: small self beta=1 failed in 0.0 s, ModelError: no tokenizer in [/models/x]" in output.getvalue()
    assert len(lines) == 3


def test_failure_is_said_once_whoever_knows_of_it_first(tmp_path):
    """A worker that failed says so itself; of one that died only the run can."""
    board = Board(tmp_path)
    board.add(cells(2))
    output = io.StringIO()
    with Display(board, Console(file=output, width=60)) as display:
        Reporter(tmp_path, "cell0000").end("failed", {"reason": "ModelError: no tokenizer"})
        display.fail("cell0000", "ModelError: no tokenizer")
        display.fail("cell0001", "WorkerCrashedError: killed")
    assert output.getvalue().count("no tokenizer") == 1
    assert "small self beta=1 failed: WorkerCrashedError: killed" in output.getvalue()
    assert len(output.getvalue().splitlines()) == 2


def test_line_of_what_runs_names_four_and_counts_the_rest(tmp_path):
    board = Board(tmp_path)
    board.add(cells(6))
    for item in board.of("cells"):
        item.state, item.phase, item.started = "running", "generate", 90.0
    line = running_line(board, now=100)
    assert line.startswith("under way: small self beta=0: generate, 10 s; ")
    assert line.endswith("; and 2 more")


def test_ended_line_gives_the_time_left_of_all_cells(tmp_path):
    board = Board(tmp_path)
    board.add(cells(3))
    first = board.items["cell0000"]
    first.state, first.ended = "done", 100.0
    assert ended_line(board, first, now=200.0) == "cells 1/3: small self beta=0 done in 1 min 40 s, about 3 min 20 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (14.4, "14 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_are_short_for_people(seconds, text):
    assert short_s(seconds) == text
