"""A row of a dataset as turns: TRL's preference, prompt and conversation formats, and HH's plain transcripts.

Invariant: no character of a text is changed, with one declared exception: in HH's transcripts ("\\n\\nHuman: ...\\n\\nAssistant:")
the single space after a speaker's colon belongs to the format, in turns and answers alike, and goes.
"""

import itertools
import re
from typing import Any

from refstudy.errors import DataError
from refstudy.texts import Message

COLUMNS = ("prompt", "messages", "instruction", "turns")
"""Columns that may hold what is asked, in the order in which they are looked for."""
ROLES = ("system", "user", "assistant")
HH_START = "\n\nHuman:"
HH_END = "\n\nAssistant:"
HH_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}

Values = dict[str, Any]


def preference(values: Values) -> tuple[list[Message], str, str]:
    """(conversation up to the user's last turn, chosen answer, rejected answer) of a row in TRL's preference format.

    `chosen` and `rejected` are texts or lists of messages; without `prompt` (or with a text beside whole conversations) the
    prompt is what the two have in common, as TRL's `extract_prompt` has it. An absent answer (null, no message) is "".
    """
    prompt, chosen, rejected = values.get("prompt"), _column(values, "chosen"), _column(values, "rejected")
    if all(isinstance(answer, str | None) for answer in (chosen, rejected)):
        messages, answers = _from_texts(prompt, chosen or "", rejected or "")
    elif all(isinstance(answer, list | None) for answer in (chosen, rejected)):
        messages, answers = _from_messages(prompt, _messages(chosen or [], "chosen"), _messages(rejected or [], "rejected"))
    else:
        raise DataError(f"chosen is {_type(chosen)}, rejected is {_type(rejected)}; expected both texts or both lists of messages")
    for column, text in zip(("chosen", "rejected"), answers, strict=True):
        check_text(text, column)
    return check_prompt(messages), *answers


def prompt(values: Values) -> list[Message]:
    """The conversation up to the user's last turn: of `prompt` (text, transcript or messages), else `messages`, `instruction` or
    the first of `turns` (Arena-Hard's and MT-Bench's form; `further_turns` has the others).

    The answer at the end of a `messages` column is left out. An absent prompt is the empty list.
    """
    for column in COLUMNS:
        if column in values:
            given = _turns(values[column])[0] if column == "turns" else values[column]
            break
    else:
        raise DataError(f"there is no {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]} column (found: {_names(values)})")
    messages = _prompt_messages(given, column)
    if column == "messages" and messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return check_prompt(messages)


def further_turns(values: Values) -> list[str]:
    """The user's turns after the first, each to be asked after the model's own answer to the one before: only of `turns`."""
    if "turns" not in values or any(column in values for column in COLUMNS[: COLUMNS.index("turns")]):
        return []
    found = _turns(values["turns"])[1:]
    for number, text in enumerate(found, start=2):
        check_text(text, f"turn {number}")
        if not text.strip():
            raise DataError(f"turn {number} of {len(found) + 1} is empty; expected what the user says")
    return found


def conversation(values: Values) -> list[Message]:
    """A conversation that ends with the assistant's answer: of `messages`, or `prompt` and `completion`; an absent one is ""."""
    if "messages" in values:
        messages = _messages(values["messages"] or [], "messages")
        if messages and messages[-1]["role"] != "assistant":
            raise DataError(f"messages ends with the {messages[-1]['role']}; expected the assistant's answer last")
        before, answer = messages[:-1], _answer(messages[-1:], "messages")
    elif "prompt" in values and "completion" in values:
        before, answer = _prompt_messages(values["prompt"], "prompt"), _completion(values)
    else:
        raise DataError(f"there are no messages, nor prompt and completion (found: {_names(values)})")
    check_text(answer, "the answer")
    return [*check_prompt(before), {"role": "assistant", "content": answer}]


def transcript(text: str) -> list[Message]:
    """The turns of an HH transcript that ends with "\\n\\nAssistant:".

    A marker of the speaker who already has the turn is that speaker's own text, so that turns alternate and no character is lost.
    """
    pieces = HH_SPEAKER.split(text)[1:]
    turns = list(zip(pieces[::2], pieces[1::2], strict=True))
    if not turns or turns[-1][0] != "Assistant" or turns[-1][1].strip():
        raise DataError(f"the transcript ends with {text[-30:]!r}; expected it to end with {HH_END!r}")
    messages: list[Message] = []
    for speaker, said in turns[:-1]:
        if messages and messages[-1]["role"] == HH_ROLES[speaker]:
            messages[-1]["content"] += f"\n\n{speaker}:{said}"
        else:
            messages.append({"role": HH_ROLES[speaker], "content": said.removeprefix(" ")})
    return messages


def check_prompt(messages: list[Message]) -> list[Message]:
    """`messages` as they are if they can be a prompt: well-formed text, the user's turn last. The empty list passes."""
    for message in messages:
        check_text(message["content"], f"the {message['role']}'s turn")
    if messages and messages[-1]["role"] != "user":
        raise DataError(f"the prompt ends with the {messages[-1]['role']}'s turn; expected the user's")
    return messages


