"""Making artefacts: which function makes which kind of recipe, out of what the store has.

Invariant: one artefact is made at a time, in a claimed folder, and published whole. Whoever finds it claimed by a living process
waits for that process instead of making it again.
"""

import functools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from refstudy import (
    chat,
    checkpoints,
    data,
    divergence,
    generation,
    models,
    outputs,
    policies,
    pretraining,
    recipes,
    reference_tables,
    served_answers,
    texts,
    token_pairs,
    token_shifts,
)
from refstudy.artefacts import (
    COMPLETIONS,
    CONVERSATIONS,
    DIVERGENCE,
    PAIRS,
    PROMPTS,
    SUMMARY,
    read_completions,
    read_conversations,
    read_pairs,
    read_prompts,
    read_token_pairs,
)
from refstudy.generation import Drawn
from refstudy.grid import Cell
from refstudy.identity import kind
from refstudy.judges import judging
from refstudy.measurement import Emit, silent
from refstudy.miniature import demonstrations, preferences, zoo
from refstudy.miniature import prompts as miniature_prompts
from refstudy.passes import Shard
from refstudy.processes import Heartbeat
from refstudy.recipes import Recipe
from refstudy.shelf import Policy, Shelf, load_policy, own_model
from refstudy.store import Claim, Store, write_json
from refstudy.texts import Completion, Message, Pair, Prompt, Said
from refstudy.training import reward_model, saves, sft


def make_all(wanted: Iterable[Recipe], store: Store, emit: Emit = silent, save_every_s: float = 0.0) -> None:
    """Makes the recipes in their order; one after another that use the same model load it once, and those that score answers to the
    same long prompts read these once."""
    shelf, wanted, scored = Shelf(store), list(wanted), list[Recipe]()
    for number, recipe in enumerate(wanted):
        if recipe not in scored:
            scored += reference_tables.score_beside(wanted[number:], store, emit, shelf)
        make(recipe, store, emit, shelf, save_every_s)


def make(recipe: Recipe, store: Store, emit: Emit = silent, shelf: Shelf | None = None, save_every_s: float = 0.0) -> None:
    """Makes and publishes the artefact of `recipe` from inputs that the store has; does nothing if it exists.

    `save_every_s`: how often the state of a training is saved, from which the next call goes on; 0: never.
    """
    store.provide(recipe, lambda claim: _write(recipe, store, claim.folder, emit, shelf or Shelf(store), save_every_s))


def score_shard(wanted: Iterable[Recipe], shard: Shard, store: Store, emit: Emit = silent) -> None:
    """Scores one worker's part of each of the tables that the store lacks; whoever makes the tables then finds it."""
    shelf = Shelf(store)
    for recipe in wanted:
        assert isinstance(recipe, recipes.Table)
        if not store.has(recipe):
            keep = functools.partial(store.keep_partial, recipe)  # whoever makes the table may be on another machine
            beat = Heartbeat(keep)
            try:
                reference_tables.score_shard(recipe, shard, store, emit, shelf)
            finally:
                beat.stop()
                keep()


def _write(recipe: Recipe, store: Store, folder: Path, emit: Emit, shelf: Shelf, save_every_s: float) -> None:
    """Writes the files of one artefact."""
    match recipe:
        case recipes.MiniaturePrompts():
            texts.write_lines(folder / PROMPTS, miniature_prompts.draw(recipe))
        case recipes.MiniaturePairs():
            texts.write_lines(folder / PAIRS, _annotated(recipe, store))
        case recipes.Demonstrations():
            _write_conversations(folder, demonstrations.draw(recipe))
        case recipes.Preferences():
            pairs = data.preferences(recipe)
            texts.write_lines(folder / PAIRS, pairs.rows)
            write_json(folder / SUMMARY, pairs.summary())
        case recipes.HeldOutPrompts():
            texts.write_lines(folder / PROMPTS, data.held_out_prompts(recipe, read_pairs(recipe.pairs, store)))
        case recipes.Prompts():
            prompts = data.prompts(recipe)
            texts.write_lines(folder / PROMPTS, prompts.rows)
            write_json(folder / SUMMARY, prompts.summary())
        case recipes.OtherPrompts():
            texts.write_lines(
                folder / PROMPTS, data.other_prompts(recipe, read_prompts(recipe.of, store), read_prompts(recipe.without, store))
            )
        case recipes.Conversations():
            conversations = data.conversations(recipe)
            _write_conversations(folder, conversations.rows)
            write_json(folder / SUMMARY, conversations.summary())
        case recipes.Pretrained():
            zoo.pretrain(recipe, folder, emit)
        case recipes.Scratch():
            pretraining.pretrain(recipe, read_pairs(recipe.text, store), folder, emit)
        case recipes.Sft():
            _fine_tune(recipe, store, folder, emit, save_every_s)
        case recipes.RewardModel():
            _train_reward_model(recipe, store, folder, emit, save_every_s)
        case recipes.Dpo():
            policies.train_reference(recipe, store, folder, emit, save_every_s)
        case recipes.TokenPairs():
            _write_token_pairs(recipe, store, folder)
        case recipes.Selection():
            reference_tables.write_selection(recipe, store, folder)
        case recipes.Table(texts=recipes.Completions()):
            reference_tables.write_completions(recipe, store, folder, emit, shelf)
        case recipes.Table():
            reference_tables.write_pairs(recipe, store, folder, emit, shelf)
        case recipes.Completions(source=recipes.ChatServer()):
            texts.write_lines(folder / COMPLETIONS, _served_answers(recipe, store, emit))
        case recipes.Completions():
            drawn = _drawn(recipe, store, shelf.take(own_model(recipe)), emit, keep_states=False)
            texts.write_lines(folder / COMPLETIONS, drawn.completions)
        case recipes.Answers():
            given = read_prompts(recipe.prompts, store)
            texts.write_lines(folder / COMPLETIONS, _as_text(given, outputs.answers(recipe, given), recipe.tokens_of, store))
        case recipes.Divergence():
            _write_divergence(recipe, store, folder, shelf.take(own_model(recipe.completions)), emit)
        case recipes.Verdicts():
            _write_verdicts(recipe, store, folder, emit)
        case _:
            raise AssertionError(f"{kind(recipe)} is not made: it names what exists elsewhere, or a trial makes it")


