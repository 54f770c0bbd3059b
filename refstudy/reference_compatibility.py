"""How well each reference fits its policy, from the tables in the store: rows for the report, numbers for a tracker.

Invariant: read from the store alone, before or after any training; a row that was written from the same tables is kept as it is,
and what the tables cannot give is absent, with the reason in words.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refstudy import chat, checkpoints, composed, recipes, records
from refstudy.artefacts import read_pair_table, read_token_pairs
from refstudy.errors import RefstudyError
from refstudy.grid import Cell
from refstudy.identity import fingerprint
from refstudy.measures import compatibility, token_shifts
from refstudy.measures.columns import Scores
from refstudy.measures.compatibility import Answers, Compatibility, LengthBin
from refstudy.measures.token_shifts import TokenLogps, TokenShares
from refstudy.results import Results
from refstudy.store import Store
from refstudy.tables import PairTable
from refstudy.token_pairs import TokenPair

MEASURES_VERSION = 1
"""Rises whenever a measure changes, so that rows of earlier reports are made anew."""

OF_LIKELIHOODS = ("bits_per_byte", "likelihood_kl_nats")
"""Measures that mean nothing where a column's numbers are no probabilities of the answers."""


@dataclass(frozen=True)
class Fit:
    """What the tables say of one reference."""

    measured: Compatibility
    by_length: list[LengthBin]
    """D by length difference, for the figure."""
    values: dict[str, float]
    """The measures by flat name that the reference's kind has."""


def write(at: Results, cells: list[Cell]) -> None:
    """Writes compatibility.json: a row for each reference of each policy, seed and setting whose table is in the store.

    Rows of earlier grids, or of data that is gone, stay as they were written.
    """
    earlier = {_key(row): row for row in _read(at.compatibility)}
    shared = _Shared(at.store)
    rows: dict[str, dict[str, Any]] = {}
    for labels, table, own, betas in _references(cells):
        if not at.store.has(table):
            continue
        about = {
            **labels,
            "table": fingerprint(table),
            "own_table": fingerprint(_own_table(table, own)),
            "betas": betas,
            "version": MEASURES_VERSION,
        }
        known = earlier.get(_key(about), {})
        is_same = all(known.get(name) == value for name, value in about.items()) and not known.get("not_measured")
        rows[_key(about)] = known if is_same else about | _row(table, own, betas, shared)
    records.write_json(at.compatibility, {"references": [*rows.values(), *(earlier[key] for key in earlier if key not in rows)]})


def fit(table: recipes.Table, own: recipes.Model, betas: Sequence[float], store: Store) -> Fit:
    """What the tables say of the reference of `table` against self, `own`.

    StoreError where one of the two tables is not in the store, TableError where they cannot be compared.
    """
    return _fit(table, own, betas, _Shared(store))


def tracked(cell: Cell, store: Store) -> dict[str, float]:
    """The measures of a cell's reference, `reference/NAME`; empty where the tables do not give them.

    Without shares by token, so that no tokenizer is loaded: a tracker asks on a thread of its own, beside the training.
    """
    try:
        found = _fit(cell.dpo.table, cell.own, [], _Shared(store), by_token=False)
    except RefstudyError:
        return {}
    saturation = {"saturation": cell.beta * found.measured.difference_spread_nats}
    return {f"reference/{name}": value for name, value in (found.values | saturation).items()}


class _Shared:
    """What the references of one policy and seed share, read once: token pairs, and self's table over them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pairs: tuple[str, list[TokenPair]] = ("", [])
        self._own: tuple[str, PairTable | None] = ("", None)
        self._end: tuple[str, int] = ("", 0)

    def pairs(self, texts: recipes.TokenPairs | recipes.Selection) -> list[TokenPair]:
        if self._pairs[0] != fingerprint(texts):
            self._pairs = (fingerprint(texts), read_token_pairs(texts, self.store))
        return self._pairs[1]

    def own(self, table: recipes.Table) -> PairTable:
        if self._own[1] is None or self._own[0] != fingerprint(table):
            self._own = (fingerprint(table), read_pair_table(table, self.store))
        assert self._own[1] is not None
        return self._own[1]

    def end_tokens(self, model: recipes.Model) -> int:
        """Tokens that the policy's template puts after a complete answer."""
        from refstudy import models  # imports torch, which nothing else here needs

        if self._end[0] != fingerprint(model):
            tokenizer = models.load_tokenizer(checkpoints.checkpoint(model, self.store))
            self._end = (fingerprint(model), len(chat.end_of_turn(tokenizer)))
        return self._end[1]


