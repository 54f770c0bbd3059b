"""Damaged and hostile files: whatever stands in a file that we read, only our own errors come out."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refstudy import grid, records, tables, texts
from refstudy.errors import RefstudyError

SWEEPS = Path(__file__).parents[1] / "sweeps"
EXAMPLES = 2000
often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["../x", "1e400", "on", "~", "\0", "é"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3))


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """`whole` cut short, with bytes changed, a piece left out or a piece of it repeated."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + draw(st.sampled_from([0, 1, 4, 64, 4096])))))
    filling = draw(st.one_of(st.binary(max_size=6), st.just(whole[start:end] * 2), st.just(b"\0" * (end - start))))
    return draw(st.sampled_from([whole[:start], whole[:start] + filling + whole[end:]]))


def only_ours(read: Callable[[], Any]) -> Any:
    """What `read` returns; None if it refuses in words of our own. Whatever else it raises comes through."""
    with contextlib.suppress(RefstudyError):
        return read()
    return None


def _paths(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document, inner nodes too."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [path, *(found for key, value in items for found in _paths(value, (*path, key)))]


def _placed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `document` with `value` at `path`."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _placed(document[path[0]], path[1:], value)
    return copy


# Sweep files -------------------------------------------------------------------------------------------------------------------

SWEEP_TEXTS = [path.read_bytes() for path in sorted(SWEEPS.glob("*.yaml"))]
SWEEP_DOCUMENTS = [yaml.safe_load(text) for text in SWEEP_TEXTS]


def test_there_are_sweeps_to_damage() -> None:
    assert len(SWEEP_TEXTS) >= 4


@often
@given(data=st.data())
def test_sweep_file_with_damaged_bytes_is_read_or_refused_in_words(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(SWEEP_TEXTS)))))
    only_ours(lambda: grid.read(path))


@often
@given(data=st.data())
def test_sweep_with_another_value_somewhere_gives_cells_or_is_refused_in_words(data: Any, tmp_path: Path) -> None:
    document = data.draw(st.sampled_from(SWEEP_DOCUMENTS))
    path = tmp_path / "sweep.yaml"
    place = data.draw(st.sampled_from(_paths(document)))
    path.write_text(json.dumps(_placed(document, place, data.draw(VALUES))), encoding="utf-8")
    sweep = only_ours(lambda: grid.read(path))
    if sweep is not None and sweep.spec.data.kind == "miniature":
        only_ours(lambda: grid.cells(sweep))


@often
@given(assignment=st.text(max_size=40) | st.builds("{}={}".format, st.sampled_from(["axes.beta", "train", "data.world"]), VALUES))
def test_assignment_of_any_text_is_applied_or_refused_in_words(assignment: str) -> None:
    only_ours(lambda: grid.read(SWEEPS / "quickstart.yaml", [assignment]))


# Records -----------------------------------------------------------------------------------------------------------------------

RECORD = {
    "cell_id": "0123456789abcdef", "policy": "small", "reference": "self", "beta": 0.1, "seed": 0, "settings": {"data.world": 1},
    "labels": {"reference_kind": "policy"}, "recipes": {"dpo": "0" * 16}, "status": "done", "measures": {"win_rate": 0.5},
    "degenerate": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = records.write_record(tmp_path_factory.mktemp("record"), RECORD)
    return dict(json.loads(path.read_text()))


@often
@given(data=st.data())
def test_record_with_damaged_bytes_is_read_or_refused_in_words(data: Any, record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(data.draw(damaged(json.dumps(record, indent=1).encode())))
    only_ours(lambda: records.read_record(path))


@often
@given(data=st.data())
def test_folder_with_a_record_of_other_values_has_rows_or_faults(data: Any, record: dict[str, Any], tmp_path: Path) -> None:
    """`status` and the report read a folder through `scan`, which must not fall over one bad record."""
    (tmp_path / "cells").mkdir(exist_ok=True)
    changed = _placed(record, data.draw(st.sampled_from(_paths(record))), data.draw(VALUES))
    (tmp_path / "cells" / "0123456789abcdef.json").write_text(json.dumps(changed), encoding="utf-8")
    scan = records.scan(tmp_path)
    assert len(scan.records) + len(scan.faults) == 1
    only_ours(lambda: records.status_rows(tmp_path))


# Tables ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("table")
    ids = [f"p{number}" for number in range(6)]
    sums, counts = -np.arange(1.0, 7.0), np.arange(1, 7)
    per_token = [np.full(number, -1.0, dtype=np.float32) for number in counts]
    whole = tables.PairTable(ids, sums, sums, counts, counts, ["0" * 64] * 6, per_token, per_token)
    tables.write_pairs(folder, whole, {})
    return (folder / tables.FILE).read_bytes()


@often
@given(data=st.data())
def test_table_with_damaged_bytes_is_read_or_refused_in_words(data: Any, table: bytes, tmp_path: Path) -> None:
    (tmp_path / tables.FILE).write_bytes(data.draw(damaged(table)))
    only_ours(lambda: tables.read_pairs(tmp_path))


COLUMNS = (
    *("pair_id", "chosen_logp_sum", "rejected_logp_sum", "chosen_tokens", "rejected_tokens", "bytes_sha256"),
    *("chosen_logps", "rejected_logps", "prompt_id", "logp_sum", "tokens", "answer_bytes"),
)
COLUMN_VALUES = st.one_of(
    st.lists(st.none() | st.floats(), min_size=2, max_size=2),
    st.lists(st.none() | st.text(max_size=3), min_size=2, max_size=2),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    st.lists(st.none() | st.lists(st.none() | st.floats(width=32), max_size=2), min_size=2, max_size=2),
    st.lists(st.none() | st.lists(st.text(max_size=2), max_size=2), min_size=2, max_size=2),
)


@often
@given(
    columns=st.dictionaries(st.sampled_from(COLUMNS), COLUMN_VALUES),
    read=st.sampled_from([tables.read_pairs, tables.read_completions]),
)
def test_table_with_columns_of_any_type_is_read_or_refused_in_words(columns: Any, read: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / tables.FILE)
    only_ours(lambda: read(tmp_path))


# Texts -------------------------------------------------------------------------------------------------------------------------


@often
@given(
    lines=st.lists(
        VALUES | st.fixed_dictionaries({"prompt_id": SCALARS, "messages": VALUES, "text": SCALARS, "token_ids": VALUES})
    ),
    read=st.sampled_from([texts.read_prompts, texts.read_completions, texts.read_pairs]),
)
def test_lines_of_any_json_are_read_or_refused_in_words(lines: list[Any], read: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    only_ours(lambda: read(path))
