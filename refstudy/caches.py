"""Keys and values of answers while they grow: held without a copy at every token, of prompts that are read without padding.

Invariant: row by row a cache holds what transformers' own would hold; only where it lies, and what is computed together, is chosen
here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from refstudy import line_attention, models
from refstudy.line import lay

LINE_TOKENS = 4096
"""Tokens of prompts that are read at once at most."""
LEAST_ROOM = 16
"""Tokens that there is room for at least where buffers are full; of long rows it is a quarter of them. Most answers end early: room
for all that they may have was 67 MB for 256 short prompts, twice what was ever in it."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values (B, heads, T, D) at the beginning of buffers with room for `room` tokens; transformers' own layer
    copies all that it has at every token."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: list[torch.Tensor] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [_room(each, len(each), self._room_of(end)) for each in (key_states, value_states)]
        if end > self._buffers[0].shape[2]:
            self._buffers = [_copied(buffer, slice(None), begin, self._room_of(end)) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        return self._show(end)

    def take_in(self, line: Any, lengths: Sequence[int], first: int, rows: int, width: int) -> None:
        """Puts prompts of these lengths, which another cache's layer holds as one `line`, into the rows from `first` on of `rows`
        rows in all; each ends at the place `width`."""
        if line.keys is None:
            return  # a layer that looks into another's
        if not self.is_initialized:
            self.lazy_initialization(line.keys, line.values)
            self._buffers = [_room(each, rows, self._room_of(width)).zero_() for each in (line.keys, line.values)]
        for buffer, states in zip(self._buffers, (line.keys, line.values), strict=True):
            for row, part in enumerate(states[0].split(list(lengths), 1), first):
                buffer[row, :, width - part.shape[1] : width] = part
        self._show(width)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        end = self.get_seq_length()
        self._buffers = [_copied(buffer, indices, end, buffer.shape[2]) for buffer in self._buffers]
        self._show(end)

    def _room_of(self, tokens: int) -> int:
        """Room to begin with, or to go on with, once so many tokens are there."""
        return max(tokens, min(self._room, tokens + max(LEAST_ROOM, tokens // 4)))

    def _show(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


def roomy(model: PreTrainedModel, room: int) -> DynamicCache:
    """An empty cache with room for so many tokens of each row; layers that are not of full attention are transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def takes_lines(cache: DynamicCache) -> bool:
    return bool(cache.layers) and all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def read(model: PreTrainedModel, prompts: Sequence[Sequence[int]], cache: DynamicCache) -> torch.Tensor:
    """Logits (B, V) after each prompt's last token; the empty `cache` then holds the prompts as rows padded on the left.

    They are read on lines, one after another, so that no padding is computed and none is seen.
    """
    device, width = models.input_device(model), max(map(len, prompts))
    found = []
    for first, part in _parts(prompts):
        line = lay([[prompt] for prompt in part], [0] * len(part))
        beside = DynamicCache(config=model.config)
        last = torch.stack([row[-1] for row in line.rows]).to(device)
        with line_attention.attending(model):
            out = model(**line.inputs(device), past_key_values=beside, use_cache=True, logits_to_keep=last)
        found.append(out.logits[0])
        for own, read_here in zip(cache.layers, beside.layers, strict=True):
            assert isinstance(own, RoomyLayer)
            own.take_in(read_here, [len(prompt) for prompt in part], first, len(prompts), width)
    return torch.cat(found)


def _parts(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[Sequence[int]]]]:
    """The prompts in their order, in parts of at most LINE_TOKENS tokens or of one prompt; each with the number of its first."""
    parts: list[tuple[int, list[Sequence[int]]]] = []
    for number, prompt in enumerate(prompts):
        if not parts or sum(map(len, parts[-1][1])) + len(prompt) > LINE_TOKENS:
            parts.append((number, []))
        parts[-1][1].append(prompt)
    return parts


def _room(like: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    return like.new_empty(rows, like.shape[1], room, like.shape[3])


def _copied(buffer: torch.Tensor, rows: torch.Tensor | slice, end: int, room: int) -> torch.Tensor:
    """These rows of a buffer, up to `end`, in one with so much room."""
    kept = buffer[rows, :, :end]
    copy = _room(buffer, len(kept), room)
    copy[:, :, :end] = kept
    return copy
