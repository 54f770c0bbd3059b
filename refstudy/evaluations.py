"""Evaluation sets of a sweep file as recipes: what each name below `eval` means for the cells of one policy and seed.

Invariant: a set adds recipes beside a cell's own and changes none of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from refstudy import entries, judge_entries, recipes, spec
from refstudy.entries import Place
from refstudy.errors import SpecError
from refstudy.spec import Spec

Sampled = Callable[[spec.GenerateEntry, str | None, int], recipes.Sampling]
"""(settings, the set's system prompt, draw) as the column's cells draw: with its seed, and its policy's system prompt for None."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation set of one cell."""

    name: str
    verdicts: recipes.Verdicts

    @property
    def completions(self) -> recipes.Completions:
        assert isinstance(self.verdicts.candidate, recipes.Completions)
        return self.verdicts.candidate


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """An evaluation set as all cells of a column share it."""

    name: str
    prompts: recipes.AnyPrompts
    sampling: recipes.Sampling
    baseline: recipes.AnyAnswers | spec.CellBaseline
    judge: recipes.Judge
    resources: spec.Resources | None
    """What a baseline that is a model asks for where its answers are made."""

    def completions(self, policy: recipes.Model) -> recipes.Completions:
        return recipes.Completions(source=policy, prompts=self.prompts, sampling=self.sampling)

    def evaluation(self, policy: recipes.Model, rival: recipes.Model | None) -> Evaluation:
        """The set for one policy; `rival`: the policy of the cell that is its baseline, None where that is no cell."""
        if isinstance(self.baseline, spec.CellBaseline):
            assert rival is not None
            baseline: recipes.AnyAnswers = self.completions(rival)
        else:
            baseline = self.baseline
        return Evaluation(
            name=self.name,
            verdicts=recipes.Verdicts(candidate=self.completions(policy), baseline=baseline, judge=self.judge),
        )


def sets(variant: Spec, start: recipes.Model, sampled: Sampled, place: Place) -> Iterator[EvalSet]:
    """The file's evaluation sets for the cells of one policy and seed, in the file's order."""
    for name, entry in variant.eval.items():
        key = f"eval.{name}"
        prompts = _prompts(entry.prompts, variant.data, place, f"{key}.prompts")
        draws = [sampled(entry.generate or variant.generate, entry.system, draw) for draw in (0, 1)]
        judge = judge_entries.judge(entry.judge or variant.judge, variant.data, place, f"{key}.judge")
        if isinstance(judge, recipes.GoldJudge) and not isinstance(prompts, recipes.MiniaturePrompts):
            raise SpecError(f"{key}.judge: gold knows rewards of the world's own prompts only; leave {key}.prompts out")
        yield EvalSet(
            name=name,
            prompts=prompts,
            sampling=draws[0],
            baseline=_baseline(entry.baseline, prompts, draws[1], start, variant, place, f"{key}.baseline"),
            judge=judge,
            resources=entry.baseline.resources if isinstance(entry.baseline, spec.ModelBaseline) else None,
        )


def _prompts(entry: spec.EvalPrompts | None, data: spec.Data, place: Place, key: str) -> recipes.AnyPrompts:
    if entry is None:
        return entries.prompts(data, place)
    if not isinstance(entry, spec.HeldOutEntry):
        return recipes.Prompts(source=entries.source(entry, place), count=entry.count)
    if isinstance(data, spec.MiniatureData):
        raise SpecError(f"{key}: held_out needs pairs of a file or dataset; data.kind is miniature: leave {key} out")
    held = data.eval_prompts if entry.part == "evaluation" else data.validation_pairs
    if not isinstance(held, int) or not held:
        leaf = "eval_prompts" if entry.part == "evaluation" else "validation_pairs"
        raise SpecError(f"{key}: no pairs are held out for {entry.part}; expected a number of them as data.{leaf}")
    return recipes.HeldOutPrompts(pairs=entries.preferences(data, entry.part, place), count=entry.count or held)


def _baseline(
    entry: spec.Baseline,
    prompts: recipes.AnyPrompts,
    sampling: recipes.Sampling,
    start: recipes.Model,
    variant: Spec,
    place: Place,
    key: str,
) -> recipes.AnyAnswers | spec.CellBaseline:
    match entry:
        case spec.StartBaseline():
            return recipes.Completions(source=start, prompts=prompts, sampling=sampling)
        case spec.ChosenBaseline():
            if not isinstance(prompts, recipes.HeldOutPrompts):
                raise SpecError(f"{key}: only held-out pairs have chosen answers; expected prompts of kind held_out")
            return recipes.Answers(source=None, prompts=prompts, tokens_of=start)
        case spec.FileBaseline() | spec.HubBaseline():
            return recipes.Answers(source=_source(entry, place), prompts=prompts, tokens_of=start)
        case spec.ServerBaseline():
            return recipes.Completions(source=entries.chat_server(entry), prompts=prompts, sampling=sampling, tokens_of=start)
        case spec.CellBaseline():
            return _known_cell(entry, variant, key)
        case _:
            model = entries.model(entry, variant.data, key, place)
            return recipes.Completions(source=model, prompts=prompts, sampling=sampling)


def _source(entry: spec.FileBaseline | spec.HubBaseline, place: Place) -> recipes.File | recipes.HubData:
    if isinstance(entry, spec.FileBaseline):
        return entries.source(spec.FileSource(kind="file", path=entry.path), place)
    return entries.source(spec.HubSource(**entry.model_dump()), place)


def _known_cell(entry: spec.CellBaseline, variant: Spec, key: str) -> spec.CellBaseline:
    """`entry`, if the grid has such a cell for every policy and seed."""
    references = variant.axes.get("reference", list(variant.references))
    if entry.reference not in references or entry.beta not in variant.axes["beta"]:
        raise SpecError(
            f"{key}: the grid has no cell of reference {entry.reference!r} at beta {entry.beta:g}; expected a value of "
            f"axes.reference ({', '.join(map(str, references))}) and one of axes.beta ({', '.join(map(str, variant.axes['beta']))})"
        )
    return entry
