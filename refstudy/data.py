"""The door to datasets: files and the Hugging Face hub become preference pairs, prompts and conversations.

Invariant: whole conversations of one dataset lie in one part of it. Which part is decided by a hash of the first question, never by
the order of rows, so that no question of the dataset is both trained on and held out, and the held-out part stays the same whatever
is trained on. Prompts or conversations of another source are taken as they are: nothing here compares them with the pairs.
"""

import functools
import hashlib
import json
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from refstudy import recipes, turns
from refstudy.content import content_hash, folder_hash
from refstudy.datafiles import Row, read_rows
from refstudy.errors import DataError
from refstudy.texts import Message, Pair, Prompt

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Selection(Generic[T]):
    """What was taken of a dataset, and what was left out of it."""

    rows: list[T]
    read: int
    """Rows of the dataset, all parts together."""
    dropped: list[str]
    """Where each unusable row stands and what is wrong with it; these are in no part."""

    def summary(self) -> dict[str, Any]:
        return {"rows": len(self.rows), "read": self.read, "dropped": self.dropped}


def preferences(recipe: recipes.Preferences) -> Selection[Pair]:
    """The preference pairs of one part of a dataset, in the dataset's order.

    A pair's id is the hash of its messages and answers; the second of identical rows is ID-2, and so on. Its cluster is the
    conversation: the hash of the first question. With a limit, the pairs with the lowest ids are taken, so that a larger limit
    contains a smaller one. Every row is checked, also those of other parts.
    """
    rows = read_source(recipe.source)
    pairs, dropped = _usable(rows, functools.partial(_pair, recipe=recipe), recipe.unusable)
    part = _part(_distinct(pairs), recipe)
    if recipe.limit is not None:
        kept = {pair.pair_id for pair in sorted(part, key=lambda pair: pair.pair_id)[: recipe.limit]}
        part = [pair for pair in part if pair.pair_id in kept]
    return Selection(rows=part, read=len(rows), dropped=dropped)


def held_out_prompts(recipe: recipes.HeldOutPrompts, pairs: Iterable[Pair]) -> list[Prompt]:
    """The distinct prompts of `pairs` (those of `recipe.pairs`), each with its first chosen answer in `meta`; at most `count`."""
    prompts: dict[str, Prompt] = {}
    for pair in pairs:
        prompt_id = _hash(pair.messages)
        prompts.setdefault(
            prompt_id, Prompt(prompt_id=prompt_id, messages=pair.messages, cluster=pair.cluster, meta={"chosen": pair.chosen})
        )
    return list(prompts.values())[: recipe.count]


def other_prompts(recipe: recipes.OtherPrompts, of: Iterable[Prompt], without: Iterable[Prompt]) -> list[Prompt]:
    """The first `recipe.count` prompts of `of` that begin with no question of `without`, each question once.

    DataError if fewer are left: a set that shrinks without a word would be another one.
    """
    asked = {cluster(prompt.messages) for prompt in without}
    found: dict[str, Prompt] = {}
    for prompt in of:
        question = cluster(prompt.messages)
        if question not in asked:
            found.setdefault(question, prompt)
    wanted = 1 if recipe.count is None else recipe.count
    if len(found) < wanted:
        raise DataError(
            f"prompts along training: {len(found)} distinct ones are left beside those of the evaluation, expected {wanted}; "
            "lower along.prompts or data.eval_prompts, hold out more data.validation_pairs, or name a source with more prompts"
        )
    return list(found.values())[: recipe.count]


def prompts(recipe: recipes.Prompts) -> Selection[Prompt]:
    """The first `count` prompts of a dataset; AlpacaEval's `dataset` column stays in `meta`. A repeated prompt's id is ID-2."""
    rows = read_source(recipe.source)
    found, _ = _usable(rows[: recipe.count], _prompt, "refuse")
    seen: Counter[str] = Counter()
    numbered = [_replace_id(prompt, "prompt_id", prompt.prompt_id, seen) for prompt in found]
    return Selection(rows=numbered, read=len(rows), dropped=[])


def conversations(recipe: recipes.Conversations) -> Selection[list[Message]]:
    """Conversations for SFT, the assistant's answer last; the first `limit` of the dataset."""
    rows = read_source(recipe.source)
    found, dropped = _usable(rows[: recipe.limit], _conversation, recipe.unusable)
    return Selection(rows=found, read=len(rows), dropped=dropped)


