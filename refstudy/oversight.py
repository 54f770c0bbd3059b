"""What watches a cell's training, from the sweep file: evaluations along it, alarms, and which policy of the run is kept.

Invariant: what can change a policy stands in its recipe, and only that; the rest may be added to a sweep at any time.
"""

from dataclasses import dataclass
from typing import Any

from refstudy import entries, recipes, spec
from refstudy.alarms import Alarm
from refstudy.entries import Place
from refstudy.errors import SpecError
from refstudy.measures import limits, names

ALONG_DRAW = 1
"""The seed of the miniature's prompts along training; its evaluation prompts are those of seed 0."""


@dataclass(frozen=True)
class Oversight:
    along: recipes.Along | None
    alarms: tuple[Alarm, ...]
    deciding: dict[str, Any]
    """Fields of the policy's recipe that this adds: none where it only watches."""


def oversight(sweep: spec.Spec, start: recipes.Model, judge: recipes.Judge, sampling: recipes.Sampling, place: Place) -> Oversight:
    """What the blocks `along`, `alarms` and `train.checkpoint` mean for a policy; SpecError where they do not fit together.

    `sampling` draws the start policy's answers.
    """
    along = None
    if sweep.along is not None:
        if isinstance(judge, recipes.GIVEN_ONLY):
            raise SpecError(
                f"along: judge.kind {sweep.judge.kind} knows given answers only; evaluations along training need a judge: "
                "take the block out (--set along=null, which trains nothing anew unless alarms stop or choose a policy)"
            )
        baseline = recipes.Completions(source=start, prompts=_prompts(sweep, sweep.along, place), sampling=sampling)
        along = recipes.Along(every=sweep.along.every_steps, baseline=baseline, judge=judge)
    alarms = tuple(Alarm(_limit(entry.limit, index, along is not None), entry.stop) for index, entry in enumerate(sweep.alarms))
    _refuse_checkpoint(sweep)
    stops = tuple(sorted({str(alarm.limit) for alarm in alarms if alarm.stop}))
    _refuse_stop(stops, along is not None)
    rule = sweep.train.checkpoint
    return Oversight(
        along,
        alarms,
        {
            "checkpoint": rule,
            "checkpoint_every": sweep.train.checkpoint_every,
            "along": along if stops or rule == "best_judged" else None,
            "alarms": stops,
        },
    )


def _prompts(sweep: spec.Spec, entry: spec.AlongEntry, place: Place) -> recipes.OtherPrompts:
    """Prompts that the evaluation does not ask. Those of the miniature are not asked in training either."""
    data, evaluation = sweep.data, entries.prompts(sweep.data, place)
    if not isinstance(entry.prompts, int):
        count = entry.prompts.count
        source = recipes.Prompts(source=entries.source(entry.prompts, place), count=None)
        return recipes.OtherPrompts(of=source, without=evaluation, count=count)
    if isinstance(data, spec.MiniatureData):
        questions = _questions()
        if entry.prompts > questions - data.eval_prompts:
            raise SpecError(
                f"along.prompts: got {entry.prompts}, but of the miniature's {questions} evaluation questions data.eval_prompts "
                f"{data.eval_prompts} leaves {max(questions - data.eval_prompts, 0)}; lower one of them"
            )
        drawn = recipes.MiniaturePrompts(world=data.world, part="evaluation", count=questions, seed=ALONG_DRAW)
        return recipes.OtherPrompts(of=drawn, without=evaluation, count=entry.prompts)
    if entry.prompts > data.validation_pairs:
        raise SpecError(
            f"along.prompts: got {entry.prompts}, but data.validation_pairs is {data.validation_pairs}, and evaluations along "
            "training take their prompts from there; raise it, lower along.prompts, or name a source {kind: file, path: ...}"
        )
    held_out = recipes.HeldOutPrompts(pairs=entries.preferences(data, "validation", place), count=None)
    return recipes.OtherPrompts(of=held_out, without=evaluation, count=entry.prompts)


def _questions() -> int:
    """How many evaluation questions the miniature has."""
    from refstudy.miniature import language, prompts, world  # numpy, which `status` and `plan` need not wait for

    return len(language.EVALUATION_PHRASINGS) * len(prompts.ASKED) * world.ENTITIES


def _limit(words: str, index: int, has_along: bool) -> limits.Limit:
    """The limit of an alarm; refused if nothing that it could look at has such a measure: it would never go off."""
    limit, known = limits.parse(words), (*names.CELL, *names.ALONG)
    if limit.measure not in known:
        hint = names.hint(limit.measure, known)
        raise SpecError(f"alarms.{index}.limit: got {words!r}, but {limit.measure} is no measure; {hint}")
    if limit.measure not in names.CELL and not has_along:
        raise SpecError(f"alarms.{index}.limit: {limit.measure} is measured along training only; add an `along` block")
    return limit


def _refuse_stop(stops: tuple[str, ...], has_along: bool) -> None:
    for words in stops:
        if not has_along:
            raise SpecError(f"alarms: {words!r} with stop: true needs an `along` block: training ends where that sees the limit")
        if limits.parse(words).measure not in names.ALONG:
            known = ", ".join(names.ALONG)
            raise SpecError(f"alarms: {words!r} with stop: true is not measured along training; expected one of {known}")


def _refuse_checkpoint(sweep: spec.Spec) -> None:
    """Refuses a checkpoint rule without what it looks at, and a setting that the rule does not read."""
    rule, every = sweep.train.checkpoint, sweep.train.checkpoint_every
    if rule == "lowest_validation_loss" and not sweep.data.validation_pairs:
        raise SpecError("train.checkpoint: lowest_validation_loss needs validation pairs; set data.validation_pairs above 0")
    if rule == "best_judged" and sweep.along is None:
        raise SpecError("train.checkpoint: best_judged needs an `along` block: its evaluations judge the checkpoints")
    if every and rule != "lowest_validation_loss":
        instead = "along.every_steps says when they are judged" if rule == "best_judged" else "only the last policy is looked at"
        raise SpecError(f"train.checkpoint_every: got {every}, which changes nothing beside train.checkpoint {rule}: {instead}")
