"""Several workers that train one policy with the same steps as one: what share of a step's pairs each has, and what they say.

Invariant: every worker goes through the same batches in the same order and takes its rows of each, so that a step has the same
pairs whatever their number. Whoever starts the workers gives them a torch process group; without one there is one worker.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as group
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from refstudy.training.settings import replaced

Said = TypeVar("Said")
GATHER = "gather"
"""What the first worker says where it wants the policy whole in the middle of a training."""


def count() -> int:
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def rank() -> int:
    """This worker's number; the first, 0, is the one that tells, saves and publishes."""
    return group.get_rank() if count() > 1 else 0


def from_first(said: Said) -> Said:
    """What the first worker says, to every worker; each of them must ask."""
    if count() == 1:
        return said
    words = [said]
    group.broadcast_object_list(words, src=0)
    return words[0]


def at_first(said: Said) -> list[Said]:
    """What each worker says, by rank, to the first; nothing to the others."""
    if count() == 1:
        return [said]
    words: list[Any] | None = [None] * count() if rank() == 0 else None
    group.gather_object(said, words, dst=0)
    return words or []


def take_device() -> None:
    """Makes this worker's GPU, if there are some, the one that models are loaded to."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def call(task: Any) -> None:
    """The first worker asks the others to take part in a task."""
    from_first(task)


def called() -> Any:
    """What the first worker asks for next; None: nothing more."""
    return from_first(None)


def dismiss() -> None:
    """The first worker needs the others no more."""
    from_first(None)


def own_rows(rows: int) -> list[int]:
    """The rows of a batch that are this worker's: every so manyth."""
    return list(range(rank(), rows, count()))


def share(inputs: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """This worker's pairs of a batch of so many; its first one, which must count for nothing, where none is this worker's.

    Tensors have a row for each pair, or the chosen answers' rows and then the rejected ones'.
    """
    own = own_rows(rows) or [0]
    both = torch.tensor([*own, *(rows + each for each in own)])
    return {name: each[(both if len(each) == 2 * rows else both[: len(own)]).to(each.device)] for name, each in inputs.items()}


def whole(own: torch.Tensor, rows: int) -> torch.Tensor:
    """Values (..., rows) of a whole batch in its order, out of what each worker has of its rows (..., N)."""
    if count() == 1:
        return own
    width = -(-rows // count())
    sent = own.new_zeros((*own.shape[:-1], width))
    mine = len(own_rows(rows))
    sent[..., :mine] = own[..., :mine]
    parts = [torch.zeros_like(sent) for _ in range(count())]
    group.all_gather(parts, sent.contiguous())
    found = own.new_zeros((*own.shape[:-1], rows))
    for number, part in enumerate(parts):
        found[..., number :: count()] = part[..., : len(range(number, rows, count()))]
    return found


@contextmanager
def gathering(accelerator: Accelerator, rows: int) -> Iterator[None]:
    """Lets TRL's measures be those of the whole batch: its own gathering wants the same number of rows of every worker."""

    def gather(own: torch.Tensor) -> torch.Tensor:
        if own.dim() > 0:
            return whole(own, rows)
        counted = own if own_rows(rows) else torch.zeros_like(own)
        parts = [torch.zeros_like(counted) for _ in range(count())]
        group.all_gather(parts, counted)
        return torch.stack(parts)

    if count() == 1:
        yield
        return
    with replaced(accelerator, "gather", gather), replaced(accelerator, "gather_for_metrics", gather):
        yield


@contextmanager
def whole_batches(accelerator: Accelerator) -> Iterator[None]:
    """Lets a trainer's data loader give every worker the whole of each batch."""

    def prepare(loader: DataLoader) -> DataLoader:
        return prepare_data_loader(
            loader,
            accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=accelerator.device_placement,
            rng_types=None,
            use_seedable_sampler=accelerator.use_seedable_sampler,
            data_seed=accelerator.dataloader_config.data_seed,
        )

    if count() == 1:
        yield
        return
    with replaced(accelerator, "prepare", prepare):
        yield


class InStep(TrainerCallback):
    """Lets all workers end and save at the step at which the first one does, and take part where it gathers the policy by the
    callbacks before. The last callback of each."""

    def __init__(self, trainer: Any, gather: Callable[[], None] = lambda: None) -> None:
        self.trainer, self.gather = trainer, gather

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_training_stop, control.should_save = self._said((control.should_training_stop, control.should_save))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_training_stop = self._said(control.should_training_stop)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._said(None)

    def _said(self, said: Any) -> Any:
        """What the first worker says once it gathers no more."""
        while (words := from_first(said)) == GATHER:
            self.gather()
        return words

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The loss since the last log is each worker's own, and so it would go into the mean of the run."""
        group.all_reduce(self.trainer._tr_loss)
        self.trainer._tr_loss /= count()


def only_first(work: Callable[[], Said]) -> Said | None:
    """What the work of the first worker gives; the others do nothing."""
    return work() if rank() == 0 else None
