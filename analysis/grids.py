"""A policy's grid as arrays, a row for each replicate: all that the findings judge, whether measured, published or simulated.

Invariant: a finding sees a grid through this form alone, so the same code judges a sweep, the paper's tables and a simulation.
Compared cells share prompts: where they do not (a judge gave no verdict), win rates are over the prompts that all have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.evidence import FEWEST, LEVEL, Choice, Evidence, Floats, best_on_the_others, of_replicates, of_stated_error, taken
from analysis.study import Study
from refstudy.measures import intervals

SELF, DERIVED = "policy", "derived"
"""Kinds of a reference's entry: the policy's own start, and a column made from another reference's."""
LEAST_PROMPTS = 0.5
"""Share of prompts that must be common to all cells of a replicate for win rates to be taken over them."""


@dataclass(frozen=True, eq=False)
class Reference:
    """One reference of a grid, and what the policy became when held to it. Arrays: (replicates, betas) or (replicates,)."""

    name: str
    kind: str
    betas: tuple[float, ...]
    """Rising."""
    win_rate: Floats
    length_tokens: Floats
    accuracy: Floats
    """Policy ranking accuracy, of validation pairs where there are any, else of the training pairs."""
    own_win_rate: Floats
    """Of the reference's own answers; NaN where it has none, or they were not judged."""
    own_win_rate_se: Floats
    family: str | None = None
    size: str | None = None
    keep: str | None = None
    """Of a derived column: the part of D that it keeps."""
    of: str | None = None
    """Of a derived column: the name of the reference that it is made from, if that is in the grid."""
    measures: Mapping[str, Floats] = field(default_factory=dict)
    """Measures of compatibility, known before training; (replicates,)."""

    @property
    def own(self) -> bool:
        """Whether this is the policy's own start."""
        return self.kind == SELF


@dataclass(frozen=True, eq=False)
class Grid:
    """All references of one policy (and one setting) in the replicates of a study."""

    source: str
    """The sweep, or the paper."""
    policy: str
    setting: str
    unit: str
    """What a replicate is: world, seed or run."""
    replicates: tuple[Any, ...]
    references: tuple[Reference, ...]
    policy_family: str | None = None
    error: float | None = None
    """Stated standard error of each cell's win rate, in place of replicates; None: replicates speak for themselves."""
    cells: Mapping[tuple[str, Any, float], tuple[str, ...]] = field(default_factory=dict)
    """(reference, replicate, beta) -> cell ids, where prompts are known."""
    prompts: pd.DataFrame | None = None
    incomplete: tuple[str, ...] = ()
    """What was left out because cells are missing, in words."""

    @cached_property
    def prompts_by_cell(self) -> dict[str, pd.DataFrame]:
        """The prompts' rows by cell id; looked up for every difference between cells, so that nothing is searched again."""
        return {} if self.prompts is None else {str(cell): rows for cell, rows in self.prompts.groupby("cell_id", sort=False)}

    @property
    def self(self) -> Reference | None:
        return next((each for each in self.references if each.own), None)

    def named(self, name: str | None) -> Reference | None:
        return next((each for each in self.references if each.name == name), None)


@dataclass(frozen=True, eq=False)
class Term:
    """One cell a replicate: +1 or -1 times the value at `at` of `reference`."""

    sign: float
    reference: Reference
    at: Choice | None = None
    """Index of a beta for each replicate; None: the best, chosen by win rate on the other replicates."""

    @property
    def choice(self) -> Choice:
        return best_on_the_others(self.reference.win_rate) if self.at is None else self.at

    def value(self, of: str) -> Floats:
        """(replicates,)"""
        return self.sign * _scaled(taken(getattr(self.reference, of), self.choice), of)

    def without(self, left: Choice, of: str) -> Floats:
        """(replicates left,): the value where only these replicates exist, the best chosen on the others among them."""
        quality = self.reference.win_rate[left]
        choice = best_on_the_others(quality, fewest=2) if self.at is None else self.at[left]
        return self.sign * _scaled(taken(getattr(self.reference, of)[left], choice), of)


def weigh(grid: Grid, terms: Sequence[Term], of: str = "win_rate", minus_own: Reference | None = None) -> Evidence:
    """The sum of terms, over replicates, or with the stated error, or (fewer than FEWEST replicates) over this run's prompts.

    of: "win_rate", or "length_tokens", whose natural logarithm is taken. minus_own: the reference whose own win rate is
    subtracted. With a stated error each cell has it once, however many terms it stands in, and an own win rate has it too.
    """
    x = values(grid, terms, of, minus_own)
    if grid.error is not None:
        return of_stated_error(float(x[0]), _stated(grid, terms, of, minus_own))
    found = of_replicates(x, _without(terms, of, minus_own, x))
    return found if found.n_replicates >= FEWEST or not found.n_replicates else _within_run(grid, terms, of, minus_own, found)


