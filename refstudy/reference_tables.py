"""The making of tables: any reference over pairs, and any model or server over answers.

Invariant: a table is written only when it is whole, and about the text of the token pairs that it is made for.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refstudy import (
    chat,
    checkpoints,
    composed,
    data,
    models,
    partial_scores,
    passes,
    recipes,
    scoring,
    server,
    tables,
    token_pairs,
)
from refstudy.artefacts import read_completions, read_pair_table, read_pairs, read_prompts, read_token_pairs
from refstudy.measurement import Emit
from refstudy.partial_scores import Kept
from refstudy.passes import WHOLE, Shard, Text
from refstudy.shelf import Shelf, Speaker
from refstudy.store import Store
from refstudy.token_pairs import TokenPair


def write_pairs(recipe: recipes.Table, store: Store, folder: Path, emit: Emit, shelf: Shelf) -> None:
    """The table of any reference over pairs: scored by a model or server, read from a file, or made of other tables."""
    assert not isinstance(recipe.texts, recipes.Completions)
    pairs = read_token_pairs(recipe.texts, store)
    summary: dict[str, Any] = {"tokens_scored": 0}
    if isinstance(recipe.texts, recipes.Selection):
        table = composed.sliced(_table(recipe.scorer, recipe.texts.pairs, store), pairs)
        tables.write_pairs(folder, table, summary)
        return
    match recipe.scorer:
        case recipes.Constant():
            table = composed.constant(pairs)
        case recipes.Column() as column:
            table = _from_columns(column, recipe.texts, pairs, store)
            summary["text_unverified"] = True
        case recipes.Mixture(parts=parts, mean=mean):
            made_of = [_table(part.scorer, recipe.texts, store) for part in parts]
            table = composed.mixture(made_of, [part.weight for part in parts], mean, pairs)
        case recipes.Derived() as part:
            of, own = _table(part.of, recipe.texts, store), _table(part.own, recipe.texts, store)
            table = composed.derived(of, own, part.keep, part.factor, part.seed, pairs)
        case scorer:
            speaker = _speaker(scorer, store, shelf)
            texts = _asked_of_pairs(scorer, speaker, pairs)
            with partial_scores.kept(store.partial(recipe), texts) as kept:
                summary = _score(scorer, speaker, texts, kept, emit, shelf)
                table = passes.pair_table(pairs, texts, kept.of(texts))
    tables.write_pairs(folder, table, summary)


def write_completions(recipe: recipes.Table, store: Store, folder: Path, emit: Emit, shelf: Shelf) -> None:
    """The table of a model or server over a policy's answers: tokens as they were drawn where the tokenizer is the policy's, else
    text."""
    assert isinstance(recipe.texts, recipes.Completions)
    speaker, drawn_with = _speaker(recipe.scorer, store, shelf), _drawn_with(recipe.texts, store)
    texts = _asked_of_answers(recipe.texts, speaker, drawn_with, store)
    prompts, answers = read_prompts(recipe.texts.prompts, store), read_completions(recipe.texts, store)
    with partial_scores.kept(store.partial(recipe), texts) as kept:
        summary = _score(recipe.scorer, speaker, texts, kept, emit, shelf)
        table = passes.completion_table(answers, texts, kept.of(texts))
    as_drawn, share = chat.same_tokens(speaker.tokenizer, drawn_with.tokenizer), 0.0
    if not as_drawn:
        system = recipe.texts.sampling.system
        share = scoring.retokenised_share(drawn_with.tokenizer, prompts, answers, system, drawn_with.system_role)
    tables.write_completions(folder, table, {"as_drawn": as_drawn, "retokenised_share": share, **summary})


def score_beside(wanted: Sequence[recipes.Recipe], store: Store, emit: Emit, shelf: Shelf) -> list[recipes.Recipe]:
    """Scores what the first of `wanted`, a table over answers, asks for together with what others there ask of the same model about
    the same prompts, so that each prompt is read once for all of them. Returns these tables, which are still to be made: their
    scores lie beside the store's artefacts.

    Nothing is scored where prompts are too short for lines: there nothing is gained.
    """
    first = wanted[0]
    if not isinstance(first, recipes.Table) or not isinstance(first.scorer, recipes.Model):
        return []
    beside = [each for each in wanted if isinstance(each, recipes.Table) and _is_beside(each, first) and not store.has(each)]
    if len(beside) < 2:
        return []
    speaker = _speaker(first.scorer, store, shelf)
    asked: list[list[Text]] = []
    for each in beside:
        assert isinstance(each.texts, recipes.Completions)
        asked.append(_asked_of_answers(each.texts, speaker, _drawn_with(each.texts, store), store))
        if not scoring.is_long([text.turn for text in asked[-1]]):
            return list(beside)
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(partial_scores.kept(store.partial(table), of)) for table, of in zip(beside, asked, strict=True)]
        if not all(each.is_whole for each in kept):
            policy = shelf.take(first.scorer)
            texts = list({partial_scores.key(text.turn): text for each in asked for text in each}.values())
            scoring.score_missing(policy.model, policy.tokenizer, texts, partial_scores.Together(kept), emit)
    return list(beside)


def score_shard(recipe: recipes.Table, shard: Shard, store: Store, emit: Emit, shelf: Shelf) -> None:
    """Scores one worker's part of a model's table; it lies beside the store's artefacts until the table is made of all parts."""
    speaker = _speaker(recipe.scorer, store, shelf)
    if isinstance(recipe.texts, recipes.Completions):
        texts = _asked_of_answers(recipe.texts, speaker, _drawn_with(recipe.texts, store), store)
    else:
        texts = _asked_of_pairs(recipe.scorer, speaker, read_token_pairs(recipe.texts, store))
    with partial_scores.kept(store.partial(recipe), texts) as kept:
        _score(recipe.scorer, speaker, texts, kept, emit, shelf, shard)


