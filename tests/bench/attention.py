"""Attention of a step's line in several ways: `python -m tests.bench.attention SWEEP --store STORE --out FILE`.

Timed is forward and backward of one layer, on random queries, keys and values in the policy's heads and head size, over the line of
the first step that the sweep trains. All layers have a step's line in common, so what a way makes of it before (blocks, places) is
not timed; what the first call costs, compilation included, is written down.

Invariant: outputs and gradients are those of `line_attention`, up to the rounding of the precision that the sweep trains in.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig

from refstudy import checkpoints, grid, line_attention, models
from refstudy.grid import Cell
from refstudy.line import Family, Line
from refstudy.store import Store
from tests.bench import steps

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""Largest difference of outputs and of gradients, each by its largest value."""

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(1, N, heads, D) of queries (1, heads, N, D), and of keys and values in as many heads or fewer."""


@dataclass(frozen=True)
class Heads:
    """A policy's attention."""

    queries: int
    keys: int
    size: int
    layers: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.attention", description="attention of a line in several ways")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="with models, tokens and reference tables")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    cell = grid.cells(grid.read(given.sweep, []))[0]
    given.out.write_text(json.dumps(measured(cell, Store(given.store), given.turns), indent=1) + "\n")


def measured(cell: Cell, store: Store, turns: int) -> dict[str, Any]:
    """Seconds of a layer's attention each way, and whether each way computes what the first one does."""
    line, heads = steps.line(steps.first(cell, store).pairs), heads_of(cell, store)
    dtype = torch.bfloat16 if cell.dpo.train.precision == "bf16" else torch.float32
    return {
        "tokens": len(line.ids),
        "families": len(line.families),
        "heads": [heads.queries, heads.keys, heads.size],
        "layers": heads.layers,
        "precision": cell.dpo.train.precision,
        "turns": turns,
        "tolerance": TOLERANCE[dtype],
        "ways": compared(line, heads, dtype, turns),
    }


def heads_of(cell: Cell, store: Store) -> Heads:
    """The attention of the policy, as its checkpoint's configuration has it."""
    config = AutoConfig.from_pretrained(checkpoints.checkpoint(cell.dpo.start, store).path_or_name)
    queries = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // queries
    return Heads(queries, config.num_key_value_heads, size, config.num_hidden_layers)


def compared(line: Line, heads: Heads, dtype: torch.dtype, turns: int) -> dict[str, dict[str, Any] | None]:
    """Each way's figures, None for one that nothing here has."""
    device = torch.device(models.best_device())
    torch.manual_seed(0)
    shapes = [(1, count, len(line.ids), heads.size) for count in (heads.queries, heads.keys, heads.keys)]
    given = tuple(torch.randn(shape, dtype=dtype, device=device).requires_grad_() for shape in shapes)
    back = torch.randn(1, len(line.ids), heads.queries, heads.size, dtype=dtype, device=device)
    expected = both_ways(as_now(line, device), given, back)
    ways = {name: partial(prepared, make, line, given, back, expected) for name, make in WAYS.items()}
    varlen = varlen_kernel(device)
    if varlen is not None:
        ways["varlen"] = partial(prepared, partial(by_varlen, kernel=varlen), line, given, back, expected)
    found: dict[str, dict[str, Any] | None] = {**steps.compared(ways, turns)}
    return found if varlen is not None else found | {"varlen": None}


def prepared(
    make: Callable[[Line, torch.device], Attend],
    line: Line,
    given: tuple[torch.Tensor, ...],
    back: torch.Tensor,
    expected: list[torch.Tensor],
) -> tuple[dict[str, Any], Callable[[], float]]:
    """(what is known of a way before it is timed, a layer by it as seconds)."""
    attend = make(line, back.device)
    steps.forget_peak()
    found: list[torch.Tensor] = []
    first_call_s = steps.seconds(lambda: found.extend(both_ways(attend, given, back)))
    apart = [steps.difference([ours], [theirs]) for ours, theirs in zip(found, expected, strict=True)]
    equal = all(each <= TOLERANCE[back.dtype] for each in apart)
    known = {"first_call_s": first_call_s, "peak_gb": steps.peak_gb(), "difference": max(apart), "equal": equal}
    return known, lambda: steps.seconds(partial(both_ways, attend, given, back))


