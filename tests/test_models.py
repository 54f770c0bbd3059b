import dataclasses
import importlib.util
import json

import accelerate
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from refstudy import models, scoring, token_pairs
from refstudy.checkpoints import Checkpoint, Source
from refstudy.errors import ModelError
from tests import tiny


@pytest.fixture
def saved(tmp_path):
    words = tiny.tokenizer()
    models.save(tiny.llama(words), words, tmp_path / "model")
    return tmp_path / "model"


def test_saved_checkpoint_is_an_ordinary_one_and_loads_again(saved):
    names = {path.name for path in saved.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names
    model, words = models.load(Checkpoint(str(saved)), device="cpu")
    assert words.chat_template == tiny.TEMPLATE
    assert not model.training
    assert json.loads((saved / "generation_config.json").read_text())["eos_token_id"] == [words.eos_token_id]


def test_template_of_the_checkpoint_takes_the_place_of_its_own(saved):
    assert models.load_tokenizer(Checkpoint(str(saved), template=tiny.TEMPLATE + " ")).chat_template == tiny.TEMPLATE + " "


def test_checkpoint_without_chat_template_is_refused_with_the_remedy(saved):
    (saved / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"no chat template.*give the model's entry a `template`"):
        models.load_tokenizer(Checkpoint(str(saved)))


def test_checkpoint_without_tokenizer_is_refused(saved):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (saved / name).unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        models.load_tokenizer(Checkpoint(str(saved)))


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="tokenizer"):
        models.load(Checkpoint(str(tmp_path / "nowhere")))


