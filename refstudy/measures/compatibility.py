"""How well a reference fits a policy, from reference tables alone, before any training.

D = margin_reference - margin_policy of each preference pair is all that a reference adds to DPO with the policy itself as the
reference. Regressed on the length difference it falls into what the reference knows (intercept), what it demands of length (slope)
and noise (residual). Two measures are declared primary before any outcome is seen: PRIMARY_GAIN for how much a reference
helps, PRIMARY_DEGENERATION for whether it spoils the policy; all others describe.

Invariant: a measure that the tables cannot give is NaN here and absent from `values`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refstudy.errors import TableError
from refstudy.measures.columns import Decomposition, Scores, check_columns, decompose, difference, length_bins
from refstudy.measures.intervals import cluster_sums
from refstudy.measures.token_shifts import TokenShares

PRIMARY_GAIN = "intercept_over_residual_spread"
PRIMARY_DEGENERATION = "abs_slope_nats_per_token"

ROUNDING_NATS = 1e-3
"""Two passes of one model over one text differ by less; a smaller spread counts as none."""

DEGENERATE_NATS_PER_TOKEN = 2.2
"""Absolute length slope from which a reference is expected to spoil the policy. On calibration worlds of the miniature, policies
held to references of up to 0.55 nats a token kept their answers whole and those held to 8.8 and 11.7 degenerated; the bound is the
geometric mean of the two nearest, sqrt(0.55 * 8.8). A hypothesis, of one tokenizer and one kind of text:
No sweep has tested it yet. Below the bound the slope does not tell gain from loss; PRIMARY_GAIN is to do that."""

LENGTH_DOMINATES = 0.5
"""Share of D's variance above which length is more of the signal than everything else together."""

SIGNAL_ERRORS = 2.0
"""Standard errors that an intercept must be away from 0 to be called a signal: about a two-sided 5 %."""

BINS = 16
"""Points at most that show how D goes with the length difference."""

CONTAMINATED_RAISED_SHARE = 0.8
"""Share of pairs with D > 0 above which a reference agrees with the annotators more than they agree with each other (72.6 to 77.3 %
in arXiv 2203.02155), which is hardly learned from anything but their labels."""


@dataclass(frozen=True)
class Answers:
    """What is known of the N pairs' answers without any scorer; in the order of the scores."""

    chosen_tokens: NDArray[np.int64]
    """(N,) in the policy's tokens, the end of turn counted where the answer is complete."""
    rejected_tokens: NDArray[np.int64]
    chosen_bytes: NDArray[np.int64]
    """(N,) UTF-8 bytes of the answer's text."""
    rejected_bytes: NDArray[np.int64]
    clusters: Sequence[Any]
    """N names of what hangs together (entity, conversation); pairs of one cluster are not independent evidence."""


@dataclass(frozen=True)
class Saturation:
    """How far DPO's loss is saturated at the first step: its argument there is -beta * D."""

    beta: float
    spread: float
    """beta * standard deviation of D. Far below 1 the reference changes nothing; at 4 pairs one standard deviation away have a
    gradient weight of 1.8 or 98.2 % (the logistic function of -4 and 4): the loss selects pairs more than it weighs them."""


@dataclass(frozen=True)
class LengthBin:
    """D of the pairs with neighbouring length differences."""

    length_difference_tokens: float
    """Mean of chosen - rejected length in the bin."""
    pairs: int
    mean_nats: float
    spread_nats: float
    """Standard deviation (divisor N)."""


