"""Models in memory: a recipe's checkpoint loaded with its tokenizer, and the one used last kept at hand.

Invariant: a shelf holds one model at a time, so that a device needs room for one.
"""

import contextlib
import ctypes
import gc
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refstudy import checkpoints, models, recipes
from refstudy.identity import fingerprint
from refstudy.store import Store


@dataclass(frozen=True)
class Policy:
    """A model in memory, with its tokenizer and how it wants system messages."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    system_role: checkpoints.SystemRole


@dataclass(frozen=True)
class Speaker:
    """How a model writes conversations: enough to know what it is asked, without loading it."""

    tokenizer: PreTrainedTokenizerBase
    system_role: checkpoints.SystemRole
    checkpoint: checkpoints.Checkpoint


class Shelf:
    """The model used last, kept in memory for the next recipe that asks for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name: str | None = None
        self._policy: Policy | None = None
        self._speaker: tuple[str, Speaker] | None = None

    def take(self, recipe: recipes.Model) -> Policy:
        """The model of a recipe, loaded if it is not the one used last."""
        if self._policy is None or self._name != fingerprint(recipe):
            self._policy = None
            free_device()  # the model before must be gone from the device before the next is loaded
            self._policy = _loaded(self.speaker(recipe).checkpoint)
            self._name = fingerprint(recipe)
        return self._policy

    def speaker(self, recipe: recipes.Model) -> Speaker:
        """How the model of a recipe speaks, without its weights."""
        if self._speaker is None or self._speaker[0] != fingerprint(recipe):
            at = checkpoints.checkpoint(recipe, self._store)
            self._speaker = fingerprint(recipe), Speaker(models.load_tokenizer(at), at.system_role, at)
        return self._speaker[1]


def free_device() -> None:
    """Gives back what this process holds of its device and no longer uses: the device may be others' too, by fractions of it."""
    gc.collect()  # a trainer and what it trains refer to each other in circles
    _trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trim() -> None:
    """Gives the system back what is free between the allocator's blocks, where it is glibc's: told to keep the memory of each step
    for the next (`session`), it would hold that of training while answers are drawn. A few milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def load_policy(recipe: recipes.Model, store: Store) -> Policy:
    return _loaded(checkpoints.checkpoint(recipe, store))


def _loaded(at: checkpoints.Checkpoint) -> Policy:
    model, tokenizer = models.load(at)
    return Policy(model, tokenizer, at.system_role)


def own_model(recipe: recipes.Completions) -> recipes.Model:
    """The model that answers, which must be one that is loaded here."""
    assert not isinstance(recipe.source, recipes.ChatServer)
    return recipe.source
