"""A part's raw runs as the figures of bench.json, and these as a table.

Invariant: a figure whose sides are not equal is written with `equal: false` and printed as not counting.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refstudy import artefacts, checkpoints, cost, recipes
from refstudy.grid import Cell
from refstudy.store import Store
from tests.bench import figures, machine
from tests.bench.figures import Size, Texts
from tests.bench.parts import Part

LAST_STEPS = 10
"""Steps that the last logged loss is a mean over, on both sides."""


def equality(
    cells: Sequence[Cell], ours: Mapping[str, Any], theirs: Mapping[str, Any], is_rounded: bool, answer_tokens: float
) -> list[dict[str, Any]]:
    """Each cell that the baseline ran, beside the sweep's."""
    found = []
    for cell in cells:
        if cell.id in theirs:
            visits = LAST_STEPS * cell.dpo.train.batch_size
            allowed = figures.tolerances(cell.beta, is_rounded, answer_tokens, visits)
            found.append({"cell": cell.label, **figures.compared(ours[cell.id], theirs[cell.id], allowed)})
    return found


def part_figures(
    part: Part,
    cells: Sequence[Cell],
    few: Sequence[Cell],
    store: Store,
    raw: Mapping[str, list[Any]],
    controls: Mapping[str, Any],
    bare: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All figures of a part. Of several rounds times are medians, and counts are the last's, since all count the same."""
    texts, policy, references = texts_of(cells[0], store), model_size(cells[0].dpo.start, store), reference_sizes(cells, store)
    last, epochs, scale = raw["refstudy"][-1], cells[0].dpo.train.epochs, len(cells) / len(few)
    answer_tokens = texts.answers / (2 * texts.pairs)
    checks = {
        way: [check for each in raw[way] for check in equality(cells, last.cells, each["cells"], True, answer_tokens)]
        for way in ("live", "precomputed")
    } | {"live in fp32": equality(cells, last.cells, controls, False, answer_tokens)}
    walls = [each.wall_s for each in raw["refstudy"]]
    phases = figures.phases(last.counts, last.run, last.logs)
    floor = figures.floor_flops(policy, list(references.values()), texts, epochs, len(cells))
    spent = figures.spent_flops(last.counts, policy, references, texts, epochs, len(cells))
    peak, wall_s = machine.peak_flops(cells[0].dpo.train.precision), statistics.median(walls)
    trials = [line for line in last.counts if line["what"] == "trial"]
    baseline_peaks = [cell["peak_gb"] for way in ("live", "precomputed") for each in raw[way] for cell in each["cells"].values()]
    return {
        "cells": len(cells),
        "baseline_cells": len(few),
        "scale": scale,
        "equal": all(check["equal"] for each in checks.values() for check in each),
        "equality": checks,
        "speedup_live": figures.speedup([each["wall_s"] for each in raw["live"]], walls, scale),
        "speedup_precomputed": figures.speedup([each["wall_s"] for each in raw["precomputed"]], walls, scale),
        "processor_time_ratio": {
            way: scale * sum(cell["cpu_s"] for cell in raw[way][-1]["cells"].values()) / figures.processor_s(last.counts, last.run)
            for way in ("live", "precomputed")
        },
        "one_more_beta": bare and bare["one_more_beta"],
        "reference_token_ratio": figures.reference_token_ratio(last.counts, texts, len(references)),
        "probe_share": figures.probe_share(last.counts),
        "overhead_share": figures.overhead_share(last.counts, last.run, phases, machine.cores()),
        "tokens_per_s": texts.each_answer * epochs * len(cells) / wall_s,
        "redundancy": spent / floor,
        "sweep_efficiency": floor / (peak * wall_s),
        "padding_share": figures.padding_share(last.counts),
        "peak_memory_gb": {
            "trial": max(line["peak_gb"] for line in trials),
            "trial_above_runtime": max(line["peak_gb"] for line in trials) - min(line["resident_before_gb"] for line in trials),
            "trial_above_runtime_anonymous": anonymous_above_runtime_gb(trials),
            "policy_optimizer_and_batch": bare and bare["policy_and_optimizer_gb"] + bare["one_batch_gb"],
            "plain_loop": bare and bare["loop_gb"],
            "plain_loop_anonymous": bare and bare["loop_anonymous_gb"],
            "baseline": max(baseline_peaks),
        },
        "phases_s": phases,
        "wall_s": {
            "refstudy": wall_s,
            "live": scale * statistics.median(each["wall_s"] for each in raw["live"]),
            "precomputed": scale * statistics.median(each["wall_s"] for each in raw["precomputed"]),
        },
        "arithmetic": {
            "floor_flops": floor,
            "training_floor_flops": figures.floor_flops(policy, [], texts, epochs, len(cells)),
            "spent_flops": spent,
            "peak_flops": peak,
            "parameters": cost.parameters(cells[0].dpo.start, store),
        },
        "texts": {
            "pairs": texts.pairs,
            "each_answer": texts.each_answer,
            "prompt_once": texts.prompt_once,
            "answers": texts.answers,
        },
    }


def anonymous_above_runtime_gb(trials: Sequence[Mapping[str, Any]]) -> float:
    """The most that a trial had above the runtime's own, in GiB, without pages of files: what it computed with. The kernel keeps no
    peak of that: it is the peak of all less the pages of files at the trial's end, which grow and do not shrink."""
    most = max(line["peak_gb"] - line["files_after_gb"] for line in trials)
    return most - min(line["anonymous_before_gb"] for line in trials)


def texts_of(cell: Cell, store: Store) -> Texts:
    pairs = artefacts.read_token_pairs(token_pairs_of(cell), store)
    prompts = sum(len(pair.prompt_ids) for pair in pairs)
    answers = sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
    return Texts(pairs=len(pairs), each_answer=2 * prompts + answers, prompt_once=prompts + answers, answers=answers)


def token_pairs_of(cell: Cell) -> recipes.TokenPairs:
    assert isinstance(cell.dpo.table.texts, recipes.TokenPairs)
    return cell.dpo.table.texts


def model_size(model: Any, store: Store) -> Size:
    config = json.loads((Path(checkpoints.checkpoint(model, store).path_or_name) / "config.json").read_text())
    parameters = cost.parameters(model, store)
    assert parameters is not None
    return figures.size(config, parameters)


def reference_sizes(cells: Sequence[Cell], store: Store) -> dict[int, Size]:
    """Sizes of the distinct references by all their parameters, an embedding's too, as the counts of passes have it."""
    scorers = {cell.reference: cell.dpo.table.scorer for cell in cells}.values()
    return {cost.parameters(each, store) or 0: model_size(each, store) for each in scorers}


# In words ---------------------------------------------------------------------------------------------------------------------

ROWS = (
    ("wall time, refstudy (s)", lambda part: part["wall_s"]["refstudy"], "{:.1f}"),
    ("wall time, TRL live, all cells (s)", lambda part: part["wall_s"]["live"], "{:.1f}"),
    ("wall time, TRL precomputed, all cells (s)", lambda part: part["wall_s"]["precomputed"], "{:.1f}"),
    ("speed-up over TRL, live reference", lambda part: part["speedup_live"], "{:.2f}"),
    ("speed-up over TRL, precomputed", lambda part: part["speedup_precomputed"], "{:.2f}"),
    ("  the same in processor time, live", lambda part: part["processor_time_ratio"]["live"], "{:.2f}"),
    ("  in processor time, precomputed", lambda part: part["processor_time_ratio"]["precomputed"], "{:.2f}"),
    ("one more beta by its bare loop", lambda part: part["one_more_beta"], "{:.3f}"),
    ("reference tokens, computed by needed", lambda part: part["reference_token_ratio"], "{:.4f}"),
    ("driver, store and logging, share", lambda part: part["overhead_share"], "{:.4f}"),
    ("training tokens a second", lambda part: part["tokens_per_s"], "{:.0f}"),
    ("redundancy (FLOPs spent by floor)", lambda part: part["redundancy"], "{:.3f}"),
    ("sweep efficiency (floor by peak)", lambda part: part["sweep_efficiency"], "{:.4f}"),
    ("tokens of probes, share of references'", lambda part: part["probe_share"], "{:.4f}"),
    ("padding, share of places", lambda part: part["padding_share"], "{:.4f}"),
    ("memory of a trial (GiB)", lambda part: part["peak_memory_gb"]["trial"], "{:.3f}"),
    ("above the runtime's own (GiB)", lambda part: part["peak_memory_gb"]["trial_above_runtime"], "{:.3f}"),
    ("  without pages of libraries (GiB)", lambda part: part["peak_memory_gb"]["trial_above_runtime_anonymous"], "{:.3f}"),
    ("policy, optimizer, one batch (GiB)", lambda part: part["peak_memory_gb"]["policy_optimizer_and_batch"], "{:.3f}"),
    ("  a plain loop's process (GiB)", lambda part: part["peak_memory_gb"]["plain_loop"], "{:.3f}"),
    ("    without pages of libraries (GiB)", lambda part: part["peak_memory_gb"]["plain_loop_anonymous"], "{:.3f}"),
    ("memory of a baseline (GiB)", lambda part: part["peak_memory_gb"]["baseline"], "{:.3f}"),
)
SPEEDS = (
    "  the same in processor time, live",
    "  in processor time, precomputed",
    "speed-up over TRL, live reference",
    "speed-up over TRL, precomputed",
)


def table(report: Mapping[str, Any], parts: Sequence[str] = ("miniature", "real_text")) -> str:
    """The parts side by side, a figure a row, then the phases."""
    names = [name for name in parts if name in report]
    lines = [f"{'':44}" + "".join(f"{name:>24}" for name in names)]
    for title, of, form in ROWS:
        lines.append(f"{title:44}" + "".join(f"{_shown(report[name], title, of(report[name]), form):>24}" for name in names))
    for phase in dict.fromkeys(phase for name in names for phase in report[name]["phases_s"]):
        seconds = [report[name]["phases_s"].get(phase, 0.0) for name in names]
        lines.append(f"{'  ' + phase + ' (s)':44}" + "".join(f"{each:>24.1f}" for each in seconds))
    for name in names:
        lines += [f"{name}: {line}" for line in _words(report[name])]
    return "\n".join(lines)


def _shown(part: Mapping[str, Any], title: str, value: float | None, form: str) -> str:
    if value is None:
        return "not measured"
    return form.format(value) + ("" if part["equal"] or title not in SPEEDS else " (not equal: does not count)")


def _words(part: Mapping[str, Any]) -> list[str]:
    found = [] if part["scale"] == 1 else [f"baselines ran {part['baseline_cells']} of {part['cells']} cells; their time is scaled"]
    for way, checks in part["equality"].items():
        if checks:
            worst = {name: max(check["difference"][name] for check in checks) for name in ("loss", "reward_margin")}
            unequal = [check["cell"] for check in checks if not check["equal"]]
            most = f"{worst['loss']:.2g} in loss and {worst['reward_margin']:.2g} in margin"
            words = f"{way}: {len(checks)} cells differ by at most {most}"
            found.append(words + (f"; beyond the tolerance: {', '.join(unequal)}" if unequal else ", within the tolerance"))
    return found
