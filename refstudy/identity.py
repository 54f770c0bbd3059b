"""The identity of a recipe: the hash of its canonical JSON.

Invariant: two recipes share an id exactly when they promise the same result. Nested recipes stand in the JSON by their own ids;
fields marked `execution_only` stand outside it, and those marked `added_later` while they have the value that all results had
before there was a choice. What cannot be serialised is refused, never passed through `str`.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from refstudy.errors import IdentityError

ID_LENGTH = 16


def execution_only(reason: str, **field_options: Any) -> Any:
    """A dataclass field that decides where or how fast a result is made, never what it is; `reason` says why."""
    return dataclasses.field(metadata={"execution_only": reason}, compare=False, **field_options)


def added_later(default: Any) -> Any:
    """A dataclass field that its kind gained after results existed; with `default`, which tells how these were made, the id is
    the one that they have."""
    return dataclasses.field(metadata={"added_later": True}, default=default)


def fingerprint(recipe: Any) -> str:
    """The id of a recipe: 16 hexadecimal digits, the same on every machine and in every session."""
    known = recipe.__dict__.get("_fingerprint")
    if known is None:
        text = json.dumps(canonical(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        known = hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
        object.__setattr__(recipe, "_fingerprint", known)
    return str(known)


def canonical(recipe: Any) -> dict[str, Any]:
    """What the id is the hash of: kind, result version and every field that changes the result, nested recipes by id."""
    if not is_recipe(recipe):
        raise IdentityError(f"{type(recipe).__name__} is no recipe: a recipe is a frozen dataclass with a RESULT_VERSION")
    return {"kind": kind(recipe), "version": recipe.RESULT_VERSION, **_fields(recipe, kind(recipe))}


def kind(recipe: Any) -> str:
    """The recipe's kind as it stands in ids and folder names: its class name in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(recipe).__name__).lower()


def is_recipe(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "RESULT_VERSION")


def nested(recipe: Any) -> Iterator[Any]:
    """The recipes that stand directly in `recipe`, in field order, also those inside tuples and plain values."""
    for field in dataclasses.fields(recipe):
        yield from _recipes_in(getattr(recipe, field.name))


def describe(recipe: Any, told: set[str] | None = None) -> dict[str, Any]:
    """The recipe as JSON for people: like `canonical`, with each nested recipe written out where it first stands."""
    told = set() if told is None else told
    told.add(fingerprint(recipe))
    return {"kind": kind(recipe), "id": fingerprint(recipe), **_fields(recipe, kind(recipe), told)}


def _recipes_in(value: Any) -> Iterator[Any]:
    if is_recipe(value):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _recipes_in(item)
    elif dataclasses.is_dataclass(value):
        yield from nested(value)


def _fields(value: Any, path: str, told: set[str] | None = None) -> dict[str, Any]:
    return {
        field.name: _encode(getattr(value, field.name), f"{path}.{field.name}", told)
        for field in dataclasses.fields(value)
        if _stands(field, getattr(value, field.name))
    }


def _stands(field: Any, value: Any) -> bool:
    """Whether a field is part of the identity with this value."""
    unchosen = "added_later" in field.metadata and value == field.default
    return "execution_only" not in field.metadata and not unchosen


def _encode(value: Any, path: str, told: set[str] | None) -> Any:
    """`value` as JSON; nested recipes by id, or, given those already `told`, written out once."""
    if is_recipe(value):
        by_id = told is None or fingerprint(value) in told
        return {"recipe": f"{kind(value)}:{fingerprint(value)}"} if by_id else describe(value, told)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **_fields(value, path, told)}
    if isinstance(value, tuple):
        return [_encode(item, f"{path}[{index}]", told) for index, item in enumerate(value)]
    if type(value) is float:
        return _number(value, path)
    if value is None or type(value) in (bool, int, str):
        return value
    raise IdentityError(
        f"{path} is a {type(value).__name__}, which has no canonical JSON; expected str, int, float, bool, None, a tuple, "
        "a frozen dataclass or a recipe: convert it, or mark the field `execution_only` if it cannot change the result"
    )


def _number(value: float, path: str) -> float | int:
    """`value` as JSON writes it; 1.0 and 1 are one number, so that `beta: 1` and `beta: 1.0` are one cell."""
    if not math.isfinite(value):
        raise IdentityError(f"{path} is {value}, which JSON cannot hold; expected a finite number")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
