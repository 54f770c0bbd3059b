"""References of a sweep file as scorers: what each name on the reference axis means for one policy and seed.

Invariant: a reference may name other references of the file, never itself, directly or by way of others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from refstudy import entries, recipes, spec
from refstudy.entries import Place
from refstudy.errors import SpecError
from refstudy.spec import Spec


@dataclass(frozen=True)
class Surroundings:
    """What a reference may depend on beside its own entry."""

    spec: Spec
    place: Place
    start: recipes.Model
    """The policy before DPO, whole."""
    own: recipes.Model
    """The same as a reference: self, in what it scores with."""
    pairs: recipes.TokenPairs
    seed: int
    train: recipes.Training


@dataclass(frozen=True)
class Column:
    """A scorer, and the pairs that are trained with it."""

    scorer: recipes.Scorer
    pairs: recipes.TokenPairs | recipes.Selection


def column(name: str, around: Surroundings) -> Column:
    """The reference called `name`: all pairs, or, for selection_only, self on the pairs that another reference selects."""
    entry = around.spec.references[name]
    if isinstance(entry, spec.DerivedReference) and entry.keep == "selection_only":
        of = scorer(entry.of, around, (name,))
        return Column(around.own, recipes.Selection(pairs=around.pairs, of=of, own=around.own))
    return Column(scorer(name, around), around.pairs)


def own(references: Iterable[spec.Reference], start: recipes.Model) -> recipes.Model:
    """Self as other references are compared with it: rounded where all `policy` entries are."""
    own = [_own(each, start) for each in references if isinstance(each, spec.PolicyReference)]
    return own[0] if own and start not in own else start


def _own(entry: spec.PolicyReference, start: recipes.Model) -> recipes.Model:
    return start if entry.precision == "fp32" else recipes.Rounded(model=start, precision=entry.precision, quantise=None)


def answering(entry: spec.Reference, scorer: recipes.Scorer) -> recipes.Model | recipes.ChatServer | None:
    """What answers prompts for a reference: its model, or its server if the entry says so; None for one that only scores."""
    if isinstance(scorer, recipes.Model):
        return scorer
    if not isinstance(entry, spec.ServerReference) or not entry.answers:
        return None
    return entries.chat_server(entry)


def scorer(name: str, around: Surroundings, trail: tuple[str, ...] = ()) -> recipes.Scorer:
    """What scores for the reference called `name`; `trail`: the references that led to it."""
    entry = _entry(name, around, trail)
    trail = (*trail, name)
    match entry:
        case spec.PolicyReference():
            return _own(entry, around.start)
        case spec.ConstantReference():
            return recipes.Constant()
        case spec.PriorReference():
            return recipes.Prior(model=_model(entry.of, around, trail), prompt=entry.prompt)
        case spec.FileReference():
            return _file(entry, around, f"references.{name}")
        case spec.ServerReference():
            return _server(entry, around, f"references.{name}")
        case spec.MixtureReference():
            total = sum(entry.of.values())
            parts = [recipes.Part(scorer=scorer(each, around, trail), weight=weight / total) for each, weight in entry.of.items()]
            return recipes.Mixture(parts=tuple(parts), mean=entry.mean)
        case spec.TrainedReference():
            return _trained(entry, around, trail, f"references.{name}")
        case spec.DerivedReference():
            return _derived(entry, around, trail, f"references.{name}")
        case _:
            return entries.reference(entry, around.spec.data, f"references.{name}", around.place)


def _entry(name: str, around: Surroundings, trail: tuple[str, ...]) -> Any:
    if name in trail:
        raise SpecError(f"references.{trail[0]}: the references {' -> '.join((*trail, name))} name each other in a circle")
    if name not in around.spec.references:
        known = ", ".join(around.spec.references)
        raise SpecError(f"references.{trail[-1]}.of: {name!r} is no entry of references ({known})")
    return around.spec.references[name]


def _model(name: str | None, around: Surroundings, trail: tuple[str, ...]) -> recipes.Model:
    """The model of a reference by its name, the policy's own start without one."""
    found = around.start if name is None else scorer(name, around, trail)
    if not isinstance(found, recipes.Model):
        raise SpecError(
            f"references.{trail[-1]}.of: {name!r} is no model, so nothing can be trained from it or read without a prompt"
        )
    return found


def _file(entry: spec.FileReference, around: Surroundings, key: str) -> recipes.Column:
    if (entry.path is None) == (entry.dataset is None):
        raise SpecError(f"{key}: expected either `path` or `dataset`")
    source = entry.dataset or spec.FileSource(kind="file", path=str(entry.path))
    return recipes.Column(
        source=entries.source(source, around.place), chosen=entry.chosen, rejected=entry.rejected, pair_id=entry.pair_id
    )


def _server(entry: spec.ServerReference, around: Surroundings, key: str) -> recipes.Server:
    tokenizer = entries.tokenizer(entry.tokenizer, entry.revision, around.place, entry.template, entry.system_role, key)
    return recipes.Server(
        model=entry.model,
        revision=entry.revision,
        tokenizer=tokenizer,
        form=entry.form,
        base_url=entry.base_url.rstrip("/"),
        concurrency=entry.concurrency,
        timeout_s=entry.timeout_s,
        retries=entry.retries,
        key_variable=entry.key_variable,
    )


def _trained(entry: spec.TrainedReference, around: Surroundings, trail: tuple[str, ...], key: str) -> recipes.Model:
    if entry.sft is None and entry.dpo is None:
        raise SpecError(f"{key}: expected `sft`, `dpo` or both")
    start = _model(entry.of, around, trail)
    if isinstance(start, recipes.Rounded):
        start = start.model  # training begins with the weights themselves
    if entry.sft is not None:
        start = entries.fine_tuned(start, entry.sft, around.spec.data, f"{key}.sft", around.place)
    if entry.dpo is None:
        return start
    if start != around.start:
        raise SpecError(f"{key}.dpo: DPO trains the policy's own start here, whose tokens the pairs are in; remove `of` and `sft`")
    held_to = recipes.Table(scorer=scorer(entry.dpo.reference, around, trail), texts=around.pairs)
    return recipes.Dpo(
        start=start, table=held_to, validation=None, beta=float(entry.dpo.beta), seed=around.seed, train=around.train
    )


def _derived(entry: spec.DerivedReference, around: Surroundings, trail: tuple[str, ...], key: str) -> recipes.Derived:
    if entry.keep == "selection_only":
        raise SpecError(f"{key}: selection_only chooses pairs and is no column; no other reference can be made of it")
    if entry.factor != 1.0 and entry.keep != "scaled":
        raise SpecError(f"{key}.factor: only `keep: scaled` has a factor; remove it")
    of = scorer(entry.of, around, trail)
    if (of.model if isinstance(of, recipes.Rounded) else of) == around.start:
        raise SpecError(f"{key}.of: {entry.of!r} is the policy's own start, which adds nothing to itself; name another reference")
    return recipes.Derived(of=of, own=around.own, keep=entry.keep, factor=float(entry.factor), seed=entry.seed)
