import json

import numpy as np
import pytest

from refstudy import partial_scores
from refstudy.chat import Turn
from refstudy.passes import Text

TEXTS = [Text(name, Turn([1], [number, number])) for number, name in enumerate("abc")]
KEYS = [partial_scores.key(text.turn) for text in TEXTS]


def test_what_is_kept_is_found_to_the_bit_by_the_next_pass(tmp_path):
    logps = np.array([-0.1, -1 / 3])
    with partial_scores.kept(tmp_path / "partial" / "x.jsonl", TEXTS) as first:
        first.add(KEYS[0], logps.astype(np.float32))
        first.add(KEYS[1], logps)
    with partial_scores.kept(tmp_path / "partial" / "x.jsonl", TEXTS) as second:
        assert (second.resumed, second.is_whole) == (2, False)
        second.add(KEYS[2], logps)
        assert second.is_whole
        assert [row.tolist() for row in second.of(TEXTS)] == [logps.astype(np.float32).tolist(), logps.tolist(), logps.tolist()]


def test_two_workers_of_a_pass_write_a_file_each_and_the_next_pass_finds_both(tmp_path):
    with partial_scores.kept(tmp_path / "x.jsonl", TEXTS) as one, partial_scores.kept(tmp_path / "x.jsonl", TEXTS) as other:
        one.add(KEYS[0], np.array([-1.0, -1.0]))
        other.add(KEYS[2], np.array([-2.0, -2.0]))
        assert one.resumed == other.resumed == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert set(partial_scores.read(tmp_path / "x.jsonl")) == {KEYS[0], KEYS[2]}


def test_no_file_holds_no_scores_and_an_idle_pass_makes_none(tmp_path):
    with partial_scores.kept(tmp_path / "partial" / "x.jsonl", TEXTS) as idle:
        assert idle.resumed == 0
    assert not (tmp_path / "partial").exists()


def test_scores_in_memory_touch_no_disk():
    with partial_scores.kept(None, TEXTS) as memory:
        memory.add(KEYS[0], np.array([-1.0, -1.0]))
        assert list(memory.logps) == [KEYS[0]]


def test_score_of_another_text_or_length_is_passed_over(tmp_path):
    with partial_scores.kept(tmp_path / "x.jsonl", TEXTS) as earlier:
        earlier.add("0" * 64, np.array([-1.0, -1.0]))
        earlier.add(KEYS[0], np.array([-1.0]))
        earlier.add(KEYS[1], np.array([-1.0, -2.0]))
    with partial_scores.kept(tmp_path / "x.jsonl", TEXTS) as later:
        assert list(later.logps) == [KEYS[1]]


@pytest.mark.parametrize("torn", ['{"key": "b", "logps": [-1.', "", "[]", "\x00", '{"key": "b"}', '{"key": "b", "logps": [0.5]}'])
def test_torn_line_is_passed_over(tmp_path, torn):
    (tmp_path / "x.jsonl").write_text(json.dumps({"key": "a", "logps": [-1.0]}) + "\n" + torn)
    assert list(partial_scores.read(tmp_path / "x.jsonl")) == ["a"]


def test_scores_of_another_table_are_not_this_ones(tmp_path):
    with partial_scores.kept(tmp_path / "table-a1.jsonl", TEXTS) as other:
        other.add(KEYS[0], np.array([-1.0, -1.0]))
    assert partial_scores.read(tmp_path / "table-a.jsonl") == {}


def test_scores_are_kept_by_prompt_and_answer():
    """The same tokens cut elsewhere are another question."""
    assert partial_scores.key(Turn([1, 2], [3])) != partial_scores.key(Turn([1], [2, 3]))


def test_scores_of_several_passes_are_kept_for_each_that_asks_for_them(tmp_path):
    both, own = Text("both", Turn([1, 2], [3])), Text("own", Turn([1, 2], [4, 5]))
    with partial_scores.kept(tmp_path / "a.jsonl", [both]) as a, partial_scores.kept(tmp_path / "b.jsonl", [both, own]) as b:
        a.add(partial_scores.key(both.turn), np.array([-1.0]))
        together = partial_scores.Together([a, b])
        assert together.logps == set(), "the second pass lacks it"
        together.add(partial_scores.key(both.turn), np.array([-1.0]))
        together.add(partial_scores.key(own.turn), np.array([-2.0, -3.0]))
        assert a.is_whole
        assert b.is_whole
    assert len(partial_scores.read(tmp_path / "a.jsonl")) == 1
    assert len(partial_scores.read(tmp_path / "b.jsonl")) == 2
