"""The shift of each token's log-prob, as an artefact."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from refstudy import chat, scoring, token_pairs, token_shifts
from refstudy.artefacts import SUMMARY, TOKEN_SHIFTS
from refstudy.measurement import silent
from refstudy.shelf import Policy
from tests import tiny


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def pairs(words):
    return token_pairs.tokenise(tiny.pairs(9), words, 200)


def _written(folder, pairs, count, start, policy, words):
    before = token_shifts.logps(Policy(start, words, "keep"), pairs, count, silent)
    token_shifts.write(folder, pairs, count, before, Policy(policy, words, "keep"), silent)
    return pq.read_table(folder / TOKEN_SHIFTS).to_pydict(), json.loads((folder / SUMMARY).read_text())


def test_write_has_a_row_for_each_token_of_the_chosen_answers(words, pairs, tmp_path):
    start, policy = tiny.llama(words), tiny.llama(words, seed=1)
    rows, summary = _written(tmp_path, pairs, 3, start, policy, words)
    chosen = [pairs[0], pairs[3], pairs[6]]
    assert summary["answers"] == 3
    assert rows["token_id"] == [token for pair in chosen for token in pair.chosen_ids]
    assert rows["pair_id"] == [pair.pair_id for pair in chosen for _ in pair.chosen_ids]
    assert rows["position"] == [place for pair in chosen for place in range(len(pair.chosen_ids))]
    turns = [chat.Turn(pair.prompt_ids, pair.chosen_ids) for pair in chosen]
    one_by_one = [scoring.answer_logps(policy, [turn], words.pad_token_id)[0] for turn in turns]
    assert rows["after_nats"] == pytest.approx(np.concatenate(one_by_one), abs=1e-4)


def test_write_of_a_policy_that_did_not_move_has_no_shift(words, pairs, tmp_path):
    model = tiny.llama(words)
    rows, _ = _written(tmp_path, pairs, 256, model, model, words)
    assert rows["before_nats"] == rows["after_nats"]
    assert len(set(rows["pair_id"])) == 9


def test_write_names_the_end_token_and_every_tokens_text(words, pairs, tmp_path):
    model = tiny.llama(words)
    rows, summary = _written(tmp_path, pairs, 256, model, model, words)
    assert summary["end_token_id"] == words.eos_token_id
    assert summary["tokens"][str(words.eos_token_id)] == "<|end|>"
    assert set(summary["tokens"]) == {str(token) for token in rows["token_id"]}
    assert "".join(summary["tokens"][str(token)] for token in pairs[0].chosen_ids) == pairs[0].chosen + "<|end|>"


def test_text_of_half_a_character_is_what_the_vocabulary_writes(words):
    first, *_ = words("ö", add_special_tokens=False)["input_ids"]
    assert token_shifts.text(words, first) == "Ã"
