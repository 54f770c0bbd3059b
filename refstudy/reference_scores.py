"""What is known of references once the cells are done: their own scores, and how far each policy went from its reference.

Invariant: read from the store alone, so that it can be written anew at any time; what has not been scored yet is left out. What
was written before is only replaced, never lost: cells of earlier grids, or of data that is gone, can be rebuilt from no sweep file.
"""

import json
import math
from pathlib import Path
from typing import Any

from refstudy import judges, plan, recipes, records, tables, texts
from refstudy.grid import Cell
from refstudy.identity import fingerprint
from refstudy.measures import divergence
from refstudy.measures.cell import length_measures
from refstudy.measures.win_rate import win_rate
from refstudy.results import Results
from refstudy.store import Store


def write(at: Results, cells: list[Cell]) -> None:
    """Writes references.json, a row for each reference of each policy, seed and setting, and reference_kl.json, by cell id."""
    rows = {_key(row): row for row in _own_scores(cells, at.store)}
    earlier = _read(at.references).get("references", [])
    kept = [row for row in earlier if isinstance(row, dict) and _key(row) not in rows]
    records.write_json(at.references, {"references": [*rows.values(), *kept]})
    found = {cell.id: kl_to_reference(cell, at.store) for cell in cells}
    records.write_json(at.reference_kl, _read(at.reference_kl) | {cell_id: values for cell_id, values in found.items() if values})


def kl_to_reference(cell: Cell, store: Store) -> dict[str, float]:
    """KL(policy || reference) per answer and per byte of answer, in nats; empty until the reference has scored the cell's answers.

    The mean over the policy's own samples of log p_policy(y|x) - log p_ref(y|x), noisier than a full-vocabulary KL. Where the
    reference has the policy's tokenizer it is of the tokens as drawn, and unbiased for samples at temperature 1 and full support.
    Otherwise log p_ref is of the text, and the estimate is off by what the policy leaves to other ways of writing the same text:
    nothing where `retokenised_share`, the share of answers not drawn as the tokenizer would write them, is 0 and stays so.
    """
    recipe = recipes.Table(scorer=cell.dpo.table.scorer, texts=cell.completions)
    if not store.has(recipe):
        return {}
    table = tables.read_completions(store.path(recipe))
    answers = texts.read_completions(store.path(cell.completions) / "completions.jsonl")
    by_id = {answer.prompt_id: answer.logp_sum_nats for answer in answers if answer.logp_sum_nats is not None}
    of = divergence.sampled([by_id[prompt_id] for prompt_id in table.prompt_ids], table.logp_sum, table.answer_bytes)
    found = {
        "kl_reference_nats": of.nats_per_answer,
        "kl_reference_nats_per_byte": of.nats_per_unit,
        "retokenised_share": float(tables.summary(store.path(recipe)).get("retokenised_share", 0.0)),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}  # a policy that says nothing has no bytes


def _own_scores(cells: list[Cell], store: Store) -> list[dict[str, Any]]:
    """A row for each reference of each policy, seed and setting. Settings that share a score have a row each."""
    scores: dict[str, dict[str, Any]] = {}
    rows = {}
    for cell in cells:
        if cell.answering is None:
            continue  # a constant, a column or a mixture answers nothing
        recipe = plan.own_verdicts(cell)
        if not store.has(recipe):
            continue
        if fingerprint(recipe) not in scores:
            scores[fingerprint(recipe)] = _own_score(cell, store)
        labels = {"reference": cell.reference, "policy": cell.policy, "seed": cell.seed, "settings": cell.settings}
        rows[_key(labels)] = {**labels, **scores[fingerprint(recipe)]}
    return list(rows.values())


def _key(row: dict[str, Any]) -> str:
    """What a row is about."""
    return json.dumps([row.get(name) for name in ("reference", "policy", "seed", "settings")], sort_keys=True)


def _read(path: Path) -> dict[str, Any]:
    """What was written before; empty if nothing was, or if it is torn."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _own_score(cell: Cell, store: Store) -> dict[str, Any]:
    """The reference's own answers, judged against the cell's baseline."""
    recipe = plan.own_verdicts(cell)
    prompts = texts.read_prompts(store.path(recipe.candidate.prompts) / "prompts.jsonl")
    clusters = {prompt.prompt_id: prompt.cluster for prompt in prompts}
    verdicts = judges.read(store.path(recipe))
    ids = [verdict.prompt_id for verdict in verdicts]
    score = win_rate([verdict.p for verdict in verdicts], ids, [clusters[each] for each in ids])
    lengths = length_measures(texts.read_completions(store.path(recipe.candidate) / "completions.jsonl"), clusters)
    return {
        "recipe": fingerprint(recipe),
        "own_win_rate": score.estimate.value,
        "own_win_rate_se": score.estimate.standard_error,
        "own_win_rate_low": score.estimate.low,
        "own_win_rate_high": score.estimate.high,
        "own_length_tokens_mean": lengths["length_tokens_mean"],
        "own_length_characters_mean": lengths["length_characters_mean"],
        "own_truncation_rate": lengths["truncation_rate"],
    }
