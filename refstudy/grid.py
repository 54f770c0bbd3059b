"""The cells of a sweep: every combination of its axes as a value with recipes.

Invariant: a cell is determined by its recipes alone; two axes values that lead to the same recipes are refused as one cell twice.
"""

import difflib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refstudy import entries, evaluations, judge_entries, recipes, scorers, spec, sweepfile
from refstudy.alarms import Alarm
from refstudy.entries import Place
from refstudy.errors import SpecError
from refstudy.evaluations import Evaluation
from refstudy.identity import fingerprint
from refstudy.oversight import oversight
from refstudy.spec import Spec
from refstudy.spec_values import SEEDS
from refstudy.sweepfile import Document

CORE_AXES = ("policy", "reference", "beta", "seed")


@dataclass(frozen=True)
class Sweep:
    """A sweep file as it will run: its document after overrides, checked, and where its relative paths begin."""

    name: str
    question: str
    document: Document
    spec: Spec
    place: Place


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid: the recipes of all that its trial makes, and labels for people."""

    policy: str
    reference: str
    beta: float
    seed: int
    settings: dict[str, Any]
    """Values of all further axes by their dotted path."""
    labels: dict[str, str]
    """Kind and family of the reference's entry and family of the policy's, for tables and figures."""
    verdicts: recipes.Verdicts
    dpo: recipes.Dpo
    divergence: recipes.Divergence
    own: recipes.Model
    """Self, the policy's start as a reference: what other references are measured against."""
    token_shifts: recipes.TokenShifts | None
    """Measured when the policy is trained, and no goal; None: not asked for."""
    evaluations: tuple[Evaluation, ...] = ()
    """What the cell is judged on beside the sweep's own prompts."""
    rivals: "tuple[Cell, ...]" = ()
    """The cells whose answers are its baseline on some evaluation set; these have no rivals themselves here."""
    keep: str
    resources: spec.Resources
    policy_resources: spec.Resources | None = None
    """What the policy's entry asks for where its models and answers are made; None: nothing of its own."""
    reference_resources: spec.Resources | None = None
    answering: recipes.Model | recipes.ChatServer | None = None
    """What gives the reference's own answers; None: the reference only scores."""
    set_resources: dict[str, spec.Resources] = field(default_factory=dict)
    """What the baselines of evaluation sets ask for where their answers are made, by the set's name."""
    along: recipes.Along | None = None
    """Evaluations along its training."""
    save_every_s: float = 0.0
    """How often the state of a training is saved; 0: never."""
    alarms: tuple[Alarm, ...] = ()
    webhook: spec.WebhookEntry = field(default_factory=spec.WebhookEntry)

    @property
    def id(self) -> str:
        return fingerprint(self.verdicts)

    @property
    def row(self) -> dict[str, Any]:
        """What names the cell in lists and records."""
        names = ("policy", "reference", "beta", "seed", "settings")
        return {"cell_id": self.id, **{name: getattr(self, name) for name in names}}

    @property
    def completions(self) -> recipes.Completions:
        assert isinstance(self.verdicts.candidate, recipes.Completions)
        return self.verdicts.candidate

    @property
    def log(self) -> recipes.TrainingLog:
        return recipes.TrainingLog(model=self.dpo)

    @property
    def curve(self) -> recipes.AlongCurve | None:
        """What the evaluations along its training measure; there only if they were declared when the policy was trained."""
        return None if self.along is None else recipes.AlongCurve(model=self.dpo, along=self.along)

    @property
    def goals(self) -> tuple[recipes.Recipe, ...]:
        """What the store has of a finished cell."""
        judged = [goal for each in self.evaluations for goal in (each.completions, each.verdicts)]
        whole = (self.log, self.completions, self.divergence, self.verdicts, *judged)
        return tuple({fingerprint(goal): goal for goal in whole}.values())

    @property
    def answers(self) -> tuple[recipes.Completions, ...]:
        """All that the cell's policy answers, each once; the sweep's own prompts first."""
        every = (self.completions, *(each.completions for each in self.evaluations))
        return tuple({fingerprint(each): each for each in every}.values())

    @property
    def label(self) -> str:
        """The cell in words, e.g. `small self beta=0.1 seed=0`."""
        return label(self.policy, self.reference, self.beta, self.seed, self.settings)


def label(policy: str, reference: str, beta: float, seed: int, settings: dict[str, Any]) -> str:
    """A cell in words."""
    extra = "".join(f" {path}={value}" for path, value in settings.items())
    return f"{policy} {reference} beta={beta:g} seed={seed}{extra}"


def read(path: Path | str, assignments: list[str] | None = None) -> Sweep:
    """The sweep in a file, with `--set` assignments applied; SpecError says all that is wrong with it."""
    text = sweepfile.read_text(path)
    document = sweepfile.override(sweepfile.parse(text, str(path)), assignments or [])
    checked = spec.check(document, str(path))
    return Sweep(checked.name, sweepfile.question(text), document, checked, Place(Path(path).resolve().parent))


