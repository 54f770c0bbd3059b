"""The head that holds logits whole against TRL's own, which does not."""

import pytest
import torch
import trl.trainer.utils
from trl.trainer.utils import _ChunkedLogProbFunction as Tiled

from refstudy.training import head

ALL = ("entropy", "mean_logits", "is_top1")


def given(places=40, vocabulary=50):
    torch.manual_seed(0)
    hidden, weight = torch.randn(places, 16, requires_grad=True), torch.randn(vocabulary, 16, requires_grad=True)
    targets = torch.randint(0, vocabulary, (places,))
    targets[: places // 2] = (hidden @ weight.T).argmax(-1)[: places // 2]
    return hidden, weight, torch.randn(vocabulary, requires_grad=True), targets


def found(function, hidden, weight, bias, targets, *, softcap=None, scale=1.0, outputs=ALL):
    """What the head gives, and the gradients of a sum that weighs each place differently."""
    out = function.apply(hidden, weight, bias, targets, 1.0, 32768, softcap, scale, outputs)
    (out[0] * torch.linspace(-1, 1, len(targets))).sum().backward()
    gradients = [each.grad.clone() for each in (hidden, weight, bias)]
    for each in (hidden, weight, bias):
        each.grad = None
    return out, gradients


def test_log_probs_metrics_and_gradients_are_those_of_trls_head():
    inputs = given()
    (ours, our_gradients), (theirs, their_gradients) = found(head._Head, *inputs), found(Tiled, *inputs)
    assert ours[2] is theirs[2] is None
    for mine, trls in zip([*ours[:2], ours[3], *our_gradients], [*theirs[:2], theirs[3], *their_gradients], strict=True):
        assert torch.allclose(mine, trls, atol=1e-5)
    assert ours[4].tolist() == theirs[4].tolist()
    assert 0 < sum(ours[4].tolist()) < len(ours[4])


def test_in_bf16_it_is_as_near_to_fp32_as_trls_head():
    inputs = given()
    exact, _ = found(Tiled, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        (ours, our_gradients), (theirs, their_gradients) = found(head._Head, *inputs), found(Tiled, *inputs)
    assert (ours[0] - exact[0]).abs().mean() < 1.5 * (theirs[0] - exact[0]).abs().mean()
    for mine, trls in zip(our_gradients, their_gradients, strict=True):
        assert (mine - trls).abs().max() < 0.03 * trls.abs().max()


def test_only_what_is_asked_for_is_computed():
    ours, _ = found(head._Head, *given(), outputs=())
    assert ours[1:] == (None, None, None, None)


@pytest.mark.parametrize("changes", [{"softcap": 30.0}, {"scale": 0.5}, {"outputs": ("log_sum_sq_probs",)}])
def test_what_this_head_does_not_know_is_trls(changes):
    ours, theirs = (found(each, *given(), **changes) for each in (head._Head, Tiled))
    for mine, trls in zip((ours[0][0], *ours[1]), (theirs[0][0], *theirs[1]), strict=True):
        assert torch.equal(mine, trls)


def test_many_logits_are_computed_in_tiles(monkeypatch):
    called = []
    monkeypatch.setattr(head, "_ChunkedLogProbFunction", type("Watched", (), {"apply": lambda *_: called.append(1)}))
    hidden, weight, bias, targets = given()
    for most, tiled in ((2000, False), (1999, True)):
        monkeypatch.setattr(head, "MOST_LOGITS", most)
        head._Head.apply(hidden, weight, bias, targets, 1.0, 32768, None, 1.0, ALL)
        assert bool(called) is tiled


def test_head_is_trls_own_again_after_the_context():
    with head.whole():
        assert trl.trainer.utils._ChunkedLogProbFunction is head._Head
    assert trl.trainer.utils._ChunkedLogProbFunction is Tiled
