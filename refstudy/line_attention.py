"""Attention of lines: each token sees the tokens of its own row, up to itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from refstudy.errors import ModelError
from refstudy.line import Beside, Layout

BLOCK = 256
"""Queries that meet their keys at once where attention is computed in blocks."""
NAME = "refstudy_lines"
"""Our attention among transformers' own; without a line it is `sdpa`."""
IGNORED = frozenset({"position_ids", "use_cache", "is_causal", "output_attentions", "output_hidden_states"})
"""What a model may tell its attention without changing it. Windows, caps, sinks and biases are not computed here."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    line: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """(1, N, heads, D): attention within the rows of a line, each family for itself; transformers' own SDPA where there is no line.

    `query` (1, heads, N, D); `key` and `value` may have fewer heads. The first row of a family is causal; a further one's rest sees
    the shared tokens and itself.
    """
    if line is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
    _refuse_unknown(others)
    if query.shape[1] > key.shape[1]:
        key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    if line.beside is not None:
        return _side_by_side(query, key, value, dropout, scaling, line.beside), None
    cuts = [tokens for family in line.families for tokens in family.cuts]
    parts = zip(*(each.split(cuts, 2) for each in (query, key, value)), strict=True)
    causal = _in_blocks if _is_bf16_on_cpu(query) and not dropout else _by_sdpa
    out = []
    for family in line.families:
        q, k, v = next(parts)
        out.append(causal(q, k, v, dropout, scaling))
        begin_k, begin_v = k[:, :, : family.shared], v[:, :, : family.shared]
        for rest in family.rests[1:]:
            q, k, v = next(parts)
            if rest:
                out.append(causal(q, torch.cat([begin_k, k], 2), torch.cat([begin_v, v], 2), dropout, scaling))
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def _side_by_side(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None, beside: Beside
) -> torch.Tensor:
    """(1, N, heads, D): attention of short families all at once."""
    places, kept, sees = (each.to(query.device) for each in (beside.places, beside.kept, beside.sees))
    q, k, v = (
        F.embedding(places, each[0].transpose(0, 1).flatten(1)).unflatten(2, each.shape[1:4:2]).transpose(1, 2)
        for each in (query, key, value)
    )
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, kept)[None]


def _is_bf16_on_cpu(query: torch.Tensor) -> bool:
    """Whether products of matrices are computed in bf16 here, whatever the queries come in."""
    if query.device.type != "cpu":
        return False
    return (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype) == torch.bfloat16


def _by_sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None) -> torch.Tensor:
    """(1, heads, N, D): attention of the last N of S tokens, each to those up to itself; `key` and `value` (1, heads, S, D)."""
    alike = query.shape[2] == key.shape[2]
    mask = None if alike else _sees(query.shape[2], key.shape[2], query)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=alike, scale=scaling)


def _in_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: float, scaling: float | None) -> torch.Tensor:
    """`_by_sdpa` by products of matrices, BLOCK queries at a time, so that few keys are multiplied that nobody sees: in bf16 three
    times as fast on a CPU as torch's own kernel, which computes there as if it were in fp32."""
    before, out = key.shape[2] - query.shape[2], []
    query, key, value = (each.to(torch.bfloat16) for each in (query, key, value))
    query = query * (query.shape[3] ** -0.5 if scaling is None else scaling)
    for first in range(0, query.shape[2], BLOCK):
        part = query[:, :, first : first + BLOCK]
        seen = before + first + part.shape[2]
        scores = torch.matmul(part, key[:, :, :seen].transpose(2, 3)).add_(_sees(part.shape[2], seen, query))
        out.append(torch.matmul(scores.softmax(-1), value[:, :, :seen]))
    return torch.cat(out, 2)


def _sees(tokens: int, seen: int, like: torch.Tensor) -> torch.Tensor:
    """The additive mask (tokens, seen) under which the last `tokens` of `seen` tokens see those up to themselves."""
    return torch.full((tokens, seen), float("-inf"), dtype=like.dtype, device=like.device).triu(seen - tokens + 1)


def _refuse_unknown(others: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in others.items() if value is not None and name not in IGNORED)
    if unknown:
        raise ModelError(f"its attention takes {', '.join(unknown)}")


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attending(model: PreTrainedModel, by: str = NAME) -> Iterator[None]:
    """The model takes lines while the context lasts, and plain rows as before; `by` sdpa undoes that within."""
    every = {id(each.config): each.config for each in model.modules() if isinstance(each, PreTrainedModel)}
    configs = [config for config in every.values() if config._attn_implementation in ("sdpa", NAME)]
    own = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = by
        yield
    finally:
        for config, name in zip(configs, own, strict=True):
            config._attn_implementation = name