@dataclass(frozen=True)
class Compatibility:
    """All measures of one reference against one policy, from N pairs; shares in [0, 1]."""

    pairs: int
    intercept_nats: float
    """D of answers of equal length: the quality signal."""
    intercept_se_nats: float
    """Cluster-robust."""
    slope_nats_per_token: float
    """The length demand; negative: shorter answers than the policy's."""
    slope_se_nats_per_token: float
    residual_spread_nats: float
    """Standard deviation (of these pairs, divisor N) of what length does not explain: the noise."""
    explained_share: float
    """Share of D's variance that length explains; NaN where D does not vary."""
    difference_mean_nats: float
    difference_spread_nats: float
    """Mean and standard deviation (divisor N) of D."""
    raised_share: float
    """Pairs with D > 0."""
    saturation: tuple[Saturation, ...]
    pair_accuracy: float
    """Pairs in which the reference gives the chosen answer the higher log-prob."""
    pessimistic_share: float
    """Pairs in which it gives the rejected answer the higher one (HyPO, arXiv 2602.11902); ties are neither."""
    mean_margin_nats: float
    policy_mean_margin_nats: float
    contaminated: bool
    """Whether the reference looks as if it had been trained on these pairs; see `is_contaminated`."""
    margin_correlation: float
    """Pearson's, of the two margins: a baseline to beat, for it ranks references wrongly."""
    bits_per_byte: float
    policy_bits_per_byte: float
    likelihood_kl_nats: float
    """KL per answer as the distance of log-likelihood vectors approximates it; see `likelihood_kl`."""
    token_shares: TokenShares | None
    """None where the tokenizers differ."""

    @property
    def intercept_over_residual_spread(self) -> float:
        """Quality signal over noise, the primary measure of gain; NaN where there is no noise to speak of."""
        return self.intercept_nats / self.residual_spread_nats if self.residual_spread_nats > ROUNDING_NATS else math.nan

    @property
    def abs_slope_nats_per_token(self) -> float:
        """Absolute length demand, the primary measure of degeneration."""
        return abs(self.slope_nats_per_token)


def compatibility(
    policy: Scores, reference: Scores, answers: Answers, betas: Sequence[float], token_shares: TokenShares | None = None
) -> Compatibility:
    """All measures of a reference's column against the policy's own (its start model's).

    Bits per byte and likelihood KL mean nothing for a derived column; all else does. TableError for empty, unequal or not finite
    columns, for a length difference that is the same in all pairs, and for answers without bytes.
    """
    d = difference(policy, reference)
    _check_answers(answers, d.size)
    parts = decompose(d, np.asarray(answers.chosen_tokens) - np.asarray(answers.rejected_tokens))
    intercept_se, slope_se = standard_errors(parts, answers.clusters)
    spread, residual_spread = float(d.std()), float(parts.residual_nats.std())
    margin, raised = reference.margin, float((d > 0).mean())
    return Compatibility(
        pairs=d.size,
        intercept_nats=parts.intercept_nats,
        intercept_se_nats=intercept_se,
        slope_nats_per_token=parts.slope_nats_per_token,
        slope_se_nats_per_token=slope_se,
        residual_spread_nats=residual_spread,
        explained_share=1.0 - (residual_spread / spread) ** 2 if spread > ROUNDING_NATS else math.nan,
        difference_mean_nats=float(d.mean()),
        difference_spread_nats=spread,
        raised_share=raised,
        saturation=tuple(Saturation(beta, beta * spread) for beta in betas),
        pair_accuracy=float((margin > 0).mean()),
        pessimistic_share=float((margin < 0).mean()),
        mean_margin_nats=float(margin.mean()),
        policy_mean_margin_nats=float(policy.margin.mean()),
        contaminated=is_contaminated(float(margin.mean()), float(policy.margin.mean()), raised),
        margin_correlation=_correlation(policy.margin, margin),
        bits_per_byte=bits_per_byte(_both(reference), _all_bytes(answers)),
        policy_bits_per_byte=bits_per_byte(_both(policy), _all_bytes(answers)),
        likelihood_kl_nats=float(likelihood_kl(np.stack([_both(policy), _both(reference)]))[0, 1]),
        token_shares=token_shares,
    )


def values(measured: Compatibility) -> dict[str, float]:
    """The measures by flat name, for a table or a tracker; those that are not finite are left out."""
    derived = {"saturation", "token_shares"}
    flat = {name: float(value) for name, value in vars(measured).items() if name not in derived}
    flat |= {name: float(getattr(measured, name)) for name in (PRIMARY_GAIN, PRIMARY_DEGENERATION)}
    flat |= {f"saturation_beta_{each.beta:g}": each.spread for each in measured.saturation}
    if measured.token_shares is not None:
        flat |= {f"share_{name}": float(value) for name, value in vars(measured.token_shares).items()}
    return {name: value for name, value in flat.items() if math.isfinite(value)}


