"""How well a reference fits a policy, out of the tables in the store: the measures of compatibility, and what they suggest.

Invariant: read from finished tables alone; no model is loaded.
"""

from collections.abc import Sequence

import numpy as np

from refstudy import recipes, tables
from refstudy.artefacts import read_pair_table, read_token_pairs
from refstudy.measures import token_shifts
from refstudy.measures.columns import Scores
from refstudy.measures.compatibility import Answers, Compatibility, compatibility
from refstudy.measures.token_shifts import TokenLogps, TokenShares
from refstudy.store import Store
from refstudy.tables import PairTable
from refstudy.token_pairs import TokenPair


def fit(table: recipes.Table, own: recipes.Table, betas: Sequence[float], end_tokens: int, store: Store) -> Compatibility:
    """The measures of a reference's table against the policy's own over the same pairs; both tables are in the store.

    `end_tokens`: how many tokens the policy's template ends a complete answer with.
    """
    assert not isinstance(table.texts, recipes.Completions)
    pairs = read_token_pairs(table.texts, store)
    ours, theirs = read_pair_table(own, store), read_pair_table(table, store)
    policy, reference = (Scores(*tables.join(each, pairs)) for each in (ours, theirs))
    return compatibility(policy, reference, _answers(pairs), betas, _shares(ours, theirs, pairs, end_tokens))


def pairs(texts: recipes.TokenPairs | recipes.Selection, store: Store) -> list[TokenPair]:
    """The pairs that a table is about."""
    return read_token_pairs(texts, store)


def _answers(pairs: list[TokenPair]) -> Answers:
    return Answers(
        chosen_tokens=np.array([len(pair.chosen_ids) for pair in pairs]),
        rejected_tokens=np.array([len(pair.rejected_ids) for pair in pairs]),
        chosen_bytes=np.array([len(pair.chosen.encode()) for pair in pairs]),
        rejected_bytes=np.array([len(pair.rejected.encode()) for pair in pairs]),
        clusters=[pair.cluster for pair in pairs],
    )


def _shares(ours: PairTable, theirs: PairTable, pairs: list[TokenPair], end_tokens: int) -> TokenShares | None:
    """Where in the answers D stands; None unless both tables have every token's log-prob, of the same tokens."""
    own, other = _logps(ours, pairs), _logps(theirs, pairs)
    if own is None or other is None:
        return None
    chosen_ends = [end_tokens * pair.chosen_complete for pair in pairs]
    return token_shifts.shares(own, other, chosen_ends, [end_tokens * pair.rejected_complete for pair in pairs])


def _logps(table: PairTable, pairs: list[TokenPair]) -> TokenLogps | None:
    """The table's per-token log-probs in the order of `pairs`."""
    if table.chosen_logps is None or table.rejected_logps is None:
        return None
    place = {pair_id: index for index, pair_id in enumerate(table.pair_ids)}
    rows = [place[pair.pair_id] for pair in pairs]
    return TokenLogps([table.chosen_logps[row] for row in rows], [table.rejected_logps[row] for row in rows])
