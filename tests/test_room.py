"""What of a sweep finds no room: on machines as they are declared, in memory worked by hand, and as `plan` and a run say it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from refstudy import cli, grid, plan, recipes, results, room, spec
from refstudy.memory import Shape
from refstudy.results import Results
from refstudy.room import Node
from refstudy.store import Store
from tests import sweeps
from tests.sharding import without_deepspeed
from tests.stub import SWEEP

ASKING = ("resources.trial={gpus: 1}", "axes.beta=[1]", "axes.reference=[self]")


def read(folder: Path, *assignments: str) -> tuple[grid.Sweep, list[grid.Cell], Results]:
    sweep = grid.read(sweeps.write(folder), list(assignments))
    return sweep, grid.cells(sweep), results.place(sweep, folder / "results" / "tiny", None)


def big(folder: Path, layers: int = 2, hidden: int = 1024, vocabulary: int = 1000, parameters: int = 1_000_000) -> str:
    """A checkpoint by its config and the header of its weights alone; the assignment that makes it the policy."""
    at = folder / "big"
    at.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [parameters], "data_offsets": [0, 0]}}).encode()
    (at / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    config = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden, "vocab_size": vocabulary}
    (at / "config.json").write_text(json.dumps(config))
    (at / "tokenizer.json").write_text("{}")
    return f"policies.small={{kind: model, model: {at}}}"


def warned(folder: Path, nodes: list[Node], *assignments: str, where: str = room.HERE) -> list[str]:
    sweep, cells, at = read(folder, *assignments)
    return room.lacking(sweep, cells, at, nodes, where)


# Places -----------------------------------------------------------------------------------------------------------------------


def test_places_are_what_goes_into_a_machine_of_every_resource() -> None:
    """8 cores hold 4 tasks of 2, 1 GPU two of a half, 3 licences 3; thirds of a GPU go in three times in spite of rounding."""
    node = Node({"CPU": 8.0, "GPU": 1.0, "licence": 3.0})
    assert room.places(spec.Resources(cpus=2), node) == 4
    assert room.places(spec.Resources(cpus=2, gpus=0.5), node) == 2
    assert room.places(spec.Resources(cpus=1, custom={"licence": 1}), node) == 3
    assert room.places(spec.Resources(cpus=1, gpus=0.3333), node) == 3
    assert room.places(spec.Resources(custom={"big_gpu": 1}), node) == 0


def test_request_that_this_machine_cannot_give_is_named_with_what_it_has(tmp_path: Path) -> None:
    (line,) = warned(tmp_path, [Node({"CPU": 2, "GPU": 0})], *ASKING)
    assert line == (
        "resources.trial asks for 1 CPU, 1 GPU on one machine, and this machine has 2 CPU, 0 GPU; lower it, or run on a cluster "
        "with --address"
    )


def test_request_that_fits_two_machines_together_but_none_alone_is_named(tmp_path: Path) -> None:
    two = [Node({"CPU": 8.0, "GPU": 1.0}), Node({"CPU": 8.0, "GPU": 1.0})]
    (line,) = warned(tmp_path, two, "resources.trial={gpus: 2}", where="the cluster at auto")
    assert "asks for 1 CPU, 2 GPU on one machine, and the largest of 2 machines of the cluster at auto have 8 CPU, 1 GPU" in line
    assert line.endswith("lower it, or add such a machine: the run waits for one")


def test_workers_of_a_trial_may_lie_on_several_machines_if_all_find_room(tmp_path: Path) -> None:
    two = [Node({"CPU": 8.0, "GPU": 1.0}), Node({"CPU": 8.0, "GPU": 1.0})]
    assert warned(tmp_path, two, "resources.trial={gpus: 1, workers: 2}") == []
    (line,) = warned(tmp_path, two, "resources.trial={gpus: 1, workers: 3}")
    assert "asks for 3 workers with 1 CPU, 1 GPU each" in line
    assert "room for 2 of them" in line


def test_entry_that_asks_for_a_custom_resource_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    (line,) = warned(tmp_path, [Node({"CPU": 4.0})], "references.cross.resources={custom: {big_gpu: 1}}")
    assert line.startswith(
        "references.cross.resources asks for 1 CPU, 1 big_gpu on one machine, and this machine has 4 CPU, 0 big_gpu"
    )


# Memory -----------------------------------------------------------------------------------------------------------------------


def test_training_that_holds_more_than_the_gpu_is_warned_of_in_bytes_worked_by_hand(tmp_path: Path) -> None:
    """A million parameters, full: 16 bytes each are 16 MB, which no batch makes smaller; the GPU has 10 MB, then half of 40."""
    policy = big(tmp_path)
    gpu = Node({"CPU": 4.0, "GPU": 1.0}, 10**12, 10_000_000)
    (line,) = [each for each in warned(tmp_path, [gpu], policy, *ASKING) if "trial of" in each]
    assert line.startswith("a trial of policy small takes at least 0.016 GB by estimate, and its GPU (this machine) has 0.01 GB")
    assert "set train.checkpointing, train.lora or resources.trial.sharding" in line
    half = Node({"CPU": 4.0, "GPU": 1.0}, 10**12, 20_000_000)
    shared = ("resources.trial={gpus: 0.5}", *ASKING[1:])
    assert any("its GPU (this machine) has 0.01 GB" in each for each in warned(tmp_path, [half], policy, *shared))


def test_training_whose_activations_may_not_fit_is_warned_of_as_a_bound(tmp_path: Path) -> None:
    """Batch 8 of 192 tokens: s = 2 * 8 * 192 = 3,072; 34 * 2 layers * 3,072 * 1024 * 2 (fp32) = 427,819,008 and 16 MB: 0.444 GB.

    In micro batches of one pair 53,477,376 and 16 MB, 0.0695 GB, which fits.
    """
    policy = big(tmp_path)
    gpu = Node({"CPU": 4.0, "GPU": 1.0}, 10**12, 100_000_000)
    (line,) = warned(tmp_path, [gpu], policy, *ASKING)
    assert "a trial of policy small takes at most 0.444 GB by estimate" in line
    assert warned(tmp_path, [gpu], policy, "train.micro_batch=1", *ASKING) == []


def test_lora_counts_policy_and_start_beside_each_other(tmp_path: Path) -> None:
    """Weights 4 MB and a small adapter while it trains, twice 4 MB where the KL to the start is measured: 8 MB at least."""
    policy = big(tmp_path)
    gpu = Node({"CPU": 4.0, "GPU": 1.0}, 10**12, 7_000_000)
    (line,) = [each for each in warned(tmp_path, [gpu], policy, "train.lora={rank: 1, alpha: 2}", *ASKING) if "trial of" in each]
    assert "takes at least 0.008 GB" in line


def test_policy_shared_out_over_two_workers_holds_half_of_what_one_does(tmp_path: Path) -> None:
    """16 MB on one worker, 20 on each of two under DDP, 8 on each where it is shared out."""
    policy = big(tmp_path)
    gpu = Node({"CPU": 4.0, "GPU": 2.0}, 10**12, 9_000_000)
    rest = (policy, "train.micro_batch=1", *ASKING[1:])

    def of(trial: str) -> str:
        (line,) = [each for each in warned(tmp_path, [gpu], trial, *rest) if "trial of" in each]
        return line

    assert "at least 0.02 GB" in of("resources.trial={gpus: 1, workers: 2}")
    fsdp = of("resources.trial={gpus: 1, workers: 2, sharding: fsdp}")
    assert "at most 0.0615 GB" in fsdp  # 8 MB and the activations of one pair, 53,477,376
    deepspeed = of("resources.trial={gpus: 1, workers: 2, sharding: deepspeed}")
    assert "at least 0.016 GB" in deepspeed  # the weights' 4, half of 16, and a bucket of 4


@without_deepspeed
def test_deepspeed_that_is_not_installed_here_is_warned_of_where_cells_ask_for_it(tmp_path: Path) -> None:
    node = Node({"CPU": 4.0}, 10**12)
    (line,) = warned(tmp_path, [node], "resources.trial={workers: 2, sharding: deepspeed}")
    assert "DeepSpeed is not installed on this machine" in line
    assert "or set sharding: fsdp" in line
    assert warned(tmp_path, [node], "resources.trial={workers: 2, sharding: fsdp}") == []


def test_evaluations_along_training_count_the_start_and_a_gathered_policy_beside_it(tmp_path: Path) -> None:
    """16 MB and the start's 4; in parts 8 MB, the start's 4 and 4 of the gathered policy; for validation losses 8 and 4."""
    policy = big(tmp_path)
    gpu = Node({"CPU": 4.0, "GPU": 2.0}, 10**12, 8_100_000)
    along = "along={prompts: 2}"
    rest = (policy, "train.micro_batch=1", *ASKING[1:])
    parts = "resources.trial={gpus: 1, workers: 2, sharding: fsdp}"
    for asked, least in (
        (("resources.trial={gpus: 1}", along), "at least 0.02 GB"),
        ((parts, along), "at least 0.016 GB"),
        ((parts, "train.checkpoint=lowest_validation_loss"), "at least 0.012 GB"),
    ):
        (line,) = [each for each in warned(tmp_path, [gpu], *asked, *rest) if "trial of" in each]
        assert least in line


def test_trials_without_a_gpu_divide_the_machines_memory(tmp_path: Path) -> None:
    """Two cores run two cells at once, each with half of 30 MB; one cell alone has all of it."""
    policy = big(tmp_path)
    node = Node({"CPU": 2.0}, 30_000_000)
    rest = (policy, "train.micro_batch=1", "train.max_length=4", "axes.reference=[self]")
    two = warned(tmp_path, [node], *rest, "axes.beta=[1, 0.1]")
    assert any("its share of the machine (this machine) has 0.015 GB" in each for each in two)
    assert warned(tmp_path, [node], *rest, "axes.beta=[1]") == []


def test_reference_whose_weights_alone_are_too_large_is_warned_of_by_name(tmp_path: Path) -> None:
    """50 million parameters: 200 MB in fp32, 100 in bf16."""
    reference = (
        big(tmp_path, parameters=50_000_000).replace("policies.small", "references.huge").replace("}", ", resources: {gpus: 1}}")
    )
    gpu = Node({"CPU": 4.0, "GPU": 1.0}, 10**12, 150_000_000)
    (line,) = warned(tmp_path, [gpu], reference, "axes.reference=[huge]")
    assert line.startswith("reference table of big takes at least 0.2 GB by estimate, and its GPU (this machine) has 0.15 GB")
    rounded = reference.replace("kind: model", "kind: model, precision: bf16")
    assert warned(tmp_path, [gpu], rounded, "axes.reference=[huge]") == []


def test_what_is_not_known_warns_of_nothing(tmp_path: Path) -> None:
    """Memory of a cluster's GPUs, and sizes of models that are still to be made."""
    policy = big(tmp_path)
    assert warned(tmp_path, [Node({"CPU": 4.0, "GPU": 1.0})], policy, *ASKING) == []
    assert warned(tmp_path, [Node({"CPU": 4.0}, 1000)]) == []