def values(grid: Grid, terms: Sequence[Term], of: str = "win_rate", minus_own: Reference | None = None) -> Floats:
    """The sum of terms for each replicate; NaN where a cell of it is unknown."""
    total = np.sum([term.value(of) for term in terms], axis=0)
    return total if minus_own is None else total - minus_own.own_win_rate


def _without(terms: Sequence[Term], of: str, minus_own: Reference | None, x: Floats) -> Floats | None:
    """For each finite value the mean of the others, choices made without its replicate; None where no choice is made."""
    known = np.flatnonzero(np.isfinite(x))
    if len(known) < FEWEST or all(term.at is not None for term in terms):
        return None
    means = []
    for gone in known:
        left = known[known != gone]
        total = np.sum([term.without(left, of) for term in terms], axis=0)
        means.append(np.mean(total if minus_own is None else total - minus_own.own_win_rate[left]))
    return np.array(means)


def _scaled(values: Floats, of: str) -> Floats:
    return np.log(values) if of == "length_tokens" else values


def of_study(study: Study) -> list[Grid]:
    """The grids of a study, one for each sweep, policy and setting, in the sweep's order."""
    groups = study.done.groupby(["sweep", "policy", "setting"], sort=False)
    return [_grid(study, cells) for _, cells in groups]


def _grid(study: Study, cells: pd.DataFrame) -> Grid:
    first = cells.iloc[0]
    at = {name: first[name] for name in ("sweep", "policy", "setting")}
    replicates = tuple(sorted(cells["replicate"].unique()))
    cells = _on_common_prompts(cells, study.prompts)
    scores = _here(study.references, at)
    whole = cells[(cells["reference_kind"] != DERIVED) & cells["scorer_id"].notna()]
    names = dict(zip(whole["scorer_id"].astype(str), whole["reference"].astype(str), strict=True))
    lacking: list[str] = []
    references = [
        _reference(group, replicates, scores, names, _here(study.measures, at), lacking)
        for _, group in cells.groupby("reference", sort=False)
    ]
    places = zip(cells["reference"], cells["replicate"], cells["beta"], cells["cell_id"], strict=True)
    ids: dict[tuple[str, Any, float], tuple[str, ...]] = {}
    for reference, replicate, beta, cell_id in places:
        ids[(reference, replicate, beta)] = (*ids.get((reference, replicate, beta), ()), cell_id)
    return Grid(
        source=str(at["sweep"]),
        policy=str(at["policy"]),
        setting=str(at["setting"]),
        unit="world" if cells["world"].notna().all() else "seed",
        replicates=replicates,
        references=tuple(references),
        policy_family=_known(first["policy_family"]) or next((each.family for each in references if each.own), None),
        cells=ids,
        prompts=study.prompts[study.prompts["cell_id"].isin(set(cells["cell_id"]))],
        incomplete=tuple(lacking),
    )


