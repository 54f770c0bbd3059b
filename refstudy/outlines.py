"""What is known of a model before its weights are loaded: how it reads conversations, and its size.

Invariant: nothing is trained and no weight is read. A model that is still to be made is known from what makes it: a fine-tuned one
from its start, a pretrained one from its tokenizer, which is built from text in a moment, and its architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from refstudy import checkpoints, hub, models, pretraining, recipes
from refstudy.checkpoints import Checkpoint, SystemRole
from refstudy.errors import ModelError
from refstudy.memory import Shape
from refstudy.miniature import architecture, tokenizer, world
from refstudy.models import Tokenizer
from refstudy.store import Store
from refstudy.texts import Pair

ReadPairs = Callable[[recipes.Preferences], list[Pair]]


@dataclass(frozen=True)
class Outline:
    """A model's tokenizer with its chat template, and its shape."""

    tokenizer: Tokenizer
    system_role: SystemRole
    shape: Shape
    is_made: bool
    """Whether its weights exist."""


def outline(model: recipes.Model, store: Store, pairs: ReadPairs, template: str | None = None) -> Outline:
    """What is known of `model`; `pairs` reads the text that a scratch model's tokenizer is made from.

    `template` goes before the model's own, as it does where the model is a fine-tuning's start. ModelError if the checkpoint has
    no tokenizer, no chat template or no configuration that can be read.
    """
    match model:
        case recipes.Rounded(model=whole):
            return outline(whole, store, pairs, template)
        case recipes.Hub() | recipes.Local() | recipes.Adapter():
            return _existing(model, checkpoints.checkpoint(model, store), template)
        case _ if store.has(model):
            return _existing(model, checkpoints.checkpoint(model, store), template)
        case recipes.Sft():
            return replace(outline(model.start, store, pairs, template or model.template), is_made=False)
        case recipes.Dpo():
            return replace(outline(model.start, store, pairs, template), is_made=False)
        case recipes.Pretrained():
            found = _pretrained(model)
        case recipes.Scratch():
            found = _scratch(model, pairs(model.text))
    found.tokenizer.chat_template = template or found.tokenizer.chat_template
    return found


def _pretrained(model: recipes.Pretrained) -> Outline:
    words = tokenizer.build(world.draw(model.world), model.family)
    return Outline(words, "keep", models.shape_of(lambda: architecture.build(model.family, model.size, words)), is_made=False)


def _scratch(model: recipes.Scratch, pairs: list[Pair]) -> Outline:
    words = pretraining.tokenizer(model, pairs)
    return Outline(words, "keep", models.shape_of(lambda: pretraining.architecture(model, words)), is_made=False)


def _existing(model: recipes.Model, at: Checkpoint, template: str | None) -> Outline:
    at = replace(at, template=template or at.template)
    try:
        return Outline(models.load_tokenizer(at), at.system_role, models.shape(at), is_made=True)
    except ModelError as error:
        if isinstance(model, recipes.Hub) and hub.is_offline():
            raise ModelError(_out_of_reach(model)) from error
        raise


def _out_of_reach(model: recipes.Hub) -> str:
    return (
        f"{model.model} (revision {model.revision}) is not in the cache of this machine, and the Hugging Face hub is out of reach "
        f"(or {hub.OFFLINE} is set); expected its tokenizer and config.json: connect, or give a folder in its place"
    )
