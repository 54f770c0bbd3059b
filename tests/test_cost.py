"""What `plan` says before anything is paid for."""

import json
from pathlib import Path

import pytest

from refstudy import cost, grid, recipes, records, results, texts
from refstudy.cost import Estimate
from refstudy.errors import ModelError
from refstudy.store import Store

SWEEPS = Path(__file__).parents[1] / "sweeps"


def estimate(tmp_path: Path, *assignments: str, sweep: str = "smollm2") -> Estimate:
    read = grid.read(SWEEPS / f"{sweep}.yaml", list(assignments))
    return cost.estimate(read, grid.cells(read), results.place(read, tmp_path / "results" / read.name, None))


def test_estimate_of_one_cell_is_the_arithmetic_of_its_tokens(tmp_path: Path) -> None:
    """SmolLM2-135M, 8,000 pairs of at most 2 x 1,024 tokens, 1 epoch, 512 prompts of at most 512 new tokens:

    training   6 x 135e6 x 8,000 x 2 x 1,024        = 1.327104e16
    answers    2 x 135e6 x 512 x 512                = 7.0778880e13
    tables     2 x 135e6 x 2 x (8,000 + 512) x 1,024 = 4.706795520e15
    """
    found = estimate(tmp_path, "axes.beta=[1]", "axes.reference=[self]", "axes.seed=[0]", "price.device_hour=2.0")
    assert found.petaflops == pytest.approx((1.327104e16 + 7.077888e13 + 4.70679552e15) / 1e15)
    assert found.device_hours == pytest.approx(found.petaflops * 1e15 / (400e12 * 0.3) / 3600)
    assert found.price == pytest.approx(2.0 * found.device_hours)


def test_estimate_counts_what_is_looked_at_along_training(tmp_path: Path) -> None:
    """8,000 pairs in batches of 32 are 250 steps: looks at 100, 200 and 250. Each draws 64 answers of at most 512 tokens, and
    policy and start read them: 2 x 135e6 x 3 x 3 x 64 x 512. Validation losses every 50 steps over 512 pairs of at most 2 x 1,024
    tokens: 2 x 135e6 x 5 x 2 x 512 x 1,024.
    """
    one = ("axes.beta=[1]", "axes.reference=[self]", "axes.seed=[0]", "train.batch_pairs=32", "train.epochs=1.0")
    plain = estimate(tmp_path, *one)
    along = estimate(tmp_path, *one, "along={every_steps: 100, prompts: 64}")
    assert along.petaflops - plain.petaflops == pytest.approx(2 * 135e6 * 3 * 3 * 64 * 512 / 1e15)
    rule = estimate(tmp_path, *one, "train.checkpoint=lowest_validation_loss", "train.checkpoint_every=50")
    assert rule.petaflops - plain.petaflops == pytest.approx(2 * 135e6 * 5 * 2 * 512 * 1024 / 1e15)


def test_estimate_without_known_sizes_is_blank_and_says_so(tmp_path: Path) -> None:
    found = estimate(tmp_path, sweep="quickstart")
    assert (found.petaflops, found.device_hours, found.price) == (None, None, None)
    assert "compute: unknown without 4 quantities (the parameters of SFT of pretrained north small" in found.as_text()
    assert "; and 1 more: see --json)" in found.as_text()
    assert json.loads(json.dumps(found.as_json()))["cells"] == 24


def test_estimate_with_kept_policies_counts_their_bytes(tmp_path: Path) -> None:
    one = ("axes.beta=[1]", "axes.reference=[self]", "axes.seed=[0]")
    without, kept = estimate(tmp_path, *one), estimate(tmp_path, *one, "keep=full")
    assert kept.disk_gb - without.disk_gb == pytest.approx(4 * 135e6 / 1e9)


@pytest.mark.parametrize(
    ("name", "count"),
    [("Qwen/Qwen2.5-1.5B-Instruct", 1.5e9), ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6), ("meta-llama/Meta-Llama-3-70B", 7e10)],
)
def test_parameters_are_read_from_a_hub_name(name: str, count: float, tmp_path: Path) -> None:
    assert cost.parameters(recipes.Hub(model=name, revision=None), Store(tmp_path)) == count


