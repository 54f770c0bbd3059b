"""The length-controlled win rate: what a model would win if its answers were as long as the baseline's.

A logistic model of the judge's preference, with the difference in length as one of its terms, is fitted and read where that term
is 0 (Dubois et al. 2024, "Length-Controlled AlpacaEval", arXiv 2404.04475). `alpaca_eval_2` is that leaderboard's number;
`of_sweep` is the like for a sweep's own prompts, and never to be called AlpacaEval's.

Invariant: where the data cannot tell length from quality there is no number but a refusal in words; and a cell's number rests on
its own verdicts and a named, frozen calibration set, so that a new cell changes no old number.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from refstudy.errors import DataError
from refstudy.measures import intervals

Floats = NDArray[np.float64]

STRENGTHS = np.logspace(-4, 4, 10)
"""Candidates for C, the weight of the data against the penalty |w|_1."""
FOLDS = 5
GAMED_WEIGHT = 0.1
CHUNK = 50
"""Draws fitted at a time: an array of theirs takes CHUNK x rows x 8 bytes, less than a MB, so that it stays cached."""
CLIP = 0.001
NEWTON_STEPS, SWEEPS, HALVINGS = 100, 100, 40
FLOOR = 1e-12
"""Curvature below which a coefficient is not moved by data."""
SURE = 0.69
"""A Newton step that moves no z by more than this lowers the objective, so that nobody need look: below ln 2 the curvature of the
loss grows by less than a factor of 2 (|sigma''| <= sigma'), and the minimum of the quadratic model leaves room for as much."""
TOLERANCE = 1e-8
"""Largest change of a coefficient in the last Newton step."""
DRAW_TOLERANCE = 1e-4
"""Likewise in resamples, which begin at the fit to all prompts: Newton's step squares the error, so 1e-8 is left of it."""
FEWEST_EVENTS = 10
"""Wins, and losses, below which three coefficients are not worth fitting."""
FEWEST_OF_A_KIND = 0.05
"""Share of prompts with the longer, and with the shorter, answer below which equal lengths lie outside the data."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a judge said of one model's answers: an element for each prompt."""

    p: Floats
    """P(the model beats the baseline) in [0, 1]; NaN where the judge gave no verdict: such a prompt is left out of the fit."""
    length: Floats
    """Of the model's answer; any unit, the same on both sides."""
    baseline_length: Floats
    difficulty: Floats


@dataclass(frozen=True, eq=False)
class Gamed:
    """Judgements of the baseline told to be verbose or concise: they teach AlpacaEval's fit what length alone is worth."""

    p: Floats
    scaled_difference: Floats
    """(Length of the baseline - length of the gamed baseline) / its standard deviation."""
    difficulty: Floats


@dataclass(frozen=True)
class Coefficients:
    length: float
    """Of tanh(scaled difference), baseline minus model: negative where the judge likes length."""
    difficulty: float
    model: float


@dataclass(frozen=True)
class LengthControlled:
    """In [0, 1]; all numbers NaN and `coefficients` None where `refusal` says why there are none."""

    value: float
    low: float
    high: float
    coefficients: Coefficients | None
    strength: float
    """The C that cross-validation chose."""
    refusal: str | None
    draws: Floats = field(repr=False, compare=False)
    """The value of each resample, for paired differences."""


@dataclass(frozen=True)
class Calibration:
    """The cells from whose verdicts the difficulty of prompts is taken: named, and fixed once named."""

    name: str
    p: Mapping[str, Mapping[str, float | None]]
    """By cell id, then prompt id; None where the judge failed."""

    @cached_property
    def totals(self) -> dict[str, tuple[float, int]]:
        """By prompt id: the sum of p over all cells, and of how many cells."""
        found: dict[str, tuple[float, int]] = {}
        for verdicts in self.p.values():
            for prompt, p in verdicts.items():
                if p is not None:
                    total, count = found.get(prompt, (0.0, 0))
                    found[prompt] = (total + p, count + 1)
        return found


def alpaca_eval_2(judged: Judged, gamed: Gamed, counts: Floats) -> LengthControlled:
    """AlpacaEval 2's length-controlled win rate, with a percentile interval over `counts` (see `resample`).

    p ~ logistic(w_length tanh(d) + w_difficulty gamma + w_model) with d = (baseline length - length) / std(ddof=1), fitted to the
    model's rows (weight 1) and the gamed rows (weight 0.1, without w_model) under an L1 penalty whose C is chosen among ten by
    5-fold cross-validation; the win rate is the mean of logistic(w_difficulty gamma + w_model). The leaderboard finds this
    optimum with liblinear, up to liblinear's tolerance; here it is found by Newton's method, which needs no further package.

    The gamed rows, like the difficulties, are part of the definition: they are not resampled. C is chosen once, on all prompts:
    chosen anew in each of 200 resamples of three published models, it moved no end of an interval by more than 0.2 points.
    """
    return _controlled(judged, gamed, counts, range(len(judged.p)))


def of_sweep(judged: Judged, counts: Floats, clusters: Sequence[Hashable]) -> LengthControlled:
    """The length-controlled win rate on a sweep's own prompts: the same fit without gamed rows, clusters held together in folds.

    judged.difficulty: from `difficulty`; several seeds of a prompt are averaged before. Refused in words where `refusal` finds the
    fit not identified. The interval takes the difficulty as known and is a little narrow: of simulated cells its 95 % held the
    truth in 91 % (384 prompts, 800 cells) and 96 % (768 prompts, 300 cells).
    """
    reason = refusal(judged, clusters)
    if reason is not None:
        return LengthControlled(math.nan, math.nan, math.nan, None, math.nan, reason, np.array([]))
    return _controlled(judged, None, counts, clusters)


def refusal(judged: Judged, clusters: Sequence[Hashable]) -> str | None:
    """Why length cannot be told from quality in these verdicts, as a sentence; None where it can."""
    given = np.isfinite(judged.p)
    p, difference = judged.p[given], (judged.length - judged.baseline_length)[given]
    if (groups := len({cluster for cluster, is_given in zip(clusters, given, strict=True) if is_given})) < FOLDS:
        return f"{groups} clusters of prompts have a verdict; the fit is validated on {FOLDS} parts and needs as many"
    wins, losses = float(p.sum()), float((1 - p).sum())
    if min(wins, losses) < FEWEST_EVENTS:
        side, events = ("wins", wins) if wins < losses else ("losses", losses)
        return f"{events:.3g} {side} in {p.size} prompts are too few; fewer than {FEWEST_EVENTS} do not show what length is worth"
    longer, shorter = float(np.mean(difference > 0)), float(np.mean(difference < 0))
    if np.ptp(difference) == 0:
        return "every answer differs from the baseline's by the same length, so length and quality cannot be told apart"
    if min(longer, shorter) < FEWEST_OF_A_KIND:
        kind, share = ("longer", longer) if longer < shorter else ("shorter", shorter)
        return (
            f"the lengths of both sides hardly overlap: {share:.1%} of the answers are {kind} than the baseline's, and with less "
            f"than {FEWEST_OF_A_KIND:.0%} a win rate at equal length is a guess outside the data"
        )
    return None


def difficulty(calibration: Calibration, cell_id: str, prompt_ids: Sequence[str]) -> Floats:
    """The difficulty of each prompt for one cell: centred logit of the mean p of the other calibration cells, clipped.

    A cell of the calibration set is left out of its own difficulty. DataError where the others say nothing of a prompt.
    """
    own = calibration.p.get(cell_id, {})
    all_cells = np.array([calibration.totals.get(prompt, (0.0, 0)) for prompt in prompt_ids])
    of_own = np.array([(0.0, 0) if (p := own.get(prompt)) is None else (p, 1) for prompt in prompt_ids])
    total, count = (all_cells - of_own).reshape(-1, 2).T
    lacking = [prompt for prompt, cells in zip(prompt_ids, count, strict=True) if not cells]
    if lacking:
        raise DataError(
            f"calibration set '{calibration.name}' has no verdict of another cell than '{cell_id}' on {len(lacking)} of "
            f"{len(prompt_ids)} prompts (first: '{lacking[0]}'); expected one at least; name cells that answered all prompts"
        )
    gamma = logit(np.clip(total / count, CLIP, 1 - CLIP))
    return gamma - gamma.mean()


def resample(clusters: Sequence[Hashable], rng: np.random.Generator, draws: int = intervals.DRAWS) -> Floats:
    """How often each prompt is in each of `draws` resamples, drawn by whole clusters with replacement; (draws, prompts).

    Pass the same array for every cell on the same prompts: their values then are paired draw by draw.
    """
    order = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    times = rng.multinomial(len(order), np.full(len(order), 1 / len(order)), size=draws)
    return times[:, [order[cluster] for cluster in clusters]].astype(np.float64)


def difference(one: LengthControlled, other: LengthControlled, level: float = intervals.LEVEL) -> tuple[float, float, float]:
    """(one - other, low, high), paired over the resamples that both were given; NaN where either was refused."""
    if one.refusal or other.refusal:
        return math.nan, math.nan, math.nan
    return (one.value - other.value, *_percentiles(one.draws - other.draws, level))


def fit(
    features: Sequence[Floats],
    target: Floats,
    weight: Floats,
    strength: Floats,
    start: Floats | None = None,
    tolerance: float = TOLERANCE,
) -> Floats:
    """The coefficients w, without intercept, that minimise |w|_1 + C sum_i s_i (log(1 + exp(z_i)) - t_i z_i) with z = features w.

    Many fits at once: k features, each (fits, rows) or (1, rows) where all fits share it, target t in [0, 1] (rows), weight s
    (fits, rows), strength C (fits); returns (fits, k). A row of target t equals two rows, one of label 1 with weight t and one of
    label 0 with weight 1 - t. Newton's
    method with the penalty inside the step (Lee, Sun and Saunders 2014, arXiv 1206.1623), halved until the objective falls.
    """
    s = weight * strength[:, None]
    w = np.zeros((len(s), len(features))) if start is None else np.array(start)
    largest = np.stack([np.broadcast_to(np.abs(each).max(axis=1), len(s)) for each in features], axis=1)
    for _ in range(NEWTON_STEPS):
        share = expit(_linear(features, w))
        residual, curvature = s * (share - target), s * share * (1 - share)
        gradient = np.stack([_sums(residual, each) for each in features], axis=1)
        step = _penalised_minimum(gradient, _hessian(features, curvature), w) - w
        w = _descend(features, target, s, w, step, (largest * np.abs(step)).sum(axis=1) <= SURE)
        if np.abs(step).max() < tolerance:
            break
    return w


def _controlled(judged: Judged, gamed: Gamed | None, counts: Floats, clusters: Sequence[Hashable]) -> LengthControlled:
    if gamed is None:
        gamed = Gamed(np.array([]), np.array([]), np.array([]))
    once = np.ones((1, len(judged.p)))
    strength = _chosen_strength(judged, gamed, clusters)
    w = _coefficients(judged, gamed, once, strength)
    values = [
        _at_equal_length(judged, part, _coefficients(judged, gamed, part, strength, w))
        for part in np.array_split(counts, max(math.ceil(len(counts) / CHUNK), 1))
    ]
    result = LengthControlled(
        value=float(_at_equal_length(judged, once, w)[0]),
        low=math.nan,
        high=math.nan,
        coefficients=Coefficients(*(float(each) for each in w[0])),
        strength=strength,
        refusal=None,
        draws=np.concatenate(values),
    )
    low, high = _percentiles(result.draws, intervals.LEVEL)
    return replace(result, low=low, high=high)


def _chosen_strength(judged: Judged, gamed: Gamed, clusters: Sequence[Hashable]) -> float:
    """The C with the best log-likelihood on rows left out, mean over folds; the smallest of equals.

    Rows are dealt to the folds from the last to the first, gamed rows each for itself; rows of one cluster go together.
    """
    given = np.isfinite(judged.p)
    dealt = {cluster: None for cluster, is_given in zip(clusters, given, strict=True) if is_given}
    order = {cluster: len(gamed.p) + number for number, cluster in enumerate(dealt)}
    groups = np.array([*range(len(gamed.p)), *(order.get(cluster, 0) for cluster in clusters)])
    fold = (groups.max() - groups) % FOLDS
    features, target, weight = _rows(judged, gamed, np.ones((1, len(judged.p))))
    trained = np.repeat(np.arange(FOLDS), len(STRENGTHS))
    w = fit(features, target, weight * (fold != trained[:, None]), np.tile(STRENGTHS, FOLDS))
    likelihood = weight * _log_likelihood(target, _linear(features, w))
    left_out = (fold == trained[:, None]) & (weight > 0)
    # With fewer than five rows a fold is empty: it scores every C alike.
    scores = (likelihood * left_out).sum(axis=1) / np.maximum(left_out.sum(axis=1), 1)
    return float(STRENGTHS[scores.reshape(FOLDS, -1).mean(axis=0).argmax()])


def _coefficients(judged: Judged, gamed: Gamed, counts: Floats, strength: float, start: Floats | None = None) -> Floats:
    """The coefficients for each row of `counts`; (draws, 3)."""
    features, target, weight = _rows(judged, gamed, counts)
    if start is None:
        return fit(features, target, weight, np.full(len(counts), strength))
    return fit(features, target, weight, np.full(len(counts), strength), np.repeat(start, len(counts), axis=0), DRAW_TOLERANCE)


def _rows(judged: Judged, gamed: Gamed, counts: Floats) -> tuple[list[Floats], Floats, Floats]:
    """(features: length (draws, rows), difficulty and model (1, rows); target (rows); weight (draws, rows)): gamed rows first."""
    draws, anchors = len(counts), len(gamed.p)
    length = np.empty((draws, anchors + len(judged.p)))
    length[:, :anchors] = np.tanh(gamed.scaled_difference)
    length[:, anchors:] = np.tanh(_scaled(judged.baseline_length - judged.length, counts))
    difficulty = np.concatenate([gamed.difficulty, judged.difficulty])[None]
    is_model = np.concatenate([np.zeros(anchors), np.ones(len(judged.p))])[None]
    given = np.isfinite(judged.p)
    weight = np.concatenate([np.full((draws, anchors), GAMED_WEIGHT), counts * given], axis=1)
    return [length, difficulty, is_model], np.concatenate([gamed.p, np.where(given, judged.p, 0.0)]), weight


def _scaled(difference: Floats, counts: Floats) -> Floats:
    """The difference over its standard deviation (ddof=1) in each draw, its mean not removed; 0 where nothing differs."""
    n = counts.sum(axis=1)
    deviations = difference - (counts @ difference / n)[:, None]
    spread = np.sqrt((counts * deviations**2).sum(axis=1) / (n - 1))
    return np.divide(difference, spread[:, None], out=np.zeros(counts.shape), where=spread[:, None] > 0)


def _at_equal_length(judged: Judged, counts: Floats, w: Floats) -> Floats:
    """The mean prediction of each draw with the length term at 0; (draws,)."""
    p = expit(w[:, 1:2] * judged.difficulty + w[:, 2:3])
    return (counts * p).sum(axis=1) / counts.sum(axis=1)


def _penalised_minimum(gradient: Floats, hessian: Floats, w: Floats) -> Floats:
    """The minimum of the quadratic model around w plus |.|_1; (fits, k).

    Where every coefficient keeps its sign, or its 0, the minimum solves a linear system; it is found that way first, and kept
    where its signs are those of w and the slope at each 0 is weaker than the penalty.
    """
    sign, free = np.sign(w), w != 0
    both = free[:, :, None] & free[:, None, :]
    system = np.where(both, hessian, 0.0) + np.where(free, FLOOR, 1.0)[:, :, None] * np.eye(w.shape[1])
    move = -np.linalg.solve(system, np.where(free, gradient + sign, 0.0)[:, :, None])
    found, slope = w + move[:, :, 0], gradient + (hessian @ move)[:, :, 0]
    rest = np.flatnonzero(~((np.sign(found) == sign) & (free | (np.abs(slope) < 1))).all(axis=1))
    if rest.size:
        found[rest] = _by_coordinate(gradient[rest], hessian[rest], w[rest])
    return found


def _by_coordinate(gradient: Floats, hessian: Floats, w: Floats) -> Floats:
    """The same minimum, coordinate by coordinate until nothing moves."""
    found = w.copy()
    slope = gradient.copy()
    for _ in range(SWEEPS):
        moved = 0.0
        for j in range(w.shape[1]):
            # A column of zeros (no length difference, say) has no curvature: its coefficient stays at 0.
            curvature = np.maximum(hessian[:, j, j], FLOOR)
            aim = found[:, j] - slope[:, j] / curvature
            change = np.sign(aim) * np.maximum(np.abs(aim) - 1 / curvature, 0.0) - found[:, j]
            found[:, j] += change
            slope += hessian[:, :, j] * change[:, None]
            moved = max(moved, float(np.abs(change).max()))
        if moved < TOLERANCE / 10:
            break
    return found


def _hessian(features: Sequence[Floats], curvature: Floats) -> Floats:
    """The sums of curvature x feature x feature; (fits, k, k)."""
    k = len(features)
    found = np.empty((len(curvature), k, k))
    for i in range(k):
        weighted = curvature * features[i]
        for j in range(i + 1):
            found[:, i, j] = found[:, j, i] = _sums(weighted, features[j])
    return found


def _descend(features: Sequence[Floats], target: Floats, s: Floats, w: Floats, step: Floats, sure: NDArray[np.bool_]) -> Floats:
    """w after the step: one that does not lower the objective is halved until it does; those that are `sure` do."""
    after = w + step
    asked = np.flatnonzero(~sure)
    if not asked.size:
        return after
    own = [each if len(each) == 1 else each[asked] for each in features]
    before = _objective(own, target, s[asked], w[asked])
    scale = np.ones(asked.size)
    for _ in range(HALVINGS):
        worse = _objective(own, target, s[asked], after[asked]) > before + 1e-12 * np.abs(before)
        if not worse.any():
            break
        scale[worse] /= 2
        after[asked] = w[asked] + scale[:, None] * step[asked]
    return after


def _objective(features: Sequence[Floats], target: Floats, s: Floats, w: Floats) -> Floats:
    return np.abs(w).sum(axis=1) - (s * _log_likelihood(target, _linear(features, w))).sum(axis=1)


def _log_likelihood(target: Floats, z: Floats) -> Floats:
    return target * z - np.logaddexp(0.0, z)


def _linear(features: Sequence[Floats], w: Floats) -> Floats:
    """z of each fit and row; (fits, rows)."""
    z = w[:, :1] * features[0]
    for j, feature in enumerate(features[1:], start=1):
        z = z + w[:, j, None] * feature
    return z


def _sums(values: Floats, feature: Floats) -> Floats:
    """The sum over rows of values x feature for each fit; (fits,)."""
    return values @ feature[0] if len(feature) == 1 else np.einsum("fr,fr->f", values, feature)


def _percentiles(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
