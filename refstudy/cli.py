"""The command line: what a user types, and one clear line when it is wrong.

Invariant: a RefstudyError ends in one message and exit code 2, without a traceback; nothing heavy is imported before it is needed.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from refstudy import grid, records, results
from refstudy.errors import RefstudyError, SpecError
from refstudy.grid import Cell, Sweep
from refstudy.results import Results
from refstudy.texts import visible

app = typer.Typer(
    help="To which reference model, and how strongly (beta), should DPO hold a policy?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP", help="A sweep file, such as sweeps/quickstart.yaml.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Sets a leaf of the sweep file: --set train.learning_rate=1e-4"),
]
Folder = Annotated[Path | None, typer.Option("--results", metavar="DIR", help="The sweep's folder; default results/<name>.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="The artefacts; default store/ beside --results.")]
ResultsFolder = Annotated[Path, typer.Argument(metavar="RESULTS", help="A sweep's folder, such as results/quickstart.")]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON and nothing else.")]


def main() -> None:
    """The entry point: runs a command and turns refstudy's own errors into one message and exit code 2."""
    try:
        app()
    except RefstudyError as error:
        print(f"refstudy: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)


@app.command(epilog="Example: refstudy plan sweeps/quickstart.yaml --set axes.seed=[0,1,2]")
def plan(
    sweep: SweepFile, set_: Settings = None, results_: Folder = None, store: StoreFolder = None, json_: AsJson = False
) -> None:
    """Shows what a run would make, and what is made already; changes nothing."""
    from refstudy import cost

    read, at, cells = _read(sweep, set_, results_, store)
    estimate = cost.estimate(read, cells, at)
    print(json.dumps(estimate.as_json(), indent=1) if json_ else estimate.as_text())


@app.command(epilog="Example: refstudy validate sweeps/quickstart.yaml --score")
def validate(
    sweep: SweepFile,
    set_: Settings = None,
    results_: Folder = None,
    store: StoreFolder = None,
    score: Annotated[bool, typer.Option("--score", help="Makes what is missing of models and tables, and measures them.")] = False,
    json_: AsJson = False,
) -> None:
    """Checks every policy and reference before anything is trained; exit code 1 if one is refused."""
    read, at, cells = _read(sweep, set_, results_, store)
    from refstudy import hub

    hub.settle(cell.verdicts for cell in cells)  # before anything imports the libraries that would wait for the hub
    from rich.console import Console

    from refstudy import progress, validation, verdict

    if score:
        rows = validation.score(read, cells, at.store, lambda board: progress.Display(board, Console(stderr=json_)))
    else:
        rows = validation.validate(read, cells, at.store)
    print(json.dumps([row.as_json() for row in rows], indent=1)) if json_ else verdict.show(read.name, rows)
    sys.exit(1 if any(row.refusals for row in rows) else 0)


@app.command(epilog="Example: refstudy run sweeps/quickstart.yaml --set data.world=7 --results results/world-7")
def run(
    sweep: SweepFile,
    set_: Settings = None,
    results_: Folder = None,
    store: StoreFolder = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster, such as auto or ray://head:10001.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Runs cells again whose record says failed.")] = False,
) -> None:
    """Runs the cells of a sweep that are missing, then writes its report and prints the report's path.

    Exit code: 0 if all cells are done, 1 if some failed, 3 if a limit or `refstudy stop` ended it, 130 after SIGINT or SIGTERM.
    """
    from refstudy import driver

    read, at, cells = _read(sweep, set_, results_, store)
    code = driver.run_sweep(read, at, cells, address=address, retry_failed=retry_failed)
    if code != driver.INTERRUPTED:
        print(_write_report(at, cells))
    sys.exit(code)


@app.command(epilog="Example: refstudy stop results/quickstart --after-cells")
def stop(
    folder: ResultsFolder,
    after_cells: Annotated[bool, typer.Option("--after-cells", help="Lets the trials under way come to their end.")] = False,
) -> None:
    """Ends the running sweep of a folder within seconds; the same run command goes on from there."""
    from refstudy import runs

    print(runs.stop(folder, after_cells))


@app.command(epilog="Example: refstudy trial sweeps/quickstart.yaml --cell 3f2a")
def trial(
    sweep: SweepFile,
    cell: Annotated[str, typer.Option("--cell", metavar="ID", help="The cell's id, or how it begins.")],
    set_: Settings = None,
    results_: Folder = None,
    store: StoreFolder = None,
    again: Annotated[bool, typer.Option("--again", help="Runs it although it is finished, e.g. to keep its policy.")] = False,
) -> None:
    """Runs one cell alone, without Ray, with what it needs."""
    read, at, cells = _read(sweep, set_, results_, store)
    found = results.cell(cell, cells)  # before torch is imported: a wrong id is answered at once

    from refstudy import alone

    record = alone.run_cell(found, at, read, cells, again)
    print(_summary(record))
    sys.exit(0 if record["status"] == "done" else 1)


@app.command(epilog="Example: refstudy status results/quickstart")
def status(folder: ResultsFolder, json_: AsJson = False) -> None:
    """Shows the status and main measures of every cell of a folder."""
    if folder.is_dir() and not (folder / records.SWEEP).exists() and not any((folder / "cells").glob("*.json")):
        records.read_sweep(folder)  # says what the folder is not
    rows = records.status_rows(folder)
    if json_:
        print(json.dumps(rows, indent=1))
        return
    from refstudy import runs, table

    table.show(rows)
    told = runs.last_in_words(folder)
    if told is not None:
        print(visible(told))
    for fault in records.scan(folder).faults:
        print(f"refstudy: {fault}", file=sys.stderr)


@app.command(epilog="Example: refstudy explain 3f2a --sweep sweeps/quickstart.yaml --set train.epochs=4")
def explain(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="The cell's id, or how it begins.")],
    sweep: Annotated[Path | None, typer.Option("--sweep", metavar="SWEEP", help="The sweep file; default: as last run.")] = None,
    set_: Settings = None,
    results_: Folder = None,
    store: StoreFolder = None,
) -> None:
    """Says why a cell would run: which leaf differs from the nearest finished one, and what would be made."""
    from refstudy import explain, plan

    at, cells = _located(cell, sweep, set_, results_, store)
    found = results.cell(cell, cells)
    known = records.read_records(at.folder)
    print(f"{found.id}  {found.label}")
    if not results.pending(at, [found], again=True):
        print("It is finished and would not run.")
        return
    if results.pending(at, [found], again=False):
        print(f"It would {explain.work(found, at.store)}. Shared artefacts to make first: {len(plan.shared([found], at.store))}.")
    else:
        print(f"It failed, and would run only with --retry-failed: it would then {explain.work(found, at.store)}.")
    near = explain.nearest(found, known)
    if near is None:
        print("No cell of this folder is finished yet.")
        return
    print(f"The nearest finished cell is {near.record['cell_id']}; it differs in:")
    for each in near.differences:
        print(f"  {each.path}: {each.here!r} here, {each.there!r} there")


