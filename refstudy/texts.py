"""The texts that everything is about: prompts, preference pairs, completions; one JSON object a line.

Invariant: a text file read back equals what was written; a malformed line is refused with file and line number.
"""

import dataclasses
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from refstudy.errors import DataError

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    prompt_id: str
    messages: list[Message]
    """The conversation up to and including the user's last turn, or the first that is answered where `turns` go on."""
    cluster: str
    """What this prompt shares with others (an entity, a conversation): intervals resample whole clusters."""
    meta: dict[str, Any] = field(default_factory=dict)
    turns: list[str] = field(default_factory=list)
    """Further turns of the user, each asked after the model's own answer to the one before. The last answer is the judged one."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    pair_id: str
    messages: list[Message]
    chosen: str
    rejected: str
    cluster: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Completion:
    prompt_id: str
    text: str
    """The answer as text, special tokens left out."""
    token_ids: list[int]
    """The tokens drawn, with the end token if one was drawn; of answers that came as text the tokens of that text."""
    terminated: bool
    """Whether the model drew its end token within max_new_tokens; of answers from a file what it says, else yes."""
    logp_sum_nats: float | None
    """Log-prob of `token_ids` under the model at temperature 1 and full support; None: not known, where only the text is."""
    earlier: list[str] = field(default_factory=list)
    """The answers to the turns before the last one. All else here is of the last answer alone."""


@dataclass(frozen=True)
class Said:
    """An answer known as text."""

    text: str
    terminated: bool
    earlier: tuple[str, ...] = ()


REVERSING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Bidirectional controls: they could make one answer's text run into the next."""
UNSEEN = ("Cc", "Cs", "Cn")
"""Unicode categories: control characters (escape sequences begin with one), lone surrogates, and what no standard names."""

OF_SEVERAL_TURNS = ("turns", "earlier")

Row = TypeVar("Row", Prompt, Pair, Completion)


def conversation_text(messages: Sequence[Message]) -> str:
    """A conversation as one text: a single user's turn as it is, several turns each behind its role."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def dialogue(prompt: Prompt, earlier: Sequence[str]) -> list[Message]:
    """The conversation that stands before a model's next answer, when it has given `earlier` answers to this prompt."""
    messages = list(prompt.messages)
    for answer, turn in zip(earlier, prompt.turns, strict=False):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
    return messages


def in_place(prompts: Iterable[Prompt], answers: Sequence[Completion]) -> list[Prompt]:
    """Each answer's prompt as its model met it, in the order of the answers: the conversation up to the turn that is answered."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    asked = [by_id[answer.prompt_id] for answer in answers]
    return [
        dataclasses.replace(prompt, messages=dialogue(prompt, answer.earlier), turns=[]) if prompt.turns else prompt
        for prompt, answer in zip(asked, answers, strict=True)
    ]


def asked(prompt: Prompt) -> list[Message]:
    """The conversation with all that the user goes on to say, whatever a model answers in between."""
    return [*prompt.messages, *({"role": "user", "content": turn} for turn in prompt.turns)]


def asked_text(prompt: Prompt) -> str:
    """`asked` as one text."""
    return conversation_text(asked(prompt))


def answer_text(prompt: Prompt, answer: Completion) -> str:
    """The answer as one text; to several turns all of the answers, with the turns between them."""
    if not prompt.turns:
        return answer.text
    said = [{"role": "assistant", "content": answer.text}]
    return conversation_text([*dialogue(prompt, answer.earlier)[len(prompt.messages) :], *said])


def told(answer: Completion) -> str:
    """The answer as one text, those to earlier turns above it."""
    said = [{"role": "assistant", "content": text} for text in (*answer.earlier, answer.text)]
    return conversation_text(said) if answer.earlier else answer.text


def write_lines(path: Path, rows: Iterable[Prompt | Pair | Completion]) -> None:
    """Writes one JSON object a line (UTF-8, non-ASCII kept); what only prompts of several turns have stands there for these."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            values = {name: value for name, value in vars(row).items() if value or name not in OF_SEVERAL_TURNS}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def read_prompts(path: Path) -> list[Prompt]:
    return [_build(Prompt, row, path, number) for number, row in read_objects(path)]


def read_pairs(path: Path) -> list[Pair]:
    return [_build(Pair, row, path, number) for number, row in read_objects(path)]


def read_completions(path: Path) -> list[Completion]:
    return [_build(Completion, row, path, number) for number, row in read_objects(path)]


def read_objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of each non-blank line; refuses an empty file, a line that is no JSON object, and bad UTF-8."""
    rows = []
    try:
        # Not str.splitlines: U+2028 and its like stand inside JSON strings and end no line.
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {number} is not UTF-8 (byte {error.start}); expected one JSON object a line") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; expected a file with one JSON object a line") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append((number, _object(line, path, number)))
    if not rows:
        raise DataError(f"{path} is empty; expected one JSON object a line")
    return rows


def visible(text: str) -> str:
    """`text` as a page or terminal can show it: characters that control, reverse or hide are written out, as <U+001B>."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(map(_written_out, text))


def _written_out(character: str) -> str:
    hidden = unicodedata.category(character) in UNSEEN or unicodedata.bidirectional(character) in REVERSING
    return f"<U+{ord(character):04X}>" if hidden and character not in "\n\t" else character


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number} is no JSON ({error}); expected one object a line") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number} is a JSON {type(value).__name__}; expected an object")
    return value


def _build(row_type: type[Row], row: dict[str, Any], path: Path, number: int) -> Row:
    try:
        return row_type(**row)
    except TypeError as error:
        raise DataError(f"{path}, line {number} is no {row_type.__name__.lower()}: {error}") from error
