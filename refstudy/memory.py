"""How much memory a model takes, from its shape alone: to score pairs with it, and to train it.

Invariant: estimates from published formulas with the sources beside them, in bytes, of one device; what frameworks and drivers
take for themselves (a CUDA context: half a GiB and more) is not in them.
"""

import math
from dataclasses import dataclass
from typing import Literal

from refstudy.recipes import Lora, Training

Sharding = Literal["none", "fsdp", "deepspeed"]
"""How a policy lies on several workers while it trains, as `resources.trial.sharding` names it."""

FP32_BYTES = 4
"""Weights are loaded in fp32, for scoring as for training, unless a reference's entry rounds them."""
ROUNDED_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "nf4": 0.5}
"""Of a weight, by `precision` or `quantise`; what is not quantised (embeddings, norms) is counted as if it were."""
BUCKET = 50_000_000
"""Gradients that DeepSpeed sums over the workers at a time: 200 MB of each worker's memory at most."""
OPTIMIZER_BYTES = 8
"""AdamW's two moments of a trained weight, in fp32 (Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, section 3.1)."""
ACTIVATION_HALVES = 34
"""16-bit numbers' worth of bytes that a transformer layer keeps a token and hidden unit: 34 s b h bytes a layer in 16 bit
(Korthikanti et al. 2022, arXiv 2205.05198, equation 1). The attention matrix, its 5 a s / h, is not kept: fused attention
computes it anew."""
CHECKPOINT_HALVES = 2
"""With checkpointing a layer keeps its input alone, 2 s b h bytes in 16 bit (the same, section 5)."""
LOGIT_COPIES = 3
"""Logits of all kept places, those of answers picked out of them, and their log-softmax stand in memory at once, in fp32."""


@dataclass(frozen=True)
class Shape:
    """What a model's configuration says about its size."""

    parameters: int
    hidden: int
    layers: int
    feed_forward: int
    vocabulary: int
    context_tokens: int | None
    """The longest text that it takes; None: no limit is declared."""


def scoring_bytes(shape: Shape, batch_tokens: int, logit_values: int, weight_bytes: float = FP32_BYTES) -> int:
    """Upper bound of what a scoring pass takes: weights, one batch's logits, one layer's activations.

    w P + 3 * 4 n V + 2 * 34 n h with w bytes a weight and n = min(batch_tokens, logit_values / V) padded tokens of a batch, V the
    vocabulary: no gradient is kept, so one layer's activations stand at a time, here in fp32 (twice the bytes of
    ACTIVATION_HALVES).
    """
    tokens = max(1, min(batch_tokens, logit_values // shape.vocabulary))
    logits = LOGIT_COPIES * FP32_BYTES * tokens * shape.vocabulary
    return math.ceil(weight_bytes * shape.parameters) + logits + 2 * ACTIVATION_HALVES * tokens * shape.hidden


def training_bytes(shape: Shape, train: Training, max_length: int, workers: int = 1, sharding: Sharding = "none") -> int:
    """Upper bound of what training the policy takes on each worker; no reference is in memory, whichever it is.

    `held_bytes` and the activations of one micro batch of pairs, both answers each with its prompt: s = 2 * pairs * max_length
    tokens; L layers keep 34 s h bytes each in 16 bit, twice that in fp32; with checkpointing 2 s h each and one layer whole. The
    logits are not counted: TRL's fused head never builds many of them whole, and of few (`training.head`) all takes 35 MB at most.
    """
    adapter = None if train.lora is None else lora_parameters(shape, train.lora)
    tokens = 2 * (train.micro_batch or math.ceil(train.batch_size / workers)) * max_length
    halves = ACTIVATION_HALVES * shape.layers
    if train.checkpointing:
        halves = CHECKPOINT_HALVES * shape.layers + ACTIVATION_HALVES
    activations = halves * tokens * shape.hidden * (1 if train.precision == "bf16" else 2)
    return held_bytes(shape.parameters, adapter, workers, sharding) + activations


def held_bytes(parameters: int, adapter: int | None, workers: int = 1, sharding: Sharding = "none") -> int:
    """Weights, gradients and AdamW's moments that each worker holds while it trains, whatever the batch.

    One worker, full: weights 4 P, gradients 4 P, moments 8 P. LoRA: weights 4 P and 16 bytes for each of the adapter's own. Several
    workers under DDP: 4 bytes more for each trained weight, its gradient in DDP's buckets (Li et al. 2020, arXiv 2006.15704,
    section 3.2.3). By fsdp over N: an Nth of all this (ZeRO's stage 3; Rajbhandari et al. 2020, arXiv 1910.02054, section 5.3), but
    not less than 4 P, since each worker loads the weights whole before. By deepspeed (stage 2; the same, section 5.2) weights are
    whole, 4 P, and of each trained weight there is an Nth of 16 bytes, for its gradient, its moments and a copy that the optimizer
    changes, beside a bucket of gradients.
    """
    trained = parameters if adapter is None else adapter
    held = FP32_BYTES * parameters + (FP32_BYTES + OPTIMIZER_BYTES) * trained
    if adapter is not None:
        held += FP32_BYTES * adapter
    if workers == 1:
        return held
    if sharding == "fsdp":
        return max(FP32_BYTES * parameters, math.ceil(held / workers))
    if sharding == "deepspeed":
        whole = held - (FP32_BYTES + OPTIMIZER_BYTES) * trained
        return whole + math.ceil((2 * FP32_BYTES + OPTIMIZER_BYTES) * trained / workers) + FP32_BYTES * min(BUCKET, trained)
    return held + FP32_BYTES * trained


def lora_parameters(shape: Shape, lora: Lora) -> int:
    """Upper bound of an adapter's weights: r (inputs + outputs) of each linear layer (Hu et al. 2021, arXiv 2106.09685, section
    4.1), for four square projections of attention and three of the feed-forward part in every layer."""
    a_layer = 4 * 2 * shape.hidden + 3 * (shape.hidden + shape.feed_forward)
    return lora.rank * a_layer * shape.layers


def gb(count: float) -> float:
    """Bytes as 1e9 bytes, rounded up to three digits: an upper bound stays one."""
    if count <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(count / 1e9)) - 2)
    return float(f"{math.ceil(count / 1e9 / digit) * digit:.3g}")
