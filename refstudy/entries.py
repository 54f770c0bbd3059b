"""Entries of a sweep file as recipes: what `policies`, `references` and `data` name becomes a value with an identity.

Invariant: a recipe made here holds all that the entry says about the result, and nothing else of the file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refstudy import content, recipes, spec
from refstudy.errors import SpecError
from refstudy.miniature import models as miniature
from refstudy.spec_values import SEEDS
from refstudy.sweepfile import Document

MOVING = (None, "main")
"""Revisions that promise nothing, so that they may stand beside a local folder, which has none."""

VALIDATION_SEED = SEEDS - 1
"""Draws the miniature's validation pairs."""

LOCATED = ("path", "dataset", "model", "adapter", "template")
"""Keys whose value may be a path."""


@dataclass(frozen=True)
class Place:
    """Where relative paths of a sweep file begin: its folder, then the working directory."""

    folder: Path
    hashes: dict[Path, str] = field(default_factory=dict, compare=False, repr=False)
    """What was hashed already: one grid reads each file once."""

    def find(self, path: str) -> Path:
        """The path as it exists, else as it would stand in the sweep file's folder."""
        try:
            given = Path(path).expanduser()
            candidates = [self.folder / given, Path.cwd() / given]
            found = next((each for each in candidates if each.exists()), candidates[0])
            return found.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise SpecError(f"{path[:60]!r} can be no path: {error!s:.100}; expected a path of this machine, or a name") from None

    def hashed(self, path: Path, hash_of: Callable[[Path], str]) -> str:
        """`hash_of(path)`, computed once."""
        if path not in self.hashes:
            self.hashes[path] = hash_of(path)
        return self.hashes[path]

    def template(self, value: str | None, key: str, ending: str = ".jinja") -> str | None:
        """A template given as text or as the path of a file: chat templates .jinja, what a judge is asked .txt."""
        if value is None or not value.endswith(ending):
            return value
        try:
            return self.find(value).read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(f"{key}: template {value} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SpecError(f"{key}: template {value} is not UTF-8") from None


def located(document: Document, place: Place) -> Document:
    """A copy of the document in which each path that only the working directory has is absolute, so that it is found again from
    elsewhere; paths below the sweep file's folder stay as they are written."""
    return {key: _located(value, key, place) for key, value in document.items()}


def _located(value: Any, key: str, place: Place) -> Any:
    if key == "options":
        return value  # a plug-in's own words, part of its identity as they are
    if isinstance(value, dict):
        return {inner: _located(each, inner, place) for inner, each in value.items()}
    if isinstance(value, list):
        return [_located(each, key, place) for each in value]
    if not isinstance(value, str) or key.rpartition(".")[2] not in LOCATED:
        return value
    if key.endswith("template") and not value.endswith((".jinja", ".txt")):
        return value
    found = place.find(value)
    return value if found == (place.folder / value).resolve() or not found.exists() else str(found)


def source(entry: spec.Source | spec.FileData | spec.HubData, place: Place) -> recipes.File | recipes.HubData:
    """A data file by content, a hub dataset by revision, a local folder of a dataset by content; wherever they lie."""
    if isinstance(entry, spec.FileSource | spec.FileData):
        return file(entry.path, place)
    folder = place.find(entry.dataset)
    if not folder.is_dir():
        return recipes.HubData(
            dataset=entry.dataset, revision=entry.revision, config=entry.config, split=entry.split, file=entry.file
        )
    if entry.revision not in MOVING:
        raise SpecError(_no_revision(f"dataset {entry.dataset}", entry.revision))
    if entry.file is not None:
        return _file(folder / entry.file, place)
    revision = place.hashed(folder, content.folder_hash)
    return recipes.HubData(dataset="local", revision=revision, config=entry.config, split=entry.split, path=str(folder))


def file(path: str, place: Place) -> recipes.File:
    """A data file by content."""
    return _file(place.find(path), place)


def _file(path: Path, place: Place) -> recipes.File:
    return recipes.File(content=place.hashed(path, content.content_hash), path=str(path))


def _no_revision(what: str, revision: str | None) -> str:
    return (
        f"{what} is a local folder, whose content is its identity; got revision {revision}, which only the hub knows: "
        "set revision to null"
    )


def preferences(data: spec.FileData | spec.HubData, part: str, place: Place) -> recipes.Preferences:
    """One part of a file's or hub dataset's pairs: train, validation or evaluation."""
    return recipes.Preferences(
        source=source(data, place),
        part=part,  # type: ignore[arg-type]
        evaluation=data.eval_prompts if isinstance(data.eval_prompts, int) else 0,
        validation=data.validation_pairs,
        limit=data.pairs if part == "train" else None,
        unusable=data.unusable,
        without=tuple(data.without),
        unicode=data.unicode,
        white_space=data.white_space,
    )


def prompts(data: spec.Data, place: Place) -> recipes.AnyPrompts:
    """The evaluation prompts."""
    if isinstance(data, spec.MiniatureData):
        return recipes.MiniaturePrompts(world=data.world, part="evaluation", count=data.eval_prompts, seed=0)
    if isinstance(data.eval_prompts, int):
        return recipes.HeldOutPrompts(pairs=preferences(data, "evaluation", place), count=data.eval_prompts)
    return recipes.Prompts(source=source(data.eval_prompts, place), count=data.eval_prompts.count)


def pairs(data: spec.Data, policy: recipes.Model, seed: int, place: Place) -> recipes.MiniaturePairs | recipes.Preferences:
    """The training pairs; the miniature draws them anew for each seed, from the policy's own and a neutral model's answers."""
    if not isinstance(data, spec.MiniatureData):
        return preferences(data, "train", place)
    if data.validation_pairs and seed == VALIDATION_SEED:
        raise SpecError(f"axes.seed: {seed} draws the miniature's validation pairs; choose another seed, or no validation_pairs")
    return miniature.preference_pairs(data.world, data.annotator, data.pairs, seed, policy)


def validation(data: spec.Data, policy: recipes.Model, place: Place) -> recipes.MiniaturePairs | recipes.Preferences | None:
    """The pairs of the validation loss, the same for all seeds; None: there are none."""
    if not data.validation_pairs:
        return None
    if not isinstance(data, spec.MiniatureData):
        return preferences(data, "validation", place)
    return miniature.preference_pairs(data.world, data.annotator, data.validation_pairs, VALIDATION_SEED, policy)


def model(entry: spec.Policy, data: spec.Data, key: str, place: Place) -> recipes.Model:
    """The recipe of a policy or reference model in whole precision; `key` is its YAML path."""
    _refuse_rounding(entry, key)
    match entry:
        case spec.MiniatureModel():
            return _miniature(entry, data, key)
        case spec.ScratchModel():
            start: recipes.Model = _scratch(entry, data, key, place)
        case spec.CheckpointModel():
            start = _checkpoint(entry, key, place)
        case _:
            raise SpecError(f"{key}: a {entry.kind} entry is no model of its own")
    return start if entry.sft is None else fine_tuned(start, entry.sft, data, f"{key}.sft", place)


def reference(entry: spec.Policy, data: spec.Data, key: str, place: Place) -> recipes.Model:
    """The recipe of a model as a reference: rounded where the entry says so."""
    whole = model(entry, data, key, place)
    quantise = entry.quantise if isinstance(entry, spec.CheckpointModel) else None
    if entry.precision == "fp32" and quantise is None:
        return whole
    if quantise is not None and isinstance(entry, spec.CheckpointModel) and entry.adapter is not None:
        raise SpecError(
            f"{key}.quantise: got {quantise} beside an adapter, which cannot be merged into quantised weights; merge it into its "
            "base and name the merged checkpoint, or use precision: bf16"
        )
    return recipes.Rounded(model=whole, precision=entry.precision, quantise=quantise)


def fine_tuned(start: recipes.Model, entry: spec.SftEntry, data: spec.Data, key: str, place: Place) -> recipes.Sft:
    """A model fine-tuned as an `sft:` block says."""
    if entry.data is None and "unusable" in entry.model_fields_set:
        raise SpecError(f"{key}.unusable: got {entry.unusable!r} without {key}.data; say it as data.unusable, or remove it")
    if entry.data is not None:
        texts: recipes.Conversations | recipes.Preferences = recipes.Conversations(
            source=source(entry.data, place), limit=entry.data.count, unusable=entry.unusable
        )
    elif isinstance(data, spec.MiniatureData):
        raise SpecError(f"{key}.data: missing, but required where data.kind is miniature")
    else:
        texts = preferences(data, "train", place)
    return recipes.Sft(
        start=start,
        data=texts,
        train=training(entry, entry.batch_size, lora=entry.lora),
        max_length=entry.max_length,
        seed=entry.seed,
        template=place.template(entry.template, f"{key}.template"),
    )


def tokenizer(
    name: str, revision: str | None, place: Place, template: str | None, system_role: str, key: str
) -> recipes.Hub | recipes.Local:
    """The tokenizer of a served model, from the hub or a folder that holds it, weights or none."""
    text = place.template(template, f"{key}.template")
    folder = place.find(name)
    if folder.is_dir():
        known = content.tokenizer_hash(folder)
        return recipes.Local(content=known, path=str(folder), template=text, system_role=system_role)  # type: ignore[arg-type]
    return hub_or_local(name, revision, place, text, system_role)


def dpo_training(entry: spec.TrainEntry) -> recipes.Training:
    return training(entry, entry.batch_pairs, entry.clip, entry.weight_decay, entry.lora)


def _refuse_rounding(entry: spec.Policy, key: str) -> None:
    """Only references are rounded or spread over devices: what is trained is loaded whole, in fp32."""
    if key.startswith("references."):
        return
    for name, unchosen in (("precision", "fp32"), ("quantise", None), ("device_map", None)):
        if getattr(entry, name, unchosen) != unchosen:
            raise SpecError(
                f"{key}.{name}: got {getattr(entry, name)}, which only references have: what is trained is loaded whole and in "
                "fp32, and train.precision says what training computes in; remove it"
            )


def _miniature(entry: spec.MiniatureModel, data: spec.Data, key: str) -> recipes.Sft:
    if not isinstance(data, spec.MiniatureData):
        raise SpecError(f"{key}: a miniature model lives in a miniature world; data.kind is {data.kind}")
    if entry.family == "north" and entry.north_share is not None:
        raise SpecError(f"{key}.north_share: got {entry.north_share} for family north, which speaks north throughout; remove it")
    return miniature.model(
        world=data.world,
        family=entry.family,
        size=entry.size,
        north_share=entry.north_share,
        false_share=entry.false_share,
        statements=entry.statements,
    )


def _scratch(entry: spec.ScratchModel, data: spec.Data, key: str, place: Place) -> recipes.Scratch:
    if isinstance(data, spec.MiniatureData):
        raise SpecError(f"{key}: a scratch model is made from the text of file or hub data; data.kind is miniature")
    if entry.hidden % entry.heads:
        raise SpecError(f"{key}.heads: got {entry.heads}, which does not divide hidden = {entry.hidden}")
    return recipes.Scratch(
        text=preferences(data, "train", place),
        architecture=entry.architecture,
        vocabulary=entry.vocabulary,
        hidden=entry.hidden,
        layers=entry.layers,
        heads=entry.heads,
        steps=entry.steps,
        batch_size=entry.batch_size,
        learning_rate=entry.learning_rate,
        context=entry.context,
        seed=entry.seed,
    )


def _checkpoint(entry: spec.CheckpointModel, key: str, place: Place) -> recipes.Model:
    if entry.system is not None and not key.startswith("policies."):
        raise SpecError(
            f"{key}.system: got {entry.system!r:.60}, which changes nothing here: a system prompt stands with the policy, "
            "and references and judges read conversations as the policy has them; remove it"
        )
    if entry.adapter is None and entry.adapter_revision is not None:
        raise SpecError(f"{key}.adapter_revision: got {entry.adapter_revision!r}, but no adapter; remove it, or name the adapter")
    template = place.template(entry.template, f"{key}.template")
    base = hub_or_local(entry.model, entry.revision, place, template, entry.system_role, entry.device_map)
    if entry.adapter is None:
        return base
    return recipes.Adapter(base=base, adapter=hub_or_local(entry.adapter, entry.adapter_revision, place))


def hub_or_local(
    name: str,
    revision: str | None,
    place: Place,
    template: str | None = None,
    system_role: str = "keep",
    device_map: str | None = None,
) -> recipes.Hub | recipes.Local:
    """A folder by its content where there is one, else a name on the hub."""
    folder = place.find(name)
    role: dict[str, object] = {"template": template, "system_role": system_role, "device_map": device_map}
    if folder.is_dir():
        if revision not in MOVING:
            raise SpecError(_no_revision(f"checkpoint {name}", revision))
        return recipes.Local(content=place.hashed(folder, content.checkpoint_hash), path=str(folder), **role)  # type: ignore[arg-type]
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SpecError(f"checkpoint {name} does not exist; expected a folder with a checkpoint, or a hub name such as org/model")
    return recipes.Hub(model=name, revision=revision, **role)  # type: ignore[arg-type]


def training(
    entry: spec.TrainEntry | spec.SftEntry | spec.RewardTrainEntry,
    batch_size: int,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    lora: spec.LoraEntry | None = None,
) -> recipes.Training:
    return recipes.Training(
        epochs=entry.epochs,
        batch_size=batch_size,
        learning_rate=entry.learning_rate,
        schedule=entry.schedule,
        warmup_share=entry.warmup_share,
        clip=clip,
        weight_decay=weight_decay,
        precision=entry.precision,
        lora=_lora(lora),
        micro_batch=entry.micro_batch,
        checkpointing=entry.checkpointing,
    )


def _lora(entry: spec.LoraEntry | None) -> recipes.Lora | None:
    if entry is None:
        return None
    return recipes.Lora(rank=entry.rank, alpha=entry.alpha, dropout=entry.dropout, target=entry.target)


def chat_server(entry: spec.ServerReference | spec.ServerBaseline) -> recipes.ChatServer:
    """The server as one that answers prompts."""
    return recipes.ChatServer(
        model=entry.model,
        revision=entry.revision,
        base_url=entry.base_url.rstrip("/"),
        concurrency=entry.concurrency,
        timeout_s=entry.timeout_s,
        retries=entry.retries,
        key_variable=entry.key_variable,
    )
