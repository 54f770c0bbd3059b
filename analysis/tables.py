"""The report's tables as text: a heading row and rows of strings, from frames that hold the numbers.

Invariant: a column that no row has a value for is left out; a missing value is an empty cell, never a zero.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.estimates import OWN
from analysis.frames import Results
from analysis.samples import shown
from analysis.summary import covered
from refstudy.measures.compatibility import PRIMARY_DEGENERATION, PRIMARY_GAIN

Row = dict[Any, Any]


@dataclass(frozen=True)
class Column:
    heading: str
    text: Callable[[Row], str]
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    headings: list[Column]
    rows: list[tuple[str, list[str]]]
    """(CSS class, texts)"""


def cells(frame: pd.DataFrame) -> Table:
    """A row for each cell, whatever its status."""
    columns = [
        Column("status", _plain("status"), numeric=False),
        *_policy(frame),
        Column("reference", _plain("reference"), numeric=False),
        Column("beta", _number("beta", "g")),
        *([Column("seed", _plain("seed"))] if frame["seed"].nunique() > 1 else []),
        Column("win rate", _interval("win_rate", "win_rate_low", "win_rate_high", ".3f")),
        Column("length-controlled", _interval("lc_win_rate", "lc_low", "lc_high", ".3f")),
        Column("length (tokens)", _interval("length_tokens", "length_low", "length_high", ".1f")),
        Column("truncated", _number("truncation_rate", ".3f")),
        Column("seq-rep-4", _number("seq_rep_4", ".3f")),
        Column("KL to start (nats an answer)", _number("kl_start_nats", ".2f")),
        Column("gold reward", _number("gold_reward", ".2f")),
        Column("precision", _number("precision", ".3f")),
        Column("note", note, numeric=False),
        Column("statements", _number("statements", ".2f")),
        Column("win rate, seen", _number("win_rate_seen", ".3f")),
        Column("held out", _number("win_rate_held_out", ".3f")),
        Column("ties", _number("tie_share", ".3f")),
        Column("length, median", _number("length_tokens_median", ".0f")),
        Column("95th percentile", _number("length_tokens_p95", ".0f")),
        Column("distinct answers", _number("distinct_answers", ".3f")),
        Column("KL to reference (nats an answer)", _number("kl_reference_nats", ".2f")),
        Column("(nats a byte)", _number("kl_reference_nats_per_byte", ".4f")),
        Column("reward accuracy, training pairs", _number("reward_accuracy", ".3f")),
        Column("policy accuracy, training pairs", _number("policy_accuracy", ".3f")),
        Column("reward accuracy, validation pairs", _number("validation_reward_accuracy", ".3f")),
        Column("policy accuracy, validation pairs", _number("validation_policy_accuracy", ".3f")),
        Column("time (s)", _number("duration_s", ".0f")),
        Column("cell", _plain("cell_id"), numeric=False),
    ]
    return built(columns, frame.to_dict("records"), lambda row: "degenerate" if row["degenerate"] else str(row["status"]))


def best(frame: pd.DataFrame) -> Table:
    """A row for each reference: its best beta, and its best against self's best."""
    columns = [
        *_policy(frame),
        Column("reference", _plain("reference"), numeric=False),
        Column("best beta", _plain("beta_text")),
        Column("at the edge", _edge, numeric=False),
        Column("win rate", _interval("win_rate", "win_rate_low", "win_rate_high", ".3f")),
        Column("length (tokens)", _number("length_tokens", ".1f")),
        Column("minus self's best", _interval("gain", "gain_low", "gain_high", "+.3f")),
        Column("that interval covers", lambda row: covered(row["gain_runs"]) if row["gain_runs"] else "", numeric=False),
        Column("betas not separable", lambda row: ", ".join(f"{beta:g}" for beta in row["not_separable"]), numeric=False),
    ]
    return built(columns, frame.to_dict("records"))