def check_text(text: str, column: str) -> None:
    """Refuses a lone surrogate: it is no character, no file can hold it as UTF-8, and tokenizers fail on it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{column} holds the lone surrogate {found} at character {error.start}; expected well-formed text"
        ) from error


def _from_texts(prompt: Any, chosen: str, rejected: str) -> tuple[list[Message], tuple[str, str]]:
    if prompt is None:
        prompt, chosen, rejected = _split_texts(chosen, rejected)
    messages = _prompt_messages(prompt, "prompt")
    if isinstance(prompt, str) and prompt.startswith(HH_START):
        if HH_END in chosen and HH_END in rejected:
            raise DataError(f"chosen and rejected both go on after {HH_END!r}; expected one conversation with two last answers")
        return messages, (chosen.removeprefix(" "), rejected.removeprefix(" "))
    return messages, (chosen, rejected)


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two texts with the prompt in front of both.

    HH transcripts part at the last "\\n\\nAssistant:" that they share. Others part where they differ, and a space before the
    difference belongs to the answers (TRL 1.16, `extract_prompt`).
    """
    shared = sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    if chosen.startswith(HH_START):
        shared = chosen.rfind(HH_END, 0, shared) + len(HH_END)
        if shared < len(HH_END):
            raise DataError(f"chosen and rejected share no {HH_END!r}; expected one conversation with two last answers")
    elif 0 < shared < min(len(chosen), len(rejected)) and chosen[shared - 1] == " ":
        shared -= 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _from_messages(prompt: Any, chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], tuple[str, str]]:
    """Whole conversations are told from lone answers by their first message; a prompt given as messages is taken as it stands."""
    lone = all(len(each) <= 1 and (not each or each[0]["role"] == "assistant") for each in (chosen, rejected))
    if prompt is not None and (lone or isinstance(prompt, list)):
        messages = _prompt_messages(prompt, "prompt")
        if messages and chosen[: len(messages)] == messages == rejected[: len(messages)]:
            chosen, rejected = chosen[len(messages) :], rejected[len(messages) :]
        return messages, (_answer(chosen, "chosen"), _answer(rejected, "rejected"))
    shared = sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    shared = max(0, min(shared, len(chosen) - 1, len(rejected) - 1))
    messages = chosen[:shared]
    if isinstance(prompt, str) and not any(prompt.strip() in message["content"] for message in messages):
        raise DataError(f"prompt ({prompt[:40]!r}...) stands in no turn that chosen and rejected share; expected one conversation")
    return messages, (_answer(chosen[shared:], "chosen"), _answer(rejected[shared:], "rejected"))


def _answer(messages: list[Message], column: str) -> str:
    """The text of the one assistant message that answers; "" for none."""
    if not messages:
        return ""
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"{column} goes on with {len(messages)} messages ({roles}) after the prompt; expected one of the assistant")
    return messages[0]["content"]


def _turns(turns: Any) -> list[str]:
    """The user's turns out of a list of texts or of objects with `content`."""
    texts = [each.get("content") if isinstance(each, dict) else each for each in turns] if isinstance(turns, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"turns is {_type(turns)}; expected a list of texts, or of objects with content")
    return [str(text) for text in texts]


def _completion(values: Values) -> str:
    completion = values["completion"]
    if isinstance(completion, list):
        return _answer(_messages(completion, "completion"), "completion")
    if not isinstance(completion, str | None):
        raise DataError(f"completion is {_type(completion)}; expected a text or a list with one assistant message")
    hh = isinstance(values["prompt"], str) and values["prompt"].startswith(HH_START)
    return (completion or "").removeprefix(" ") if hh else completion or ""


def _prompt_messages(given: Any, column: str) -> list[Message]:
    if given is None or given == "":
        return []
    if isinstance(given, list):
        return _messages(given, column)
    if not isinstance(given, str):
        raise DataError(f"{column} is {_type(given)}; expected a text or a list of messages")
    return transcript(given) if given.startswith(HH_START) else [{"role": "user", "content": given}]


def _messages(given: list[Any], column: str) -> list[Message]:
    return [_message(item, f"{column}[{index}]") for index, item in enumerate(given)]


def _message(item: Any, path: str) -> Message:
    if not isinstance(item, dict) or "role" not in item or "content" not in item:
        found = _names(item) if isinstance(item, dict) else _type(item)
        raise DataError(f"{path} is no message (found: {found}); expected an object with role and content")
    if item["role"] not in ROLES:
        raise DataError(f"{path} has role {item['role']!r}; expected one of {', '.join(ROLES)}")
    if not isinstance(item["content"], str | None):
        raise DataError(f"{path} has {_type(item['content'])} as content; expected text (no images, no parts)")
    if more := [key for key, value in item.items() if key not in ("role", "content") and value is not None]:
        raise DataError(f"{path} has {', '.join(more)} beside role and content; expected plain turns (no tool calls, no names)")
    return {"role": item["role"], "content": item["content"] or ""}


def _column(values: Values, column: str) -> Any:
    if column not in values:
        raise DataError(
            f"there is no {column} column (found: {_names(values)}); expected chosen and rejected, prompt beside or inside"
        )
    return values[column]


def _names(values: Values) -> str:
    return ", ".join(map(str, values)) or "no columns"


def _type(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