@app.command(epilog="Example: refstudy export 3f2a exported/my-policy")
def export(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="The cell's id, or how it begins.")],
    destination: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A new folder for the checkpoint.")] = None,
    alpaca_eval: Annotated[
        Path | None, typer.Option("--alpaca-eval", metavar="FILE", help="A new file for the answers, in AlpacaEval's form.")
    ] = None,
    sweep: Annotated[Path | None, typer.Option("--sweep", metavar="SWEEP", help="The sweep file; default: as last run.")] = None,
    set_: Settings = None,
    results_: Folder = None,
    store: StoreFolder = None,
) -> None:
    """Writes a kept policy as a merged checkpoint with a model card, or a cell's answers for AlpacaEval."""
    if (destination is None) == (alpaca_eval is None):
        raise SpecError("expected either DIR, for the checkpoint, or --alpaca-eval FILE, for the answers")
    at = _listing(cell, sweep, set_, results_, store)
    if destination is None:
        assert alpaca_eval is not None
        from refstudy import model_outputs

        record = results.recorded(cell, {each["cell_id"]: each for each in records.read_records(at.folder)})
        print(*model_outputs.write(record, at.store, at.folder.name, alpaca_eval), sep="\n")
        return

    from refstudy import export

    cells, why = _rebuilt(at) if sweep is None else (_read(sweep, set_, results_, store)[2], "")
    known = {record["cell_id"]: record for record in records.read_records(at.folder)}
    if not any(each.id.startswith(cell) for each in cells):
        recorded = [each for each in known if each.startswith(cell)]
        if len(recorded) == 1:
            print(export.export(None, known[recorded[0]], at.store, destination))
            return
        if why:
            raise SpecError(f"cell {cell!r} has no record in {at.folder}, and its sweep cannot be read again: {why}")
    found = results.cell(cell, cells)
    print(export.export(found, known.get(found.id, {}), at.store, destination))


@app.command(epilog="Example: refstudy report results/quickstart --beside-paper")
def report(
    folder: ResultsFolder,
    beside_paper: Annotated[bool, typer.Option("--beside-paper", help="Sets the paper's tables beside the sweep.")] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Adds it to the sweep's wandb project; offline unless WANDB_MODE.")
    ] = False,
    store: StoreFolder = None,
) -> None:
    """Writes the report of a folder anew, as a page and as Markdown, and prints the page's path."""
    at = results.opened(folder, store)
    cells, why = _rebuilt(at)
    if why:
        print(f"refstudy: scores of references stay as they were written last: {why}", file=sys.stderr)
    path = _write_report(at, cells, beside_paper)
    print(path)
    if wandb:
        from refstudy import tracking

        name, settings = results.mirror(at)
        tracking.upload_report(name, path, settings)


@app.command(epilog="Example: refstudy watch results/quickstart")
def watch(
    folder: ResultsFolder,
    every: Annotated[int, typer.Option("--every", metavar="SECONDS", min=1, help="How often the report is written at most.")] = 15,
    store: StoreFolder = None,
) -> None:
    """Follows a running sweep: a live table, and a report that an open browser page loads again by itself."""
    from analysis import report
    from refstudy import watch

    at = results.opened(folder, store)
    try:
        rows = watch.follow(at.folder, lambda live: report.write(at.folder, at.store, every if live else None), every)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if all(row["status"] == "done" for row in rows) else 1)


