import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refstudy import tables, token_pairs
from refstudy.errors import TableError
from tests import tiny


@pytest.fixture(scope="module")
def pairs():
    return token_pairs.tokenise(tiny.pairs(5), tiny.tokenizer(), max_length=64)


@pytest.fixture
def table(pairs):
    return tables.PairTable(
        pair_ids=[pair.pair_id for pair in pairs],
        chosen_logp_sum=-np.arange(5, dtype=float),
        rejected_logp_sum=-np.arange(5, 10, dtype=float),
        chosen_tokens=np.array([2, 3, 2, 2, 1]),
        rejected_tokens=np.ones(5, dtype=int),
        bytes_sha256=[pair.text_sha256 for pair in pairs],
        chosen_logps=[np.array([-0.5, -1.0, 0.0][:tokens], dtype=np.float32) for tokens in (2, 3, 2, 2, 1)],
        rejected_logps=[np.array([-2.0], dtype=np.float32)] * 5,
    )


def shuffled(table, order):
    return dataclasses.replace(
        table,
        pair_ids=[table.pair_ids[row] for row in order],
        chosen_logp_sum=table.chosen_logp_sum[order],
        rejected_logp_sum=table.rejected_logp_sum[order],
        bytes_sha256=[table.bytes_sha256[row] for row in order],
    )


def test_written_table_is_read_back_equal(table, tmp_path):
    tables.write_pairs(tmp_path, table, {"tokens_scored": 3})
    again = tables.read_pairs(tmp_path)
    assert again.pair_ids == table.pair_ids
    assert again.chosen_logp_sum.tolist() == table.chosen_logp_sum.tolist()
    assert [row.tolist() for row in again.chosen_logps] == [[-0.5, -1.0], [-0.5, -1.0, 0.0], [-0.5, -1.0], [-0.5, -1.0], [-0.5]]
    assert '"tokenizer_shared": true' in (tmp_path / tables.SUMMARY).read_text()


def test_join_finds_rows_by_pair_id_whatever_their_order(table, pairs):
    chosen, rejected = tables.join(shuffled(table, [3, 1, 4, 0, 2]), pairs)
    assert chosen.tolist() == [0, -1, -2, -3, -4]
    assert rejected.tolist() == [-5, -6, -7, -8, -9]


def test_join_refuses_missing_pairs_and_names_the_first(table, pairs):
    with pytest.raises(TableError, match=r"lacks 2 of 5 pairs \(first: 'pair1', 'pair3'\)"):
        tables.join(shuffled(table, [0, 2, 4]), pairs)


def test_join_refuses_a_table_over_another_text(table, pairs):
    cut = dataclasses.replace(pairs[2], chosen_complete=False)
    with pytest.raises(TableError, match=r"scored another text .* 1 of 5 pairs .*'pair2'"):
        tables.join(table, [*pairs[:2], cut, *pairs[3:]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 0.5])
def test_table_with_an_impossible_number_is_refused(table, tmp_path, bad):
    numbers = table.rejected_logp_sum.copy()
    numbers[3] = bad
    with pytest.raises(TableError, match=r"1 of 5 log-prob sums .*'pair3'"):
        tables.write_pairs(tmp_path, dataclasses.replace(table, rejected_logp_sum=numbers), {})


def test_table_with_a_repeated_id_is_refused(table, tmp_path):
    repeated = dataclasses.replace(table, pair_ids=["pair0", "pair1", "pair2", "pair1", "pair4"])
    with pytest.raises(TableError, match=r"1 rows of an id that it has already \(such as 'pair1'\).*run the sweep again"):
        tables.write_pairs(tmp_path, repeated, {})


def test_file_with_a_repeated_id_is_refused_with_its_place(table, tmp_path):
    tables.write_pairs(tmp_path, table, {})
    columns = pq.read_table(tmp_path / tables.FILE).to_pydict()
    pq.write_table(pa.table({**columns, "pair_id": ["pair0"] * 5}), tmp_path / tables.FILE)
    with pytest.raises(TableError, match=rf"{tmp_path}.* has 4 rows of an id .*'pair0'.* remove its folder, and run the sweep"):
        tables.read_pairs(tmp_path)


def test_damaged_file_is_refused(tmp_path):
    (tmp_path / tables.FILE).write_bytes(b"PAR1 half a file")
    with pytest.raises(TableError, match="cannot be read"):
        tables.read_pairs(tmp_path)
