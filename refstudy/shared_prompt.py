"""A prompt computed once for the answers to it, in rows without padding: the same log-probs from fewer tokens.

Rows that begin alike are laid into one line, `beginning, rest of the first row, rest of the second`, each token at the position
that it has in its row and seeing its own row alone; nothing is padded. Invariant: what comes out is what the rows one by one would
give, up to rounding. A model of which that cannot be said is told apart by `obstacle`, which compares log-probs.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from refstudy import models
from refstudy.chat import Turn
from refstudy.errors import ModelError

LEAST_TOKENS = 128
"""Tokens of a prompt and its answers, on average, from which on texts are laid into lines: a rule of the texts alone, so that a
recipe is computed in the same way on every machine. Shorter texts gain less, and keep the rounding that they always had."""
TOLERANCE_NATS = {torch.float32: 1e-4}
"""Largest mean difference of a token's log-prob that is rounding; of shorter formats COARSE_NATS."""
COARSE_NATS = 0.05
OTHER_TOKENS = 16
BLOCK = 256
"""Queries that meet their keys at once where attention is computed in blocks."""
NAME = "refstudy_lines"
"""Our attention among transformers' own; without a line it is `sdpa`."""
IGNORED = frozenset({"position_ids", "use_cache", "is_causal", "output_attentions", "output_hidden_states"})
"""What a model may tell its attention without changing it. Windows, caps, sinks and biases are not computed here."""

log = logging.getLogger(__name__)


# What is worth it, and where it holds -----------------------------------------------------------------------------------------


def couples(turns: Sequence[Turn]) -> list[tuple[int, ...]]:
    """The numbers of the turns, two and two of one prompt, those without another alone; in the order of their first."""
    alone: dict[tuple[int, ...], int] = {}
    found: dict[int, tuple[int, ...]] = {}
    for row, turn in enumerate(turns):
        first = alone.pop(tuple(turn.prompt_ids), None)
        if first is None:
            alone[tuple(turn.prompt_ids)] = row
        found[row if first is None else first] = (row,) if first is None else (first, row)
    return [found[first] for first in sorted(found)]


def families(turns: Sequence[Turn], most_tokens: int) -> list[tuple[int, ...]]:
    """The numbers of the turns, those of one prompt together as long as they have no more tokens than that, the prompt once; in the
    order of their first."""
    of_prompt: dict[tuple[int, ...], list[list[int]]] = {}
    tokens: dict[int, int] = {}
    for row, turn in enumerate(turns):
        begun = of_prompt.setdefault(tuple(turn.prompt_ids), [])
        if begun and tokens[begun[-1][0]] + len(turn.answer_ids) <= most_tokens:
            begun[-1].append(row)
            tokens[begun[-1][0]] += len(turn.answer_ids)
        else:
            begun.append([row])
            tokens[row] = len(turn.prompt_ids) + len(turn.answer_ids)
    return sorted(tuple(rows) for begun in of_prompt.values() for rows in begun)


def pays(turns: Sequence[Turn], together: Sequence[Sequence[int]]) -> bool:
    """Whether these families are long enough for lines; a rule of the texts, not of the machine."""
    return sum(line_tokens(turns, rows) for rows in together) >= LEAST_TOKENS * max(1, len(together))


def line_tokens(turns: Sequence[Turn], rows: Sequence[int]) -> int:
    """Tokens of a family, its prompt once."""
    return len(turns[rows[0]].prompt_ids) + sum(len(turns[row].answer_ids) for row in rows)


_OBSTACLES: WeakKeyDictionary[torch.nn.Module, dict[bool, str]] = WeakKeyDictionary()


def obstacle(model: PreTrainedModel, turns: Sequence[Turn], together: Sequence[Sequence[int]], training: bool = False) -> str:
    """Why the model must read prompts with each answer, in words; "" if it need not. Found once for a model, and told once.

    A family is computed both ways, in the mode that the model is in, and the log-probs compared: the shortest that is long enough
    for lines, since what tells models apart shows in few tokens too, or is said by the model. `training`: also what no log-prob
    shows before the first step.
    """
    known = _OBSTACLES.setdefault(model, {})
    if training not in known:
        found = _declared(model, training) or difference(model, _tried(turns, together))
        known[training] = found
        if found:
            _tell(f"{type(model).__name__}: {found}; each answer is computed with its prompt")
    return known[training]


def _tried(turns: Sequence[Turn], together: Sequence[Sequence[int]]) -> list[Turn]:
    """The family that a model is tried on; beside a lone answer the prompt's own end stands for another."""

    def rank(rows: Sequence[int]) -> tuple[bool, int, bool, int]:
        tokens = line_tokens(turns, rows)
        is_long = tokens >= LEAST_TOKENS
        return all(turns[row].answer_ids for row in rows), len(rows), is_long, -tokens if is_long else tokens

    family = [turns[row] for row in max(together, key=rank)]
    return family if len(family) > 1 else [*family, Turn(family[0].prompt_ids, family[0].prompt_ids[-OTHER_TOKENS:])]