def chosen_conversations(pairs: Iterable[Pair]) -> list[list[Message]]:
    """The pairs' conversations with their chosen answers, for SFT on preference data."""
    return [[*pair.messages, {"role": "assistant", "content": pair.chosen}] for pair in pairs]


def prompt_key(messages: list[Message], more: Sequence[str] = ()) -> str:
    """What a conversation is found by: the hash of its turns, which is also the id of a prompt read from a file. `more`: turns of
    the user that go on after answers yet to be given."""
    return _hash([*messages, *more]) if more else _hash(messages)


def cluster(messages: list[Message]) -> str:
    """The conversation that `messages` belong to: the hash of the first question.

    Letters' case, white space and Unicode forms (NFKC) make no other question: the same words must not stand on both sides.
    """
    question = next((message["content"] for message in messages if message["role"] == "user"), "")
    return _hash(" ".join(unicodedata.normalize("NFKC", question).casefold().split()))


def read_source(source: recipes.File | recipes.HubData) -> list[Row]:
    """(where it stands, its values by column) for each row of a file or dataset, whatever its columns are."""
    if isinstance(source, recipes.HubData):
        if source.path and folder_hash(source.path) != source.revision:
            raise DataError(f"data folder {source.path} has changed since the sweep was read; start the sweep again")
        return _hub_file(source) if source.file is not None else _hub_rows(source)
    if content_hash(source.path) != source.content:
        raise DataError(f"data file {source.path} has changed since the sweep was read; start the sweep again")
    return read_rows(Path(source.path))


def _hub_rows(source: recipes.HubData) -> list[Row]:
    """The rows of a hub dataset's split, or of a local folder of the same layout."""
    import datasets  # only here: the import takes seconds, and files need none of it

    revision = None if source.path else source.revision
    try:
        found = datasets.load_dataset(source.path or source.dataset, source.config, split=source.split, revision=revision)
    except Exception as error:  # the hub, the network and each file format have exceptions of their own
        raise DataError(_hub_failure(source, error)) from error
    name = f"{source.path or source.dataset} ({source.split})"
    return [(f"{name}, row {number}", dict(row)) for number, row in enumerate(found, start=1)]


def _hub_file(source: recipes.HubData) -> list[Row]:
    """The rows of one file of a dataset repository."""
    import huggingface_hub

    assert source.file is not None
    try:
        path = huggingface_hub.hf_hub_download(source.dataset, source.file, repo_type="dataset", revision=source.revision)
    except Exception as error:  # as above
        raise DataError(_hub_failure(source, error)) from error
    return read_rows(Path(path))


def _hub_failure(source: recipes.HubData, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"dataset {source.path or source.dataset} (config {source.config}, split {source.split}, "
        f"revision {source.revision}, file {source.file}) "
        f"cannot be loaded: {reason}; check names and network, or give a file with `kind: file`"
    )


def _usable(rows: list[Row], parse: Callable[[dict[str, Any]], tuple[T, str | None]], unusable: str) -> tuple[list[T], list[str]]:
    """(parsed rows, what was dropped). Malformed rows are always refused; unusable ones as the recipe says."""
    kept: list[T] = []
    dropped: list[str] = []
    for where, values in rows:
        try:
            value, fault = parse(values)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if fault is None:
            kept.append(value)
        elif unusable == "drop":
            dropped.append(f"{where}: {fault}")
        else:
            raise DataError(f"{where}: {fault}; mend or remove the row, or leave such rows out with `unusable: drop`")
    if not kept:
        raise DataError(f"no row is usable: {dropped[0] if dropped else 'there are none'}")
    return kept, dropped


def _pair(values: dict[str, Any], recipe: recipes.Preferences) -> tuple[Pair, str | None]:
    messages, chosen, rejected = pair_text(values, recipe)
    fault = _fault(messages, {"chosen": chosen, "rejected": rejected}) or _pair_fault(messages, chosen, rejected, recipe)
    pair_id = _hash([messages, chosen, rejected])
    meta = _meta(values)
    return Pair(pair_id=pair_id, messages=messages, chosen=chosen, rejected=rejected, cluster=cluster(messages), meta=meta), fault


