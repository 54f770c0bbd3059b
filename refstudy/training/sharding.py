"""A policy whose weights, gradients and optimizer states lie in parts on the workers that train it (FSDP2), and gathered again.

Invariant: what is computed is what every worker would compute with the whole policy, in the same precision; only where it lies
differs. Whatever gathers is asked for by all workers at once, or they would wait for each other for ever.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer

from refstudy.errors import TrainingError
from refstudy.training import workers


def arrange(trainer: Trainer) -> None:
    """Lets the trainer share its model out over all workers once it begins to train, as accelerate does it with FSDP2.

    It is told after it was built: transformers would hand accelerate the plugin at once, which takes it on GPUs alone, and TRL
    would then load a reference although a table stands for it. Weights, sums of gradients and optimizer states are fp32 as on one
    device, and the computation is cast by autocast, so that bf16 means the same on any number of workers.
    """
    state = trainer.accelerator.state
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each whole, on the first worker; nothing on the others, all of which must ask.

    Those that lie in parts are gathered one after another, and wait on the CPU: a device has no room for all of them.
    """
    found = {}
    for name, each in tensors.items():
        tensor = each.full_tensor().cpu() if isinstance(each, DTensor) else each
        if workers.rank() == 0:
            found[name] = tensor
    return found


def part(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This worker's part of a whole tensor that every worker has, laid out as `like`; the tensor itself where that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    placed = tensor.to(like.device_mesh.device_type)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None).clone()  # no view of the whole


def refuse_unshared_head(model: Any) -> None:
    """TrainingError where the head's weights are trained and were not gathered for this pass.

    TRL's fused head multiplies by the weights without calling the head. It then takes weights that lie in parts together by itself,
    and their gradient would be this worker's alone.
    """
    weight = model.get_output_embeddings().weight
    if isinstance(weight, DTensor) and weight.requires_grad:
        raise TrainingError(
            f"the head of {type(model).__name__} cannot be trained in parts; set resources.trial.sharding: none, or train a LoRA"
        )


class Outline:
    """An ordinary copy of a model without its weights, which is filled with gathered ones while it is needed."""

    def __init__(self, model: torch.nn.Module) -> None:
        """`model` is whole still."""
        empty = {
            name: torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
            for name, weight in model.named_parameters()
        }
        self.model = copy.deepcopy(model, {id(weight): empty[name] for name, weight in model.named_parameters()})
        names = {id(weight): name for name, weight in empty.items()}
        self._empty = empty
        self._places = [
            (module, key, names[id(weight)])
            for module in self.model.modules()
            for key, weight in module._parameters.items()
            if weight is not None
        ]

    def fill(self, model: torch.nn.Module) -> None:
        """Gathers the weights of a model in parts; the first worker's outline then has them. All workers must ask."""
        found = {}
        for name, weight in model.named_parameters():
            gathered = weight.full_tensor() if isinstance(weight, DTensor) else weight
            if workers.rank() == 0:
                found[name] = torch.nn.Parameter(gathered.detach(), requires_grad=weight.requires_grad)
        if found:
            self._put(found)

    @contextmanager
    def filled(self, model: torch.nn.Module) -> Iterator[torch.nn.Module]:
        """The ordinary model with the weights that `model` has now, while the context lasts."""
        self.fill(model)
        try:
            yield self.model
        finally:
            self._put(self._empty)

    def _put(self, weights: Mapping[str, torch.nn.Parameter]) -> None:
        for module, key, name in self._places:
            module._parameters[key] = weights[name]
