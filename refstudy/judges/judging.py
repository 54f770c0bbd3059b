"""The making of verdicts: which function judges for which recipe of a judge.

Invariant: whoever judges, the verdicts are one for each prompt, in the prompts' order.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refstudy import checkpoints, content, judges, models, recipes
from refstudy.errors import DataError
from refstudy.judges import Judged, annotations, gold, llm, plugin, reward_model, votes
from refstudy.measurement import Emit
from refstudy.miniature import world
from refstudy.store import Store, write_json
from refstudy.texts import Completion, Prompt

LABEL = "candidate_is_better"
"""A prompt's own column with the objective label of its two answers, where these are given: 1 or 0."""


def write(
    judge: recipes.Judge,
    prompts: Sequence[Prompt],
    candidate: Sequence[Completion],
    baseline: Sequence[Completion],
    store: Store,
    folder: Path,
    emit: Emit,
) -> None:
    """Writes a judge's verdicts, and a summary where it has something to say about how they came about."""
    of = judged(judge, prompts, candidate, baseline, store, emit)
    labels = [prompt.meta.get(LABEL) for prompt in prompts]
    verdicts = [
        replace(verdict, label=int(label)) if label in (0, 1) else verdict
        for verdict, label in zip(of.verdicts, labels, strict=True)
    ]
    judges.write(folder, verdicts)
    if of.summary:
        write_json(folder / judges.SUMMARY, of.summary)


def judged(
    judge: recipes.Judge,
    prompts: Sequence[Prompt],
    candidate: Sequence[Completion],
    baseline: Sequence[Completion],
    store: Store,
    emit: Emit,
) -> Judged:
    """A judge's verdicts on answers in memory, and what it has to say about how they came about."""
    match judge:
        case recipes.GoldJudge():
            return Judged(gold.judge(world.draw(judge.world), prompts, candidate, baseline))
        case recipes.RewardJudge():
            model, tokenizer = models.load_reward_model(_checkpoint(judge, store))
            trained_here = isinstance(judge.model, recipes.RewardModel)
            return Judged(
                reward_model.judge(
                    model, tokenizer, judge.max_length, prompts, candidate, baseline, emit, ends_with_turn=trained_here
                )
            )
        case recipes.LlmJudge():
            return llm.judge(judge, prompts, candidate, baseline, store.partial(judge), emit)
        case recipes.VotesJudge():
            return votes.judge(votes.read(_unchanged(judge.votes)), prompts, candidate, baseline)
        case recipes.AnnotationsJudge():
            return annotations.judge(annotations.read(_unchanged(judge.annotations)), prompts, candidate, baseline)
        case recipes.PluginJudge():
            return plugin.judge(judge, prompts, candidate, baseline, store.partial(judge), emit)


def _checkpoint(judge: recipes.RewardJudge, store: Store) -> checkpoints.Checkpoint:
    if isinstance(judge.model, recipes.RewardModel):
        return checkpoints.Checkpoint(str(store.path(judge.model)))
    return checkpoints.checkpoint(judge.model, store)


def _unchanged(file: recipes.File) -> Path:
    if content.content_hash(file.path) != file.content:
        raise DataError(f"data file {file.path} has changed since the sweep was read; start the sweep again")
    return Path(file.path)