def alarms(frame: pd.DataFrame) -> Table:
    """A row for each alarm: its cell, the limit, the value that passed it, the step, and whether it ended training."""
    columns = [
        *_policy(frame),
        Column("reference", _plain("reference"), numeric=False),
        Column("beta", _number("beta", "g")),
        *([Column("seed", _plain("seed"))] if frame["seed"].nunique() > 1 else []),
        Column("limit", _plain("limit"), numeric=False),
        Column("value", _number("value", ".3g")),
        Column("step", _number("step", ".0f")),
        Column("ended training", lambda row: "yes" if row["stop"] and not pd.isna(row["step"]) else "no", numeric=False),
        Column("cell", _plain("cell_id"), numeric=False),
    ]
    return built(columns, frame.to_dict("records"))


def differences(frame: pd.DataFrame) -> Table:
    """A row for each beta, a column for each reference: win rate minus self's at the same beta."""
    rows: list[Row] = []
    for (panel, beta), group in frame.sort_values("beta", ascending=False).groupby(["panel", "beta"], sort=False):
        rows.append({"panel": panel, "beta": beta, "at": {row["reference"]: row for row in group.to_dict("records")}})
    columns = [
        *_policy(frame),
        Column("beta", _number("beta", "g")),
        *(Column(reference, _difference(reference)) for reference in dict.fromkeys(frame["reference"])),
    ]
    return built(columns, sorted(rows, key=lambda row: list(dict.fromkeys(frame["panel"])).index(row["panel"])))


def references(results: Results, points: pd.DataFrame, scores: pd.DataFrame) -> Table:
    """A row for each reference: its own score, the best win rate of a policy held to it, and how far the policies went from it."""
    names = ["kl_reference_nats", "kl_reference_nats_per_byte"]
    rows: list[Row] = []
    for (panel, reference), group in points.groupby(["panel", "reference"], sort=False):
        own = scores[(scores["panel"] == panel) & (scores["reference"] == reference)].to_dict("records")
        kl = results.done.loc[(results.done["panel"] == panel) & (results.done["reference"] == reference), names]
        ends = {f"{name}_{end}": getattr(kl[name], end)() for name in names for end in ("min", "max")}
        row = {"panel": panel, "reference": reference, "best": group["win_rate"].max(), **ends}
        rows.append({**dict.fromkeys(OWN, math.nan), **row, **(own[0] if own else {})})
    columns = [
        *_policy(points),
        Column("reference", _plain("reference"), numeric=False),
        Column("the reference's own win rate", _own_win_rate),
        Column("best win rate held to it", _number("best", ".3f")),
        Column("own length (tokens)", _number("own_length_tokens_mean", ".1f")),
        Column("KL of the policies to it (nats an answer)", _range("kl_reference_nats", ".2f")),
        Column("(nats a byte)", _range("kl_reference_nats_per_byte", ".4f")),
    ]
    return built(columns, rows)


def compatibility(frame: pd.DataFrame) -> Table:
    """A row for each reference and seed that was measured: the primary measures, what they are made of, what came of them."""
    columns = [
        *_policy(frame),
        Column("reference", _plain("reference"), numeric=False),
        *([Column("seed", _plain("seed"))] if frame["seed"].nunique() > 1 else []),
        Column("intercept over residual spread (for gain)", _number(PRIMARY_GAIN, "z.2f")),
        Column("absolute length slope (nats a token; for degeneration)", _number(PRIMARY_DEGENERATION, "z.3f")),
        Column("gain over self's best here", _interval("gain", "gain_low", "gain_high", "+.3f")),
        Column("degenerate here at beta", lambda row: _betas(row["degenerate_betas"]), numeric=False),
        Column("intercept (nats)", _with_error("intercept_nats", "intercept_se_nats", "z.2f")),
        Column("slope (nats a token)", _with_error("slope_nats_per_token", "slope_se_nats_per_token", "z.3f")),
        Column("residual spread (nats)", _number("residual_spread_nats", ".2f")),
        Column("length explains", _number("explained_share", ".2f")),
        Column("beta x spread of D", lambda row: row["saturation"]),
        Column("pair accuracy", _number("pair_accuracy", ".3f")),
        Column("pessimistic pairs", _number("pessimistic_share", ".3f")),
        Column("mean margin (nats)", _number("mean_margin_nats", "+.2f")),
        Column("trained on these pairs?", lambda row: "perhaps" if row["contaminated"] == 1 else "", numeric=False),
        Column("bits a byte", _number("bits_per_byte", ".3f")),
        Column("likelihood distance (nats)", _number("likelihood_kl_nats", ".3g")),
        Column("margin correlation (ranks wrongly)", _number("margin_correlation", ".2f")),
        Column("D on the end token", _number("share_end_token", ".2f")),
        Column("on the first five", _number("share_first_tokens", ".2f")),
        Column("on the rest", _number("share_rest", ".2f")),
        Column("not measured", _plain("not_measured"), numeric=False),
    ]
    return built(columns, frame.to_dict("records"))