def _here(frame: pd.DataFrame, at: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one sweep, policy and setting."""
    return frame[np.logical_and.reduce([frame[name] == value for name, value in at.items()])]


def _reference(
    cells: pd.DataFrame,
    replicates: tuple[Any, ...],
    scores: pd.DataFrame,
    names: Mapping[str, str],
    measures: pd.DataFrame,
    lacking: list[str],
) -> Reference:
    """One reference's cells as arrays. Its betas are those that at least half of its replicates have; a replicate that lacks one
    of them is left out."""
    first = cells.iloc[0]
    count = cells.groupby("beta")["replicate"].nunique()
    betas = tuple(sorted(count.index[count * 2 >= cells["replicate"].nunique()]))
    accuracy = cells["validation_policy_accuracy"].fillna(cells["policy_accuracy"])
    tables = {
        name: _table(cells.assign(accuracy=accuracy), name, replicates, betas) for name in ("win_rate", "length_tokens", "accuracy")
    }
    whole = np.atleast_1d(np.isfinite(tables["win_rate"]).all(axis=1))
    if not whole.all():
        missing = [str(each) for each, complete in zip(replicates, whole, strict=True) if not complete]
        lacking.append(f"{first['reference']} lacks cells in {', '.join(missing)}")
        tables = {name: np.where(whole[:, None], table, np.nan) for name, table in tables.items()}
    own = _by_replicate(scores, first["reference"], replicates)
    return Reference(
        name=str(first["reference"]),
        kind=str(first["reference_kind"]),
        betas=betas,
        own_win_rate=own("own_win_rate"),
        own_win_rate_se=own("own_win_rate_se"),
        family=_known(first["family"]),
        size=_known(first["reference_size"]),
        keep=_known(first["keep"]),
        of=names.get(str(first["of_id"])),
        measures=_measures(measures, first["reference"], replicates),
        **tables,
    )


def _table(cells: pd.DataFrame, name: str, replicates: Sequence[Any], betas: Sequence[float]) -> Floats:
    """(replicates, betas): means over the seeds of a replicate."""
    found = cells.pivot_table(index="replicate", columns="beta", values=name, aggfunc="mean", dropna=False)
    return found.reindex(index=pd.Index(replicates), columns=pd.Index(betas)).to_numpy(dtype=np.float64)


def _by_replicate(frame: pd.DataFrame, reference: str, replicates: Sequence[Any]) -> Any:
    """name -> (replicates,) means over the rows of `reference`."""

    def column(name: str) -> Floats:
        rows = frame[frame["reference"] == reference]
        means = rows.assign(value=pd.to_numeric(rows[name])).groupby("replicate")["value"].mean()
        return means.reindex(pd.Index(replicates)).to_numpy(dtype=np.float64)

    return column


def _measures(frame: pd.DataFrame, reference: str, replicates: Sequence[Any]) -> dict[str, Floats]:
    """The reference's measures that are known in a replicate at least."""
    rows = frame[frame["reference"] == reference]
    numbers = [name for name in rows.select_dtypes("number") if name not in ("replicate", "seed") and rows[name].notna().any()]
    return {str(name): _by_replicate(frame, reference, replicates)(name) for name in numbers}


def _known(value: Any) -> str | None:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _on_common_prompts(cells: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """The cells with win rates over the prompts that all cells of a replicate and seed have, where these differ."""
    rows = prompts[prompts["cell_id"].isin(set(cells["cell_id"]))]
    if rows.empty or (rows["p"].notna().all() and rows.groupby("cell_id")["prompt_id"].agg(frozenset).nunique() == 1):
        return cells
    changed = cells.copy()
    for _, group in cells.groupby(["replicate", "seed"]):
        table = rows[rows["cell_id"].isin(set(group["cell_id"]))].pivot_table(
            index="prompt_id", columns="cell_id", values="p", dropna=False
        )
        common = table.dropna()
        if len(table.columns) == len(group) and len(common) < len(table) and len(common) >= LEAST_PROMPTS * len(table):
            changed.loc[group.index, "win_rate"] = group["cell_id"].map(common.mean())
    return changed


def _stated(grid: Grid, terms: Sequence[Term], of: str, minus_own: Reference | None) -> float:
    """The standard error of a sum of cells of equal, independent error."""
    times: dict[tuple[str, int], float] = {}
    for term in terms:
        key = (term.reference.name, int(term.choice[0]))
        times[key] = times.get(key, 0.0) + term.sign
    squares = sum(each**2 for each in times.values()) + (0.0 if minus_own is None else 1.0)
    return math.nan if of != "win_rate" else math.sqrt(squares) * float(grid.error or 0.0)


def _within_run(grid: Grid, terms: Sequence[Term], of: str, minus_own: Reference | None, found: Evidence) -> Evidence:
    """`found` with the interval over the prompts of these very runs, clustered; lengths by the delta method."""
    parts = [part for index in range(len(grid.replicates)) if (part := _prompt_sums(grid, terms, of, index)) is not None]
    if not parts or len(parts) < found.n_replicates:
        return found
    rows = pd.concat(parts)
    of_prompts = intervals.mean(rows["value"], list(zip(rows["replicate"], rows["cluster"], strict=True)))
    half = of_prompts.high - of_prompts.value
    if minus_own is not None:
        spread = (
            float(np.nanmean(minus_own.own_win_rate_se**2)) / len(parts) if np.isfinite(minus_own.own_win_rate_se).any() else 0.0
        )
        half = math.sqrt(half**2 + float(stats.norm.ppf(0.5 + LEVEL / 2)) ** 2 * spread)
    return replace(found, low=found.statistic - half, high=found.statistic + half, basis="prompts of this run")


def _prompt_sums(grid: Grid, terms: Sequence[Term], of: str, index: int) -> pd.DataFrame | None:
    """value, cluster and replicate of each prompt of one replicate: the sum of terms on it; None where a cell has no prompts."""
    if grid.prompts is None:
        return None
    column, total, clusters = ("p" if of == "win_rate" else "length_tokens"), None, None
    for term in terms:
        at = int(term.choice[index])
        if at < 0:
            return None
        key = (term.reference.name, grid.replicates[index], term.reference.betas[at])
        parts = [grid.prompts_by_cell[each] for each in grid.cells.get(key, ()) if each in grid.prompts_by_cell]
        rows = pd.concat(parts).dropna(subset=[column]) if parts else None
        if rows is None or rows.empty:
            return None
        by_prompt = rows.groupby("prompt_id")[column].mean()
        by_prompt = term.sign * (by_prompt / by_prompt.mean() if of == "length_tokens" else by_prompt)
        total = by_prompt if total is None else total.add(by_prompt)
        clusters = rows.groupby("prompt_id")["cluster"].first()
    if total is None or clusters is None:
        return None
    frame = pd.DataFrame({"value": total, "cluster": clusters}).dropna()
    return frame.assign(replicate=index)