def by_length(policy: Scores, reference: Scores, answers: Answers, bins: int = BINS) -> list[LengthBin]:
    """D by length difference, for a figure of the regression: at most `bins` runs of neighbouring differences, the shortest first.

    Each run holds at least a `bins`th of the pairs, so that none is one pair's chance.
    """
    d = difference(policy, reference)
    lengths = np.asarray(answers.chosen_tokens) - np.asarray(answers.rejected_tokens)
    place = length_bins(lengths, least=math.ceil(d.size / bins))
    chosen = [place == number for number in range(int(place.max()) + 1)]
    return [LengthBin(float(lengths[rows].mean()), int(rows.sum()), float(d[rows].mean()), float(d[rows].std())) for rows in chosen]


def words(measured: Compatibility) -> str:
    """What the measures suggest, as one sentence with its numbers; a hypothesis, no verdict."""
    if max(measured.difference_spread_nats, abs(measured.difference_mean_nats)) <= ROUNDING_NATS:
        return "says what the policy itself says in every pair; the same reference as self"
    clauses = [_length_words(measured)]
    if math.isfinite(measured.explained_share):
        clauses.append(f"{100 * measured.explained_share:.0f} % of its signal is length")
    if measured.abs_slope_nats_per_token >= DEGENERATE_NATS_PER_TOKEN:
        clauses.append("likely to degenerate; try `keep: length_free`")
    else:
        clauses += [_quality_words(measured), _suggestion(measured)]
    if measured.contaminated:
        clauses.append(
            f"beware: it may have been trained on these pairs (mean margin {measured.mean_margin_nats:+.1f} nats against the "
            f"policy's {measured.policy_mean_margin_nats:+.1f}, raised in {100 * measured.raised_share:.0f} % of pairs)"
        )
    return "; ".join(clauses)


def standard_errors(parts: Decomposition, clusters: Sequence[Any]) -> tuple[float, float]:
    """Cluster-robust standard errors of (intercept, slope); NaN for fewer than two clusters or three pairs.

    V = G/(G-1) * (N-1)/(N-2) * (X'X)^-1 (sum_g X_g' e_g e_g' X_g) (X'X)^-1 (Cameron and Miller 2015, "A Practitioner's Guide to
    Cluster-Robust Inference", J. Human Resources 50(2), section II).
    """
    e, x = parts.residual_nats, parts.length_difference_tokens
    sums = np.stack([cluster_sums(e, clusters)[0], cluster_sums(e * x, clusters)[0]], axis=1)
    count, n = len(sums), e.size
    if count < 2 or n < 3:
        return math.nan, math.nan
    bread = np.linalg.inv(np.array([[n, x.sum()], [x.sum(), x @ x]]))
    variance = count / (count - 1) * (n - 1) / (n - 2) * np.diag(bread @ (sums.T @ sums) @ bread)
    intercept, slope = np.sqrt(np.maximum(variance, 0.0))
    return float(intercept), float(slope)


def is_contaminated(mean_margin_nats: float, policy_mean_margin_nats: float, raised_share: float) -> bool:
    """Whether a reference looks as if it had been trained on these very pairs.

    The rule: its mean margin is positive and larger than the policy's is away from 0, and it raises the margin in at least 80 % of
    pairs. sDPO (arXiv 2403.19443) gives the means: SFT model -38.6, an aligned reference -25.1, one trained on the data +84.35.
    The flag is true of a guiding reference that was meant to see the data, and may be of one whose own answers are the chosen ones.
    """
    return mean_margin_nats > abs(policy_mean_margin_nats) and raised_share >= CONTAMINATED_RAISED_SHARE


def bits_per_byte(logp_sums_nats: ArrayLike, text_bytes: ArrayLike) -> float:
    """- sum(log p) / (ln 2 * sum(bytes)): the code length of the answers, comparable across tokenizers.

    Of totals, so a long answer counts as much as its bytes do; the end token's log-prob is in the sum, no byte stands for it.
    """
    total = float(np.sum(text_bytes))
    if total <= 0:
        raise TableError("the answers have no bytes; bits per byte needs at least one answer with text")
    return -float(np.sum(logp_sums_nats)) / (math.log(2) * total)


