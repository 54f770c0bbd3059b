"""The order in which shared artefacts are made: whatever has its inputs, the longest remaining chain first.

Invariant: a recipe is handed out once, after all that it needs; what stands above a failed one is never handed out.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from refstudy import plan, recipes
from refstudy.identity import fingerprint
from refstudy.recipes import Recipe


@dataclass(frozen=True)
class Failure:
    """Why a recipe was not made: its record fields `error`, {type, message, traceback}."""

    recipe: Recipe
    error: dict[str, Any]


class Schedule:
    """The state of making `missing`: what is ready, under way, made and failed."""

    def __init__(self, missing: Sequence[Recipe], needs: Callable[[Recipe], Iterable[Recipe]] = plan.needs) -> None:
        self._needs = needs
        self._waiting = {fingerprint(recipe): recipe for recipe in missing}
        self._open = set(self._waiting)
        """Ids not made yet: waiting, under way or failed."""
        self._weights = _chain_weights(missing, needs)
        self.under_way = 0
        self.failures: dict[str, Failure] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way and nothing more can be handed out."""
        return self.under_way == 0 and self._next() is None

    @property
    def has_next(self) -> bool:
        """Whether something is ready that was not handed out."""
        return self._next() is not None

    def take(self) -> Recipe | None:
        """The next recipe to make, now under way; None if none is ready."""
        recipe = self._next()
        if recipe is not None:
            del self._waiting[fingerprint(recipe)]
            self.under_way += 1
        return recipe

    def done(self, recipe: Recipe) -> None:
        self.under_way -= 1
        self._open.discard(fingerprint(recipe))

    def failed(self, recipe: Recipe, error: dict[str, Any]) -> None:
        self.under_way -= 1
        self.failures[fingerprint(recipe)] = Failure(recipe, error)

    def open_below(self, goals: Iterable[Recipe]) -> set[str]:
        """Ids of what is not made yet of all that `goals` need."""
        return {fingerprint(each) for each in self._below(goals)} & self._open

    def is_made(self, ids: Iterable[str]) -> bool:
        """Whether nothing of these is open any more."""
        return self._open.isdisjoint(ids)

    def failure_below(self, goals: Iterable[Recipe]) -> Failure | None:
        """The failure that keeps `goals` from being made, theirs or of something they need; None if there is none."""
        if not self.failures:
            return None
        return next((self.failures[key] for each in self._below(goals) if (key := fingerprint(each)) in self.failures), None)

    def _below(self, goals: Iterable[Recipe]) -> Iterator[Recipe]:
        """`goals` and all that they need, once each."""
        seen: set[str] = set()
        stack = list(goals)
        while stack:
            recipe = stack.pop()
            if fingerprint(recipe) not in seen:
                seen.add(fingerprint(recipe))
                yield recipe
                stack.extend(self._needs(recipe))

    def _next(self) -> Recipe | None:
        ready = [recipe for recipe in self._waiting.values() if self._is_ready(recipe)]
        return max(ready, key=lambda recipe: self._weights[fingerprint(recipe)], default=None)

    def _is_ready(self, recipe: Recipe) -> bool:
        return not any(fingerprint(each) in self._open for each in self._effective_needs(recipe))

    def _effective_needs(self, recipe: Recipe) -> Iterable[Recipe]:
        """What `recipe` waits for; recipes that only name others (an adapter, a judge) stand for what these need."""
        for each in self._needs(recipe):
            yield each
            if isinstance(each, plan.GIVEN):
                yield from self._effective_needs(each)


def _chain_weights(missing: Sequence[Recipe], needs: Callable[[Recipe], Iterable[Recipe]]) -> dict[str, float]:
    """Weight of the longest chain from each recipe up to a goal, itself included: what the end of the sweep waits for."""
    weights: dict[str, float] = {}
    for recipe in reversed(missing):  # what needs a recipe stands after it
        above = weights.get(fingerprint(recipe), 0.0) + _weight(recipe)
        weights[fingerprint(recipe)] = above
        for each in needs(recipe):
            weights[fingerprint(each)] = max(weights.get(fingerprint(each), 0.0), above)
    return weights


@functools.cache
def _weight(recipe: Recipe) -> float:
    """About how long a recipe takes beside others; it decides an order, never a result."""
    match recipe:
        case recipes.Pretrained():
            return 8.0 if recipe.size == "small" else 16.0
        case recipes.Scratch():
            return 1e-6 * recipe.steps * recipe.batch_size * recipe.context * recipe.layers
        case recipes.Sft() | recipes.RewardModel():
            return 6.0
        case recipes.Completions() | recipes.Table():
            return 3.0
        case _:
            return 0.5
