"""Do the findings find what is not there? Grids of known truth, with the variances of real sweeps, judged by the real decisions.

A simulated cell is a mean plus effects of its replicate (world and draw of pairs): of the replicate alone, of replicate and
reference, of replicate and beta, and of the cell, plus the noise of a finite number of prompts. Win rate and log length are drawn
together, with the correlations found. Cells are drawn as means, for decisions over replicates see nothing else; everything after
that is `findings.judge`.

Run:  python -m analysis.simulation --grids 2000            false claims and power, a line of JSON for each truth
      python -m analysis.simulation --estimate RESULTS ...  variance components of real sweeps, as JSON
Invariant: truth is an argument, randomness is an argument, and no decision is made here.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from analysis import findings, grids, study
from analysis.evidence import FEWEST, Floats
from analysis.grids import DERIVED, SELF, Grid, Reference
from refstudy.errors import DataError

MEASURES = ("win_rate", "log_length")


@dataclass(frozen=True)
class Components:
    """Standard deviations of win rate and log length, in this order, and their correlations; a term for each crossing."""

    replicate: tuple[float, float]
    """Shared by all cells of a replicate."""
    reference: tuple[float, float]
    """Of a replicate and a reference."""
    beta: tuple[float, float]
    """Of a replicate and a beta."""
    cell: tuple[float, float]
    """Of a replicate's cell, the noise of its prompts apart."""
    prompts: tuple[float, float]
    """Noise of a cell's mean over its prompts that it shares with no other cell."""
    correlation: float
    """Between the two measures, of the terms `beta` and `cell`."""


BETWEEN_WORLDS = Components(
    replicate=(0.0081, 0.0308),
    reference=(0.0044, 0.0198),
    beta=(0.0462, 0.0415),
    cell=(0.0043, 0.0147),
    prompts=(0.0098, 0.0073),
    correlation=0.01,
)
"""Of sweeps/why_references_help.yaml, worlds 201 to 207, and sweeps/miniature_study.yaml, worlds 100 to 107, each with its own draw
of pairs: `python -m analysis.simulation --references larger-same larger-near larger-wrong --estimate results/why_references_help
results/miniature_study`."""

BETWEEN_DRAWS = Components(
    replicate=(0.0, 0.033),
    reference=(0.0101, 0.0156),
    beta=(0.0287, 0.0),
    cell=(0.0037, 0.0098),
    prompts=(0.0113, 0.0079),
    correlation=0.29,
)
"""Of sweeps/quickstart.yaml, world 0, seeds 0 to 3 (the draw of pairs, order and sampling), self and larger-same at beta 3, 0.3 and
0.03: `python -m analysis.simulation --by-seed --estimate results/quickstart`."""


