"""What a sweep asks of the machines it runs on: cores, devices and custom resources, by the part of the file that asks.

Invariant: nothing here changes a result, only where it is made.
"""

from collections.abc import Iterable, Iterator, Mapping

from refstudy import recipes, spec
from refstudy.evaluations import Evaluation
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.recipes import Recipe


def asked(sweep: Sweep, cells: Iterable[Cell]) -> dict[str, spec.Resources]:
    """All that the run asks of Ray, by its place in the sweep file."""
    always = {"resources.trial": sweep.spec.resources.trial, "resources.artefact": sweep.spec.resources.artefact}
    own = {name: resources for cell in cells for name, resources, _ in _entries(sweep, cell) if resources is not None}
    return always | own


def by_model(sweep: Sweep, cells: Iterable[Cell]) -> dict[str, spec.Resources]:
    """Resources by the id of each model whose entry in the sweep file asks for its own; also of the models that it starts from.

    Where a model has an entry itself, that entry's go before those of an entry that starts from it.
    """
    own: dict[str, spec.Resources] = {}
    below: dict[str, spec.Resources] = {}
    for cell in cells:
        for _, resources, model in _entries(sweep, cell):
            if resources is not None and model is not None:
                own[fingerprint(model)] = resources
                below |= {fingerprint(each): resources for each in _starts(model)}
    return below | own


def loaded(recipe: Recipe) -> Recipe:
    """The model that making `recipe` loads, which decides what device it needs; the recipe itself if it loads none."""
    match recipe:
        case recipes.Table(scorer=recipes.Prior(model=model)):
            return model
        case recipes.Table():
            return recipe.scorer
        case recipes.Completions():
            return recipe.source
        case recipes.Verdicts(candidate=recipes.Completions() as answers):
            return answers.source
        case _:
            return recipe


def of(recipe: Recipe, known: Mapping[str, spec.Resources]) -> spec.Resources | None:
    """What the making of `recipe` asks for out of `by_model`: as its reference's entry says, else as its model's does."""
    entries = (recipe.scorer, loaded(recipe)) if isinstance(recipe, recipes.Table) else (loaded(recipe),)
    return next((known[fingerprint(each)] for each in entries if fingerprint(each) in known), None)


def is_shared_out(recipe: Recipe) -> bool:
    """Whether several workers can share the making of `recipe`: a table by a pass of a model."""
    if not isinstance(recipe, recipes.Table) or isinstance(recipe.texts, recipes.Selection):
        return False
    return isinstance(recipe.scorer, recipes.Model | recipes.Prior)


def devices(resources: spec.Resources) -> float:
    """GPUs that a task or trial takes, or cores where it takes none: what `price.device_hour` is the price of."""
    return (resources.gpus or resources.cpus) * resources.workers


def threads(resources: spec.Resources) -> dict[str, str]:
    """Environment of a process that has so many cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(max(1, int(resources.cpus))))


def _entries(sweep: Sweep, cell: Cell) -> Iterator[tuple[str, spec.Resources | None, Recipe | None]]:
    """The entries behind a cell: place in the sweep file, what it asks for, and its model."""
    for model in (cell.dpo.start, cell.own):
        yield f"policies.{cell.policy}.resources", cell.policy_resources, model
    yield f"references.{cell.reference}.resources", cell.reference_resources, cell.dpo.table.scorer
    judge, entry = cell.verdicts.judge, sweep.spec.judge
    start = entry.start if isinstance(entry, spec.RewardJudgeEntry) else None
    if start is not None and isinstance(judge, recipes.RewardJudge):
        yield "judge.start.resources", start.resources, judge.model
    for each in cell.evaluations:
        yield from _evaluation_entries(sweep, cell, each)


def _evaluation_entries(sweep: Sweep, cell: Cell, of: Evaluation) -> Iterator[tuple[str, spec.Resources | None, Recipe | None]]:
    """The models behind an evaluation set: its baseline's, and the one that its own judge is trained from."""
    key, baseline = f"eval.{of.name}", of.verdicts.baseline
    if of.name in cell.set_resources and isinstance(baseline, recipes.Completions):
        yield f"{key}.baseline.resources", cell.set_resources[of.name], baseline.source
    entry, judge = sweep.spec.eval[of.name].judge, of.verdicts.judge
    start = entry.start if isinstance(entry, spec.RewardJudgeEntry) else None
    if start is not None and isinstance(judge, recipes.RewardJudge):
        yield f"{key}.judge.start.resources", start.resources, judge.model


def _starts(model: Recipe) -> Iterator[Recipe]:
    """The models that a model was trained from, one after another."""
    match model:
        case recipes.Sft() | recipes.Dpo() | recipes.RewardModel():
            yield model.start
            yield from _starts(model.start)
        case recipes.Adapter():
            yield model.base
            yield from _starts(model.base)
        case recipes.Rounded():
            yield model.model
            yield from _starts(model.model)
