"""What a running trainer tells the outside, and how the outside stops it."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from refstudy.errors import TrainingError
from refstudy.measurement import Emit, Measurement
from refstudy.training.state import Kept

NAMES = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "accuracy": "accuracy",
    "margin": "margin",
    "policy_accuracy": "policy_accuracy",
    "mean_token_accuracy": "token_accuracy",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
}
"""TRL's names of the metrics that are kept, and ours."""


class Progress(TrainerCallback):
    """Forwards a trainer's logs as measurements of one stage, keeps them as history, and ends training when told to stop."""

    def __init__(self, stage: str, emit: Emit, settings: str) -> None:
        self.stage, self.emit, self.settings = stage, emit, settings
        self.history: list[dict[str, float]] = []
        self.stopped: dict[str, Any] | None = None
        """{step, reason} where training was told to end; None: it was not."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        values = {NAMES[name]: float(value) for name, value in (logs or {}).items() if name in NAMES}
        if "loss" not in values:
            return
        if not math.isfinite(values["loss"]):
            raise not_finite(values["loss"], state.global_step, self.settings)
        self.history.append({"step": state.global_step, "epoch": float(state.epoch or 0), **values})
        stop = self.emit(Measurement(self.stage, state.global_step, state.max_steps, values))
        if stop is not None:
            self.stopped = {"step": state.global_step, "reason": stop.reason}
            control.should_training_stop = True

    def kept(self) -> Kept:
        return Kept({"history": self.history, "stopped": self.stopped})

    def take_up(self, kept: Kept) -> None:
        self.history, self.stopped = list(kept.values["history"]), kept.values["stopped"]

    def told(self) -> Iterator[Measurement]:
        return said(self.stage, self.history)

    def refuse_stop(self) -> None:
        """TrainingError if training was told to end: half a model under the whole one's id would be another model."""
        if self.stopped is not None:
            step, reason = self.stopped["step"], self.stopped["reason"]
            raise TrainingError(f"{self.stage} was stopped at step {step}: {reason}; nothing of it is kept, run again to make it")


def said(stage: str, rows: list[dict[str, float]]) -> Iterator[Measurement]:
    """What was said along training, by the rows that were kept of it."""
    for row in rows:
        values = {name: value for name, value in row.items() if name not in ("step", "epoch")}
        yield Measurement(stage, int(row["step"]), None, values)


def check_finite(model: torch.nn.Module, step: int, settings: str) -> None:
    """Refuses weights that the last step blew up: no later loss would have shown it."""
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters() if weight.requires_grad):
        raise not_finite(float("nan"), step, settings)


def not_finite(loss: float, step: int, settings: str) -> TrainingError:
    return TrainingError(
        f"the training loss is {loss} at step {step} ({settings}); expected a finite number: lower train.learning_rate, "
        "or look for infinite log-probs in the reference table"
    )
