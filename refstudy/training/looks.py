"""Looks at a policy while it trains: evaluations, validation losses, and the weights of the best of them.

Invariant: a look changes nothing of what it looks at. The same run with looks and without ends in the same weights, bit for bit.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from refstudy.errors import TrainingError
from refstudy.measurement import Emit, Measurement
from refstudy.recipes.along import LOOKS
from refstudy.training.progress import check_finite, said
from refstudy.training.state import Kept

Look = Callable[[Any], dict[str, float]]
"""The policy -> what is measured of it."""

Policy = Callable[[], AbstractContextManager[tuple[Any, torch.nn.Module]]]
"""Gives (the policy as an ordinary model, the module whose weights are trained) while its context lasts."""

Recall = Callable[[list[dict[str, float]]], None]
"""Tells a look that compares with those before it what they saw, where another process made them."""


def no_memory(curve: list[dict[str, float]]) -> None:
    """The recall of a look that compares with none before it."""


@dataclass(frozen=True)
class Looking:
    """What is looked at, and how often."""

    stage: str
    """Under which its measurements are emitted."""
    look: Look
    every: int = 0
    """Optimizer steps from one look to the next; 0: a tenth of the run. The last step is always looked at."""
    best: str | None = None
    """The measure by which the best policy is kept; None: none is."""
    lowest: bool = False
    """Whether the lowest value is the best, or the highest."""
    recall: Recall = no_memory


class Looks(TrainerCallback):
    """Looks at a policy as `looking` says; keeps the curve, where it was told to end, and the best weights."""

    def __init__(self, looking: Looking, emit: Emit, settings: str, policy: Policy) -> None:
        """`settings` are words for an error."""
        self.looking, self.emit, self.settings, self.policy = looking, emit, settings, policy
        self.curve: list[dict[str, float]] = []
        self.stopped: dict[str, Any] | None = None
        """{step, reason} where a look ended training before its last step."""
        self.best_step: int | None = None
        self._best_value = math.inf
        self._best_weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = self.looking.every or math.ceil(state.max_steps / LOOKS)
        if state.global_step % every == 0 or state.global_step >= state.max_steps:
            self._look(state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The last look where something else ended training between two."""
        if not self.curve or self.curve[-1]["step"] != state.global_step:
            self._look(state, control)

    def kept(self) -> Kept:
        values = {"curve": self.curve, "stopped": self.stopped, "best_step": self.best_step, "best_value": self._best_value}
        return Kept(values, self._best_weights)

    def take_up(self, kept: Kept) -> None:
        self.curve, self.stopped = list(kept.values["curve"]), kept.values["stopped"]
        self.best_step, self._best_value = kept.values["best_step"], kept.values["best_value"]
        self._best_weights = dict(kept.tensors)
        self.looking.recall(self.curve)

    def told(self) -> Iterator[Measurement]:
        return said(self.looking.stage, self.curve)

    def restore_best(self, model: torch.nn.Module) -> int:
        """Puts the best weights back into the model, and returns the step that they are of."""
        if self.best_step is None:
            raise TrainingError(
                f"no look along training gave {self.looking.best}, so no checkpoint can be chosen by it; look at the judge, or use "
                "train.checkpoint: last"
            )
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, best in self._best_weights.items():
                weights[name].copy_(best)
        return self.best_step

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        with same_randomness(), self.policy() as (policy, model):
            check_finite(model, state.global_step, self.settings)
            values = self.looking.look(policy)
            self._keep_best(values, state.global_step, model)
        self.curve.append({"step": state.global_step, "epoch": float(state.epoch or 0), **values})
        stop = self.emit(Measurement(self.looking.stage, state.global_step, state.max_steps, values))
        if stop is not None and state.global_step < state.max_steps and not control.should_training_stop:
            self.stopped = {"step": state.global_step, "reason": stop.reason}
            control.should_training_stop = True

    def _keep_best(self, values: dict[str, float], step: int, model: torch.nn.Module) -> None:
        """Keeps the weights on the CPU if this look is the best so far; of equal ones the first."""
        value = values.get(self.looking.best or "", math.nan)
        value = value if self.looking.lowest else -value
        if value < self._best_value:
            self._best_value, self.best_step = value, step
            trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
            self._best_weights = {name: weight.detach().to("cpu", copy=True) for name, weight in trained}


@contextmanager
def same_randomness() -> Iterator[None]:
    """Leaves all global random numbers (Python, numpy, torch, its devices) as they were before."""
    python, arrays = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
