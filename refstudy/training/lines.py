"""Training on lines: TRL hands over padded rows, and the body of the model computes each pair's prompt once.

Invariant: TRL sees what it would see anyway. Its rows go in and hidden states of its rows come out; what is laid together in
between is known here alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from refstudy import line_attention, shared_prompt
from refstudy.chat import Turn
from refstudy.line import lay
from refstudy.recipes import Training


def fit(model: PreTrainedModel, pairs: Iterable[Mapping[str, Any]], training: Training) -> bool:
    """Whether these pairs are trained on lines: where it changes nothing but rounding.

    Dropout of a LoRA draws for each token; a prompt that is computed once would be given one draw instead of two.
    """
    turns = [Turn(pair["prompt_ids"], pair[f"{side}_ids"]) for pair in pairs for side in ("chosen", "rejected")]
    together = [(row, row + 1) for row in range(0, len(turns), 2)]
    if training.lora and training.lora.dropout:
        return False
    return not shared_prompt.obstacle(model, turns, together, training=True)


@contextmanager
def laid(model: PreTrainedModel) -> Iterator[None]:
    """The body of the model takes TRL's batches (chosen rows, then rejected ones, padded on the right) as lines."""
    body = model.base_model
    plain = body.forward

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: Any) -> Any:
        rows = [row[:length] for row, length in zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)]
        pairs = list(zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True))
        line = lay(pairs, [common(*pair) for pair in pairs])
        out = plain(**line.inputs(input_ids.device), **others)
        places = torch.zeros(input_ids.shape, dtype=torch.long)  # a worker's share of a batch may be wider than its longest row
        for row, found in zip(places, [*line.rows[::2], *line.rows[1::2]], strict=True):
            row[: len(found)] = found
        out.last_hidden_state = F.embedding(places.to(out.last_hidden_state.device), out.last_hidden_state[0])
        return out

    body.forward = forward
    try:
        with line_attention.attending(model):
            yield
    finally:
        body.__dict__.pop("forward", None)


def common(chosen: list[int], rejected: list[int]) -> int:
    """How many tokens two rows begin with in common: the prompt, and the words that both answers begin with."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
