"""Two workers that share every step end where one does, up to rounding."""

from dataclasses import replace

import pytest
import torch

from refstudy.errors import TrainingError
from refstudy.recipes import Lora
from refstudy.training import settings
from tests import tiny
from tests.training import cut_off
from tests.training.cut_off import Case, by_workers, weights

TOLERANCE = 1e-5
"""Of losses, margins and log-probs: sums in another order, over twelve steps."""


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-4, abs=TOLERANCE)


@pytest.mark.parametrize(
    "case",
    [
        Case("lowest_validation_loss", along=True),
        Case(changes={"micro_batch": 2, "lora": Lora(rank=4, alpha=8.0, dropout=0.0, target="all-linear")}),
    ],
    ids=["full, looks along", "lora, micro batches"],
)
def test_two_workers_train_what_one_trains(case, tmp_path):
    """21 pairs in steps of 8, 8 and 5: 4 and 4, then 3 and 2; in micro batches of 4 pairs 2 and 2, at the end 1 and none."""
    alone = replace(case, changes=case.changes | {"micro_batch": 4}) if "micro_batch" in case.changes else case
    one, two = cut_off.train(alone), by_workers(tmp_path, case, 2)
    assert two.code == 0
    for ours, theirs in zip(two.numbers["history"], one.history, strict=True):
        assert_close(ours, theirs)
    assert_close(two.numbers["final"], one.final)
    assert [row["step"] for row in two.numbers["along"]] == [row["step"] for row in one.along]
    assert [row["step"] for row in two.numbers["validations"]] == [row["step"] for row in one.validations]
    expected = weights(one)
    assert two.weights.keys() == expected.keys()
    assert max((two.weights[name] - expected[name]).abs().max().item() for name in expected) < 1e-4
    start = dict(tiny.llama(tiny.tokenizer()).named_parameters())
    assert any(not torch.equal(expected[name], start[name]) for name in expected if name in start) or case.changes


def test_two_workers_that_are_killed_go_on(tmp_path):
    case = Case()
    one = cut_off.train(case)
    assert by_workers(tmp_path, case, 2, kill_at=3).code != 0
    two = by_workers(tmp_path, case, 2)
    assert two.code == 0
    assert two.resumed_at[0] >= 3
    assert_close(two.numbers["final"], one.final)
    for ours, theirs in zip(two.numbers["history"], one.history, strict=True):
        assert_close(ours, theirs)


def test_micro_batches_of_all_workers_must_divide_the_batch():
    assert settings.micro_batch(tiny.training(batch_size=8, micro_batch=2), 2) == 4
    with pytest.raises(TrainingError, match="micro_batch is 2 on each of 3 workers; expected a divisor of the batch of 8 rows"):
        settings.micro_batch(tiny.training(batch_size=8, micro_batch=2), 3)
