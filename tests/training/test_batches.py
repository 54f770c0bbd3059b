"""Batches of preference pairs, against TRL's own collator."""

import numpy as np
import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from refstudy.training import batches


def rows(count, seed=0):
    random = np.random.default_rng(seed)
    return [
        {
            **{
                name: random.integers(5, 90, int(random.integers(1, most))).tolist()
                for name, most in (("prompt_ids", 30), ("chosen_ids", 20), ("rejected_ids", 20))
            },
            "ref_chosen_logps": float(-random.random()),
            "ref_rejected_logps": float(-random.random()),
        }
        for _ in range(count)
    ]


def answers(found):
    """Of each pair in its place: both rows without padding, how many of their tokens are answers, and the reference's log-probs."""
    half = len(found["input_ids"]) // 2
    sides = [
        (tuple(found["input_ids"][row][found["attention_mask"][row] == 1].tolist()), int(found["completion_mask"][row].sum()))
        for row in range(2 * half)
    ]
    reference = zip(found["ref_chosen_logps"].tolist(), found["ref_rejected_logps"].tolist(), strict=True)
    return list(zip(sides[:half], sides[half:], reference, strict=True))


def test_collated_pairs_are_those_of_trl():
    for seed in range(5):
        expected = DataCollatorForPreference(pad_token_id=3)(rows(7, seed))
        found = batches.Collator(3)(rows(7, seed))
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in expected)


def test_sorted_batches_hold_the_same_pairs_longest_first():
    pairs, collate = rows(11), batches.Collator(3)
    step = [collate(pairs[:4]), collate(pairs[4:8]), collate(pairs[8:])]
    found = batches.by_length(step, 3)
    assert [len(each["ref_chosen_logps"]) for each in found] == [4, 4, 3]
    assert sorted(pair for each in found for pair in answers(each)) == sorted(pair for each in step for pair in answers(each))
    longest = [max(len(row) for row, _ in pair[:2]) for each in found for pair in answers(each)]
    assert longest == sorted(longest, reverse=True)
    assert [each["input_ids"].shape[1] for each in found] == [longest[0], longest[4], longest[8]]
    assert sum(each["input_ids"].numel() for each in found) < sum(each["input_ids"].numel() for each in step)


def test_sorted_batches_are_padded_with_the_pad_token():
    pairs, collate = rows(8), batches.Collator(3)
    for each in batches.by_length([collate(pairs[:4]), collate(pairs[4:])], 3):
        assert set(each["input_ids"][each["attention_mask"] == 0].tolist()) == {3}


def test_single_batch_of_a_step_stays_as_it_is():
    step = [batches.Collator(3)(rows(4))]
    assert batches.by_length(step, 3) is step
