"""The comparison as a reader gets it: sentences, terminal and page, with hostile text inert in all of them."""

import json

import pytest

from analysis import compare
from refstudy import table
from refstudy.errors import DataError, StoreError
from refstudy.measures import comparison
from tests.analysis.test_report import HOSTILE, _read
from tests.measures.test_comparison import side

TERMINAL = "\x1b[2J\x1b]0;owned\x07 \x9b31m \r\b gone [bold]mark[/bold] \u202e"


def found(text="a river", direct=None):
    one = side([text, "b", "c", "d"], [1, 1, 0.5, 1], title=f"A {text}")
    return comparison.compare(one, side(["x", "y", "z", text], [0, 0.5, 0.5, 0], title="B"), direct)


def test_sentences_say_who_wins_by_how_much_and_how_long():
    """p_a - p_b = 1, 0.5, 0, 1: mean 0.625."""
    told = compare.sentences(found(direct={"0": 1.0, "1": 1.0, "2": 0.5, "3": 1.0}), ["A note."])
    assert told[0].startswith("Head to head A beats B in 0.875 (95 % interval")
    assert "A wins 0.875 and B 0.250: A - B = +0.625" in told[1]
    assert "Mean length in tokens: A 1.2, B 1.2" in told[2]
    assert told[-2:] == ["Both answer 4 prompts, 0 of them with the same text.", "A note."]


def test_sides_without_a_common_prompt_are_refused():
    one, two = side(["a"]), side([None, "b"])
    with pytest.raises(DataError, match="have no prompt in common"):
        compare.sentences(comparison.compare(one, two), [])


def test_json_is_strict_and_has_the_numbers():
    told = json.dumps(compare.as_json(found(), []), allow_nan=False)
    assert json.loads(told)["difference"]["value"] == 0.625
    assert json.loads(told)["head_to_head"] is None


@pytest.mark.parametrize("text", [HOSTILE, TERMINAL])
def test_page_keeps_hostile_text_as_text(text, tmp_path):
    page = _read(compare.write(found(text), [text], tmp_path / "compare.html"))
    assert not page.tags & {"script", "iframe", "link", "img", "object", "form", "svg"}
    assert not any(name.startswith("on") or name in ("src", "href") for name, _ in page.attributes)
    said = "".join(page.text)
    assert not any(ord(character) < 32 and character not in "\n\t" for character in said)
    assert "\u202e" not in said
    assert text[20:40] in said or "<U+001B>[2J" in said


def test_page_forbids_scripts_and_network(tmp_path):
    page = _read(compare.write(found(), [], tmp_path / "deep" / "compare.html"))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_page_in_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        compare.write(found(), [], tmp_path / "file" / "compare.html")


def test_terminal_shows_no_escape_sequences_and_no_markup(capsys):
    of = found(TERMINAL)
    print("\n".join([*compare.names(of), *compare.sentences(of, [TERMINAL])]))
    table.show_pairs(("A", "B"), compare.rows(of, 4))
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\x9b\r\b\u202e")
    assert "<U+001B>[2J" in out
    assert "[bold]mark[/bold]" in out.replace("\n", "")


def test_terminal_shows_as_many_examples_as_asked(capsys):
    table.show_pairs(("A", "B"), compare.rows(found(), 2))
    assert capsys.readouterr().out.count("user: q") == 2
    table.show_pairs(("A", "B"), compare.rows(found(), 0))
    assert capsys.readouterr().out == ""


def test_table_of_cells_writes_out_escape_sequences_in_a_reason(capsys):
    table.show_cells([{"cell_id": "c1", "status": "failed", "reason": f"ModelError: {TERMINAL}"}])
    assert not set(capsys.readouterr().out) & set("\x1b\x07\x9b\r\b")
