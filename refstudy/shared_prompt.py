"""A prompt computed once for the answers to it, in rows without padding: the same log-probs from fewer tokens.

Answers to one prompt are laid into lines behind it (`line`). Invariant: what comes out is what the rows one by one would give, up
to rounding. A model of which that cannot be said is told apart by `obstacle`, which compares log-probs.
"""

import logging
from collections.abc import Sequence
from functools import cache
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from refstudy import line_attention, models
from refstudy.chat import Turn
from refstudy.errors import ModelError
from refstudy.line import lay

LEAST_TOKENS = 128
"""Tokens of a prompt and its answers, on average, from which on texts are scored on lines, and prompts read on them for answers: a
rule of the texts alone, so that a recipe is computed in the same way on every machine. Training, which gains more, always is."""
TOLERANCE_NATS = {torch.float32: 1e-4}
"""Largest mean difference of a token's log-prob that is rounding; of shorter formats COARSE_NATS."""
COARSE_NATS = 0.05
OTHER_TOKENS = 16

log = logging.getLogger(__name__)


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
    """Whether these families are long enough for lines outside training."""
    return sum(line_tokens(turns, rows) for rows in together) >= LEAST_TOKENS * max(1, len(together))


def line_tokens(turns: Sequence[Turn], rows: Sequence[int]) -> int:
    """Tokens of a family, its prompt once."""
    return len(turns[rows[0]].prompt_ids) + sum(len(turns[row].answer_ids) for row in rows)


_OBSTACLES: WeakKeyDictionary[torch.nn.Module, dict[bool, str]] = WeakKeyDictionary()


def obstacle(model: PreTrainedModel, turns: Sequence[Turn], together: Sequence[Sequence[int]], training: bool = False) -> str:
    """Why the model must read prompts with each answer, in words; "" if it need not. Found once for a model, and told once.

    A family is computed both ways, in the mode that the model is in, and the log-probs compared: the shortest of LEAST_TOKENS or
    more, since what tells models apart shows in few tokens too, or is said by the model; of shorter ones the longest. `training`:
    also what no log-prob shows before the first step.
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
    if config._attn_implementation not in ("sdpa", line_attention.NAME):
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
    with line_attention.attending(model):
        logits = model(**line.inputs(device), use_cache=False, logits_to_keep=before).logits[0].to(device)
    return logits, targets, [len(turn.answer_ids) for turn in turns]