# What a trial makes with the policy in its hands ------------------------------------------------------------------------------


def answers(recipe: recipes.Completions, store: Store, policy: Policy | None, emit: Emit, keep_states: bool = True) -> Drawn | None:
    """Publishes the policy's answers, unless the store has them; `policy` None: its weights are in the store. Returns them as
    they were drawn, None if another process or an earlier one made them."""
    made: list[Drawn] = []

    def write(claim: Claim) -> None:
        made.append(_drawn(recipe, store, policy or load_policy(own_model(recipe), store), emit, keep_states))
        texts.write_lines(claim.folder / COMPLETIONS, made[-1].completions)

    store.provide(recipe, write)
    return made[-1] if made else None


def answers_to_sets(cell: Cell, store: Store, policy: Policy | None, emit: Emit) -> None:
    """Publishes the policy's answers to all evaluation sets that the store lacks; a kept policy is loaded once for all of them."""
    for each in cell.answers:
        if not store.has(each):
            policy = policy or load_policy(cell.dpo, store)
            answers(each, store, policy, emit, keep_states=False)


def divergence_of(recipe: recipes.Divergence, store: Store, policy: Policy | None, emit: Emit, drawn: Drawn | None = None) -> None:
    """Publishes the KL of the answers' policy to the reference, unless the store has it; `drawn`: the answers, if just drawn."""

    def write(claim: Claim) -> None:
        source = policy or load_policy(own_model(recipe.completions), store)
        _write_divergence(recipe, store, claim.folder, source, emit, drawn)

    store.provide(recipe, write)


def token_shifts_of(recipe: recipes.TokenShifts, store: Store, policy: Policy, emit: Emit) -> None:
    """Publishes how far each token's log-prob moved from the policy's start to the policy, unless the store has it."""

    def write(claim: Claim) -> None:
        pairs, before = read_token_pairs(recipe.texts, store), _before(recipe.model.start, recipe.texts, recipe.count, store.root)
        token_shifts.write(claim.folder, pairs, recipe.count, before, policy, emit)

    store.provide(recipe, write)


@functools.lru_cache(maxsize=1)
def _before(start: recipes.Model, texts: recipes.TokenPairs, count: int, root: Path) -> np.ndarray:
    """Log-probs of answers under the policies' start: a pass that a warm worker's next trial need not make again."""
    store = Store(root)
    return token_shifts.logps(load_policy(start, store), read_token_pairs(texts, store), count, silent)


def verdicts(recipe: recipes.Verdicts, store: Store, claim: Claim, emit: Emit) -> None:
    """Publishes the judge's verdicts under a claim that the caller holds."""
    _write_verdicts(recipe, store, claim.folder, emit)
    store.publish(claim)


# The making of each kind ------------------------------------------------------------------------------------------------------


def _annotated(recipe: recipes.MiniaturePairs, store: Store) -> list[Pair]:
    completions = [read_completions(each, store) for each in recipe.candidates]
    prompts = [read_prompts(each.prompts, store) for each in recipe.candidates]
    return preferences.annotate(recipe, completions[0], completions[1], prompts[0], prompts[1])