def _references(cells: Iterable[Cell]) -> list[tuple[dict[str, Any], recipes.Table, recipes.Model, list[float]]]:
    """(labels, table, self, betas of the grid) of each reference of each policy, seed and setting."""
    found: dict[str, tuple[dict[str, Any], recipes.Table, recipes.Model, list[float]]] = {}
    for cell in cells:
        labels = {"reference": cell.reference, "policy": cell.policy, "seed": cell.seed, "settings": cell.settings}
        betas = found.setdefault(_key(labels), (labels, cell.dpo.table, cell.own, []))[3]
        betas.append(cell.beta)
    return list(found.values())


def _row(table: recipes.Table, own: recipes.Model, betas: Sequence[float], shared: _Shared) -> dict[str, Any]:
    """The part of a row that is measured, or why nothing is."""
    empty: dict[str, Any] = {"measures": {}, "by_length": [], "words": "", "not_measured": None}
    if not shared.store.has(_own_table(table, own)):
        return empty | {"not_measured": "self's table over these pairs is not in the store; add self to the axis `reference`"}
    try:
        found = _fit(table, own, betas, shared)
    except RefstudyError as error:
        return empty | {"not_measured": str(error)}
    lengths = [asdict(each) for each in found.by_length]
    return empty | {"measures": found.values, "by_length": lengths, "words": compatibility.words(found.measured)}


def _fit(recipe: recipes.Table, own: recipes.Model, betas: Sequence[float], shared: _Shared, by_token: bool = True) -> Fit:
    assert not isinstance(recipe.texts, recipes.Completions)
    pairs = shared.pairs(recipe.texts)
    reference = composed.sliced(read_pair_table(recipe, shared.store), pairs)
    policy = composed.sliced(shared.own(_own_table(recipe, own)), pairs)
    scores = [Scores(each.chosen_logp_sum, each.rejected_logp_sum) for each in (policy, reference)]
    known = answers(pairs)
    shares = _shares(policy, reference, pairs, own, shared) if by_token else None
    measured = compatibility.compatibility(scores[0], scores[1], known, betas, shares)
    values = compatibility.values(measured)
    if not _has_likelihoods(recipe.scorer):
        values = {name: value for name, value in values.items() if name not in OF_LIKELIHOODS}
    return Fit(measured, compatibility.by_length(scores[0], scores[1], known), values)


def answers(pairs: Sequence[TokenPair]) -> Answers:
    """What the measures need of the pairs' answers."""
    return Answers(
        chosen_tokens=np.array([len(pair.chosen_ids) for pair in pairs]),
        rejected_tokens=np.array([len(pair.rejected_ids) for pair in pairs]),
        chosen_bytes=np.array([len(pair.chosen.encode()) for pair in pairs]),
        rejected_bytes=np.array([len(pair.rejected.encode()) for pair in pairs]),
        clusters=[pair.cluster for pair in pairs],
    )


def _shares(
    policy: PairTable, reference: PairTable, pairs: Sequence[TokenPair], own: recipes.Model, shared: _Shared
) -> TokenShares | None:
    """Where in the answers D stands; None where the reference has no log-probs of the policy's own tokens."""
    columns = (policy.chosen_logps, policy.rejected_logps, reference.chosen_logps, reference.rejected_logps)
    if any(column is None for column in columns):
        return None
    end = shared.end_tokens(own)
    return token_shifts.shares(
        TokenLogps(policy.chosen_logps or [], policy.rejected_logps or []),
        TokenLogps(reference.chosen_logps or [], reference.rejected_logps or []),
        [end * pair.chosen_complete for pair in pairs],
        [end * pair.rejected_complete for pair in pairs],
    )


def _has_likelihoods(scorer: recipes.Scorer) -> bool:
    """Whether a reference's numbers are log-probs of the answers, and not only good for their differences."""
    match scorer:
        case recipes.Constant() | recipes.Derived() | recipes.Mixture(mean="geometric"):
            return False
        case recipes.Mixture(parts=parts):
            return all(_has_likelihoods(part.scorer) for part in parts)
        case _:
            return True


def _own_table(table: recipes.Table, own: recipes.Model) -> recipes.Table:
    """Self's table over the same pairs."""
    return recipes.Table(scorer=own, texts=table.texts)


def _key(row: dict[str, Any]) -> str:
    """What a row is about."""
    return json.dumps([row.get(name) for name in ("reference", "policy", "seed", "settings")], sort_keys=True)


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows that were written before; none if there are none, or if the file is torn."""
    try:
        rows = json.loads(path.read_bytes()).get("references", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
