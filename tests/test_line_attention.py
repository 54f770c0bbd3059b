"""Attention of lines against torch's own of each row."""

import pytest
import torch

from refstudy import line, line_attention, shared_prompt
from refstudy.line import lay
from tests import tiny
from tests.test_shared_prompt import EXACT_NATS, turns_of


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.mark.parametrize(("rest", "shared"), [(600, 0), (40, 300), (300, 10)])
def test_attention_in_blocks_is_that_of_torch_up_to_bf16(rest, shared):
    """Also its gradients; blocks of 256 queries."""
    torch.manual_seed(0)
    given = [torch.randn(1, 2, count, 16, dtype=torch.bfloat16) for count in (rest, shared + rest, shared + rest)]
    found = []
    for attend in (line_attention._in_blocks, line_attention._by_sdpa):
        q, k, v = (each.clone().requires_grad_() for each in given)
        out = attend(q, k, v, 0.0, None)
        out.float().square().sum().backward()
        found.append([out, q.grad, k.grad, v.grad])
    for ours, torchs in zip(*found, strict=True):
        assert (ours - torchs).abs().max() < 0.03 * torchs.abs().max()


def test_attention_is_in_blocks_in_bf16_alone(monkeypatch, words):
    model, turns = tiny.llama(words), turns_of(2)
    families = [[turns[0], turns[2]], [turns[1], turns[3]]]
    called = []
    own = line_attention._in_blocks
    monkeypatch.setattr(line_attention, "_in_blocks", lambda *given: called.append(1) or own(*given))
    whole, _, _ = shared_prompt.answer_logits(model, families)
    assert not called
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _, _ = shared_prompt.answer_logits(model, families)
    assert len(called) == 2 * 4
    assert (rounded.float() - whole).abs().mean() < shared_prompt.COARSE_NATS


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_attention_side_by_side_is_that_of_each_family(heads, monkeypatch):
    """Also its gradients."""
    torch.manual_seed(0)
    laid = lay([[list(range(length)), list(range(length // 2)) + [99] * 7] for length in (8, 20, 14)], [4, 10, 7])
    given = [torch.randn(1, count, len(laid.ids), 16) for count in (heads[0], heads[1], heads[1])]
    found = []
    for longest in (line.SHORT, 0):
        monkeypatch.setattr(line, "SHORT", longest)
        layout = laid.inputs(torch.device("cpu"))["line"]
        assert (layout.beside is None) is (longest == 0)
        q, k, v = (each.clone().requires_grad_() for each in given)
        out, _ = line_attention.attend(torch.nn.Module(), q, k, v, None, line=layout)
        out.square().sum().backward()
        found.append([out, q.grad, k.grad, v.grad])
    for beside, apart in zip(*found, strict=True):
        assert torch.allclose(beside, apart, atol=1e-5)


def test_answers_that_are_equal_share_all_their_tokens(words):
    """Two rows of which nothing is left after what they share: the second has no place of its own."""
    model, row = tiny.llama(words), list(range(5, 30))
    line = lay([[row, row]], [len(row)])
    with torch.no_grad(), line_attention.attending(model):
        logits = model(**line.inputs(torch.device("cpu")), use_cache=False).logits[0]
    assert len(logits) == len(row)
    assert torch.allclose(logits[line.rows[1]], model(torch.tensor([row])).logits[0], atol=EXACT_NATS)
