"""Rows that begin alike laid into one line, so that what they share is computed once and nothing is padded.

A line is `beginning, rest of the first row, rest of the second`, family after family, each token at the position that it has in its
row; `line_attention` lets each see its own row alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SHORT = 128
"""Tokens of the longest family up to which families are put side by side for attention."""
MOST_PADDED = 2
"""Places for a token, at most, where they are."""


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
class Beside:
    """F families as rows side by side, padded to the W tokens of the longest."""

    places: torch.Tensor
    """(F, W) the place in the line of each token; of padding, any."""
    kept: torch.Tensor
    """(N,) the places of the line's tokens among the F W of all rows."""
    sees: torch.Tensor
    """(F, 1, W, W) which tokens see which."""


@dataclass(frozen=True)
class Layout:
    """What attention must know of a line."""

    families: tuple[Family, ...]
    beside: Beside | None
    """None: attention is computed family by family."""


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
            "line": Layout(self.families, beside(self.families, device)),
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


def beside(families: Sequence[Family], device: torch.device) -> Beside | None:
    """The families side by side where they are short, so that calls for each would take more time than padding; None where not."""
    lengths = np.array([sum(family.cuts) for family in families])
    width = int(lengths.max())
    if width > SHORT or len(families) * width > MOST_PADDED * lengths.sum():
        return None
    place = np.arange(width)
    taken = place < lengths[:, None]
    cuts = [family.cuts for family in families]
    begins = [begin for parts in cuts for begin in np.cumsum((0, *parts[:-1]))]
    own = np.zeros(taken.shape, dtype=np.int64)  # where the rest begins that a token belongs to; 0 in the first row, and in padding
    own[taken] = np.repeat(begins, [tokens for parts in cuts for tokens in parts])
    shared = np.array([family.shared for family in families])[:, None, None]
    sees = (place <= place[:, None]) & ((place < shared) | (place >= own[:, :, None]))
    places = np.where(taken, np.cumsum(lengths)[:, None] - lengths[:, None] + place, 0)
    return Beside(*(torch.from_numpy(each).to(device) for each in (places, np.flatnonzero(taken), sees[:, None])))