def test_shape_is_read_from_the_config_under_each_architectures_names(tmp_path: Path) -> None:
    big(tmp_path)
    store, model = Store(tmp_path / "store"), recipes.Local(content="0", path=str(tmp_path / "big"))
    assert room.shape(model, store) == Shape(1_000_000, 1024, 2, 4096, 1000, None)
    (tmp_path / "big" / "config.json").write_text(json.dumps({"n_embd": 8, "n_layer": 3, "n_inner": None}))
    assert room.shape(model, store) == Shape(1_000_000, 8, 3, 32, 0, None)
    (tmp_path / "big" / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 8, "num_hidden_layers": 3}}))
    assert room.shape(model, store) == Shape(1_000_000, 8, 3, 32, 0, None)
    for torn in ("{", "[]", "null"):
        (tmp_path / "big" / "config.json").write_text(torn)
        assert room.shape(model, store) is None
    (tmp_path / "big" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert room.shape(model, store) is None


# This machine -----------------------------------------------------------------------------------------------------------------


def test_gpus_are_those_of_the_driver_that_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of 81,559 and 24,576 MiB by the driver's own tool, which a program on the path stands for."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-aa, 81559'\necho '1, GPU-bb, 24576'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (node,) = room.here()
    assert (node.has["GPU"], node.gpu_bytes) == (2, 24576 * 2**20)
    for visible, count, least in (("0", 1, 81559 * 2**20), ("GPU-bb", 1, 24576 * 2**20), ("", 0, None), ("-1", 0, None)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        (node,) = room.here()
        assert (node.has["GPU"], node.gpu_bytes) == (count, least)
    tool.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert room.here()[0].has["GPU"] == 0


def test_memory_is_the_containers_where_that_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, expected in (("1048576\n", 1048576), ("max\n", whole), (str(2 * whole), whole)):
        (tmp_path / "memory.max").write_text(limit)
        monkeypatch.setattr(room, "CGROUP_LIMIT", tmp_path / "memory.max")
        assert room.here()[0].memory_bytes == expected


# As it is told ----------------------------------------------------------------------------------------------------------------


def test_plan_shows_warnings_in_words_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweeps.write(tmp_path)
    asked = ["plan", str(path), "--set", "resources.trial={custom: {big_gpu: 1}}", "--results", str(tmp_path / "results" / "tiny")]

    def told(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["refstudy", *asked, *more])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    assert "\nwarning: resources.trial asks for 1 CPU, 1 big_gpu on one machine" in told()
    found: dict[str, Any] = json.loads(told("--json"))
    assert found["warnings"][0].startswith("resources.trial asks for")


def test_finished_cells_warn_of_nothing_in_memory(tmp_path: Path) -> None:
    """What is in the store is neither trained nor scored again."""
    (tmp_path / "stub.yaml").write_text(SWEEP)
    sweep = grid.read(tmp_path / "stub.yaml", ["axes.beta=[1]"])
    cells, store = grid.cells(sweep), Store(tmp_path / "store")
    for cell in cells:
        for goal in cell.goals:
            claim = store.claim(goal)
            if claim is not None:
                store.publish(claim)
    assert room.warnings(sweep, cells, plan.shared(cells, store), store, [Node({"CPU": 4.0}, 1)]) == []
    assert room.warnings(sweep, [], [], store, [Node({})]) == []
