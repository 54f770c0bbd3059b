"""Trainings that outlive their process: a state is saved every so often, and the next process goes on from it.

Invariant: a training that was cut off, however often, ends in the same weights and the same log as one that was not; on the CPU bit
for bit. transformers' own way of resuming is used for the order of the data and the count of steps; its files, which are pickles,
are replaced by `state`. What it forgets is kept too: the sums of its losses, and what callbacks have gathered.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from refstudy.errors import StoreError, TrainingError
from refstudy.far_states import FarStates
from refstudy.measurement import Emit, Measurement
from refstudy.provenance import versions
from refstudy.recipes import Recipe
from refstudy.store import Store
from refstudy.training import sharding, workers, zero
from refstudy.training import state as states
from refstudy.training.state import Kept, Saved

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate")
"""A state is gone on from under the same versions of these alone."""
ARITHMETIC = "prompts once"
"""How this code computes a step. It changes with the rounding of steps, so that a training that is gone on with ends bit for bit as
one that was not cut off."""
WEIGHTS, OPTIMIZER, LOOP, RANDOMNESS = "weights", "optimizer", "loop", "randomness"


@dataclass(frozen=True)
class Saving:
    """Where a training saves its state, and how often."""

    folder: Path
    every_s: float
    """Seconds from one save to the next; a training that takes less saves nothing. 0: none is ever saved."""
    terms: str = ""
    """What, beside the folder's recipe, the numbers that are gathered along training follow from."""
    far: FarStates | None = None
    """Where other machines find the states, if this one dies."""


def saving(recipe: Recipe, store: Store, every_s: float, terms: str = "") -> Saving:
    """The training of a recipe saved where its store has room for that."""
    return Saving(store.training(recipe), every_s, terms, store.far_training(recipe))


class Part(Protocol):
    """What a training changes beside the weights."""

    def kept(self) -> Kept:
        """What it needs to go on."""

    def take_up(self, kept: Kept) -> None:
        """Goes on from there."""

    def told(self) -> Iterator[Measurement]:
        """What it has told so far, so that it can be told again; the `of` of these is not known."""


@dataclass(frozen=True)
class Ran:
    """A training that came to its end."""

    steps: int
    train_loss: float
    before_s: float
    """Seconds of training in earlier processes, as far as their work stands."""
    resumed_at: list[int]
    """The steps at which a process took it up."""


def run(
    trainer: Trainer,
    saving: Saving | None,
    emit: Emit,
    stage: str,
    parts: Mapping[str, Part],
    callbacks: Sequence[TrainerCallback] = (),
) -> Ran:
    """Trains to the end, from the newest saved state if there is one; `emit` hears again what was told before it.

    `callbacks` come after all others. Of several workers all give the same settings, and the first one's parts are saved.
    """
    if saving is None or saving.every_s <= 0:
        for each in callbacks:
            trainer.add_callback(each)
        steps = trainer.train()
        return Ran(steps.global_step, float(steps.training_loss), 0.0, [])
    saves = _Saves(trainer, saving, emit, stage, parts)
    found = saves.take_up()
    for each in (saves, *callbacks):
        trainer.add_callback(each)
    try:
        with saves.in_place_of_the_trainers_own():
            steps = trainer.train(resume_from_checkpoint=None if found is None else str(found.folder))
    except TrainingError:
        workers.only_first(saves.clear)  # it would end so again
        raise
    saves.tell_fault(steps.global_step)
    return Ran(steps.global_step, float(steps.training_loss), saves.before_s, saves.resumed_at)


