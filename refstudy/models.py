"""The one place where models and tokenizers are loaded and saved.

Invariant: weights come from safetensors, code never comes with a checkpoint, and a loaded tokenizer has a chat template and a
pad token; whatever lacks one of these is refused here with a remedy, not half way through a sweep.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, logging

from refstudy.chat import end_of_turn
from refstudy.checkpoints import Checkpoint, Precision, Source
from refstudy.errors import ModelError
from refstudy.memory import Shape

Tokenizer = PreTrainedTokenizerBase

logging.disable_progress_bar()  # a sweep loads hundreds of models; its own progress is measured elsewhere
logging.set_verbosity_error()  # what a checkpoint lacks is refused below, and a reward model's new head is meant


def load(checkpoint: Checkpoint, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """(causal language model in eval mode with its adapters merged, tokenizer with template and pad token).

    `device` None: the first GPU if there is one, or all devices if the checkpoint's `device_map` says so. Full fine-tuning wants
    fp32 weights also where it computes in bf16: AdamW's updates at usual rates are smaller than the spacing of bf16 weights.
    """
    _refuse_rounding(checkpoint, device)
    tokenizer = load_tokenizer(checkpoint)
    device = device or best_device()
    placed = _placed(checkpoint, device)
    model = _weights(AutoModelForCausalLM, checkpoint, checkpoint.precision, **placed)
    for adapter in checkpoint.adapters:
        _refuse_pickled(adapter)
        model = PeftModel.from_pretrained(model, adapter.path_or_name, revision=adapter.revision).merge_and_unload()
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return (model if placed else model.to(device)).eval(), tokenizer


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model wants its token ids: where the embedding is computed, wherever its weights wait until then."""
    embedding = model.get_input_embeddings()
    device = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return next(embedding.parameters()).device if device is None else torch.device(device)


def load_reward_model(
    checkpoint: Checkpoint, precision: Precision = "fp32", device: str | None = None, new_head: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """(sequence classifier with one output, in eval mode, tokenizer). With `new_head` the checkpoint may be a causal one: the head
    is then drawn from torch's global generator, which the caller seeds."""
    tokenizer = load_tokenizer(checkpoint)
    may_lack = ("score",) if new_head else ()
    model = _weights(AutoModelForSequenceClassification, checkpoint, precision, may_lack, num_labels=1)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model.to(device or best_device()).eval(), tokenizer


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, under the checkpoint's `template` if it names one; its end token pads if it has no pad token."""
    name = checkpoint.path_or_name
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=checkpoint.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"checkpoint {name!r} has no tokenizer that can be loaded ({_first_line(error)}); expected tokenizer.json and "
            "tokenizer_config.json beside its weights: save the tokenizer into the checkpoint's folder"
        ) from error
    if checkpoint.template is not None:
        tokenizer.chat_template = checkpoint.template
    if not tokenizer.chat_template:
        raise ModelError(
            f"checkpoint {name!r} has no chat template; expected one in its tokenizer: give the model's entry a `template`, "
            "or fine-tune the base model by an `sft` block with a template"
        )
    if len(tokenizer) == 0:
        raise ModelError(f"checkpoint {name!r} has an empty tokenizer; expected tokenizer.json beside its weights")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)[-1])
    tokenizer.padding_side = "right"
    return tokenizer


def shape(checkpoint: Checkpoint) -> Shape:
    """The model's size by its configuration; no weight is read."""
    name = checkpoint.path_or_name
    try:
        config = AutoConfig.from_pretrained(name, revision=checkpoint.revision, trust_remote_code=False)
        return shape_of(lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"checkpoint {name!r} has no configuration that can be read ({_first_line(error)}); expected the config.json of an "
            "architecture that transformers knows, without code of its own"
        ) from error