def likelihood_coordinates(logp_sums_nats: ArrayLike) -> NDArray[np.float64]:
    """(K, T) coordinates of K models in the space of T common texts: their log-likelihoods (K, T), centred over texts, then models.

    The double-centred log-likelihood vectors q of Oyama et al. (2025), arXiv 2502.16173.
    """
    vectors = np.asarray(logp_sums_nats, dtype=np.float64)
    if vectors.ndim != 2 or vectors.size == 0 or not np.isfinite(vectors).all():
        raise TableError(f"log-likelihood vectors of shape {vectors.shape}; expected (models, texts) of finite numbers of nats")
    rows = vectors - vectors.mean(axis=1, keepdims=True)
    return np.asarray(rows - rows.mean(axis=0, keepdims=True))


def likelihood_kl(logp_sums_nats: ArrayLike) -> NDArray[np.float64]:
    """(K, K) KL between models in nats a text, approximated from their log-likelihoods (K, T) of T common texts.

    2 KL(p_i, p_j) ~ ||q_i - q_j||^2 / T with q of `likelihood_coordinates` (arXiv 2502.16173): half the variance over texts of
    log p_i - log p_j, and so symmetric.
    Near for close models and texts that they would write; between distant ones it is a distance and no more.
    """
    q = likelihood_coordinates(logp_sums_nats)
    return np.array([[float(np.mean((one - other) ** 2)) / 2 for other in q] for one in q])


def _check_answers(answers: Answers, pairs: int) -> None:
    columns = {
        "chosen lengths": answers.chosen_tokens,
        "rejected lengths": answers.rejected_tokens,
        "chosen bytes": answers.chosen_bytes,
        "rejected bytes": answers.rejected_bytes,
        "log-probs": np.zeros(pairs),
    }
    check_columns(columns)
    if len(answers.clusters) != pairs:
        raise TableError(f"{pairs:,} pairs but {len(answers.clusters):,} clusters; expected one cluster for each pair")


def _both(scores: Scores) -> NDArray[np.float64]:
    """(2N,) log-probs of all answers."""
    return np.concatenate([scores.chosen_logp_sum, scores.rejected_logp_sum])


def _all_bytes(answers: Answers) -> NDArray[np.int64]:
    return np.concatenate([answers.chosen_bytes, answers.rejected_bytes])


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if min(x.std(), y.std()) <= ROUNDING_NATS:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _length_words(measured: Compatibility) -> str:
    if measured.abs_slope_nats_per_token <= ROUNDING_NATS:
        return "demands nothing of length"
    direction = "shorter" if measured.slope_nats_per_token < 0 else "longer"
    return f"demands {measured.abs_slope_nats_per_token:.2g} nats a token for {direction} answers"


def _quality_words(measured: Compatibility) -> str:
    intercept, error = _short(measured.intercept_nats, ".2g"), _short(measured.intercept_se_nats, ".1g")
    if math.isnan(measured.intercept_se_nats):
        return f"intercept {intercept} nats, of unknown error"
    if not _has_signal(measured):
        return f"no quality signal beyond noise (intercept {intercept} +- {error} nats)"
    ratio = measured.intercept_over_residual_spread
    over = f", {ratio:.2g} of the residual spread" if math.isfinite(ratio) else ""
    return f"quality signal of {intercept} +- {error} nats{over}"


def _short(nats: float, form: str) -> str:
    """A number of nats; what is no more than rounding is 0."""
    return "0" if abs(nats) <= ROUNDING_NATS else format(nats, form)


def _suggestion(measured: Compatibility) -> str:
    if measured.explained_share > LENGTH_DOMINATES:
        return "its effect may be mostly on length; compare `keep: length_only` with `keep: length_free`"
    if math.isnan(measured.intercept_se_nats):
        return "too few independent pairs to say whether it helps"
    if _has_signal(measured) and measured.intercept_nats > 0:
        return "likely to help, at a larger beta than self"
    return "unlikely to help"


def _has_signal(measured: Compatibility) -> bool:
    """Whether the intercept is further from 0 than chance and rounding bring it."""
    return abs(measured.intercept_nats) > max(SIGNAL_ERRORS * measured.intercept_se_nats, ROUNDING_NATS)