def test_pickled_weights_are_refused(saved):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load(Checkpoint(str(saved)))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 still reads transformers' old name
def test_pickled_adapter_is_refused(saved, tmp_path):
    base, words = models.load(Checkpoint(str(saved)), device="cpu")
    models.save(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")), words, tmp_path / "a")
    torch.save(load_file(tmp_path / "a" / "adapter_model.safetensors"), tmp_path / "a" / "adapter_model.bin")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors .*weights in pickles are not loaded"):
        models.load(Checkpoint(str(saved), adapters=(Source(str(tmp_path / "a")),)), device="cpu")


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
"""


def test_code_that_comes_with_a_checkpoint_is_refused_and_never_runs(saved):
    """An architecture of its own, as a checkpoint names it that wants trust_remote_code."""
    config = json.loads((saved / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    (saved / "config.json").write_text(json.dumps(config | {"model_type": "own", "architectures": ["Own"], "auto_map": own}))
    (saved / "modeling_own.py").write_text(CODE)
    with pytest.raises(ModelError, match=r"without code of its own|no tokenizer that can be loaded"):
        models.load(Checkpoint(str(saved)))
    with pytest.raises(ModelError, match="without code of its own"):
        models.shape(Checkpoint(str(saved)))
    assert not list(saved.parent.rglob("ran"))


def test_checkpoint_that_lacks_weights_is_refused_and_not_filled_at_random(saved):
    weights = load_file(saved / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights .*up_proj"):
        models.load(Checkpoint(str(saved)))


def test_causal_checkpoint_is_no_reward_model_unless_a_new_head_is_wanted(saved):
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        models.load_reward_model(Checkpoint(str(saved)))
    model, _ = models.load_reward_model(Checkpoint(str(saved)), device="cpu", new_head=True)
    assert model.config.num_labels == 1


def test_tied_weights_are_not_missed(tmp_path):
    words = tiny.tokenizer()
    config = tiny.llama(words).config
    config.tie_word_embeddings = True
    models.save(LlamaForCausalLM(config), words, tmp_path)
    model, _ = models.load(Checkpoint(str(tmp_path)), device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_end_token_pads_where_there_is_no_pad_token(saved):
    config = json.loads((saved / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (saved / "tokenizer_config.json").write_text(json.dumps(config))
    words = models.load_tokenizer(Checkpoint(str(saved)))
    assert words.pad_token == "<|end|>"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 still reads transformers' old name
def test_adapter_is_merged_into_its_base(saved, tmp_path):
    base, words = models.load(Checkpoint(str(saved)), device="cpu")
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, lora).eval()
    with pytest.raises(AssertionError, match="merge_and_unload"):
        models.save(adapted.get_base_model(), words, tmp_path / "broken")
    models.save(adapted, words, tmp_path / "adapter")
    ids = torch.tensor([[7, 8, 9]])
    expected = adapted(ids).logits
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    merged, _ = models.load(Checkpoint(str(saved), adapters=(Source(str(tmp_path / "adapter")),)), device="cpu")
    assert torch.allclose(merged(ids).logits, expected, atol=1e-4)


# Rounded weights, and models that lie in several places ---------------------------------------------------------------------------


def scores(checkpoint, pairs, batch_tokens=None):
    """(2N,) log-prob sums, chosen then rejected, as a reference of that checkpoint has them."""
    model, words = models.load(checkpoint, device="cpu")
    table = scoring.score_pairs(model, words, pairs, batch_tokens=batch_tokens).table
    return np.concatenate([table.chosen_logp_sum, table.rejected_logp_sum])


@pytest.fixture(scope="module")
def pairs():
    return token_pairs.tokenise(tiny.pairs(20), tiny.tokenizer(), max_length=40)


def test_bf16_sums_lie_close_to_those_of_fp32(saved, pairs):
    """Sums of about 50 nats over 8 tokens; bf16 keeps 8 bits, so that a logit of 8 is off by up to 1/64."""
    model, _ = models.load(Checkpoint(str(saved), precision="bf16"), device="cpu")
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    apart = np.abs(scores(Checkpoint(str(saved), precision="bf16"), pairs) - scores(Checkpoint(str(saved)), pairs))
    assert 1e-4 < apart.mean() < 0.15
    assert apart.max() < 0.6


def test_bf16_is_refused_on_a_gpu_that_does_not_compute_in_it(saved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ModelError, match=r"asked for in bf16, which Tesla T4 does not compute in; use precision: fp32"):
        models.load(Checkpoint(str(saved), precision="bf16"))


@pytest.mark.parametrize(
    ("has_bitsandbytes", "adapters", "message"),
    [
        (False, (), r"needs bitsandbytes, and that is not installed; run `pip install 'refstudy\[quantise\]'`"),
        (True, (), r"needs a GPU, and its task has none; give the entry resources with gpus, or use precision: bf16"),
        (True, (Source("somewhere"),), r"has an adapter, which cannot be merged into nf4 weights; merge it into its base"),
    ],
)
def test_quantised_loading_is_refused_in_words(saved, monkeypatch, has_bitsandbytes, adapters, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_bitsandbytes else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=message):
        models.load(Checkpoint(str(saved), quantise="nf4", adapters=adapters))


@pytest.mark.parametrize(("quantise", "most_nats"), [("int8", 0.5), ("nf4", 6.0)])
@pytest.mark.filterwarnings("ignore::UserWarning")  # bitsandbytes casts 8-bit products to fp16 and says so
def test_quantised_model_scores_about_as_the_whole_one(tmp_path, pairs, quantise, most_nats):
    """On a CPU, which bitsandbytes knows too; sums of about 50 nats."""
    pytest.importorskip("bitsandbytes")
    words = tiny.tokenizer()
    models.save(tiny.llama(words, hidden=64), words, tmp_path)
    whole = Checkpoint(str(tmp_path))
    apart = np.abs(scores(dataclasses.replace(whole, quantise=quantise), pairs) - scores(whole, pairs))
    assert 0.001 < apart.mean() < most_nats


def test_device_map_auto_scores_as_one_device_does(saved, pairs):
    """Here accelerate finds one device; where it finds several, the hooks of the next test are what spreads a model."""
    spread = Checkpoint(str(saved), device_map="auto")
    assert models._placed(spread, "cpu") == {"device_map": "auto"}
    assert scores(spread, pairs) == pytest.approx(scores(Checkpoint(str(saved)), pairs), abs=1e-5)


def test_model_whose_weights_wait_elsewhere_is_given_its_tokens_where_it_computes(saved, pairs):
    """Offloaded, its parameters lie on no device at all until a layer is computed."""
    model, words = models.load(Checkpoint(str(saved)), device="cpu")
    whole = scoring.score_pairs(model, words, pairs).table
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    assert models.input_device(model) == torch.device("cpu")
    offloaded = scoring.score_pairs(model, words, pairs).table
    assert offloaded.chosen_logp_sum == pytest.approx(whole.chosen_logp_sum, abs=1e-5)