def pair_text(values: dict[str, Any], recipe: recipes.MiniaturePairs | recipes.Preferences) -> tuple[list[Message], str, str]:
    """(conversation, chosen, rejected) of a row as `recipe` would hold it: what rows of another file are matched by."""
    messages, chosen, rejected = turns.preference(values)
    if isinstance(recipe, recipes.Preferences):
        messages = [{**message, "content": _clean(message["content"], recipe)} for message in messages]
        chosen, rejected = _clean(chosen, recipe), _clean(rejected, recipe)
    return messages, chosen, rejected


def _clean(text: str, recipe: recipes.Preferences) -> str:
    """The text as the recipe wants it; unchanged unless the recipe says so."""
    text = unicodedata.normalize("NFC", text) if recipe.unicode == "nfc" else text
    return text.strip() if recipe.white_space == "strip" else text


def _pair_fault(messages: list[Message], chosen: str, rejected: str, recipe: recipes.Preferences) -> str | None:
    if chosen == rejected:
        return "chosen and rejected are the same text"
    texts = [*(message["content"] for message in messages), chosen, rejected]
    return next((f"the text holds {string!r}" for string in recipe.without if any(string in text for text in texts)), None)


def _prompt(values: dict[str, Any]) -> tuple[Prompt, str | None]:
    messages = turns.prompt(values)
    meta = _meta(values)
    if isinstance(values.get("dataset"), str):
        meta["dataset"] = values["dataset"]
    more = turns.further_turns(values)
    prompt_id = prompt_key(messages, more)
    return Prompt(prompt_id=prompt_id, messages=messages, cluster=cluster(messages), meta=meta, turns=more), _fault(messages, {})


def _conversation(values: dict[str, Any]) -> tuple[list[Message], str | None]:
    messages = turns.conversation(values)
    return messages, _fault(messages[:-1], {"the answer": messages[-1]["content"]})


def _fault(messages: list[Message], answers: dict[str, str]) -> str | None:
    """Why a well-formed row cannot be used: no question, or an empty answer; None if it can."""
    if not messages or not messages[-1]["content"].strip():
        return "the prompt is empty"
    return next((f"{column} is empty" for column, text in answers.items() if not text.strip()), None)


def _meta(values: dict[str, Any]) -> dict[str, Any]:
    """The row's numbers, such as UltraFeedback's scores."""
    return {
        column: value
        for column, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _distinct(pairs: list[Pair]) -> list[Pair]:
    seen: Counter[str] = Counter()
    return [_replace_id(pair, "pair_id", pair.pair_id, seen) for pair in pairs]


def _replace_id(row: Any, field: str, content_id: str, seen: Counter[str]) -> Any:
    seen[content_id] += 1
    return row if seen[content_id] == 1 else _with(row, **{field: f"{content_id}-{seen[content_id]}"})


def _with(row: Any, **changes: Any) -> Any:
    return type(row)(**{**row.__dict__, **changes})


def _part(pairs: list[Pair], recipe: recipes.Preferences) -> list[Pair]:
    """The pairs of the recipe's part: conversations in the order of their hashes go to evaluation until it has its rows, then to
    validation, then to training."""
    sizes = Counter(pair.cluster for pair in pairs)
    parts: dict[str, list[Pair]] = defaultdict(list)
    places = _places(sizes, recipe.evaluation, recipe.validation)
    for pair in pairs:
        parts[places[pair.cluster]].append(pair)
    if not parts["train"]:
        raise DataError(
            f"{len(pairs)} usable pairs ({len(sizes)} conversations) leave none to train on: evaluation takes "
            f"{len(parts['evaluation'])}, validation {len(parts['validation'])}; hold out fewer, or give more pairs"
        )
    return parts[recipe.part]


def _places(sizes: Counter[str], evaluation: int, validation: int) -> dict[str, str]:
    places = {}
    held = {"evaluation": 0, "validation": 0}
    for conversation in sorted(sizes):  # hashes of the questions: an order that no file decides
        if held["evaluation"] < evaluation:
            place = "evaluation"
        elif held["validation"] < validation:
            place = "validation"
        else:
            place = "train"
        places[conversation] = place
        if place != "train":
            held[place] += sizes[conversation]
    return places


def _hash(value: Any) -> str:
    """16 hexadecimal digits naming a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