def shape_of(build: Callable[[], PreTrainedModel]) -> Shape:
    """The size of the model that `build` would make; its weights are declared and never drawn."""
    with torch.device("meta"):
        model = build()
    config = model.config.get_text_config()
    return Shape(
        parameters=model.num_parameters(),
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
        context_tokens=getattr(config, "max_position_embeddings", None),
    )


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes an ordinary checkpoint (or, for a peft model, its adapter) with tokenizer, chat template and end tokens."""
    if not isinstance(model, PeftModel) and any(".lora_" in name for name, _ in model.named_parameters()):
        raise AssertionError("a model with adapters inside is no ordinary checkpoint: merge_and_unload it, or save the peft model")
    generation = getattr(model, "generation_config", None)
    if generation is not None and not isinstance(model, PeftModel):
        generation.eos_token_id = end_ids(model, tokenizer)
        generation.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an answer: the template's end of turn, the tokenizer's end token, the model's own, sorted."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own_ids = own if isinstance(own, list) else [own]
    turn = end_of_turn(tokenizer)[-1:] if tokenizer.chat_template else []  # a base model before its fine-tuning has none
    return sorted({each for each in (*own_ids, tokenizer.eos_token_id, *turn) if each is not None})


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _refuse_rounding(checkpoint: Checkpoint, device: str | None) -> None:
    """ModelError where the checkpoint cannot be loaded in the precision that its recipe names: never is it loaded in another."""
    name = checkpoint.path_or_name
    if checkpoint.quantise is not None:
        if checkpoint.adapters:
            raise ModelError(
                f"checkpoint {name!r} has an adapter, which cannot be merged into {checkpoint.quantise} weights; merge it into its "
                "base and name the merged checkpoint, or use precision: bf16"
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ModelError(
                f"checkpoint {name!r} is asked for in {checkpoint.quantise}, which needs bitsandbytes, and that is not installed; "
                "run `pip install 'refstudy[quantise]'` on all nodes, or use precision: bf16"
            )
        if device is None and not torch.cuda.is_available():  # bitsandbytes knows CPUs too, too slowly for a table
            raise ModelError(
                f"checkpoint {name!r} is asked for in {checkpoint.quantise}, which needs a GPU, and its task has none; give the "
                "entry resources with gpus, or use precision: bf16"
            )
    if checkpoint.precision == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ModelError(
            f"checkpoint {name!r} is asked for in bf16, which {torch.cuda.get_device_name()} does not compute in; use "
            "precision: fp32, or another GPU"
        )


def _placed(checkpoint: Checkpoint, device: str) -> dict[str, Any]:
    """What transformers must know to put the weights in their place while it reads them; nothing for a model on one device."""
    options: dict[str, Any] = {}
    if checkpoint.device_map is not None:
        options["device_map"] = checkpoint.device_map
    if checkpoint.quantise is not None:
        options = {"device_map": {"": device}, "quantization_config": _quantisation(checkpoint), **options}
    return options


def _quantisation(checkpoint: Checkpoint) -> BitsAndBytesConfig:
    """bitsandbytes' settings: LLM.int8() (arXiv 2208.07339), or 4-bit NormalFloat (arXiv 2305.14314)."""
    if checkpoint.quantise == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=_dtype(checkpoint.precision))


def _dtype(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _weights(auto_class: Any, checkpoint: Checkpoint, precision: Precision, may_lack: tuple[str, ...] = (), **options: Any) -> Any:
    """The model; transformers would draw weights that the files lack at random, and only log it: here that is an error."""
    name = checkpoint.path_or_name
    try:
        model, found = auto_class.from_pretrained(
            name,
            revision=checkpoint.revision,
            dtype=_dtype(precision),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"checkpoint {name!r} cannot be loaded ({_first_line(error)}); expected config.json and safetensors weights of an "
            "architecture that transformers knows, without code of its own"
        ) from error
    lacking = sorted(key for key in found["missing_keys"] if not key.startswith(may_lack or ("\0",)))
    if lacking:
        raise ModelError(
            f"checkpoint {name!r} lacks {len(lacking)} of its weights (first: {lacking[0]!r}); expected a whole model of the "
            "architecture in its config.json: save it again, an adapter merged"
        )
    return model


def _refuse_pickled(adapter: Source) -> None:
    """ModelError for an adapter without safetensors: peft would take a pickle in their place."""
    name = adapter.path_or_name
    try:
        cached_file(name, "adapter_model.safetensors", revision=adapter.revision)
    except OSError as error:
        raise ModelError(
            f"adapter {name!r} has no adapter_model.safetensors ({_first_line(error)}); weights in pickles are not loaded: "
            "save the adapter again, as peft does by itself today"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
