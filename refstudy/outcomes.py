"""The commands that judge what is finished: gate, compare, findings, alpaca-eval. They start and change nothing."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from refstudy import copies, results
from refstudy.errors import SpecError
from refstudy.options import AsJson, ResultsFolder, StoreFolder

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog="Example: refstudy gate results/quickstart --against baseline.json --limit 'win_rate>=0.6' --where reference=self"
)
def gate(
    folder: ResultsFolder,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="BASELINE", parser=copies.existing, help="An earlier folder, or a saved file."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", metavar="LIMIT", help="Such as 'win_rate>=0.6'; repeatable.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option("--where", metavar="NAME=VALUE", help="Only such cells; repeatable.")] = None,
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Writes RESULTS as a baseline.")] = None,
    store: StoreFolder = None,
    json_: AsJson = False,
) -> None:
    """Exits 1 and names the cells that fell against a baseline beyond noise, or that break a limit; else exits 0."""
    from analysis import gate
    from refstudy.measures import limits

    if against is None and not limit and save is None:
        raise SpecError("gate has nothing to do; expected --against BASELINE, --limit LIMIT or --save FILE")
    declared = [limits.parse(each) for each in limit or []]
    at = results.opened(folder, store)
    now = gate.chosen(gate.states(at.folder, at.store), where or [])
    before = [] if against is None else gate.chosen(_baseline(against), where or [])
    failures = gate.broken(now, declared) + gate.fallen(now, before)
    if save is not None:
        gate.save(now, save)
    if json_:
        found = {"passed": not failures, "cells": len(now), "failures": [vars(each) for each in failures]}
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        print("\n".join([f"gate: {len(failures)} failures in {len(now)} cells", *map(gate.in_words, failures)]))
    sys.exit(1 if failures else 0)


def _baseline(against: Path) -> list[Any]:
    """The cells of an earlier run: of its folder, or of the file that a gate saved."""
    from analysis import gate

    if not against.is_dir():
        return gate.load(against)
    at = results.opened(against)
    return gate.states(at.folder, at.store)


@app.command(epilog="Example: refstudy compare results/quickstart:128c results/quickstart:8dbd --html compare.html")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="RESULTS:CELL, a cell's id, an output file, or a checkpoint's folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Writes a page with the examples.")] = None,
    like: Annotated[str | None, typer.Option("--like", metavar="CELL", help="Whose prompts, decoding and judge to take.")] = None,
    count: Annotated[int, typer.Option("--examples", metavar="N", min=0, help="Examples shown in the terminal.")] = 3,
    store: StoreFolder = None,
    json_: AsJson = False,
) -> None:
    """Compares two cells, checkpoints or output files: win rate and length, paired by prompt, and examples side by side."""
    from analysis import compare
    from refstudy import sides, table
    from refstudy.measures import comparison

    pairing = sides.pair(a, b, like, store)
    found = comparison.compare(pairing.a, pairing.b, pairing.direct)
    if json_:
        print(json.dumps(compare.as_json(found, pairing.notes), indent=1, allow_nan=False))
    else:
        first, second = compare.names(found)
        print("\n".join([f"A: {first}", f"B: {second}", *compare.sentences(found, pairing.notes)]))
        table.show_pairs(("A", "B"), compare.rows(found, count))
    if html is not None:
        print(compare.write(found, pairing.notes, html), file=sys.stderr if json_ else sys.stdout)


@app.command(epilog="Example: refstudy findings results/quickstart --json")
def findings(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RESULTS", parser=copies.existing, help="One or several results folders.")
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="The paper's tables, judged by the same code.")] = False,
    earlier: Annotated[
        bool, typer.Option("--earlier", help="Also cells of earlier grids of a folder: a study run in parts.")
    ] = False,
    store: StoreFolder = None,
    json_: AsJson = False,
) -> None:
    """Says what the sweeps (or the paper's tables) show: reproduced, contradicted, undecided or not_testable, with intervals."""
    from analysis import findings as of
    from analysis import published as paper

    if not folders and not published:
        raise SpecError("nothing to judge; expected a results folder, such as results/quickstart, or --published")
    found = [*(of.of_paper() if published else []), *(of.of_folders(folders, store, earlier) if folders else [])]
    print(of.as_json(found) if json_ else of.as_text(found))
    if published and not json_:
        print("\n" + "\n".join(paper.noise_in_words()))


@app.command(
    "alpaca-eval", epilog="Example: refstudy alpaca-eval annotations.csv --difficulty difficulty.csv --gamed gamed.csv --json"
)
def alpaca_eval(
    annotations: Annotated[
        Path, typer.Argument(metavar="ANNOTATIONS", help="CSV: model, index, preference in [1, 2], len_1, len_2.")
    ],
    difficulty: Annotated[Path, typer.Option("--difficulty", metavar="CSV", help="Difficulty of each instruction.")],
    gamed: Annotated[Path, typer.Option("--gamed", metavar="CSV", help="Rows of the baseline gamed for length.")],
    json_: AsJson = False,
) -> None:
    """Computes AlpacaEval 2's win rates, raw and length-controlled, in percent, from annotations."""
    from analysis import alpaca_eval

    found = alpaca_eval.leaderboard(annotations, difficulty, gamed)
    if json_:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    for row in found:
        low, high = row["lc_interval"]
        raw = f"{row['win_rate']:.2f} +- {row['standard_error']:.2f}"
        print(f"{row['model']}: win rate {raw}, length-controlled {row['lc_win_rate']:.2f} ({low:.2f} to {high:.2f})")
