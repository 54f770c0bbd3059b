"""Answers that somebody already has, found for the prompts that they answer: of a file, a dataset, or held-out pairs.

Invariant: every prompt gets the answer that stands in the row of exactly this prompt, or the whole set is refused.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from refstudy import data, recipes, turns
from refstudy.datafiles import Row
from refstudy.errors import DataError
from refstudy.texts import Prompt

COLUMNS = ("output", "answer", "completion", "response", "text")
"""Where an answer may stand, the first of them that a row has; AlpacaEval's files have it in `output`."""
SHOWN = 3


def texts(recipe: recipes.Answers, prompts: list[Prompt]) -> list[str]:
    """The answer's text for each of `prompts`, in their order; DataError if one has none, or several that differ."""
    if recipe.source is None:
        return [_chosen(prompt) for prompt in prompts]
    return matched(data.read_source(recipe.source), prompts)


def matched(rows: Iterable[Row], prompts: list[Prompt]) -> list[str]:
    """The rows' answers by prompt: found by `prompt_id` where a row has one, else by the prompt itself (`instruction`, `prompt`,
    `messages` or `turns`; `messages` may also end with the answer). A prompt asked several times takes its rows in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    asked: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        asked[data.prompt_key(prompt.messages)].append(prompt)
    by_id = {prompt.prompt_id: data.prompt_key(prompt.messages) for prompt in prompts}
    for where, values in rows:
        key, text = _row(where, values, by_id)
        found[key].append(text)
    _refuse_missing(asked, found)
    answers: dict[str, str] = {}
    for key, same in asked.items():
        given = found[key]
        if len(given) != len(same) and len(set(given)) > 1:
            raise DataError(
                f"prompt {same[0].prompt_id!r} ({same[0].messages[-1]['content'][:60]!r}) has {len(given)} answers that differ for "
                f"{len(same)} time(s) that it is asked; expected one each: keep the answers of one model in the file"
            )
        answers |= {prompt.prompt_id: given[min(place, len(given) - 1)] for place, prompt in enumerate(same)}
    return [answers[prompt.prompt_id] for prompt in prompts]


def _row(where: str, values: dict[str, Any], by_id: dict[str, str]) -> tuple[str, str]:
    """(key of the prompt, answer) of a row."""
    column = next((name for name in COLUMNS if name in values), None)
    if column is None and "messages" in values:
        return _conversation(where, values)
    if column is None:
        raise DataError(f"{where}: there is no answer (found: {', '.join(values)}); expected one of {', '.join(COLUMNS)}")
    text = values[column]
    if not isinstance(text, str):
        raise DataError(f"{where}: {column} is {text!r:.60}; expected the answer's text")
    if isinstance(values.get("prompt_id"), str):
        return by_id.get(values["prompt_id"], values["prompt_id"]), text
    try:
        turns.check_text(text, column)
        return data.prompt_key(turns.prompt(values)), text
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _conversation(where: str, values: dict[str, Any]) -> tuple[str, str]:
    """(key of the prompt, answer) of a row that holds both as one list of messages, the assistant's answer last."""
    try:
        whole = turns.conversation(values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return data.prompt_key(whole[:-1]), whole[-1]["content"]


def _refuse_missing(asked: dict[str, list[Prompt]], found: dict[str, list[str]]) -> None:
    missing = [same[0] for key, same in asked.items() if key not in found]
    if missing:
        first = "; ".join(repr(prompt.messages[-1]["content"][:60]) for prompt in missing[:SHOWN])
        raise DataError(
            f"{len(missing)} of {len(asked)} prompts have no answer in the file (first: {first}); expected one for each, found by "
            "`prompt_id` or by the prompt's own text: add them, or ask fewer prompts"
        )


def _chosen(prompt: Prompt) -> str:
    chosen = prompt.meta.get("chosen")
    if not isinstance(chosen, str):
        raise DataError(f"prompt {prompt.prompt_id!r} has no chosen answer beside it; expected prompts of held-out pairs")
    return chosen