def cells(sweep: Sweep) -> list[Cell]:
    """All cells of the grid, in the order of its axes; betas of one reference stand together."""
    found: dict[str, Cell] = {}
    place = Place(sweep.place.folder)  # hashes anew, but each file once
    for settings, variant in _variants(sweep):
        for cell in _cells_of(variant, settings, sweep.name, place):
            twin = found.setdefault(cell.id, cell)
            if twin is not cell:
                raise SpecError(f"{sweep.name}: the cells '{twin.label}' and '{cell.label}' are the same recipe; remove one")
    return list(found.values())


def _variants(sweep: Sweep) -> Iterator[tuple[dict[str, Any], Spec]]:
    """The spec once for each combination of the axes that are leaves of the file."""
    leaves = {path: values for path, values in sweep.spec.axes.items() if path not in CORE_AXES}
    for values in itertools.product(*leaves.values()):
        settings = dict(zip(leaves, values, strict=True))
        document = sweepfile.override(sweep.document, [])
        for path, value in settings.items():
            _refuse_axis(path)
            sweepfile.place(document, path, value)
        name = f"{sweep.name} with {settings!s:.100}" if settings else sweep.name
        yield settings, spec.check(document, name) if settings else sweep.spec


def _refuse_axis(path: str) -> None:
    head = path.split(".")[0]
    if head in ("data", "policies", "references", "train", "generate", "judge"):
        return
    near = difflib.get_close_matches(path, [*CORE_AXES, "train.learning_rate", "data.world"], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SpecError(
        f"axes.{path}: unknown axis{hint}; expected policy, reference, beta, seed, or a leaf below data, policies, references, "
        "train, generate or judge: leaves that change the result"
    )


def _cells_of(variant: Spec, settings: dict[str, Any], name: str, place: Place) -> Iterator[Cell]:
    axes = variant.axes
    if variant.keep == "adapter" and variant.train.lora is None:
        raise SpecError(f"{name}: keep: adapter needs train.lora; full fine-tuning has no adapter: use keep: full")
    seeds = _checked("seed", axes.get("seed", [0]))
    betas = _checked("beta", axes["beta"])
    policies = _named("policy", axes, variant.policies, "policies")
    references = _named("reference", axes, variant.references, "references")
    starts = {each: entries.model(variant.policies[each], variant.data, f"policies.{each}", place) for each in policies}
    for policy in policies:
        entry = variant.policies[policy]
        system = entry.system if isinstance(entry, spec.CheckpointModel) else None
        for seed in seeds:
            column = _Column(variant, starts[policy], system, seed, place)
            for reference in references:
                for beta in betas:
                    yield column.cell(policy, reference, float(beta), settings)


class _Column:
    """What cells of one policy and seed share: pairs, prompts, baseline, judge."""

    def __init__(self, variant: Spec, start: recipes.Model, system: str | None, seed: int, place: Place) -> None:
        self.spec, self.start, self.seed, self.place = variant, start, seed, place
        data = variant.data
        self.system = system
        self.own = scorers.own(variant.references.values(), start)
        self.columns: dict[str, scorers.Column] = {}
        self.token_pairs = self._token_pairs(entries.pairs(data, start, seed, place))
        validation = entries.validation(data, start, place)
        self.validation = self._token_pairs(validation) if validation else None
        self.prompts = entries.prompts(data, place)
        self.judge = judge_entries.judge(variant.judge, data, place)
        self.train = entries.dpo_training(variant.train)
        self.sampling = [self._sampling(variant.generate, None, draw) for draw in (0, 1)]
        self.baseline = self.completions(start, 1)
        self.oversight = oversight(variant, start, self.judge, self.sampling[1], place)
        self.sets = list(evaluations.sets(variant, start, self._sampling, place))

    def _sampling(self, generate: spec.GenerateEntry, system: str | None, draw: int) -> recipes.Sampling:
        return recipes.Sampling(
            max_new_tokens=generate.max_new_tokens,
            temperature=float(generate.temperature),
            top_p=float(generate.top_p),
            seed=self.seed,
            draw=draw,
            system=self.system if system is None else system,
        )

    def _token_pairs(self, pairs: recipes.MiniaturePairs | recipes.Preferences) -> recipes.TokenPairs:
        return recipes.TokenPairs(pairs=pairs, policy=self.start, max_length=self.spec.train.max_length, system=self.system)

    def _token_shifts(self, dpo: recipes.Dpo) -> recipes.TokenShifts | None:
        """On held-out pairs where there are some; on the same texts for every reference and beta."""
        count = self.spec.measure.token_shifts
        return recipes.TokenShifts(model=dpo, texts=self.validation or self.token_pairs, count=count) if count else None

    def completions(self, model: recipes.Model, draw: int) -> recipes.Completions:
        return recipes.Completions(source=model, prompts=self.prompts, sampling=self.sampling[draw])

    def cell(self, policy: str, reference: str, beta: float, settings: dict[str, Any]) -> Cell:
        cell = self._cell(policy, reference, beta, settings)
        rivals = {
            each.name: self._cell(policy, each.baseline.reference, float(each.baseline.beta), settings)
            for each in self.sets
            if isinstance(each.baseline, spec.CellBaseline)
        }
        judged = tuple(each.evaluation(cell.dpo, rivals[each.name].dpo if each.name in rivals else None) for each in self.sets)
        others = {rival.id: replace(rival, evaluations=self._unrivalled(rival)) for rival in rivals.values() if rival.id != cell.id}
        return replace(cell, evaluations=judged, rivals=tuple(others.values()))

    def _unrivalled(self, rival: Cell) -> tuple[Evaluation, ...]:
        """The evaluations of a cell that is a baseline, for what it answers: each against itself where another cell stands."""
        return tuple(each.evaluation(rival.dpo, rival.dpo) for each in self.sets)

    def _cell(self, policy: str, reference: str, beta: float, settings: dict[str, Any]) -> Cell:
        entry = self.spec.references[reference]
        column = self.columns.get(reference)
        if column is None:
            around = scorers.Surroundings(self.spec, self.place, self.start, self.own, self.token_pairs, self.seed, self.train)
            column = self.columns[reference] = scorers.column(reference, around)
        validation = recipes.Table(scorer=column.scorer, texts=self.validation) if self.validation else None
        table = recipes.Table(scorer=column.scorer, texts=column.pairs)
        dpo = recipes.Dpo(
            start=self.start,
            table=table,
            validation=validation,
            beta=beta,
            seed=self.seed,
            train=self.train,
            **self.oversight.deciding,
        )
        answers = self.completions(dpo, 0)
        return Cell(
            policy=policy,
            reference=reference,
            beta=beta,
            seed=self.seed,
            settings=settings,
            labels=_labels(self.spec.policies[policy], entry),
            verdicts=recipes.Verdicts(candidate=answers, baseline=self.baseline, judge=self.judge),
            dpo=dpo,
            divergence=recipes.Divergence(completions=answers, reference=self.own),
            own=self.own,
            token_shifts=self._token_shifts(dpo),
            keep=self.spec.keep,
            resources=self.spec.resources.trial,
            answering=scorers.answering(entry, column.scorer),
            set_resources={each.name: each.resources for each in self.sets if each.resources is not None},
            policy_resources=self.spec.policies[policy].resources,
            reference_resources=getattr(entry, "resources", None),  # constants, files, mixtures and the like take none
            along=self.oversight.along,
            save_every_s=60 * self.spec.train.save_every_minutes,
            alarms=self.oversight.alarms,
            webhook=self.spec.webhook,
        )


def _labels(policy: spec.Policy, reference: spec.Reference) -> dict[str, str]:
    own = _family(policy)
    family = own if isinstance(reference, spec.PolicyReference) else _family(reference)
    return {"reference_kind": reference.kind, "family": family, "policy_family": own}


def _family(entry: spec.Policy | spec.Reference) -> str:
    """The family that an entry declares, else what tells most of it: architecture, model name, or kind."""
    match entry:
        case spec.ScratchModel():
            return entry.family or entry.architecture
        case spec.CheckpointModel() | spec.ServerReference():
            return entry.family or entry.model
        case spec.MiniatureModel():
            return entry.family
        case spec.FileReference():
            return entry.family or entry.kind
        case _:
            return entry.kind


def _named(axis: str, axes: dict[str, list[Any]], known: dict[str, Any], section: str) -> list[str]:
    """The names on an axis, all of the section's where the axis is not given; unknown ones are refused."""
    names = axes.get(axis, list(known))
    for index, name in enumerate(names):
        if not isinstance(name, str):
            hint = f", written in quotes: '{name}'" if str(name) in known else ""
            raise SpecError(f"axes.{axis}.{index}: got {name!r:.60}; expected the name of an entry of {section}{hint}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SpecError(f"axes.{axis}.{index}: {name!r} is no entry of {section} ({', '.join(known)}){hint}")
    return _distinct(axis, names)


def _checked(axis: str, values: list[Any]) -> list[Any]:
    """Betas above 0, or seeds from 0 on."""
    for index, value in enumerate(values):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if axis == "beta" and not (number and 0 < value <= sys.float_info.max):
            raise SpecError(f"axes.beta.{index}: got {value!r:.60}; expected a number above 0")
        if axis == "seed" and not (number and isinstance(value, int) and 0 <= value < SEEDS):
            raise SpecError(f"axes.seed.{index}: got {value!r:.60}; expected a whole number from 0 to {SEEDS - 1:,}")
    return _distinct(axis, values)


def _distinct(axis: str, values: list[Any]) -> list[Any]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise SpecError(f"axes.{axis}.{index}: {value!r} stands twice; remove one")
    return values