class _Saves(TrainerCallback):
    """Saves the state of a trainer when it is due, and gives it back."""

    def __init__(self, trainer: Trainer, saving: Saving, emit: Emit, stage: str, parts: Mapping[str, Part]) -> None:
        self.trainer, self.saving, self.emit, self.stage, self.parts = trainer, saving, emit, stage, parts
        self.resumed_at: list[int] = []
        named = ", ".join(f"{name} {versions().get(name)}" for name in VERSIONS)
        logs = f"logs every {trainer.args.logging_steps}; {workers.count()} workers"
        self._terms = f"{saving.terms}; {', '.join(sorted(parts))}; {logs}; {named}; {ARITHMETIC}"
        self._found: Saved | None = None
        self._saved: list[Saved] = []
        self.before_s = 0.0
        self._begun = self._saved_at = time.perf_counter()

    def take_up(self) -> Saved | None:
        """The newest whole state, after all but the trainer itself has gone back to it; what is passed over is named."""
        found, faults = workers.from_first(workers.only_first(self._newest) or (None, []))
        begin = "its beginning" if found is None else f"step {found.step}"
        for fault in faults:
            self._say(0, f"a saved state of training cannot be used ({fault}); training goes on from {begin}")
        if found is not None:
            loop = found.part(LOOP).values
            self.before_s, self.resumed_at = loop["spent_s"], [*loop["resumed_at"], found.step]
            for name, part in self.parts.items() if workers.rank() == 0 else ():
                part.take_up(found.part(name))
            self._saved = [found]
        self._found = found
        self._begun = self._saved_at = time.perf_counter()
        return found

    def _newest(self) -> tuple[Saved | None, list[str]]:
        folder, far = self.saving.folder, self.saving.far
        found, faults = states.newest(folder, self._terms)
        if far is None:
            return found, faults
        above = -1 if found is None else found.step
        brought, missed = far.bring(folder, self._terms, above, lambda each: states.fault(each, self._terms))
        return (found if brought is None else Saved(*brought)), [*faults, *missed]

    def clear(self) -> None:
        """Removes all states, here and where other machines find them."""
        states.remove_others(self.saving.folder, [])
        if self.saving.far is not None:
            with suppress(StoreError):
                self.saving.far.clear()

    def tell_fault(self, step: int) -> None:
        """Tells why other machines do not find the last state, once for as long as that lasts."""
        fault = self.saving.far.fault() if self.saving.far is not None else None
        if fault is not None:
            self._say(step, f"a saved state of training is on this machine alone ({fault}); training goes on, and tries the next")

    @contextmanager
    def in_place_of_the_trainers_own(self) -> Iterator[None]:
        """The trainer saves and loads with what is here while the context lasts."""
        own: dict[str, Callable[..., Any]] = {
            "_save_checkpoint": self._save,
            "_load_from_checkpoint": self._load_weights,
            "_load_optimizer_and_scheduler": self._load_optimizer,
            "_load_rng_state": self._load_randomness,
        }
        vars(self.trainer).update(own)
        try:
            yield
        finally:
            for name in own:
                del vars(self.trainer)[name]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Gives the trainer's loop its sums back, which begins with none, and tells again what was told before."""
        if self._found is None:
            return
        _give_loop_back(self.trainer, self._found.part(LOOP))
        told = [each for part in self.parts.values() for each in part.told()]
        for each in sorted(told, key=lambda each: each.step):
            self.emit(Measurement(each.stage, each.step, state.max_steps, each.values))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        far = self.saving.far
        interval_s = self.saving.every_s if far is None else far_interval_s(self.saving.every_s, far.took_s)
        is_due = time.perf_counter() - self._saved_at >= interval_s
        if state.global_step >= state.max_steps:  # where one was saved, the policy may be long in use before it is published
            control.should_save = (is_due or bool(self._saved)) and _ends_with_an_epoch(self.trainer)
        elif is_due and not control.should_training_stop:
            control.should_save = True

    def _save(self, model: Any, trial: Any) -> None:
        """Writes the state after a step and its log; training goes on where that fails."""
        step = self.trainer.state.global_step
        is_last = step >= self.trainer.state.max_steps
        if self.trainer.control.should_training_stop and not is_last:
            return  # told to stop by the log of this very step
        randomness, losses = workers.at_first(_randomness()), workers.at_first(self.trainer._tr_loss.cpu())
        weights, optimizer = sharding.whole(_trained_weights(self.trainer)), _optimizer(self.trainer)
        if workers.rank() == 0:
            self._write(step, weights, optimizer, randomness, torch.stack(losses).mean())
        self._saved_at = time.perf_counter()

    def _write(
        self, step: int, weights: dict[str, torch.Tensor], optimizer: Kept, randomness: list[Kept], loss: torch.Tensor
    ) -> None:
        loop = _loop(self.trainer)
        spent = {"spent_s": self.before_s + time.perf_counter() - self._begun, "resumed_at": self.resumed_at}
        kept = {
            WEIGHTS: Kept({}, weights),
            OPTIMIZER: optimizer,
            LOOP: Kept({**loop.values, **spent}, {"loss": loss}),
            **{f"{RANDOMNESS}{number}": each for number, each in enumerate(randomness)},
            **{name: part.kept() for name, part in self.parts.items()},
        }
        more = {TRAINER_STATE_NAME: _trainer_state(self.trainer.state)}
        try:
            self._saved.append(states.write(self.saving.folder, step, self._terms, kept, more))
        except TrainingError as error:
            self._say(step, f"{error}; training goes on, and is saved again later")
            return
        far = self.saving.far
        if far is not None:
            far.send(self._saved[-1].folder, self._terms)
            self.tell_fault(step)
        states.remove_others(self.saving.folder, self._saved, far.in_use() if far is not None else ())

    def _load_weights(self, folder: str, model: Any = None) -> None:
        assert self._found is not None
        weights = _trained_weights(self.trainer)
        saved = self._found.part(WEIGHTS).tensors
        if saved.keys() != weights.keys():
            raise TrainingError(f"the state in {folder} is of other weights than this model's; remove it and run again")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(sharding.part(saved[name], weight))

    def _load_optimizer(self, folder: str) -> None:
        assert self._found is not None
        _give_optimizer_back(self.trainer, self._found.part(OPTIMIZER))

    def _load_randomness(self, folder: str) -> None:
        assert self._found is not None
        _give_randomness_back(self._found.part(f"{RANDOMNESS}{workers.rank()}"))

    def _say(self, step: int, words: str) -> None:
        self.emit(Measurement(self.stage, step, None, {}, alarms=(words,)))