def write_selection(recipe: recipes.Selection, store: Store, folder: Path) -> None:
    pairs = read_token_pairs(recipe.pairs, store)
    of, own = _table(recipe.of, recipe.pairs, store), _table(recipe.own, recipe.pairs, store)
    token_pairs.write(folder, composed.selected(of, own, pairs), [])


def _is_beside(table: recipes.Table, first: recipes.Table) -> bool:
    """Whether both are asked of one model about answers to the same prompts."""
    ours, theirs = table.texts, first.texts
    if not isinstance(ours, recipes.Completions) or not isinstance(theirs, recipes.Completions):
        return False
    same_system = ours.sampling.system == theirs.sampling.system
    return table.scorer == first.scorer and ours.prompts == theirs.prompts and same_system


def _score(
    scorer: recipes.Scorer, speaker: Speaker, texts: list[Text], kept: Kept, emit: Emit, shelf: Shelf, shard: Shard = WHOLE
) -> dict[str, Any]:
    """Scores what no earlier pass has, and tells of it: `duration_s` is this process's alone, `texts_resumed` what it found."""
    begun, about = time.perf_counter(), dict[str, Any]()
    if isinstance(scorer, recipes.Server):
        about = server.score_missing(scorer, speaker.tokenizer, texts, kept, emit)
    elif not kept.is_whole:  # else the model need not be loaded
        policy = shelf.take(_model(scorer))
        scoring.score_missing(policy.model, policy.tokenizer, texts, kept, emit, shard)
    duration_s = time.perf_counter() - begun
    return {"tokens_scored": passes.token_count(texts), "duration_s": duration_s, "texts_resumed": kept.resumed, **about}


def _asked_of_pairs(scorer: recipes.Scorer, speaker: Speaker, pairs: Sequence[TokenPair]) -> list[Text]:
    if isinstance(scorer, recipes.Prior):
        pairs = [replace(pair, messages=[{"role": "user", "content": scorer.prompt}]) for pair in pairs]
    return passes.pair_texts(speaker.tokenizer, pairs, speaker.system_role)


def _asked_of_answers(texts: recipes.Completions, speaker: Speaker, drawn_with: Speaker, store: Store) -> list[Text]:
    prompts, answers = read_prompts(texts.prompts, store), read_completions(texts, store)
    as_drawn = chat.same_tokens(speaker.tokenizer, drawn_with.tokenizer)
    return passes.completion_texts(speaker.tokenizer, prompts, answers, texts.sampling.system, speaker.system_role, as_drawn)


def _speaker(scorer: recipes.Scorer, store: Store, shelf: Shelf) -> Speaker:
    """How the scorer writes what it is asked."""
    if isinstance(scorer, recipes.Server):
        at = checkpoints.tokenizer(scorer.tokenizer)
        return Speaker(models.load_tokenizer(at), at.system_role, at)
    return shelf.speaker(_model(scorer))


def _drawn_with(texts: recipes.Completions, store: Store) -> Speaker:
    """How a policy speaks whose weights may be gone: as its start does."""
    source = texts.source
    assert not isinstance(source, recipes.ChatServer)  # a served model's text has no tokens drawn, and no table is made of it
    at = checkpoints.checkpoint(source.start if isinstance(source, recipes.Dpo) else source, store)
    return Speaker(models.load_tokenizer(at), at.system_role, at)


def _model(scorer: recipes.Scorer) -> recipes.Model:
    model = scorer.model if isinstance(scorer, recipes.Prior) else scorer
    assert isinstance(model, recipes.Model)
    return model


def _table(scorer: recipes.Scorer, texts: recipes.TokenPairs, store: Store) -> tables.PairTable:
    return read_pair_table(recipes.Table(scorer=scorer, texts=texts), store)


def _from_columns(column: recipes.Column, texts: recipes.TokenPairs, pairs: list[TokenPair], store: Store) -> tables.PairTable:
    return composed.from_columns(
        data.read_source(column.source),
        column.chosen,
        column.rejected,
        column.pair_id,
        lambda values: data.pair_text(values, texts.pairs),
        read_pairs(texts.pairs, store),
        pairs,
    )
