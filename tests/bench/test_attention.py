import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention

from refstudy.line import lay
from tests.bench import attention, steps
from tests.bench.attention import Heads

CPU = torch.device("cpu")


def line():
    """Three families, longer than those that are laid side by side; one of two equal rows, one of rows that begin apart."""
    rows = [(list(range(140)), [*range(100), *range(200, 230)]), (list(range(20)), list(range(20))), ([1, 2, 3], [4, 5])]
    return lay(rows, [100, 20, 0])


def tensors(of, heads=(4, 2)):
    torch.manual_seed(0)
    given = tuple(torch.randn(1, count, len(of.ids), 8).requires_grad_() for count in (heads[0], heads[1], heads[1]))
    return given, torch.randn(1, len(of.ids), heads[0], 8)


def plain_varlen(query, key, value, queries_to, keys_to, most_queries, most_keys):
    """What a kernel for rows of any length computes, row by row."""
    out = []
    for row in range(len(queries_to) - 1):
        q, k, v = (
            each[ends[row] : ends[row + 1]].transpose(0, 1)[None]
            for each, ends in ((query, queries_to), (key, keys_to), (value, keys_to))
        )
        assert q.shape[2] <= most_queries
        assert k.shape[2] <= most_keys
        sees = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        out.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sees, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("way", ["lower_right", "varlen"])
def test_way_gives_outputs_and_gradients_of_lines_as_they_are_computed_now(way):
    given, back = tensors(line())
    make = attention.WAYS[way] if way in attention.WAYS else lambda *known: attention.by_varlen(*known, plain_varlen)
    found = [attention.both_ways(each(line(), CPU), given, back) for each in (make, attention.as_now)]
    for ours, theirs in zip(*found, strict=True):
        assert steps.difference([ours], [theirs]) < 1e-5


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")  # compiled, it needs a GPU
def test_flex_gives_outputs_of_lines_as_they_are_computed_now():
    """Not compiled, and no gradients: on a CPU there are none."""
    given, _ = tensors(line())
    query, key, value = (each.detach() for each in given)
    mask = attention.block_mask(line(), CPU)
    out = flex_attention(query, key, value, block_mask=mask, enable_gqa=True).transpose(1, 2)
    assert steps.difference([out], [attention.as_now(line(), CPU)(query, key, value)]) < 1e-5


def test_mask_of_flex_is_that_of_each_row():
    """Row [1, 2, 3] behind a beginning [1]; its second row's 9 sees 1 and itself alone, another family nothing of it."""
    of = lay([([1, 2, 3], [1, 9]), ([7], [8])], [1, 0])
    seen = create_mask(attention.block_mask(of, CPU).mask_mod, 1, 1, 6, 6, device="cpu")[0, 0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_ways_are_timed_and_what_this_device_refuses_is_told_in_one_line(monkeypatch):
    def refused(of, device):
        raise NotImplementedError("no such kernel\nin many lines")

    monkeypatch.setitem(attention.WAYS, "flex", refused)
    found = attention.compared(line(), Heads(4, 2, 8, 2), torch.float32, turns=2)
    assert found["varlen"] is None
    assert found["flex"] == {"error": "NotImplementedError: no such kernel"}
    assert found["lower_right"]["equal"]
    assert found["lower_right"]["gain"] == found["now"]["seconds"] / found["lower_right"]["seconds"]
    assert "no such kernel" in attention.words({"ways": found})


def test_way_that_computes_something_else_does_not_count(monkeypatch):
    monkeypatch.setitem(attention.WAYS, "flex", lambda of, device: lambda *given: 1.001 * attention.as_now(of, device)(*given))
    found = attention.compared(line(), Heads(4, 2, 8, 2), torch.float32, turns=1)
    assert found["flex"]["equal"] is False
    assert "does not count" in attention.words({"ways": found})