def far_interval_s(every_s: float, took_s: float) -> float:
    """Seconds from a save to the next where a state is on its way to other machines for `took_s`: what they go on from is then no
    older than `every_s`. No less than half of that, which is also taken as long as nobody knows how long the way is (infinity)."""
    return max(every_s - took_s, every_s / 2)


# What a trainer holds ---------------------------------------------------------------------------------------------------------


def _trained_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _trainer_state(state: TrainerState) -> str:
    """As transformers reads it: the counts of its loop."""
    return json.dumps(asdict(state) | {"stateful_callbacks": {}})


def _ends_with_an_epoch(trainer: Trainer) -> bool:
    """Whether training ends where an epoch does: from a last step within one, transformers would take one step too many."""
    return float(trainer.args.num_train_epochs).is_integer()


def _loop(trainer: Any) -> Kept:
    """The sums that the trainer's loop and TRL's log keep between two logs."""
    values = {
        "total_loss": trainer._total_loss_scalar,
        "logged_at": trainer._globalstep_last_logged,
        "metrics": {name: list(each) for name, each in trainer._metrics["train"].items()},
        "tokens": trainer._total_train_tokens,
    }
    return Kept(values)


def _give_loop_back(trainer: Any, kept: Kept) -> None:
    trainer._tr_loss.copy_(kept.tensors["loss"])
    trainer._total_loss_scalar = kept.values["total_loss"]
    trainer._globalstep_last_logged = kept.values["logged_at"]
    trainer._initial_global_step = 0  # its mean loss is then that of the whole run
    trainer._metrics["train"].update({name: list(each) for name, each in kept.values["metrics"].items()})
    trainer._total_train_tokens = kept.values["tokens"]


def _optimizer(trainer: Any) -> Kept:
    if zero.is_arranged(trainer):
        groups, tensors = zero.settings_of(trainer), zero.states(trainer)
    else:
        optimizer = trainer.optimizer.state_dict()
        groups = optimizer["param_groups"]
        named = {f"{weight}.{name}": value for weight, own in optimizer["state"].items() for name, value in own.items()}
        tensors = sharding.whole(named)
    return Kept({"groups": groups, "schedule": trainer.lr_scheduler.state_dict()}, tensors)


def _give_optimizer_back(trainer: Any, kept: Kept) -> None:
    is_zero = zero.is_arranged(trainer)
    fresh = zero.settings_of(trainer) if is_zero else trainer.optimizer.state_dict()["param_groups"]
    groups = [
        {name: tuple(value) if isinstance(now.get(name), tuple) else value for name, value in group.items()}
        for group, now in zip(kept.values["groups"], fresh, strict=True)
    ]
    if is_zero:
        zero.give_back(trainer, groups, kept.tensors)
    else:
        trainer.optimizer.load_state_dict({"state": _own_states(trainer.optimizer, kept.tensors), "param_groups": groups})
    trainer.lr_scheduler.load_state_dict(kept.values["schedule"])


def _own_states(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    """This worker's part of the states of each weight."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    for key, tensor in tensors.items():
        weight, name = key.split(".", 1)
        like = trained[int(weight)]
        state.setdefault(int(weight), {})[name] = sharding.part(tensor, like) if tensor.shape == like.shape else tensor
    return state


def _randomness() -> Kept:
    """All global random numbers: Python's, numpy's, torch's, its devices'."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    values = {"python": [version, words, gauss], "numpy": [kind, keys.tolist(), position, has_gauss, cached]}
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return Kept(values, {"cpu": torch.get_rng_state()} | {f"cuda.{number}": each for number, each in enumerate(devices)})


def _give_randomness_back(kept: Kept) -> None:
    version, words, gauss = kept.values["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = kept.values["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(kept.tensors["cpu"])
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{number}" in kept.tensors:
            torch.cuda.set_rng_state(kept.tensors[f"cuda.{number}"], number)
