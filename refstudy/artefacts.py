"""Reading what was made: the file names of each kind of artefact, and its content as values.

Invariant: reading needs no torch, apart from the three functions that read tokens, which import it when they are called.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from refstudy import judges, recipes, texts
from refstudy.store import Store
from refstudy.texts import Completion, Message, Pair, Prompt

if TYPE_CHECKING:
    from refstudy.tables import PairTable
    from refstudy.token_pairs import TokenPair

PROMPTS, PAIRS, CONVERSATIONS = "prompts.jsonl", "pairs.jsonl", "conversations.jsonl"
COMPLETIONS, DIVERGENCE, LOG = "completions.jsonl", "divergence.parquet", "training.json"
TOKEN_SHIFTS = "token_shifts.parquet"
ALONG = "along.json"
SUMMARY = "summary.json"


def read_prompts(recipe: recipes.AnyPrompts, store: Store) -> list[Prompt]:
    return texts.read_prompts(store.path(recipe) / PROMPTS)


def read_pairs(recipe: recipes.MiniaturePairs | recipes.Preferences, store: Store) -> list[Pair]:
    return texts.read_pairs(store.path(recipe) / PAIRS)


def read_conversations(recipe: recipes.Demonstrations | recipes.Conversations, store: Store) -> list[list[Message]]:
    return [row["messages"] for _, row in texts.read_objects(store.path(recipe) / CONVERSATIONS)]


def read_completions(recipe: recipes.AnyAnswers, store: Store) -> list[Completion]:
    return texts.read_completions(store.path(recipe) / COMPLETIONS)


def read_verdicts(recipe: recipes.Verdicts, store: Store) -> list[dict[str, Any]]:
    return [dict(vars(each)) for each in judges.read(store.path(recipe))]


def read_divergence(recipe: recipes.Divergence, store: Store) -> list[dict[str, Any]]:
    return list(pq.read_table(store.path(recipe) / DIVERGENCE).to_pylist())


def read_log(recipe: recipes.TrainingLog | recipes.Dpo, store: Store) -> dict[str, Any]:
    """What training showed: history, final, phases_s, stopped; weights that are kept have it beside them."""
    return dict(json.loads((store.path(recipe) / LOG).read_text(encoding="utf-8")))


def read_along(recipe: recipes.AlongCurve, store: Store) -> list[dict[str, float]]:
    """What evaluations along training measured: a row for each, with its step and epoch."""
    return list(json.loads((store.path(recipe) / ALONG).read_text(encoding="utf-8"))["curve"])


def read_token_pairs(recipe: recipes.TokenPairs | recipes.Selection, store: Store) -> "list[TokenPair]":
    from refstudy import token_pairs  # imports transformers, for tokenising

    return token_pairs.read(store.path(recipe))


def each_token_pair(recipe: recipes.TokenPairs | recipes.Selection, store: Store) -> "Iterator[TokenPair]":
    """`read_token_pairs` one after another, for who keeps little of each."""
    from refstudy import token_pairs

    return token_pairs.each(store.path(recipe))


def read_pair_table(recipe: recipes.Table, store: Store) -> "PairTable":
    """The reference's log-probs of preference pairs."""
    from refstudy import tables

    return tables.read_pairs(store.path(recipe))
