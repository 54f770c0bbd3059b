"""The command line: what a user types, and one clear line when it is wrong.

Invariant: a RefstudyError ends in one message and exit code 2, without a traceback; nothing heavy is imported before it is needed.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refstudy import copies, grid, outcomes, processes, records, results
from refstudy.errors import RefstudyError, SpecError
from refstudy.grid import Cell, Sweep
from refstudy.options import AsJson, Folder, ResultsFolder, Settings, StoreFolder, SweepFile
from refstudy.results import Results
from refstudy.texts import visible

if TYPE_CHECKING:
    from refstudy.room import Node

app = typer.Typer(
    help="To which reference model, and how strongly (beta), should DPO hold a policy?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(outcomes.app)


def main() -> None:
    """The entry point: runs a command and turns refstudy's own errors into one message and exit code 2."""
    try:
        app()
    except RefstudyError as error:
        print(f"refstudy: {visible(copies.in_words(str(error)))}", file=sys.stderr)
        sys.exit(2)


@app.command(epilog="Example: refstudy plan sweeps/quickstart.yaml --set axes.seed=[0,1,2]")
def plan(
    sweep: SweepFile,
    set_: Settings = None,
    results_: Folder = None,
    store: StoreFolder = None,
    json_: AsJson = False,
    address: Annotated[str | None, typer.Option(help="The Ray cluster it is for, such as auto; default: this machine.")] = None,
) -> None:
    """Shows what a run would make, what is made already, and what would find no room; changes nothing."""
    from refstudy import cost, room

    read, at, cells = _read(sweep, set_, results_, store)
    estimate = cost.estimate(read, cells, at)
    estimate = replace(estimate, warnings=room.lacking(read, cells, at, *_machines(address)))
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

    Exit code: 0 if all cells are done, 1 if some failed, 3 if a limit, `refstudy stop` or the loss of the
    cluster ended it, 130 after SIGINT or SIGTERM.
    """
    with processes.importing():
        from refstudy import driver

    read, at, cells = _read(sweep, set_, results_, store)
    code = driver.run_sweep(read, at, cells, address=address, retry_failed=retry_failed)
    if code != driver.INTERRUPTED:
        print(copies.location(_write_report(at, cells)))
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

    table.show_cells(rows)
    told = runs.last_in_words(folder)
    if told is not None:
        print(visible(told))
    for fault in records.scan(folder).faults:
        print(f"refstudy: {copies.in_words(fault)}", file=sys.stderr)


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
    print(copies.location(path))
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
        rows = watch.follow(at.folder, lambda live: _pushed(report.write(at.folder, at.store, every if live else None)), every)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if all(row["status"] == "done" for row in rows) else 1)


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


def _read(sweep: Path, assignments: list[str] | None, folder: Path | None, store: Path | None) -> tuple[Sweep, Results, list[Cell]]:
    read = grid.read(sweep, assignments)
    return read, results.place(read, folder, store), grid.cells(read)


def _write_report(at: Results, cells: list[Cell], with_paper: bool = False) -> Path:
    with processes.importing():
        from analysis import report
        from refstudy import reference_compatibility, reference_scores

    reference_scores.write(at, cells)
    reference_compatibility.write(at, cells)
    return _pushed(report.write(at.folder, at.store, with_paper=with_paper))


def _pushed(path: Path) -> Path:
    """The path of a report, which is now where all look for it."""
    copies.push(path.parent)
    return path


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


def _machines(address: str | None) -> "tuple[list[Node], str]":
    """The machines that a plan is for, and what they are called; for this one no Ray is started."""
    from refstudy import room

    if address is None:
        return room.here(), room.HERE
    from refstudy import session

    return session.look(address)


def _summary(record: dict[str, Any], heading: str = "") -> str:
    if record["status"] != "done":
        error = record["error"] or {}
        return visible(f"{record['cell_id']} failed: {error.get('type')}: {error.get('message')}")
    measures = record["measures"]
    names = ("win_rate", "win_rate_se", "length_tokens_mean", "truncation_rate", "kl_start_nats", "gold_reward", "precision")
    told = [f"{name} {measures[name]:.4g}" for name in names if measures.get(name) is not None and not math.isnan(measures[name])]
    shown = ", ".join([*told, *([unread] if (unread := records.unread(measures)) else [])])
    if heading:
        return f"{heading}{shown}"
    return f"{record['cell_id']} done in {record['duration_s']:.1f} s: {shown}"
