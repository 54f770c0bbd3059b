import json

import pytest

from tests.bench import gpu, grouped, parts
from tests.bench.parts import Part

NAME = "qwen2.5-0.5b-lora"


def part(folder):
    return Part(NAME, folder / "sweep.yaml", 3, 0, 0)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """bench_gpu.json of one shape with LoRA, tried on this machine at a tiny size."""
    folder = tmp_path_factory.mktemp("gpu")
    more = ["--shapes", "qwen2.5-0.5b", "--tuning", "lora", "--together", 4, "--turns", 2]
    parts.run(parts.python("tests.bench.gpu", "--tiny", "--results", folder, *more), folder / "gpu.log")
    return json.loads((folder / "bench_gpu.json").read_text())


@pytest.mark.long
def test_tiny_bench_writes_every_figure(report):
    assert report["tiny"] is True
    assert report[NAME]["equal"] is True
    assert report[NAME]["mfu_training"] > 0
    assert NAME in gpu.table(report, NAME, "qwen2.5-0.5b")


@pytest.mark.long
def test_tiny_bench_compares_lora_cells_on_one_base_by_the_step(report):
    found = report[NAME]["grouped"]
    assert found["cells"] == 4
    assert found["betas"] == [1, 0.1, 0.01, 1]
    assert set(found["ways"]) == set(grouped.WAYS)
    assert all(way["equal"] and way["seconds"] > 0 and way["pairs_at_once"] == 2 for way in found["ways"].values())


@pytest.mark.long
def test_tiny_bench_compares_the_attention_of_a_line_by_the_step(report):
    ways = report["attention"]["qwen2.5-0.5b"]["ways"]
    assert set(ways) == {"now", "lower_right", "flex", "varlen"}
    assert all(ways[name]["equal"] and ways[name]["seconds"] > 0 for name in ("now", "lower_right"))
    assert ways["flex"].keys() >= {"error"} or ways["flex"]["equal"]


def test_comparison_that_fails_is_an_error_in_one_line_of_the_report(tmp_path, monkeypatch):
    def fails(command, log, **more):
        raise RuntimeError("python ended with 1:\nTraceback\nOutOfMemoryError: no memory")

    monkeypatch.setattr(parts, "run", fails)
    (tmp_path / "grouped.json").write_text("of another run")
    found = gpu.by_the_step("grouped", part(tmp_path), tmp_path, 2)
    assert found == {"error": "OutOfMemoryError: no memory"}
    assert grouped.words(found) == "LoRA cells together: OutOfMemoryError: no memory"


def test_comparison_is_read_from_what_its_process_wrote(tmp_path, monkeypatch):
    def runs(command, log, **more):
        assert command[1:3] == ["-m", "tests.bench.grouped"]
        assert command[-4:] == ["--turns", "2", "--together", "5"]
        (tmp_path / "grouped.json").write_text('{"cells": 5}')

    monkeypatch.setattr(parts, "run", runs)
    assert gpu.by_the_step("grouped", part(tmp_path), tmp_path, 2, "--together", 5) == {"cells": 5}