def both_ways(attend: Attend, given: tuple[torch.Tensor, ...], back: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of queries, keys and values when `back` is the output's."""
    out = attend(*given)
    return [out.detach(), *torch.autograd.grad(out, given, back)]


# The ways ---------------------------------------------------------------------------------------------------------------------


def as_now(line: Line, device: torch.device) -> Attend:
    """As training computes it: family by family, the second answer under a dense mask; short families side by side."""
    layout, module = line.inputs(device)["line"], torch.nn.Module()
    return lambda query, key, value: line_attention.attend(module, query, key, value, None, line=layout)[0]


def by_lower_right(line: Line, device: torch.device) -> Attend:
    """The same without a dense mask: kernels that are causal from the last key back need none."""
    return lambda query, key, value: _family_by_family(query, key, value, line.families)


def _family_by_family(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, families: tuple[Family, ...]) -> torch.Tensor:
    """(1, N, heads, D); a further row's rest sees the shared tokens and itself."""
    key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    out, here = [], 0
    for family in families:
        start, prompt = here, slice(here, here + family.shared)
        for tokens in family.cuts:
            q, k, v = (each[:, :, here : here + tokens] for each in (query, key, value))
            if here > start:
                k, v = (torch.cat([whole[:, :, prompt], own], 2) for whole, own in ((key, k), (value, v)))
            if tokens:
                out.append(scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(tokens, k.shape[2])))
            here += tokens
    return torch.cat(out, 2).transpose(1, 2).contiguous()


def by_flex(line: Line, device: torch.device) -> Attend:
    """One call for the whole line, of blocks that hold what somebody sees; compiled where there is a GPU."""
    mask = block_mask(line, device)
    kernel: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
    return lambda query, key, value: kernel(query, key, value, block_mask=mask, enable_gqa=True).transpose(1, 2).contiguous()


def block_mask(line: Line, device: torch.device) -> BlockMask:
    """Which tokens of the line see which: of its family what all its rows share, and of its own row, each up to itself."""
    cuts = [family.cuts for family in line.families]
    lengths = [tokens for parts in cuts for tokens in parts]
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    family = torch.arange(len(cuts)).repeat_interleave(torch.tensor([sum(parts) for parts in cuts])).to(device)
    is_shared = torch.cat([torch.arange(sum(family.cuts)) < family.shared for family in line.families]).to(device)

    def sees(_: torch.Tensor, __: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (family[query] == family[key]) & (is_shared[key] | (row[query] == row[key]))

    return create_block_mask(sees, None, None, len(line.ids), len(line.ids), device=device)


WAYS: dict[str, Callable[[Line, torch.device], Attend]] = {"now": as_now, "lower_right": by_lower_right, "flex": by_flex}
"""What training does now comes first: the others are held against it."""


def varlen_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Flash attention of rows of any lengths: flash-attn's, else torch's own; None where there is neither, or no GPU.

    (T, heads, D) of queries (T, heads, D), keys and values (S, heads or fewer, D), the ends of rows among queries and among keys,
    and the most queries and keys of a row; a row's last query sees all its keys.
    """
    if device.type != "cuda":
        return None
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        return partial(flash_attn_varlen_func, causal=True)
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        return partial(varlen_attn, window_size=(-1, 0), enable_gqa=True)
    return None


def by_varlen(line: Line, device: torch.device, kernel: Callable[..., Any]) -> Attend:
    """One call for the whole line: the queries as they lie, and for each row the keys of all its tokens, those of prompts twice."""
    keys, queries_to, keys_to, longest = rows_of(line)
    places, queries_to, keys_to = keys.to(device), queries_to.to(device), keys_to.to(device)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
        return kernel(q.contiguous(), k.index_select(0, places), v.index_select(0, places), queries_to, keys_to, *longest)[None]

    return attend


def rows_of(line: Line) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]]:
    """(places in the line of the keys of all rows, the ends of rows among queries, among keys, the most queries and keys of a row);
    ends begin with 0. A row without tokens of its own has no queries, and is left out."""
    queries = [tokens for family in line.families for tokens in family.cuts]
    kept = [(count, row) for count, row in zip(queries, line.rows, strict=True) if count]
    counts = [torch.tensor([0, *each]) for each in ([count for count, _ in kept], [len(row) for _, row in kept])]
    queries_to, keys_to = (each.cumsum(0).to(torch.int32) for each in counts)
    return torch.cat([row for _, row in kept]), queries_to, keys_to, (int(counts[0].max()), int(counts[1].max()))


# In words ---------------------------------------------------------------------------------------------------------------------


def words(found: dict[str, Any]) -> str:
    """Rows for the bench's table."""
    if "error" in found:
        return f"attention of a line: {found['error']}"
    return "\n".join(
        steps.row(f"attention of a line, {name} (ms a layer)", way and _in_ms(way), "ms", "{:.3f}")
        for name, way in found["ways"].items()
    )


def _in_ms(way: dict[str, Any]) -> dict[str, Any]:
    """The way with its seconds as milliseconds too."""
    return way if "error" in way else way | {"ms": 1000 * way["seconds"]}


if __name__ == "__main__":
    main()
