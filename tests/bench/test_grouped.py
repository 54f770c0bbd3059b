from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid

from refstudy import token_pairs
from refstudy.recipes import Lora
from refstudy.scoring import score_pairs
from tests import tiny
from tests.bench import bare, grouped, steps
from tests.bench.steps import Step
from tests.training.test_lines import long_pairs

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # TRL 1.16 and peft 0.21 still read transformers' old name
)
LORA = Lora(rank=4, alpha=8.0, dropout=0.0, target="all-linear")
BETAS = [1.0, 0.1, 0.01]
EXACT = 1e-5
"""Of models as small as these, a tenth of what the bench allows to larger ones."""


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def step(words):
    """Four pairs, too long to be laid side by side, and a reference that is another policy."""
    pairs = token_pairs.tokenise(long_pairs(4), words, max_length=240)
    return Step(pairs, bare.reference_margins(score_pairs(tiny.llama(words, seed=1), words, pairs).table, pairs))


def group(words, kind="llama", precision="fp32"):
    model = tiny.llama(words) if kind == "llama" else tiny.other_architecture(kind, words)
    torch.manual_seed(0)
    return grouped.group_of(model, LORA, BETAS, precision)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("way", ["adapter_names", "stacked"])
def test_every_adapter_gets_the_gradient_that_it_gets_alone(way, kind, words, step):
    """Also in micro batches, and where a line alone has its short families side by side."""
    found, (parts,) = group(words, kind), [grouped.parts_of(step, 4)]
    assert parts[0].inputs["line"].beside is None
    short = Step([tiny_pair(pair) for pair in step.pairs], step.reference)
    assert grouped.parts_of(short, 4)[0].inputs["line"].beside is not None
    for each in (parts, grouped.parts_of(step, 3), grouped.parts_of(short, 4)):
        assert grouped.difference(found, grouped.WAYS[way], each) <= EXACT


def tiny_pair(pair):
    return token_pairs.TokenPair(**{**vars(pair), "prompt_ids": pair.prompt_ids[-8:]})


def test_adapters_differ_and_so_do_their_gradients(words, step):
    found = grouped.gradients(group(words), grouped.one_after_another, grouped.parts_of(step, 4))
    assert set(found) == {"cell_0", "cell_1", "cell_2"}
    assert all(len(each) == 2 * 2 * 7 for each in found.values())  # two factors, two layers of seven products
    assert steps.difference(found["cell_1"], found["cell_0"]) > 0.1


def test_gradient_of_a_cell_is_that_of_a_plain_loop(words, step):
    """Each answer a row with its prompt, logits whole."""
    found = group(words)
    ours = grouped.gradients(found, grouped.one_after_another, grouped.parts_of(step, 2))
    found.policy.set_adapter("cell_1")
    chosen, rejected = bare.rows_apart(found.policy.get_base_model(), step.pairs, words.pad_token_id)
    (-logsigmoid(BETAS[1] * (chosen - rejected - torch.tensor(step.reference))).mean()).backward()
    plain = [weight.grad for name, weight in found.policy.named_parameters() if ".cell_1." in name]
    assert steps.difference(ours["cell_1"], plain) <= EXACT


def test_way_with_another_gradient_is_told_and_does_not_count(words, step):
    def other(found, parts):
        spent_s = grouped.one_after_another(found, parts)
        next(weight for name, weight in found.policy.named_parameters() if ".cell_2." in name).grad.mul_(1.01)
        return spent_s

    ways = {"one_after_another": grouped.one_after_another, "other": other}
    ready = {name: partial(grouped.prepared, group(words), way, step) for name, way in ways.items()}
    found = steps.compared(ready, turns=2)
    assert found["one_after_another"]["equal"] is True
    assert found["one_after_another"]["gain"] == 1.0
    assert found["other"]["equal"] is False
    assert "does not count" in grouped.words({"cells": 3, "ways": found | dict.fromkeys(("adapter_names", "stacked"))})


def test_adapters_compute_alone_again_after_a_pass_for_all(words, step):
    found, parts = group(words), grouped.parts_of(step, 4)
    before = grouped.gradients(found, grouped.one_after_another, parts)
    for way in ("adapter_names", "stacked"):
        grouped.WAYS[way](found, parts)
        after = grouped.gradients(found, grouped.one_after_another, parts)
        assert all(torch.equal(*both) for name in before for both in zip(before[name], after[name], strict=True))


def test_step_that_does_not_fit_is_cut_in_half_until_it_does(words, step):
    met = []

    def way(_, parts):
        met.append([len(part.reference) for part in parts])
        if met[-1][0] > 1:
            raise torch.OutOfMemoryError("too much")
        return 0.0

    assert grouped.fitting(group(words), way, step) == 1
    assert met == [[4], [2, 2], [1, 1, 1, 1]]


def test_dropout_is_refused(words):
    cell = SimpleNamespace(label="a", dpo=SimpleNamespace(train=tiny.training(lora=replace(LORA, dropout=0.1))))
    with pytest.raises(ValueError, match="without dropout"):
        grouped.adapted(cell, None, BETAS)