@cache
def _tell(words: str) -> None:
    log.warning(words)


def _declared(model: PreTrainedModel, training: bool) -> str:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config._attn_implementation not in ("sdpa", NAME):
        return f"its attention is computed by {config._attn_implementation!r}, not by sdpa"
    if kinds != {"full_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if training and hasattr(config, "output_router_logits"):
        return "its loss counts what its experts are given, prompts with each answer"
    return ""


def difference(model: PreTrainedModel, turns: list[Turn]) -> str:
    """How far the log-probs of one family are apart between both ways, in words; "" if they only round differently."""
    with torch.no_grad(), torch.random.fork_rng():
        plain = torch.cat([_logps(model, turn) for turn in turns])
        try:
            logits, targets, _ = answer_logits(model, [turns])
            shared = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        except ModelError as error:
            return str(error)
        except Exception as error:  # whatever code of whatever architecture makes of an input that it does not know
            return f"it does not take rows of two answers ({type(error).__name__}: {str(error).splitlines()[0][:100]})"
    apart = float((plain - shared).abs().mean())
    allowed = TOLERANCE_NATS.get(model.dtype, COARSE_NATS)
    return "" if apart <= allowed else f"log-probs of rows of two answers are {apart:.2g} nats a token off, more than {allowed:g}"


def _logps(model: PreTrainedModel, turn: Turn) -> torch.Tensor:
    """log p of the answer's tokens in a row of its own."""
    ids = torch.tensor([turn.prompt_ids + turn.answer_ids], device=models.input_device(model))
    logits = model(input_ids=ids, use_cache=False).logits[0, len(turn.prompt_ids) - 1 : -1].to(ids.device)
    return logits.float().log_softmax(-1).gather(1, ids[0, len(turn.prompt_ids) :, None])[:, 0]


# Lines ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """Rows that begin alike: how many tokens they share, and how many each has after them."""

    shared: int
    rests: tuple[int, ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Tokens of its parts of the line: the first row whole, then the others' rests."""
        return self.shared + self.rests[0], *self.rests[1:]


@dataclass(frozen=True)
class Line:
    """Rows of several families, one after another, N tokens in all."""

    families: tuple[Family, ...]
    ids: torch.Tensor
    """(N,)"""
    positions: torch.Tensor
    """(N,) the place of each token in its row."""
    rows: tuple[torch.Tensor, ...]
    """Of each row, family by family, the places of its tokens in the line."""

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """What a model is called with. The mask is a token one: it keeps transformers from making one, and nobody reads it."""
        return {
            "input_ids": self.ids[None].to(device),
            "position_ids": self.positions[None].to(device),
            "attention_mask": torch.ones(1, 1, 1, 1, device=device),
            "line": self,
        }


def lay(families: Sequence[Sequence[Sequence[int]]], shared: Sequence[int]) -> Line:
    """The line of rows of token ids, family by family; the rows of each begin with as many tokens in common as `shared` says."""
    found, ids, positions, rows = [], [], [], []
    here = 0
    for family, common in zip(families, shared, strict=True):
        found.append(Family(common, tuple(len(row) - common for row in family)))
        first = here
        for number, row in enumerate(family):
            begin = common if number else 0
            ids.append(np.asarray(row[begin:], dtype=np.int64))
            positions.append(np.arange(begin, len(row)))
            rows.append(np.concatenate([np.arange(first, first + begin), np.arange(here, here + len(row) - begin)]))
            here += len(row) - begin
    return Line(
        tuple(found),
        torch.from_numpy(np.concatenate(ids)),
        torch.from_numpy(np.concatenate(positions)),
        tuple(map(torch.from_numpy, rows)),
    )


def answer_logits(model: PreTrainedModel, families: Sequence[Sequence[Turn]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """(logits (sum of counts, V) at the answers' places alone, the tokens that stand there, answer tokens of each turn), family by
    family; the turns of each have one prompt, which is read once."""
    turns = [turn for family in families for turn in family]
    line = lay(
        [[turn.prompt_ids + turn.answer_ids for turn in family] for family in families],
        [len(family[0].prompt_ids) for family in families],
    )
    device = models.input_device(model)
    before = torch.cat([row[len(turn.prompt_ids) - 1 : -1] for row, turn in zip(line.rows, turns, strict=True)]).to(device)
    targets = torch.tensor([token for turn in turns for token in turn.answer_ids], device=device)
    with attending(model):
        logits = model(**line.inputs(device), use_cache=False, logits_to_keep=before).logits[0].to(device)
    return logits, targets, [len(turn.answer_ids) for turn in turns]


# Attention --------------------------------------------------------------------------------------------------------------------


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    line: Line | None = None,
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
