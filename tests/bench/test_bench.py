import json

import pytest

from refstudy.store import Store
from tests.bench import outcome, parts
from tests.bench.__main__ import WAYS

pytestmark = pytest.mark.long
FIGURES = {
    "speedup_live",
    "speedup_precomputed",
    "reference_token_ratio",
    "probe_share",
    "overhead_share",
    "tokens_per_s",
    "redundancy",
}
FIGURES |= {"sweep_efficiency", "padding_share", "peak_memory_gb", "phases_s", "equal", "one_more_beta", "runs", "probe_share"}
PHASES = {"start", "load", "tokenise", "score", "train", "generate", "judge", "record"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """(folder, bench.json) of everything at a tiny size."""
    folder = tmp_path_factory.mktemp("bench")
    parts.run(parts.python("tests.bench", "--smoke", "--results", folder), folder / "bench.log")
    return folder, json.loads((folder / "bench.json").read_text())


@pytest.mark.parametrize("name", ["miniature", "real_text"])
def test_bench_writes_every_figure_of_a_part(bench, name):
    part = bench[1][name]
    assert set(part) >= FIGURES
    assert set(part["phases_s"]) >= PHASES
    assert all(part["runs"][way][0]["wall_s"] > 0 for way in WAYS)
    assert part["speedup_live"] == pytest.approx(
        part["scale"] * part["runs"]["live"][0]["wall_s"] / part["runs"]["refstudy"][0]["wall_s"]
    )
    assert bench[1]["machine"]["cores"] >= 1


@pytest.mark.parametrize("name", ["miniature", "real_text"])
def test_every_reference_is_scored_once(bench, name):
    assert bench[1][name]["reference_token_ratio"] == 1.0


def test_bare_loops_end_where_the_trial_ends(bench):
    assert bench[1]["miniature"]["bare"]["largest_loss_difference"] < 1e-4


def test_both_sides_are_equal_in_bf16_and_in_fp32(bench):
    part = bench[1]["miniature"]
    assert part["equal"] is True
    assert {way: len(checks) for way, checks in part["equality"].items()} == {"live": 2, "precomputed": 2, "live in fp32": 1}


def test_side_with_another_learning_rate_is_not_equal(bench):
    folder, report = bench
    part = parts.smoke(folder)[0]
    _, cells = part.read()
    job = parts.job(cells[0], Store(folder / "miniature" / "given" / "store"), folder / "other.json", precompute=False, bf16=False)
    (folder / "job.json").write_text(json.dumps(job | {"learning_rate": 10 * job["learning_rate"]}))
    parts.run(parts.python("tests.bench.baseline", folder / "job.json"), folder / "other.log")
    ours = report["miniature"]["runs"]["refstudy"][0]["cells"]
    last = json.loads((folder / "other.json").read_text())["history"][-1]
    assert [each["equal"] for each in outcome.equality(cells, ours, {cells[0].id: last}, False, 17.0)] == [False]


def test_unequal_part_is_printed_as_not_counting(bench):
    assert "does not count" not in outcome.table(bench[1])
    assert "does not count" in outcome.table(bench[1] | {"miniature": bench[1]["miniature"] | {"equal": False}})
