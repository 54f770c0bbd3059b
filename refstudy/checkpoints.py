"""Where a model recipe's weights lie: the one place that turns a recipe into names that transformers can load.

Invariant: no torch here, so that planning can ask. Chat template and system handling follow the model through every training:
what is trained from a start speaks as its start does.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from refstudy import content, recipes
from refstudy.errors import ModelError

SystemRole = Literal["keep", "merge"]
Precision = Literal["fp32", "bf16"]
Quantisation = Literal["int8", "nf4"]

ADAPTER_FILE = "adapter_config.json"


class HasPaths(Protocol):
    """The part of a store that is needed here: where an artefact lies."""

    def path(self, recipe: recipes.Recipe) -> Path: ...


@dataclass(frozen=True)
class Source:
    """A folder, or a name on the hub with its revision."""

    path_or_name: str
    revision: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What must be loaded to have a model: a base and the adapters merged into it, in order."""

    path_or_name: str
    revision: str | None = None
    template: str | None = None
    """Jinja chat template that takes the place of the checkpoint's own; None: its own."""
    system_role: SystemRole = "keep"
    adapters: tuple[Source, ...] = ()
    precision: Precision = "fp32"
    quantise: Quantisation | None = None
    device_map: Literal["auto"] | None = None
    """auto: layers are spread over all devices; None: the model lies on one."""


def checkpoint(recipe: recipes.Model, store: HasPaths) -> Checkpoint:
    """Where the model of `recipe` lies, how it wants its conversations written, and the adapters on top of it.

    A local folder is compared with its recipe, byte for byte: ModelError if its files are others by now.
    """
    match recipe:
        case recipes.Hub():
            return Checkpoint(recipe.model, recipe.revision, recipe.template, recipe.system_role, device_map=recipe.device_map)
        case recipes.Local():
            unchanged = _unchanged(recipe)
            return Checkpoint(unchanged, None, recipe.template, recipe.system_role, device_map=recipe.device_map)
        case recipes.Rounded():
            return replace(checkpoint(recipe.model, store), precision=recipe.precision, quantise=recipe.quantise)
        case recipes.Adapter():
            return _with_adapter(checkpoint(recipe.base, store), recipe.adapter)
        case recipes.Pretrained() | recipes.Scratch():
            return Checkpoint(str(store.path(recipe)))
        case recipes.Sft() | recipes.Dpo():
            return _trained(checkpoint(recipe.start, store), store.path(recipe))


def tokenizer(recipe: recipes.Hub | recipes.Local) -> Checkpoint:
    """Where a served model's tokenizer lies; ModelError if a local folder's is another by now."""
    if isinstance(recipe, recipes.Hub):
        return Checkpoint(recipe.model, recipe.revision, recipe.template, recipe.system_role)
    if content.tokenizer_hash(recipe.path) != recipe.content:
        raise ModelError(f"the tokenizer in {recipe.path} has changed since the sweep was read; start the sweep again")
    return Checkpoint(recipe.path, None, recipe.template, recipe.system_role)


def _with_adapter(base: Checkpoint, adapter: recipes.Hub | recipes.Local) -> Checkpoint:
    source = Source(adapter.model, adapter.revision) if isinstance(adapter, recipes.Hub) else Source(_unchanged(adapter))
    return replace(base, template=adapter.template or base.template, adapters=(*base.adapters, source))


def _unchanged(recipe: recipes.Local) -> str:
    """The local checkpoint's folder, its files compared with those that stand in the recipe."""
    if content.checkpoint_hash(recipe.path) != recipe.content:
        raise ModelError(f"checkpoint {recipe.path} has changed since the sweep was read; start the sweep again")
    return recipe.path


def _trained(start: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, saved with its template; or, if only an adapter was kept, its start with the adapter."""
    if (folder / ADAPTER_FILE).exists():
        return replace(start, adapters=(*start.adapters, Source(str(folder))))
    return Checkpoint(str(folder), system_role=start.system_role, device_map=start.device_map)
