"""How far DPO moved the log-prob of each token of given answers, as an artefact: one row a token, and its words.

Invariant: both models score the same tokens in the same way, so that a shift of 0 means that nothing moved.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from refstudy import chat, scoring
from refstudy.artefacts import SUMMARY, TOKEN_SHIFTS
from refstudy.measurement import Emit
from refstudy.shelf import Policy
from refstudy.store import write_json
from refstudy.token_pairs import TokenPair


def logps(model: Policy, pairs: list[TokenPair], count: int, emit: Emit) -> np.ndarray:
    """The log-prob of every token of at most `count` chosen answers one after another, in nats, float32."""
    turns = [chat.Turn(pair.prompt_ids, pair.chosen_ids) for pair in spaced(pairs, count)]
    return np.concatenate(scoring.answer_logps(model.model, turns, model.tokenizer.pad_token_id, emit))


def write(folder: Path, pairs: list[TokenPair], count: int, before: np.ndarray, policy: Policy, emit: Emit) -> None:
    """Writes token_shifts.parquet, a row for each token of at most `count` chosen answers, and summary.json.

    `before`: `logps` of the policy's start, the same for all policies that start there.

    Columns: pair_id, position (0 for an answer's first token), token_id, before_nats, after_nats. The summary has `end_token_id`,
    the special token that ends an answer, and `tokens`: the text of each token id that occurs.
    """
    chosen = spaced(pairs, count)
    after = logps(policy, pairs, count, emit)
    ids = np.concatenate([pair.chosen_ids for pair in chosen])
    lengths = [len(pair.chosen_ids) for pair in chosen]
    columns = {
        "pair_id": np.repeat([pair.pair_id for pair in chosen], lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "token_id": ids,
        "before_nats": before,
        "after_nats": after,
    }
    pq.write_table(pa.table(columns), folder / TOKEN_SHIFTS)
    end = chat.end_of_turn(policy.tokenizer)[-1]
    texts = {str(token): text(policy.tokenizer, token) for token in sorted({end, *ids.tolist()})}
    write_json(folder / SUMMARY, {"answers": len(chosen), "end_token_id": end, "tokens": texts})


def spaced(pairs: list[TokenPair], count: int) -> list[TokenPair]:
    """At most `count` pairs, evenly spaced in their order, so that none is chosen for what it says."""
    if len(pairs) <= count:
        return pairs
    return [pairs[number * len(pairs) // count] for number in range(count)]


def text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What a token says; part of a character as the vocabulary writes it."""
    said = str(tokenizer.decode([token]))
    return said if said and "\ufffd" not in said else str(tokenizer.convert_ids_to_tokens(token))
