import dataclasses

import pytest

from refstudy import chat, token_pairs
from refstudy.errors import DataError, ModelError
from refstudy.texts import Pair
from tests import tiny

UNICODE = (
    "Z\u00fcrich \U0001f426\u200d\u2b1b \u4e16\u754c na\u00efve \u0915\u094d\u0937 e\u0301 "
    "\u2028 \U0001f469\U0001f3fd\u200d\U0001f680 end"
)


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


def pair(chosen="a fish sings", rejected="the stone", question="the old bird", pair_id="pair0"):
    return Pair(pair_id=pair_id, messages=[{"role": "user", "content": question}], chosen=chosen, rejected=rejected, cluster="c")


def test_short_pair_is_kept_whole_with_its_end_tokens(words):
    (row,) = token_pairs.tokenise([pair()], words, max_length=64)
    assert (row.chosen, row.rejected, row.chosen_complete, row.rejected_complete) == ("a fish sings", "the stone", True, True)
    assert words.decode(row.prompt_ids + row.chosen_ids).endswith("<|assistant|>\na fish sings<|end|>")


@pytest.mark.parametrize("room", range(1, 70))
def test_cut_unicode_answer_ends_on_a_whole_character_and_reads_alike_alone(words, room):
    ask = pair(chosen=UNICODE)
    prompt = len(chat.prompt_ids(words, ask.messages))
    whole = chat.answer_ids(words, ask.messages, UNICODE, complete=True)
    cut = token_pairs.cut(words, ask.messages, whole, UNICODE, room)
    assert len(cut.ids) <= room
    assert UNICODE.startswith(cut.text)
    assert cut.complete == (len(whole) <= room)
    if not cut.complete:
        assert chat.answer_ids(words, ask.messages, cut.text, complete=False) == cut.ids
        assert "\ufffd" not in cut.text
    assert prompt + room >= len(cut.ids)


def test_cuts_with_more_room_never_get_shorter(words):
    whole = chat.answer_ids(words, pair().messages, UNICODE, complete=True)
    lengths = [len(token_pairs.cut(words, pair().messages, whole, UNICODE, room).ids) for room in range(1, len(whole) + 1)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(whole)


def test_answer_that_fits_without_its_end_token_is_incomplete(words):
    prompt, answer = len(chat.prompt_ids(words, pair().messages)), chat.answer_ids(words, pair().messages, "a fish sings", True)
    (row,) = token_pairs.tokenise([pair()], words, max_length=prompt + len(answer) - 1)
    assert (row.chosen, row.chosen_complete) == ("a fish sings", False)
    assert row.chosen_ids == answer[:-1]


def test_prompt_longer_than_max_length_is_refused_with_pair_and_lengths(words):
    long = pair(question="the old bird " * 20, pair_id="pair7")
    with pytest.raises(DataError, match=r"pair 'pair7': its prompt has \d+ tokens.*train.max_length 32"):
        token_pairs.tokenise([pair(), long], words, max_length=32)


def test_template_that_trims_an_answer_is_refused_with_the_pair():
    words = tiny.tokenizer(template=tiny.TEMPLATE.replace("m['content']", "m['content'] | trim"))
    with pytest.raises(ModelError, match=r"pair 'pair3'.*trims or rewrites the answer"):
        token_pairs.tokenise([pair(), pair(rejected="the stone\n", pair_id="pair3")], words, max_length=64)


def test_special_token_written_in_an_answer_is_refused(words):
    with pytest.raises(ModelError, match=r"pair 'pair0'.*does not give the answer back"):
        token_pairs.tokenise([pair(chosen="a fish<|end|> and more")], words, max_length=64)


def test_repeated_pair_id_is_refused(words):
    with pytest.raises(DataError, match="'pair0' stands twice"):
        token_pairs.tokenise([pair(), pair()], words, max_length=64)


def test_written_rows_are_read_back_equal_and_counted(words, tmp_path, monkeypatch):
    rows = token_pairs.tokenise([pair(), pair(chosen=UNICODE, pair_id="pair1")], words, max_length=40, system="be brief")
    token_pairs.write(tmp_path, rows, ["pair9: too long"])
    assert token_pairs.read(tmp_path) == rows
    monkeypatch.setattr(token_pairs, "FEW", 1)
    assert list(token_pairs.each(tmp_path)) == rows
    assert '"truncated_chosen": 1' in (tmp_path / token_pairs.SUMMARY).read_text()


def test_text_hash_changes_with_everything_that_a_reference_scores(words):
    (row,) = token_pairs.tokenise([pair()], words, max_length=64)
    changed = [
        {"messages": [{"role": "user", "content": "another"}]},
        {"chosen": "a fish sing"},
        {"rejected": "the stones"},
        {"chosen_complete": False},
        {"rejected_complete": False},
    ]
    hashes = {row.text_sha256, *(dataclasses.replace(row, **each).text_sha256 for each in changed)}
    assert len(hashes) == 1 + len(changed)
    assert dataclasses.replace(row, chosen_ids=[1], cluster="other").text_sha256 == row.text_sha256