def _fine_tune(recipe: recipes.Sft, store: Store, folder: Path, emit: Emit, save_every_s: float) -> None:
    at = checkpoints.checkpoint(recipe.start, store)
    model, tokenizer = models.load(replace(at, template=recipe.template or at.template, device_map=None))
    sft.train(
        model,
        tokenizer,
        _conversations(recipe, store),
        training=recipe.train,
        max_length=recipe.max_length,
        seed=recipe.seed,
        destination=folder,
        emit=emit,
        system_role=at.system_role,
        saving=saves.saving(recipe, store, save_every_s),
    )


def _conversations(recipe: recipes.Sft, store: Store) -> list[list[Message]]:
    if isinstance(recipe.data, recipes.Preferences):
        return data.chosen_conversations(read_pairs(recipe.data, store))
    return read_conversations(recipe.data, store)


def _train_reward_model(recipe: recipes.RewardModel, store: Store, folder: Path, emit: Emit, save_every_s: float) -> None:
    reward_model.train(
        checkpoints.checkpoint(recipe.start, store),
        read_pairs(recipe.pairs, store),
        training=recipe.train,
        max_length=recipe.max_length,
        seed=recipe.seed,
        destination=folder,
        emit=emit,
        drop_long=recipe.pairs.unusable == "drop",
        saving=saves.saving(recipe, store, save_every_s),
    )


def _write_token_pairs(recipe: recipes.TokenPairs, store: Store, folder: Path) -> None:
    at = checkpoints.checkpoint(recipe.policy, store)
    dropped: list[str] = []
    drop = dropped.append if isinstance(recipe.pairs, recipes.Preferences) and recipe.pairs.unusable == "drop" else None
    rows = token_pairs.tokenise(
        read_pairs(recipe.pairs, store), models.load_tokenizer(at), recipe.max_length, recipe.system, at.system_role, drop
    )
    token_pairs.write(folder, rows, dropped)


def _drawn(recipe: recipes.Completions, store: Store, policy: Policy, emit: Emit, keep_states: bool) -> Drawn:
    prompts, system_role = read_prompts(recipe.prompts, store), policy.system_role
    return generation.drawn(policy.model, policy.tokenizer, prompts, recipe.sampling, emit, system_role, keep_states=keep_states)


def _served_answers(recipe: recipes.Completions, store: Store, emit: Emit) -> list[Completion]:
    assert isinstance(recipe.source, recipes.ChatServer)
    assert recipe.tokens_of is not None
    prompts = read_prompts(recipe.prompts, store)
    found = served_answers.answers(recipe.source, prompts, recipe.sampling, store.partial(recipe), emit)
    return _as_text(prompts, found, recipe.tokens_of, store)


def _as_text(prompts: list[Prompt], answered: list[Said], tokens_of: recipes.Model, store: Store) -> list[Completion]:
    """Answers known as text, counted in the tokens of a model that did not write them."""
    tokenizer = models.load_tokenizer(checkpoints.checkpoint(tokens_of, store))
    return [
        Completion(
            prompt_id=prompt.prompt_id,
            text=said.text,
            token_ids=chat.text_ids(tokenizer, said.text, said.terminated),
            terminated=said.terminated,
            logp_sum_nats=None,
            earlier=list(said.earlier),
        )
        for prompt, said in zip(prompts, answered, strict=True)
    ]


def _write_divergence(
    recipe: recipes.Divergence, store: Store, folder: Path, policy: Policy, emit: Emit, drawn: Drawn | None = None
) -> None:
    reference = load_policy(recipe.reference, store)
    kl = divergence.kl_nats(
        policy.model,
        reference.model,
        policy.tokenizer,
        read_prompts(recipe.completions.prompts, store),
        read_completions(recipe.completions, store),
        recipe.completions.sampling.system,
        emit,
        policy.system_role,
        states=None if drawn is None else drawn.states,
    )
    columns = {"prompt_id": kl.prompt_ids, "kl_nats": kl.kl_nats, "tokens": kl.tokens}
    pq.write_table(pa.table(columns), folder / DIVERGENCE)


def _write_verdicts(recipe: recipes.Verdicts, store: Store, folder: Path, emit: Emit) -> None:
    prompts = read_prompts(recipe.candidate.prompts, store)
    candidate, baseline = read_completions(recipe.candidate, store), read_completions(recipe.baseline, store)
    judging.write(recipe.judge, prompts, candidate, baseline, store, folder, emit)


def _write_conversations(folder: Path, conversations: list[list[Message]]) -> None:
    with open(folder / CONVERSATIONS, "w", encoding="utf-8") as file:
        for messages in conversations:
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
