import json

import pytest

from refstudy import journal


def test_what_is_added_is_read_back(tmp_path):
    for number in range(2):
        with journal.adding(tmp_path / "below" / "x") as out:
            journal.add(out, {"n": number, "text": "caf\u00e9 \u2028 \udc00"})
    found = list(journal.rows(tmp_path / "below" / "x"))
    assert sorted(row["n"] for row in found) == [0, 1]
    assert found[0]["text"] == "caf\u00e9 \u2028 \udc00"


def test_no_folder_holds_nothing(tmp_path):
    assert list(journal.rows(tmp_path / "x")) == []


@pytest.mark.parametrize("torn", [b'{"n": ', b"", b"[1]", b"3", b"\x00\xff", b"[" * 5000])
def test_line_that_is_no_object_is_passed_over(tmp_path, torn):
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"n": 0}).encode() + b"\n" + torn)
    with journal.adding(tmp_path) as out:
        journal.add(out, {"n": 1})
    assert sorted(row["n"] for row in journal.rows(tmp_path)) == [0, 1]


def test_two_writers_at_once_lose_no_line(tmp_path):
    with journal.adding(tmp_path) as one, journal.adding(tmp_path) as other:
        for number in range(50):
            journal.add(one if number % 2 else other, {"n": number, "long": "x" * 3000})
            assert len(list(journal.rows(tmp_path))) == number + 1
    assert sorted(row["n"] for row in journal.rows(tmp_path)) == list(range(50))