def test_parameters_of_a_hub_name_without_a_size_are_unknown(tmp_path: Path) -> None:
    assert cost.parameters(recipes.Hub(model="org/b-model", revision=None), Store(tmp_path)) is None


def test_parameters_of_a_local_checkpoint_are_counted_in_its_headers(tmp_path: Path) -> None:
    """Two tensors of 2 x 3 and 5 numbers: 11 parameters."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "F32", "shape": [5], "data_offsets": [24, 44]},
        }
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(44))
    assert cost.parameters(recipes.Local(content="0", path=str(tmp_path)), Store(tmp_path)) == 11


@pytest.mark.parametrize(
    "raw",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14\n",
        b"",
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
    ],
)
def test_parameters_of_torn_weights_are_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelError, match="no safetensors file"):
        cost.parameters(recipes.Local(content="0", path=str(tmp_path)), Store(tmp_path))


def test_estimate_counts_what_run_would_do_and_names_the_failed(tmp_path: Path) -> None:
    sweep = grid.read(SWEEPS / "quickstart.yaml", ["axes.reference=[self]"])
    cells, at = grid.cells(sweep), results.place(sweep, tmp_path / "results" / "quickstart", None)
    records.write_record(at.folder, results.heading(cells[0]) | {"status": "failed", "error": {"type": "E", "message": "m"}})
    found = cost.estimate(sweep, cells, at)
    assert (found.cells, found.failed, found.to_train) == (6, 1, 5)
    assert "1 failed cells would run only with --retry-failed" in found.as_text()
    assert [each["status"] for each in found.cells_listed] == ["failed", *["planned"] * 5]


def test_estimate_lists_cells_up_to_a_number(tmp_path: Path) -> None:
    few, many = estimate(tmp_path, sweep="quickstart"), estimate(tmp_path, "axes.seed=[0,1,2]", sweep="quickstart")
    first = few.cells_listed[0]
    assert set(first) == {"cell_id", "policy", "reference", "beta", "seed", "settings", "status"}
    assert f"{first['cell_id']}  small self beta=10 seed=0  planned" in few.as_text()
    assert "more cells" not in few.as_text()
    assert "... and 12 more cells" in many.as_text()
    assert len(many.cells_listed) == 72


def test_estimate_names_unread_data_and_reads_counts_once_made(tmp_path: Path) -> None:
    one = ("axes.beta=[1]", "axes.reference=[self]", "axes.policy=[mistral]")
    before = estimate(tmp_path, *one, sweep="ultrafeedback_7b")
    assert before.unknown == [
        "the pairs of HuggingFaceH4/ultrafeedback_binarized, not read yet",
        "the prompts of tatsu-lab/alpaca_eval, not read yet",
    ]
    sweep = grid.read(SWEEPS / "ultrafeedback_7b.yaml", list(one))
    (cell,) = grid.cells(sweep)
    store = results.place(sweep, tmp_path / "results" / sweep.name, None).store
    messages = [{"role": "user", "content": "q"}]
    prompts = [texts.Prompt(prompt_id=str(number), messages=messages, cluster="c") for number in range(3)]
    claim = store.claim(cell.completions.prompts)
    assert claim is not None
    texts.write_lines(claim.folder / "prompts.jsonl", prompts)
    store.publish(claim)
    after = estimate(tmp_path, *one, sweep="ultrafeedback_7b")
    assert after.unknown == before.unknown[:1]
    assert after.disk_gb == 3 * 2048 * cost.ANSWER_BYTES_PER_TOKEN / 1e9


def test_estimate_tells_of_finished_cells_whose_policy_is_wanted_now(tmp_path: Path) -> None:
    sweep = grid.read(SWEEPS / "quickstart.yaml", ["axes.beta=[1]", "axes.reference=[self]", "keep=full"])
    (cell,), at = grid.cells(sweep), results.place(sweep, tmp_path / "results" / "quickstart", None)
    for goal in cell.goals:
        claim = at.store.claim(goal)
        assert claim is not None
        at.store.publish(claim)
    records.write_record(at.folder, results.heading(cell) | {"status": "done"})
    found = cost.estimate(sweep, [cell], at)
    assert (found.done, found.to_train, found.not_kept) == (1, 0, 1)
    assert "1 finished cells have no kept policy; `refstudy trial SWEEP --cell ID --again`" in found.as_text()
