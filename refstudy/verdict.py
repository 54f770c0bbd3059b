"""What `refstudy validate` prints: a table, what follows for each reference, and all refusals at the end.

Invariant: words and numbers come from the rows alone.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from refstudy import table
from refstudy.validation import Row

STUDY = Path(__file__).parent / "predictions.csv"
"""What analysis.experiment wrote of the study; a copy of sweeps/why_references_help/predictions.csv."""
PREDICTED = (
    ("gain", "intercept_over_residual_spread", "own_win_rate"),
    ("length_shift", "abs_slope_nats_per_token", "own_win_rate"),
)
"""(outcome, the measure declared for it, a baseline): length_shift stands for degeneration, which one reference alone showed."""
NAMES = {
    "gain": "gain over self",
    "length_shift": "how far answers left self's length",
    "intercept_over_residual_spread": "intercept over residual spread",
    "abs_slope_nats_per_token": "absolute slope",
    "own_win_rate": "the references' own win rates",
}
SHORT = {"same": "policy's own", "same vocabulary": "same words", "other": "other"}
"""A row's vocabulary as the table has it."""


def show(name: str, rows: Sequence[Row]) -> None:
    """Prints what is known of a sweep's policies and references."""
    policies = [row for row in rows if row.reference is None]
    references = [row for row in rows if row.reference is not None]
    print(f"{name}: {_count(len(policies), 'policy', 'policies')}, {_count(len(references), 'reference', 'references')}\n")
    table.show([_cells(row) for row in rows], table.REFERENCES)
    _print_remarks(rows)
    if any(row.measures for row in references):
        print(
            "\nMeasures against the policy's own table, first seed (D: what the reference adds to the margin of a pair, in nats):\n"
        )
        table.show([_measures(row) for row in references if row.measures], table.MEASURES)
    if any(row.words for row in references):
        print("\nWhat they suggest, as hypotheses:")
        for row in references:
            if row.words:
                print(f"  {_name(row)}: {row.words}{_saturation(row)}")
        print("\n" + "\n".join(borne_out()))
    print("\n" + "\n".join(_end(rows)))


def borne_out() -> list[str]:
    """How far such measures told what came of it in a study of worlds that were not looked at before, in lines."""
    with STUDY.open(encoding="utf-8", newline="") as file:
        found = {(row["outcome"], row["predictor"]): row for row in csv.DictReader(file)}
    lines = ["How far that was borne out (rank correlation over the references of a world; sweeps/why_references_help.yaml):"]
    for outcome, measure, baseline in PREDICTED:
        of, beside = found[outcome, measure], found[outcome, baseline]
        lines.append(
            f"  {NAMES[measure]} with {NAMES[outcome]}: {float(of['correlation']):+.2f} ({float(of['low']):+.2f} to "
            f"{min(float(of['high']), 1.0):+.2f}, {of['replicates']} worlds, {of['references']} references); "
            f"{NAMES[baseline]}: {float(beside['correlation']):+.2f}"
        )
    return lines


def _name(row: Row) -> str:
    settings = "".join(f" {path}={value}" for path, value in row.settings.items())
    return f"{row.policy} {row.reference or '(policy)'}{settings}"


def _cells(row: Row) -> dict[str, Any]:
    """The row as the table shows it."""
    return {
        "policy": row.policy,
        "reference": row.reference or "-",
        "setting": ", ".join(f"{path}={value}" for path, value in row.settings.items()) or None,
        "kind": row.kind,
        "family": PurePath(row.family).name,  # of a folder that declares none the family is its path
        "size": None if row.parameters is None else short(row.parameters),
        "vocabulary": SHORT.get(row.vocabulary or ""),
        "template": row.template,
        "cut": _cut(row),
        "longest": _longest(row),
        "memory": None if row.memory_gb is None else f"{row.memory_gb:.3g} GB",
        "made": f"{row.made}/{row.of}",
        "cost": _cost(row),
        "status": "refused" if row.refusals else "usable",
    }


def _cut(row: Row) -> str | None:
    if row.chosen_cut_share is None or row.rejected_cut_share is None:
        return None
    return f"{row.chosen_cut_share:.1%} / {row.rejected_cut_share:.1%}"


def _longest(row: Row) -> str | None:
    if row.longest_tokens is None:
        return None
    return f"{row.longest_tokens:,}" + (f" of {row.context_tokens:,}" if row.context_tokens else "")


def _cost(row: Row) -> str | None:
    """Tokens and floating-point operations, and their price where the sweep gives one."""
    if row.tokens is None:
        return None
    if row.tokens == 0:
        return "nothing"
    parts = [f"{'at most ' if row.tokens_are_bound else ''}{short(row.tokens)} tokens"]
    if row.petaflops:
        parts.append(f"{short(row.petaflops * 1e15)}FLOP")
    if row.price is not None:
        parts.append(f"price {row.price:,.2f}")
    return ", ".join(parts)


def short(number: float) -> str:
    """A large number with three digits, e.g. 422 k, 7.24 G."""
    step = min(5, int(math.log10(number) // 3)) if number >= 1 else 0
    return f"{number / 1000**step:.3g} {['', 'k', 'M', 'G', 'T', 'P'][step]}".rstrip()


def _print_remarks(rows: Sequence[Row]) -> None:
    """What follows from each row; a remark that several rows share stands once."""
    by_remark: dict[str, list[str]] = {}
    for row in rows:
        for remark in row.remarks:
            by_remark.setdefault(remark, []).append(_name(row))
    if by_remark:
        print("\nWhat follows:")
    for remark, names in by_remark.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"  {', '.join(names[:3])}{more}: {remark}")


def _measures(row: Row) -> dict[str, Any]:
    return {
        **(row.measures or {}),
        "reference": row.reference,
        "policy": row.policy,
        "setting": _cells(row)["setting"],
    }


def _saturation(row: Row) -> str:
    """How far the loss is saturated at the first step, for each beta."""
    measures = row.measures or {}
    name = "saturation_beta_"
    spreads = {key.removeprefix(name): value for key, value in measures.items() if key.startswith(name)}
    if not any(spreads.values()):
        return ""
    return "; beta times spread of D: " + ", ".join(f"{value:.2g} at {beta}" for beta, value in spreads.items())


def _end(rows: Sequence[Row]) -> Iterator[str]:
    """The refusals, each once, and the last word."""
    refused = [row for row in rows if row.refusals]
    checked = max((row.pairs_checked for row in rows), default=0)
    scored = [row for row in rows if row.reference is not None and row.tokens]
    if scored:
        flops = [row.petaflops for row in scored if row.petaflops is not None]
        computed = f", {short(sum(flops) * 1e15)}FLOP" if len(flops) == len(scored) else ""
        yield f"To score in all: {short(sum(row.tokens or 0 for row in scored))} tokens{computed}."
    if not refused:
        known = f"{checked:,} pairs tried" if checked else "as far as it is known before there are pairs"
        yield f"All can be used ({known})."
        return
    yield f"{len(refused)} of {len(rows)} are refused:"
    for row in refused:
        for refusal in row.refusals:
            yield f"  {row.name}: {refusal}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
