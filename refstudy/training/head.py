"""Log-probs of tokens out of hidden states, where TRL's fused head has more to it than the work needs.

TRL computes logits in tiles and once more on the way back, so that those of a large vocabulary are never in memory whole. Where
they are few, this costs more than they weigh. Invariant: what comes out is what TRL's head gives, up to rounding.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
import trl.trainer.utils
from trl.trainer.utils import _ChunkedLogProbFunction

from refstudy.training.settings import replaced

MOST_LOGITS = 2**21
"""Logits of a forward pass that are held whole: 8 MiB in fp32. Beyond that tiles cost nothing."""


def whole() -> AbstractContextManager[None]:
    """Lets TRL's fused head hold few logits whole on a CPU while the context lasts; elsewhere TRL's kernels do its work."""
    return replaced(trl.trainer.utils, "_ChunkedLogProbFunction", _Head)


class _Head:
    """What TRL calls in place of its autograd function."""

    @staticmethod
    def apply(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk: int,
        softcap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> Any:
        """(log-probs, entropy in nats, log sum of squared probabilities, mean logit, is the target the likeliest), (N,) each; None
        for what `outputs` does not name. `hidden` (N, H), `weight` (V, H), `bias` (V,), `targets` (N,)."""
        is_plain = temperature == 1 and scale == 1 and softcap is None and "log_sum_sq_probs" not in outputs
        if hidden.device.type != "cpu" or not is_plain or len(hidden) * len(weight) > MOST_LOGITS:
            return _ChunkedLogProbFunction.apply(hidden, weight, bias, targets, temperature, chunk, softcap, scale, outputs)
        logits = F.linear(hidden, weight, bias).float()
        with torch.no_grad():
            mean = logits.mean(-1) if "mean_logits" in outputs else None
            likeliest = logits.argmax(-1) == targets if "is_top1" in outputs else None
        logps = logits.log_softmax(-1)
        del logits  # the way back does not need them
        with torch.no_grad():
            entropy = -(logps.exp().mul_(logps)).sum(-1) if "entropy" in outputs else None
        return logps.gather(-1, targets[:, None])[:, 0], entropy, None, mean, likeliest