def judges(frame: pd.DataFrame) -> Table:
    """A row for each cell, and one for all: what its win rate rests on."""
    columns = [
        *_policy(frame),
        Column("judge", _plain("judge"), numeric=False),
        Column("reference", _plain("reference"), numeric=False),
        Column("beta", _number("beta", "g")),
        *([Column("seed", _plain("seed"))] if frame["seed"].nunique() > 1 else []),
        Column("prompts judged", _plain("verdicts")),
        Column("win rate", _number("win_rate", ".3f")),
        Column("without a verdict", _number("no_verdict", ".3f")),
        Column("ties", _number("tie_share", ".3f")),
        Column("same in both orders", _interval("consistency", "consistency_low", "consistency_high", ".3f")),
        Column("first shown preferred", _number("first_preferred", ".3f")),
        Column("win rate where longer", _number("longer_win_rate", ".3f")),
        Column("where shorter", _number("shorter_win_rate", ".3f")),
        Column("difference", _number("length_bias", "+.3f")),
        Column("agrees with labels", _interval("agreement", "agreement_low", "agreement_high", ".3f")),
        Column("tokens", _number("tokens", ",.0f")),
        Column("cost", _number("cost", ",.2f")),
    ]
    return built(columns, frame.to_dict("records"))


def moved_tokens(frame: pd.DataFrame) -> Table:
    """A row for each reference: the tokens that lost and gained most at its smallest beta."""
    rows: list[Row] = []
    for (panel, reference, beta), group in frame.groupby(["panel", "reference", "beta"], sort=False):
        row: Row = {"panel": panel, "reference": reference, "beta": beta}
        rows.append(row | {way: _moved(group[group["direction"] == way].to_dict("records")) for way in ("down", "up")})
    columns = [
        *_policy(frame),
        Column("reference", _plain("reference"), numeric=False),
        Column("beta", _number("beta", "g")),
        Column("moved down most: token, mean shift (nats), times seen", _plain("down"), numeric=False),
        Column("moved up most", _plain("up"), numeric=False),
    ]
    return built(columns, rows)


def provenance(results: Results) -> list[tuple[str, str]]:
    """(what, value) of the run: times, versions, commit, machine, seeds."""
    of = results.sweep.get("provenance") or {}
    finished = results.cells["finished_at"].dropna()
    seeds = sorted({int(seed) for seed in results.cells.loc[results.cells["current"], "seed"].dropna()})
    versions = ", ".join(f"{package} {version}" for package, version in (of.get("versions") or {}).items())
    told = [
        ("started", results.sweep.get("started_at")),
        ("last cell finished", finished.max() if len(finished) else None),
        ("time of all cells", f"{results.cells['duration_s'].sum():.0f} s"),
        ("commit", of.get("commit")),
        ("versions", versions),
        ("Python", of.get("python")),
        ("machine", ", ".join(str(of[key]) for key in ("host", "machine", "cores") if of.get(key))),
        ("seeds", ", ".join(map(str, seeds))),
    ]
    return [(what, str(value)) for what, value in told if value]


