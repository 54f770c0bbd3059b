"""Policies made by DPO: trained with the reference's table, their logs, curves and weights published.

Invariant: of several workers all train, and the first alone tells, looks and publishes.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refstudy import alarms, along, checkpoints, models, recipes
from refstudy.artefacts import (
    ALONG,
    LOG,
    each_token_pair,
    read_completions,
    read_log,
    read_pair_table,
    read_prompts,
    read_token_pairs,
)
from refstudy.grid import Cell
from refstudy.identity import fingerprint
from refstudy.judges import Verdict, judging
from refstudy.measurement import Emit, silent
from refstudy.memory import Sharding
from refstudy.shelf import Policy, free_device, load_policy, own_model
from refstudy.store import Claim, Store, write_json
from refstudy.texts import Completion, Prompt
from refstudy.training import dpo, saves, workers


def train_policy(cell: Cell, store: Store, claim: Claim, emit: Emit) -> Policy:
    """The cell's policy, trained under a claim of it that the caller holds; publishes training log, curve and kept weights."""
    recipe = cell.dpo
    start = checkpoints.checkpoint(recipe.start, store)
    settings = (cell.save_every_s, cell.along, cell.resources.sharding)
    workers.call((recipe, *settings))
    trained = _train(recipe, store, emit, *settings)
    free_device()  # gradients and moments, before the start is loaded beside the policy
    tokenizer = models.load_tokenizer(start)
    if cell.curve is not None:
        store.provide(cell.curve, lambda curve: write_json(curve.folder / ALONG, {"curve": trained.along}))
    store.provide(cell.log, lambda log: write_json(log.folder / LOG, _log(trained)))
    if cell.keep == "adapter":
        _keep(trained, trained.model, tokenizer, claim.folder)
    model = trained.model.merge_and_unload() if recipe.train.lora else trained.model
    if cell.keep == "full":
        _keep(trained, model, tokenizer, claim.folder)
    if cell.keep != "none":
        store.publish(claim)
    return Policy(model.eval(), tokenizer, start.system_role)


def take_part(store: Store) -> None:
    """Trains with the first of several workers all that it trains; nothing of it is written here."""
    while (task := workers.called()) is not None:
        _train(task[0], store, silent, *task[1:])
        free_device()


def log_of_kept(cell: Cell, store: Store) -> None:
    """Publishes the training log of a policy whose weights are kept, from the copy beside them, unless the store has it."""
    store.provide(cell.log, lambda log: write_json(log.folder / LOG, read_log(cell.dpo, store)))


def train_reference(recipe: recipes.Dpo, store: Store, folder: Path, emit: Emit, save_every_s: float) -> None:
    """A policy that is trained to serve as a reference: its weights are kept whole, whatever cells keep, and its log beside them,
    since a cell of the same recipe will not train again."""
    trained = _train(recipe, store, emit, save_every_s)
    log = recipes.TrainingLog(model=recipe)
    store.provide(log, lambda claim: write_json(claim.folder / LOG, _log(trained)))
    model = trained.model.merge_and_unload() if recipe.train.lora else trained.model
    _keep(trained, model, models.load_tokenizer(checkpoints.checkpoint(recipe.start, store)), folder)


def _train(
    recipe: recipes.Dpo,
    store: Store,
    emit: Emit,
    save_every_s: float,
    watched: recipes.Along | None = None,
    sharding: Sharding = "none",
) -> dpo.Trained:
    """The policy of a recipe, with the evaluations that its recipe rests on, else those that only watch."""
    start = load_policy(recipe.start, store)
    evaluations = recipe.along or watched
    validation, is_first = None, workers.rank() == 0
    if recipe.validation is not None and is_first:
        held_out = read_token_pairs(_texts(recipe.validation), store)
        validation = dpo.Validation(held_out, read_pair_table(recipe.validation, store))
    rows = dpo.Rows(each_token_pair(_texts(recipe.table), store), read_pair_table(recipe.table, store))
    curve = "no curve" if evaluations is None else fingerprint(recipes.AlongCurve(model=recipe, along=evaluations))
    return dpo.train(
        start.model,
        start.tokenizer,
        rows,
        beta=recipe.beta,
        seed=recipe.seed,
        training=recipe.train,
        emit=alarms.stopping(recipe.alarms, emit),
        validation=validation,
        along=None if evaluations is None or not is_first else _along(evaluations, store),
        checkpoint=dpo.Checkpoint(recipe.checkpoint, recipe.checkpoint_every) if is_first else dpo.Checkpoint(),
        saving=saves.saving(recipe, store, save_every_s, curve),
        shared_out=sharding,
    )


def _along(recipe: recipes.Along, store: Store) -> dpo.Along:
    examination = _examination(recipe, store)
    return dpo.Along(examination, recipe.every, examination.recall)


def _examination(recipe: recipes.Along, store: Store) -> along.Examination:
    """What evaluates a policy along its training; the start policy is loaded for it, beside the one that trains."""

    def judge(prompts: list[Prompt], candidate: list[Completion], baseline: list[Completion]) -> list[Verdict]:
        return judging.judged(recipe.judge, prompts, candidate, baseline, store, silent).verdicts

    start = load_policy(own_model(recipe.baseline), store)
    prompts = read_prompts(recipe.baseline.prompts, store)
    return along.Examination(prompts, read_completions(recipe.baseline, store), start, recipe.sampling, judge)


def _texts(recipe: recipes.Table) -> recipes.TokenPairs | recipes.Selection:
    assert not isinstance(recipe.texts, recipes.Completions)
    return recipe.texts


def _log(trained: dpo.Trained) -> dict[str, Any]:
    log = {"history": trained.history, "final": trained.final, "phases_s": trained.phases_s, "stopped": trained.stopped}
    log |= {"validations": trained.validations} if trained.validations else {}
    return log | ({"resumed_at": trained.resumed_at} if trained.resumed_at else {})


def _keep(trained: dpo.Trained, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    models.save(model, tokenizer, folder)
    write_json(folder / LOG, _log(trained))
