"""A policy that lies in parts on two workers, or what its training holds beside it, ends where one worker's does."""

import json
from dataclasses import replace

import pytest
import torch

from refstudy.errors import TrainingError
from refstudy.recipes import Lora
from refstudy.training import sharding, zero
from tests import tiny
from tests.sharding import each_way, without_deepspeed
from tests.training import cut_off
from tests.training.cut_off import Case, by_workers, weights
from tests.training.test_workers import assert_close

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, target="all-linear")


def assert_same(two, one):
    """Numbers to the tolerance of `test_workers`, weights to 1e-4, answers token by token."""
    assert two.code == 0
    for ours, theirs in zip(two.numbers["history"], one.history, strict=True):
        assert_close(ours, theirs)
    assert_close(two.numbers["final"], one.final)
    expected = {name: weight.clone() for name, weight in weights(one).items()}
    assert two.weights.keys() == expected.keys()
    apart = {name: (two.weights[name] - expected[name]).abs() for name in expected}
    assert max(without_biases_of_keys(name, each).max().item() for name, each in apart.items()) < 1e-4
    assert two.answers == cut_off.answers(one)


def without_biases_of_keys(name, apart):
    """A bias of all keys changes no softmax, so that its gradient is rounding, of which Adam makes whole steps. Here GPT-2's, and
    GPT-NeoX's of four heads."""
    if name.endswith("c_attn.bias"):
        apart.view(3, -1)[1] = 0
    if name.endswith("query_key_value.bias"):
        apart.view(4, 3, -1)[:, 1] = 0
    return apart


@each_way
def test_policy_in_parts_trains_as_a_whole_one_with_looks_along_and_a_chosen_checkpoint(how, tmp_path):
    """Validation losses and evaluations along training see the gathered policy; the best of them is the trained one."""
    case = Case("lowest_validation_loss", along=True, shared_out=how)
    one, two = cut_off.train(case), by_workers(tmp_path, case, 2)
    assert_same(two, one)
    for name, rows in (("along", one.along), ("validations", one.validations)):
        assert [row["step"] for row in two.numbers[name]] == [row["step"] for row in rows]
        for ours, theirs in zip(two.numbers[name], rows, strict=True):
            assert_close(ours, theirs)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert all(each["parts"] for each in told)  # it did lie in parts


@pytest.mark.long
@each_way
@pytest.mark.parametrize(
    "changes", [{"micro_batch": 2, "lora": LORA}, {"micro_batch": 2, "checkpointing": True}], ids=["lora", "full"]
)
def test_micro_batches_of_a_policy_in_parts_sum_to_one_step(changes, how, tmp_path):
    case = Case(changes=changes, shared_out=how)
    assert_same(by_workers(tmp_path, case, 2), cut_off.train(replace(case, changes=changes | {"micro_batch": 4})))


@pytest.mark.long
@each_way
def test_bf16_rounds_a_policy_in_parts_as_it_rounds_copies(how, tmp_path):
    """Two workers each way: autocast over fp32 weights, gradients summed in fp32. With one worker bf16 rounds other sums."""
    changes = {"precision": "bf16"}
    parts, copies = (by_workers(tmp_path / each, Case(changes=changes, shared_out=each), 2) for each in (how, "none"))
    assert (parts.code, copies.code) == (0, 0)
    for ours, theirs in zip(parts.numbers["history"], copies.numbers["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=5e-3, abs=5e-3)
    assert max((parts.weights[name] - copies.weights[name]).abs().max().item() for name in copies.weights) < 1e-4


@pytest.mark.long
@each_way
def test_policy_in_parts_that_is_killed_goes_on_from_its_saved_state(how, tmp_path):
    case = Case(shared_out=how)
    assert by_workers(tmp_path, case, 2, kill_at=3).code != 0
    two = by_workers(tmp_path, case, 2)
    assert two.resumed_at[0] >= 3
    assert_same(two, cut_off.train(case))


@pytest.mark.long
@each_way
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2"])
def test_other_architectures_train_in_parts_too(kind, how, tmp_path):
    """Tied embeddings (GPT-2), untied ones under other names of layers and norms."""
    case = Case(changes={"epochs": 1}, shared_out=how, architecture=kind)
    assert_same(by_workers(tmp_path, case, 2), cut_off.train(case))


@without_deepspeed
def test_deepspeed_that_is_not_installed_is_named_with_the_remedy():
    with pytest.raises(TrainingError, match=r"DeepSpeed is not installed; run `pip install 'refstudy\[deepspeed\]'` on all nodes"):
        zero.refuse_absent()


def test_outline_has_no_weights_but_while_it_is_filled():
    """Tied weights stay one tensor; adapters and the rest come back under the same names."""
    model = tiny.other_architecture("gpt2", tiny.tokenizer())
    outline = sharding.Outline(model)
    assert all(each.is_meta for each in outline.model.parameters())
    with outline.filled(model) as copied:
        found = dict(copied.named_parameters())
        assert found.keys() == dict(model.named_parameters()).keys()
        assert all(torch.equal(found[name], weight) for name, weight in model.named_parameters())
        assert copied.lm_head.weight is copied.transformer.wte.weight
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(copied(ids).logits, model(ids).logits)
    assert all(each.is_meta for each in outline.model.parameters())


def test_head_that_was_not_gathered_is_refused(tmp_path):
    """One worker's mesh is enough for a weight that lies in parts."""
    words = tiny.tokenizer()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        model = tiny.llama(words)
        sharding.refuse_unshared_head(model)
        torch.distributed.fsdp.fully_shard(model, mesh=mesh)
        with pytest.raises(TrainingError, match="head of FSDPLlamaForCausalLM cannot be trained in parts"):
            sharding.refuse_unshared_head(model)
        model.lm_head.weight.requires_grad_(False)
        sharding.refuse_unshared_head(model)
    finally:
        torch.distributed.destroy_process_group()


def test_part_of_a_whole_tensor_is_gathered_to_the_same(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        like = torch.distributed.tensor.distribute_tensor(torch.zeros(4, 3), mesh, [torch.distributed.tensor.Shard(0)])
        tensor = torch.arange(12.0).reshape(4, 3)
        own = sharding.part(tensor, like)
        assert type(own) is type(like)
        assert torch.equal(sharding.whole({"a": own})["a"], tensor)
        assert sharding.part(tensor, torch.zeros(4, 3)) is tensor
    finally:
        torch.distributed.destroy_process_group()