def identities(results: Results) -> Table:
    """The recipe ids of each cell: the names of its artefacts in the store."""
    rows = [{"cell_id": cell_id, **record["recipes"]} for cell_id, record in results.records.items()]
    kinds = dict.fromkeys(kind for row in rows for kind in row if kind != "cell_id")
    return built([Column(kind, _plain(kind), numeric=False) for kind in ("cell_id", *kinds)], rows)


def note(row: Row) -> str:
    """Why a cell is not like the others: its error, early stop, degeneration."""
    parts = []
    if row["status"] == "failed":
        parts.append(f"{row['error_type']}: {row['error']}")
    if not _missing(row["stopped_step"]):
        parts.append(f"stopped at step {row['stopped_step']:g} ({row['stopped_reason']})")
    if row["degenerate"]:
        parts.append(f"degenerate: {row['reason']}")
    return "; ".join(parts)


def built(columns: Sequence[Column], rows: Sequence[Row], style: Callable[[Row], str] = lambda row: "") -> Table:
    """A table of rows by its columns, those without any text left out."""
    texts = [[column.text(row) for column in columns] for row in rows]
    kept = [number for number in range(len(columns)) if any(row[number] for row in texts)]
    body = [(style(row), [text[number] for number in kept]) for row, text in zip(rows, texts, strict=True)]
    return Table([columns[number] for number in kept], body)


def _policy(frame: pd.DataFrame) -> list[Column]:
    """The column that tells panels apart, where there are several."""
    return [Column("policy", _plain("panel"), numeric=False)] if frame["panel"].nunique() > 1 else []


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: "" if _missing(row.get(name)) else _whole(row[name])


def _whole(value: Any) -> str:
    """Integers that a missing neighbour turned into floats, as integers again."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: "" if _missing(row[name]) else format(row[name], form)


def _interval(value: str, low: str, high: str, form: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        bounds = "" if _missing(row[low]) else f" ({row[low]:{form}} to {row[high]:{form}})"
        return "" if _missing(row[value]) else f"{row[value]:{form}}{bounds}"

    return text


def _edge(row: Row) -> str:
    """Whether the best beta ends the grid, and which ends cannot be told from it."""
    if row["edge"] == "only":
        return "one beta only"
    near = row["near_edges"]
    if row["edge"]:
        return f"yes, the {row['edge']}" + (f"; {near[0]} not separable" if near else "")
    if len(near) == 2:
        return "no, but neither end is separable"
    return f"no, but the {near[0]} is not separable" if near else "no"


def _own_win_rate(row: Row) -> str:
    """With its interval over prompts, or, of several seeds, their range."""
    if _missing(row["own_win_rate_least"]):
        return _interval("own_win_rate", "own_win_rate_low", "own_win_rate_high", ".3f")(row)
    ends = f"{row['own_win_rate_least']:.3f} to {row['own_win_rate_most']:.3f}"
    return f"{row['own_win_rate']:.3f} (seeds from {ends})"


def _with_error(value: str, error: str, form: str) -> Callable[[Row], str]:
    """A number with its standard error."""

    def text(row: Row) -> str:
        bounds = "" if _missing(row[error]) else f" +- {row[error]:{form}}"
        return "" if _missing(row[value]) else f"{row[value]:{form}}{bounds}"

    return text


def _betas(betas: Any) -> str:
    """Betas in words; empty where no cell is done."""
    if not isinstance(betas, tuple):
        return ""
    return ", ".join(f"{beta:g}" for beta in betas) or "none"


def _moved(tokens: list[Row]) -> str:
    return ", ".join(f"{shown(repr(each['token']))} {each['mean_nats']:+.2f} ({each['count']})" for each in tokens)


def _range(name: str, form: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        low, high = row[f"{name}_min"], row[f"{name}_max"]
        return "" if _missing(low) else f"{low:{form}} to {high:{form}}"

    return text


def _difference(reference: str) -> Callable[[Row], str]:
    inside = _interval("difference", "low", "high", "+.3f")
    return lambda row: inside(row["at"][reference]) if reference in row["at"] else ""


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
