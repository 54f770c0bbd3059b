"""Batches of preference pairs as TRL's trainer takes them, made faster, and arranged so that less of them is padding.

Invariant: a step has the pairs that it would have anyway, each once; only which of them are computed together is chosen here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Batch = dict[str, torch.Tensor]
"""input_ids, attention_mask, completion_mask (2 N, W): the chosen rows, then the rejected ones, padded on the right;
ref_chosen_logps and ref_rejected_logps (N,)."""
ROWS = ("input_ids", "attention_mask", "completion_mask")


@dataclass(frozen=True)
class Collator:
    """Rows of the dataset to one batch, as TRL's collator has it, which makes a tensor of each row and mask."""

    pad_id: int

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> Batch:
        rows = [pair["prompt_ids"] + pair[f"{side}_ids"] for side in ("chosen", "rejected") for pair in pairs]
        ends = np.array([len(row) for row in rows])[:, None]
        begins = np.tile([len(pair["prompt_ids"]) for pair in pairs], 2)[:, None]
        ids = np.full((len(rows), ends.max()), self.pad_id, dtype=np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
        places = np.arange(ids.shape[1])
        of_answers = (places >= begins) & (places < ends)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy((places < ends).astype(np.int64)),
            "completion_mask": torch.from_numpy(of_answers.astype(np.int64)),
            "ref_chosen_logps": torch.tensor([pair["ref_chosen_logps"] for pair in pairs]),
            "ref_rejected_logps": torch.tensor([pair["ref_rejected_logps"] for pair in pairs]),
        }


def by_length(batches: list[Batch], pad_id: int) -> list[Batch]:
    """The same pairs in batches of the same sizes, longest first, each padded to its own longest row."""
    if len(batches) < 2:
        return batches
    rows = {name: _side_by_side([batch[name] for batch in batches], pad_id if name == "input_ids" else 0) for name in ROWS}
    reference = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0] if name not in ROWS}
    lengths = rows["attention_mask"].sum(2).amax(0)
    order = lengths.argsort(descending=True, stable=True)
    found = []
    for taken in order.split([len(batch["input_ids"]) // 2 for batch in batches]):
        width = int(lengths[taken].max())
        found.append({name: each[:, taken, :width].flatten(0, 1) for name, each in rows.items()})
        found[-1] |= {name: each[taken] for name, each in reference.items()}
    return found


def _side_by_side(rows: list[torch.Tensor], padding: int) -> torch.Tensor:
    """(2, N, W) of all pairs' rows, padded to the widest batch: chosen, rejected."""
    width = max(each.shape[1] for each in rows)
    return torch.cat([F.pad(each, (0, width - each.shape[1]), value=padding).unflatten(0, (2, -1)) for each in rows], dim=1)