@dataclass(frozen=True)
class Truth:
    """What is so in a simulated grid: gains in win rate, the length ratio, and how win rate depends on beta."""

    name: str
    gain: float = 0.0
    """Of every stronger reference over self, at every beta."""
    length_ratio: float = 1.0
    """Length at the smallest beta to that at the next ones, with self."""
    family_gain: float = 0.0
    """Of the length-free same-family column over the cross-family one."""
    curve: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Win rate by rising beta, relative to the best."""


CURVE = (-0.15, 0.0, -0.04, -0.07)
"""A fall on both sides of an inner beta, of the size that self has in the miniature."""
TRUTHS = (
    Truth("nothing"),
    Truth("nothing, but a sweet spot", curve=CURVE),
    Truth("small effects", gain=0.02, length_ratio=1.05, family_gain=0.02, curve=CURVE),
    Truth("effects", gain=0.04, length_ratio=1.15, family_gain=0.04, curve=CURVE),
    Truth("the other way", gain=-0.04, length_ratio=1 / 1.15, family_gain=-0.04, curve=CURVE),
)
BETAS = (0.03, 0.3, 3.0, 30.0)
STRONGER = ("same", "near", "third", "fourth")
MEAN_WIN_RATE, MEAN_LENGTH_TOKENS = 0.6, 18.0
OWN = {"self": 0.5, "same": 0.85, "near": 0.85, "third": 0.8, "fourth": 0.75}


def simulate(truth: Truth, of: Components, replicates: int, rng: np.random.Generator) -> Grid:
    """One grid: self, four stronger references and the length-free columns of the first two, at four betas."""
    names = ("self", *STRONGER, "same-free", "near-free")
    rate, length = _means(truth, names)
    noise = _noise(of, (replicates, len(names), len(BETAS)), rng)
    win = np.clip(rate + noise[..., 0], 0.0, 1.0)
    tokens = np.exp(np.log(MEAN_LENGTH_TOKENS) + length + noise[..., 1])
    references = [_reference(name, win[:, index], tokens[:, index]) for index, name in enumerate(names)]
    return Grid("simulation", "simulated", "", "world", tuple(range(replicates)), tuple(references), policy_family="north")


def claims(truth: Truth, of: Components, replicates: int, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """What the confirmatory findings say of `count` grids: shares of decisions by finding, of grids with any claim, mean statistic
    and coverage of its 95 % interval. `any_claim` counts the tests that enter Holm, `any_row` every row of the three findings."""
    rows = [findings.judge(simulate(truth, of, replicates, rng), findings.CONFIRMATORY) for _ in range(count)]
    tested = [[row for row in found if row.tested] for found in rows]
    claimed = [any(row.decision in ("reproduced", "contradicted") for row in found) for found in tested]
    any_row = [any(row.confirmatory and row.decision in ("reproduced", "contradicted") for row in found) for found in rows]
    by_key = {key: [row for found in tested for row in found if row.finding == key] for key in findings.CONFIRMATORY}
    return {
        "truth": truth.name,
        "replicates": replicates,
        "grids": count,
        "any_claim": float(np.mean(claimed)),
        "any_row": float(np.mean(any_row)),
        "findings": {key: _summary(found, _true(truth, key)) for key, found in by_key.items()},
    }


def components(found: Sequence[Grid], names: Sequence[str] | None = None) -> Components:
    """Variance components of real grids, by the mean squares of replicate x reference x beta (Searle, Casella and McCulloch 1992,
    "Variance Components", chapter 4), of self and the stronger references (or those named), at the betas that these share.

    Each cell's own mean over replicates is removed first. The prompts' part is the paired prompt noise of two cells, halved.
    DataError unless a grid has two replicates, references and betas.
    """
    tables = [_table(grid, names) for grid in found]
    usable = [each for each in tables if min(each.shape[:3]) >= 2]
    if not usable:
        raise DataError("no grid has two complete replicates of two references at two betas; expected so much for variances")
    parts = [_mean_squares(each) for each in usable]
    degrees = np.array([each.shape[0] - 1 for each in usable], dtype=np.float64)
    mean = {name: np.average([part[name] for part in parts], axis=0, weights=degrees) for name in parts[0]}
    prompts = np.array(_prompt_noise(found))
    spread = {name: np.sqrt(np.maximum(np.diag(each), 0.0)) for name, each in mean.items()}
    cell = np.sqrt(np.maximum(spread["cell"] ** 2 - prompts**2, 0.0))
    together = mean["cell"]
    scale = np.sqrt(max(together[0, 0] * together[1, 1], 1e-18))
    pairs = {
        "replicate": spread["replicate"],
        "reference": spread["reference"],
        "beta": spread["beta"],
        "cell": cell,
        "prompts": prompts,
    }
    told = {name: (round(float(each[0]), 4), round(float(each[1]), 4)) for name, each in pairs.items()}
    return Components(**told, correlation=round(float(np.clip(together[0, 1] / scale, -1, 1)), 2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints false claims and power over simulated grids (a line of JSON each), or the variance components of real ones."""
    parser = argparse.ArgumentParser(prog="python -m analysis.simulation", description=main.__doc__)
    parser.add_argument("--grids", type=int, default=1000, help="simulated grids for each truth and number of replicates")
    parser.add_argument("--replicates", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimate", nargs="+", metavar="RESULTS", help="estimate variance components from these folders instead")
    parser.add_argument("--references", nargs="+", metavar="NAME", help="with --estimate: only these (self is always among them)")
    parser.add_argument("--by-seed", action="store_true", help="with --estimate: between the seeds of a world, not between worlds")
    parser.add_argument("--earlier", action="store_true", help="with --estimate: also cells of earlier grids of a folder")
    options = parser.parse_args(arguments)
    if options.estimate:
        loaded = study.load(*options.estimate, earlier=options.earlier)
        found = components(grids.of_study(_by_seed(loaded) if options.by_seed else loaded), options.references)
        print(json.dumps(asdict(found), indent=1))
        return
    for told in _all(options.grids, options.replicates, options.seed):
        print(json.dumps(told), flush=True)


def _by_seed(loaded: study.Study) -> study.Study:
    """The study with each seed of a world as a replicate."""
    cells, scores = loaded.cells, loaded.references
    return replace(loaded, cells=cells.assign(replicate=cells["seed"]), references=scores.assign(replicate=scores["seed"]))


def _all(count: int, replicates: Sequence[int], seed: int) -> Iterator[dict[str, Any]]:
    for truth in TRUTHS:
        for name, of in (("worlds", BETWEEN_WORLDS), ("draws of pairs in one world", BETWEEN_DRAWS)):
            for number in replicates:
                yield {"variances": name, **claims(truth, of, number, count, np.random.default_rng(seed))}


def _means(truth: Truth, names: Sequence[str]) -> tuple[Floats, Floats]:
    """(win rate, log length) by reference and beta; (references, betas) each."""
    gain = {"self": 0.0, "same-free": truth.family_gain / 2, "near-free": -truth.family_gain / 2}
    gains = np.array([gain.get(name, truth.gain) for name in names])
    rate = MEAN_WIN_RATE + np.array(truth.curve)[None, :] + gains[:, None]
    length = np.zeros((len(names), len(BETAS)))
    length[0, 0] = np.log(truth.length_ratio)
    return rate, length


def _noise(of: Components, shape: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    """(replicates, references, betas, 2): the effects of a replicate on win rate and log length."""
    replicates, references, betas = shape
    shapes = {
        "replicate": (replicates, 1, 1),
        "reference": (replicates, references, 1),
        "beta": (replicates, 1, betas),
        "cell": shape,
        "prompts": shape,
    }
    total = np.zeros((*shape, 2))
    for name, each in shapes.items():
        drawn = rng.normal(size=(*each, 2))
        if name in ("beta", "cell"):
            drawn[..., 1] = of.correlation * drawn[..., 0] + np.sqrt(1 - of.correlation**2) * drawn[..., 1]
        total = total + drawn * np.array(getattr(of, name))
    return total


def _reference(name: str, win: Floats, tokens: Floats) -> Reference:
    base = name.removesuffix("-free")
    derived = name != base
    kind = SELF if name == "self" else DERIVED if derived else "model"
    own = np.full(len(win), np.nan if derived else OWN[base])
    return Reference(
        name=name,
        kind=kind,
        betas=BETAS,
        win_rate=win,
        length_tokens=tokens,
        accuracy=np.full_like(win, np.nan),
        own_win_rate=own,
        own_win_rate_se=np.full(len(win), 0.01),
        family=None if derived else ("south" if base == "near" else "north"),
        size="small" if name == "self" else "large",
        keep="length_free" if derived else None,
        of=base if derived else None,
    )


def _true(truth: Truth, key: str) -> float:
    """The value of a finding's statistic in truth, at the best beta."""
    return {"length_explosion": float(np.log(truth.length_ratio)), "stronger_reference_helps": truth.gain}.get(
        key, truth.family_gain
    )


def _summary(rows: Sequence[findings.Finding], true: float) -> dict[str, float]:
    """Shares of decisions, mean statistic and coverage of `true`, over the rows that have an interval."""
    told = [row for row in rows if np.isfinite(row.low)]
    shares = {name: float(np.mean([row.decision == name for row in rows])) for name in ("reproduced", "contradicted")}
    covered = float(np.mean([row.low <= true <= row.high for row in told])) if told else float("nan")
    return {**shares, "true": true, "mean_statistic": float(np.mean([row.statistic for row in told])), "coverage": covered}


def _table(grid: Grid, names: Sequence[str] | None) -> Floats:
    """(replicates, references, betas, 2): win rate and log length of the complete replicates of the compared references."""
    own = grid.self
    if own is None:
        return np.zeros((0, 0, 0, 2))
    others = [each for each in grid.references if not each.own]
    stronger = [each for each in others if each.kind != DERIVED and findings.is_stronger(grid, each)]
    compared = [own, *(stronger if names is None else (each for each in others if each.name in names))]
    betas = sorted(set.intersection(*(set(each.betas) for each in compared)))
    picked = [[each.betas.index(beta) for beta in betas] for each in compared]
    rate = np.stack([each.win_rate[:, at] for each, at in zip(compared, picked, strict=True)], axis=1)
    length = np.stack([np.log(each.length_tokens[:, at]) for each, at in zip(compared, picked, strict=True)], axis=1)
    both = np.stack([rate, length], axis=-1)
    return both[np.isfinite(both).all(axis=(1, 2, 3))]


def _mean_squares(table: Floats) -> Mapping[str, Floats]:
    """Covariance components (2, 2) of win rate and log length by crossing, from the analysis of variance of one table."""
    replicates, references, betas = table.shape[:3]
    y = table - table.mean(axis=0, keepdims=True)
    whole = y.mean(axis=(1, 2), keepdims=True)
    by_reference = y.mean(axis=2, keepdims=True) - whole
    by_beta = y.mean(axis=1, keepdims=True) - whole
    rest = y - whole - by_reference - by_beta
    free = replicates - 1
    squares = {
        "replicate": _products(whole) * references * betas / free,
        "reference": _products(by_reference) * betas / (free * (references - 1)),
        "beta": _products(by_beta) * references / (free * (betas - 1)),
        "cell": _products(rest) / (free * (references - 1) * (betas - 1)),
    }
    cell = squares["cell"]
    return {
        "replicate": (squares["replicate"] - squares["reference"] - squares["beta"] + cell) / (references * betas),
        "reference": (squares["reference"] - cell) / betas,
        "beta": (squares["beta"] - cell) / references,
        "cell": cell,
    }


def _products(effects: Floats) -> Floats:
    """(2, 2): sums of squares and products of the two measures."""
    flat = effects.reshape(-1, 2)
    return flat.T @ flat


def _prompt_noise(found: Sequence[Grid]) -> tuple[float, float]:
    """Standard deviations, of a cell's win rate and log length, of what its prompts do to it alone: from pairs of cells of one
    reference at neighbouring betas, half the variance of the paired mean difference."""
    squares: list[tuple[float, float]] = []
    for grid in found:
        own = grid.self
        if own is None or grid.prompts is None:
            continue
        for replicate in grid.replicates:
            for low, high in zip(own.betas, own.betas[1:], strict=False):
                pair = [grid.cells.get((own.name, replicate, beta), ("none",))[0] for beta in (low, high)]
                squares += _paired_noise(grid, pair)
    if not squares:
        return 0.0, 0.0
    rate, length = np.sqrt(np.mean(squares, axis=0) / 2)
    return float(rate), float(length)


def _paired_noise(grid: Grid, pair: Sequence[str]) -> list[tuple[float, float]]:
    """[(squared standard error of the difference of two cells in win rate, of that in log length)], or nothing."""
    if grid.prompts is None:
        return []
    sides = [grid.prompts[grid.prompts["cell_id"] == cell] for cell in pair]
    both = sides[0].merge(sides[1], on="prompt_id", suffixes=("", "_other")).dropna(subset=["p", "p_other"])
    if len(both) < FEWEST:
        return []
    rate = both["p"] - both["p_other"]
    length = both["length_tokens"] / both["length_tokens"].mean() - both["length_tokens_other"] / both["length_tokens_other"].mean()
    return [(float(rate.var(ddof=1)) / len(both), float(length.var(ddof=1)) / len(both))]


if __name__ == "__main__":
    main()
