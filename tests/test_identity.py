"""Ids of recipes: the same value has one id everywhere, another result another id, and what has no canonical form is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refstudy import identity
from refstudy.errors import IdentityError
from refstudy.identity import added_later, canonical, describe, execution_only, fingerprint


@dataclass(frozen=True, kw_only=True)
class Inner:
    RESULT_VERSION: ClassVar[int] = 1
    value: Any


@dataclass(frozen=True, kw_only=True)
class Outer:
    RESULT_VERSION: ClassVar[int] = 3
    inner: Any
    other: Any = None
    where: str = execution_only("a path", default="")


def test_canonical_nested_recipe_stands_by_its_id() -> None:
    inner = Inner(value=1)
    expected = {"kind": "outer", "version": 3, "inner": {"recipe": f"inner:{fingerprint(inner)}"}, "other": None}
    assert canonical(Outer(inner=inner)) == expected


def test_fingerprint_is_the_hash_of_the_canonical_json() -> None:
    """printf '{"kind":"inner","value":1,"version":1}' | sha256sum begins with 16 digits worked out outside this code."""
    import hashlib

    assert fingerprint(Inner(value=1)) == hashlib.sha256(b'{"kind":"inner","value":1,"version":1}').hexdigest()[:16]


def test_fingerprint_of_a_changed_inner_recipe_changes() -> None:
    assert fingerprint(Outer(inner=Inner(value=1))) != fingerprint(Outer(inner=Inner(value=2)))


def test_fingerprint_ignores_execution_only_fields() -> None:
    assert fingerprint(Outer(inner=1, where="/a")) == fingerprint(Outer(inner=1, where="/b"))


@dataclass(frozen=True, kw_only=True)
class Grown:
    """`Inner` as it may look a year later."""

    RESULT_VERSION: ClassVar[int] = 1
    value: Any
    precision: str = added_later("fp32")


def test_fingerprint_of_a_field_added_later_changes_only_off_its_default() -> None:
    before = {**canonical(Inner(value=1)), "kind": "grown"}
    assert canonical(Grown(value=1)) == canonical(Grown(value=1, precision="fp32")) == before
    assert canonical(Grown(value=1, precision="bf16")) == {**before, "precision": "bf16"}


def test_fingerprint_of_a_whole_float_equals_that_of_the_integer() -> None:
    assert fingerprint(Inner(value=1.0)) == fingerprint(Inner(value=1))


def test_fingerprint_tells_true_from_one_and_text_from_number() -> None:
    assert len({fingerprint(Inner(value=value)) for value in (1, True, "1", None, (1,))}) == 5


def test_fingerprint_changes_with_the_result_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(Inner(value=5))
    monkeypatch.setattr(Inner, "RESULT_VERSION", 2)
    assert fingerprint(Inner(value=5)) != before


@pytest.mark.parametrize("value", [Path("/x"), np.float64(1.0), {"a": 1}, [1], {1}, object(), b"x", float("nan"), float("inf")])
def test_fingerprint_refuses_what_has_no_canonical_json(value: Any) -> None:
    with pytest.raises(IdentityError, match=r"outer\.other\[1\]"):
        fingerprint(Outer(inner=1, other=(0, value)))


def test_fingerprint_refuses_a_value_that_is_no_recipe() -> None:
    with pytest.raises(IdentityError, match="no recipe"):
        canonical(3)


def test_describe_writes_a_repeated_recipe_out_once() -> None:
    inner = Inner(value=1)
    told = describe(Outer(inner=inner, other=inner))
    assert told["inner"] == {"kind": "inner", "id": fingerprint(inner), "value": 1}
    assert told["other"] == {"recipe": f"inner:{fingerprint(inner)}"}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6))  # fmt: skip
def test_fingerprint_of_equal_values_is_equal(value: Any) -> None:
    assert fingerprint(Inner(value=value)) == fingerprint(Inner(value=value))
    assert len(fingerprint(Inner(value=value))) == identity.ID_LENGTH