@app.command(
    epilog="Example: refstudy gate results/quickstart --against baseline.json --limit 'win_rate>=0.6' --where reference=self"
)
def gate(
    folder: ResultsFolder,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="BASELINE", help="An earlier folder, or a saved file.")
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


@app.command("import", epilog="Example: refstudy import results/quickstart --outputs model_outputs.json --name gpt4")
def import_(
    folder: ResultsFolder,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the report calls it.")],
    outputs: Annotated[Path | None, typer.Option("--outputs", metavar="FILE", help="Answers: JSON, JSONL, CSV, Parquet.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="DIR", help="A model that answers the prompts.")
    ] = None,
    template: Annotated[Path | None, typer.Option("--template", metavar="FILE", help="The checkpoint's chat template.")] = None,
    cell: Annotated[str | None, typer.Option("--cell", metavar="ID", help="A cell whose answers the verdicts are on.")] = None,
    verdicts: Annotated[Path | None, typer.Option("--verdicts", metavar="FILE", help="Votes, in place of the judge's.")] = None,
    store: StoreFolder = None,
) -> None:
    """Takes answers, a checkpoint or verdicts made elsewhere into a sweep's store, judged like its cells, and into its report."""
    from refstudy import imports

    at = results.opened(folder, store)
    given = imports.Given(name=name, outputs=outputs, checkpoint=checkpoint, template=template, cell=cell, votes=verdicts)
    for record in imports.bring(given, at, grid.cells(results.sweep(at))):
        print(_summary(record, f"{name} ({record['policy']}, seed {record['seed']}): "))


@app.command(epilog="Example: refstudy findings results/quickstart --json")
def findings(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="RESULTS", help="One or several results folders.")] = None,
    published: Annotated[bool, typer.Option("--published", help="The paper's tables, judged by the same code.")] = False,
    earlier: Annotated[
        bool, typer.Option("--earlier", help="Also cells of earlier grids of a folder: a study run in parts.")
    ] = False,
    store: StoreFolder = None,
    json_: AsJson = False,
) -> None:
    """Says what the sweeps (or the paper's tables) show: reproduced, contradicted, undecided or not_testable, with intervals."""
    from analysis import findings as of

    if not folders and not published:
        raise SpecError("nothing to judge; expected a results folder, such as results/quickstart, or --published")
    found = [*(of.of_paper() if published else []), *(of.of_folders(folders, store, earlier) if folders else [])]
    print(of.as_json(found) if json_ else of.as_text(found))


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


def _read(sweep: Path, assignments: list[str] | None, folder: Path | None, store: Path | None) -> tuple[Sweep, Results, list[Cell]]:
    read = grid.read(sweep, assignments)
    return read, results.place(read, folder, store), grid.cells(read)


def _write_report(at: Results, cells: list[Cell], with_paper: bool = False) -> Path:
    from analysis import report
    from refstudy import reference_compatibility, reference_scores

    reference_scores.write(at, cells)
    reference_compatibility.write(at, cells)
    return report.write(at.folder, at.store, with_paper=with_paper)


def _located(
    cell: str, sweep: Path | None, assignments: list[str] | None, folder: Path | None, store: Path | None
) -> tuple[Results, list[Cell]]:
    """Where a cell belongs: in the sweep file if one is given, else in the folder whose sweep lists it."""
    if sweep is not None:
        _, at, cells = _read(sweep, assignments, folder, store)
        return at, cells
    at = _listing(cell, None, assignments, folder, store)
    return at, grid.cells(results.sweep(at))


def _listing(cell: str, sweep: Path | None, assignments: list[str] | None, folder: Path | None, store: Path | None) -> Results:
    """The folder that a cell is in."""
    if sweep is not None:
        return results.place(grid.read(sweep, assignments), folder, store)
    if assignments:
        raise SpecError("--set changes a sweep file: say which with --sweep")
    return results.opened(folder, store) if folder else results.holding(cell, Path("results"))


def _rebuilt(at: Results) -> tuple[list[Cell], str]:
    """The cells of the sweep that a folder was last run with; or none, and why: its data or models may be gone by now."""
    try:
        return grid.cells(results.sweep(at)), ""
    except RefstudyError as error:
        return [], str(error)


def _summary(record: dict[str, Any], heading: str = "") -> str:
    if record["status"] != "done":
        error = record["error"] or {}
        return visible(f"{record['cell_id']} failed: {error.get('type')}: {error.get('message')}")
    measures = record["measures"]
    names = ("win_rate", "win_rate_se", "length_tokens_mean", "truncation_rate", "kl_start_nats", "gold_reward", "precision")
    shown = ", ".join(f"{name} {measures[name]:.4g}" for name in names if name in measures)
    if heading:
        return f"{heading}{shown}"
    return f"{record['cell_id']} done in {record['duration_s']:.1f} s: {shown}"
