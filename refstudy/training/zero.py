"""A policy whose gradients and optimizer states lie in parts on the workers that train it, its weights whole on each (ZeRO's stage
2 by DeepSpeed), and the optimizer's states gathered again.

Invariant: as in `sharding`, what is computed is what every worker would compute with all of it, and whatever gathers is asked for
by all workers at once. Source: Rajbhandari et al. 2020, arXiv 1910.02054, section 5.2.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from accelerate.state import PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType
from transformers import Trainer

from refstudy.errors import TrainingError
from refstudy.memory import BUCKET
from refstudy.training import workers


def refuse_absent() -> None:
    """TrainingError where DeepSpeed is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise TrainingError(
            "resources.trial.sharding is deepspeed, and DeepSpeed is not installed; run `pip install 'refstudy[deepspeed]'` on all "
            "nodes, or set sharding: fsdp"
        )


def arrange(trainer: Trainer) -> None:
    """Lets the trainer share gradients and optimizer states out over all workers once it begins to train.

    As `sharding.arrange` does, it tells accelerate alone, after the trainer was built: through transformers' own arguments the
    rules for batches, saved states and TRL's reference would change too. Weights, sums of gradients and optimizer states stay
    fp32, and bf16 is autocast, as on one device.
    """
    refuse_absent()
    args, state = trainer.args, trainer.accelerator.state
    trained = sum(weight.numel() for weight in cast(torch.nn.Module, trainer.model).parameters() if weight.requires_grad)
    bucket = min(BUCKET, trained)
    settings: dict[str, Any] = {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket},
        "gradient_clipping": args.max_grad_norm,
        "train_micro_batch_size_per_gpu": args.per_device_train_batch_size,
        "gradient_accumulation_steps": "auto",
        "steps_per_print": 2**31,
    }
    if args.bf16:
        # No module's gradients are sent in bf16.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    plugin = DeepSpeedPlugin(hf_ds_config=settings)
    plugin.select(_from_accelerator_state=True)
    state.deepspeed_plugins = {"default": plugin}
    trainer.accelerator.deepspeed_engine_wrapped = None  # as it begins where it was told at once
    state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED


def is_arranged(trainer: Trainer) -> bool:
    return trainer.accelerator.distributed_type == DistributedType.DEEPSPEED


def release(trainer: Trainer) -> None:
    """Makes the policy an ordinary model again, whose weights have memory of their own."""
    cast(Any, trainer.model_wrapped).destroy()
    for weight in cast(torch.nn.Module, trainer.model).parameters():
        if weight.requires_grad:
            weight.data = weight.data.clone()


def settings_of(trainer: Trainer) -> list[dict[str, Any]]:
    """The optimizer's groups of weights, with their settings."""
    return _optimizer(trainer).optimizer.state_dict()["param_groups"]


def states(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The optimizer's states by the number of their weight and their own name, each whole, on the first worker's CPU; nothing on
    the others, all of which must ask."""
    from deepspeed.utils import safe_get_full_optimizer_state

    zero = _optimizer(trainer)
    _link(zero)
    found = {}
    for number, weight, state in _weights(zero):
        for name, value in state.items():
            gathered = value if value.dim() == 0 else safe_get_full_optimizer_state(weight, name)
            if workers.rank() == 0:
                found[f"{number}.{name}"] = gathered.cpu()
    return found


def give_back(trainer: Trainer, groups: list[dict[str, Any]], tensors: Mapping[str, torch.Tensor]) -> None:
    """Gives every worker its part of states that `states` gave, and the groups their settings."""
    from deepspeed.utils import safe_set_full_optimizer_state

    zero = _optimizer(trainer)
    zero.optimizer.load_state_dict({"state": {}, "param_groups": groups})
    names = {name: tensor for key, tensor in tensors.items() for number, name in [key.split(".", 1)] if number == "0"}
    for group in zero.optimizer.param_groups:
        for part in group["params"]:
            zero.optimizer.state[part] = {
                name: tensor.clone() if tensor.dim() == 0 else torch.zeros_like(part) for name, tensor in names.items()
            }
    _link(zero)
    for number, weight, state in _weights(zero):
        for name, value in state.items():
            if value.dim() > 0:
                safe_set_full_optimizer_state(weight, tensors[f"{number}.{name}"].to(value.device), name)


def _optimizer(trainer: Trainer) -> Any:
    """DeepSpeed's, around torch's own, whose weights are this worker's part of each group's, end to end."""
    return cast(Any, trainer.optimizer).optimizer


def _link(zero: Any) -> None:
    """Tells each weight where its states lie; DeepSpeed does so after the first group's first step, when others have none yet."""
    zero._hp_optimizer_states_linked = False
    zero._lazy_init_hp_params_optimizer_state()


def _weights(zero: Any) -> Iterator[tuple[int, torch.nn.Parameter, dict[str, torch.Tensor]]]:
    """Each trained weight with its number, in the optimizer's order, and the states of its group's part."""
    number = 0
    for group, part in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        for weight in group:
            yield number, weight, zero.optimizer.state[part]
            number += 1
