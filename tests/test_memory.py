"""Bytes of models, worked by hand."""

import pytest

from refstudy import memory
from refstudy.memory import Shape
from refstudy.recipes import Lora
from tests import tiny

SHAPE = Shape(parameters=1000, hidden=8, layers=3, feed_forward=16, vocabulary=100, context_tokens=None)


def test_scoring_bytes_are_weights_logits_and_one_layer() -> None:
    """4 * 1000 = 4,000 of weights; n = min(50, 4000 / 100) = 40 tokens: logits 3 * 4 * 40 * 100 = 48,000, a layer 2 * 34 * 40 * 8
    = 21,760."""
    assert memory.scoring_bytes(SHAPE, batch_tokens=50, logit_values=4000) == 4_000 + 48_000 + 21_760


def test_scoring_bytes_of_rounded_weights_are_fewer_by_the_weights_alone() -> None:
    whole, rounded = (memory.scoring_bytes(SHAPE, 50, 4000, weight_bytes) for weight_bytes in (4.0, 0.5))
    assert whole - rounded == 3_500


def test_training_bytes_of_full_fine_tuning_are_sixteen_a_weight_and_all_layers() -> None:
    """16 * 1000; 2 * 4 rows of 10 tokens: 34 * 3 layers * 80 * 8 = 65,280 in 16 bit, twice that in fp32."""
    bf16 = tiny.training(batch_size=8, micro_batch=4, precision="bf16")
    assert memory.training_bytes(SHAPE, bf16, max_length=10) == 16_000 + 65_280
    assert memory.training_bytes(SHAPE, tiny.training(batch_size=4), max_length=10) == 16_000 + 2 * 65_280


def test_training_bytes_with_checkpointing_keep_inputs_and_one_layer() -> None:
    """(2 * 3 + 34) * 80 * 8 = 25,600."""
    saving = tiny.training(batch_size=4, precision="bf16", checkpointing=True)
    assert memory.training_bytes(SHAPE, saving, max_length=10) == 16_000 + 25_600


def test_training_bytes_of_an_adapter_are_sixteen_a_weight_of_its_own() -> None:
    """Rank 2, three layers of 4 * 2 * 8 + 3 * (8 + 16) = 136 inputs and outputs: 816 weights of 16 bytes beside 4 * 1000."""
    lora = Lora(rank=2, alpha=4.0, dropout=0.0, target="all-linear")
    assert memory.lora_parameters(SHAPE, lora) == 816
    adapter = tiny.training(batch_size=4, precision="bf16", lora=lora)
    assert memory.training_bytes(SHAPE, adapter, max_length=10) == 4_000 + 16 * 816 + 65_280


def test_several_workers_hold_ddps_buckets_or_their_part_and_not_less_than_the_whole_weights() -> None:
    """1000 weights: 16,000; under DDP 4,000 of buckets more; by fsdp 8,000 on each of two, of eight 4,000 rather than 2,000. Of an
    adapter of 50: 4,000 and 800; under DDP 200 more; by fsdp over two 4,000 rather than 2,400."""
    assert [memory.held_bytes(1000, None, *of) for of in ((1, "fsdp"), (2, "none"), (2, "fsdp"), (8, "fsdp"))] == [
        16000,
        20000,
        8000,
        4000,
    ]
    assert [memory.held_bytes(1000, 50, *of) for of in ((1, "none"), (2, "none"), (2, "fsdp"))] == [4800, 5000, 4000]


def test_deepspeed_shares_out_what_is_held_beside_the_weights_and_has_a_bucket() -> None:
    """1000 weights on each of two: 4,000, half of 16,000, and a bucket of 4,000; on each of eight 4,000, 2,000 and 4,000. With an
    adapter of 50 over two: 4,200, half of 800, and 200. A bucket has 200 MB at most."""
    assert [memory.held_bytes(1000, None, each, "deepspeed") for each in (2, 8)] == [16_000, 10_000]
    assert memory.held_bytes(1000, 50, 2, "deepspeed") == 4_800
    assert memory.held_bytes(100_000_000, None, 2, "deepspeed") == 400_000_000 + 800_000_000 + 200_000_000


def test_training_bytes_of_each_of_two_workers_count_its_own_pairs() -> None:
    """8 pairs are 4 on each of two, of 10 tokens: as with micro batches of 4; micro batches are each worker's."""
    bf16 = tiny.training(batch_size=8, precision="bf16")
    assert memory.training_bytes(SHAPE, bf16, 10, workers=2, sharding="fsdp") == 8_000 + 65_280
    micro = tiny.training(batch_size=8, micro_batch=4, precision="bf16")
    assert memory.training_bytes(SHAPE, micro, 10, 2, "fsdp") == 8_000 + 65_280


@pytest.mark.parametrize(("count", "shown"), [(1_000_000_000, 1.0), (1_234_100_000, 1.24), (70_501, 0.0000706), (0, 0.0)])
def test_gb_is_rounded_up_to_three_digits(count: int, shown: float) -> None:
    assert memory.gb(count) == shown
