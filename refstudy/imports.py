"""What was made elsewhere, brought into a sweep: answers, a checkpoint or votes become artefacts, and rows beside the cells.

Invariant: an import is judged exactly as the cells beside it are: their prompts, their baseline answers, their judge. Its records
lie in imported/cells of the sweep's folder, apart from the cells, so that the grid stays what the sweep file says.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy import artefacts, checkpoints, content, copies, plan, recipes, records, results
from refstudy.errors import ModelError, SpecError
from refstudy.grid import Cell
from refstudy.identity import describe, fingerprint
from refstudy.measurement import Emit, silent
from refstudy.measures import cell as cell_measures
from refstudy.measures.limits import degenerate
from refstudy.provenance import now, provenance
from refstudy.records import Record
from refstudy.results import Results
from refstudy.store import Store


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user brings: answers in a file, or a checkpoint that answers, or a cell's answers; and votes on them, or none."""

    name: str
    outputs: Path | None = None
    checkpoint: Path | None = None
    template: Path | None = None
    """A Jinja chat template for the checkpoint."""
    cell: str | None = None
    votes: Path | None = None


def bring(given: Given, at: Results, cells: list[Cell], emit: Emit = silent) -> list[Record]:
    """The records of what was brought, one for each baseline and judge among `cells`; what is missing in the store is made.

    A sweep with several seeds has a baseline for each, so an import gets a record for each. An earlier import of the same name is
    replaced. SpecError for a wrong combination, DataError for a file that lacks answers.
    """
    _check(given)
    chosen = [results.cell(given.cell, cells)] if given.cell else cells
    wanted = {fingerprint(recipe): (recipe, cell) for cell in chosen for recipe in [recipe_of(given, cell)]}
    store = at.store
    make_missing([recipe for recipe, _ in wanted.values()], store, emit)
    made = [_record(given, recipe, cell, store) for recipe, cell in wanted.values()]
    for path in _named(at.folder, given.name):
        copies.remove(path)
    for record in made:
        records.write_record(at.folder / records.IMPORTED, record)
    return made


def read(folder: Path) -> list[Record]:
    """The records of what was imported into a sweep's folder."""
    return records.read_records(folder / records.IMPORTED)


def recipe_of(given: Given, cell: Cell) -> recipes.Verdicts:
    """The verdicts on what was brought, against the baseline of `cell` and by its judge, or by the votes that came with it."""
    judge = cell.verdicts.judge if given.votes is None else recipes.VotesJudge(votes=file(given.votes))
    return recipes.Verdicts(candidate=answers_of(given, cell), baseline=cell.verdicts.baseline, judge=judge)


def answers_of(given: Given, cell: Cell) -> recipes.AnyAnswers:
    """What was brought as answers to the prompts of `cell`; a checkpoint draws them as the cell's policy does."""
    if given.outputs is not None:
        return recipes.Answers(source=file(given.outputs), prompts=cell.completions.prompts, tokens_of=cell.dpo.start)
    if given.checkpoint is not None:
        model = local(given.checkpoint, given.template)
        return recipes.Completions(source=model, prompts=cell.completions.prompts, sampling=cell.completions.sampling)
    return cell.completions


def file(path: Path) -> recipes.File:
    """A file by its content."""
    return recipes.File(content=content.content_hash(path), path=str(path.resolve()))


def make_missing(goals: Iterable[recipes.Recipe], store: Store, emit: Emit = silent) -> None:
    """Makes what the store lacks of `goals`."""
    wanted = plan.missing(goals, store)
    if wanted:
        from refstudy import make  # imports torch: only where something is made

        make.make_all(wanted, store, emit)


def _check(given: Given) -> None:
    sources = [given.outputs, given.checkpoint, given.cell]
    if sum(each is not None for each in sources) != 1:
        raise SpecError("import needs one of --outputs, --checkpoint and --cell: whose answers are meant?")
    if given.cell is not None and given.votes is None:
        raise SpecError("--cell alone imports nothing: its answers are here; give --verdicts with the votes on them")
    if given.template is not None and given.checkpoint is None:
        raise SpecError("--template is a checkpoint's chat template: give --checkpoint, or leave it out")
    if not given.name.strip():
        raise SpecError("--name is empty; expected a name for the report, such as gpt4")


def local(folder: Path, template: Path | None = None) -> recipes.Local:
    """A checkpoint folder by its content, under the chat template in a file or its own; an adapter alone is refused."""
    known = content.checkpoint_hash(folder)
    if (folder / checkpoints.ADAPTER_FILE).exists():
        raise ModelError(f"checkpoint {folder} is an adapter without its base; expected a whole model: merge it (merge_and_unload)")
    return recipes.Local(content=known, path=str(folder.resolve()), template=None if template is None else _text(template))


def _text(template: Path) -> str:
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--template {template} cannot be read ({error}); expected a Jinja chat template") from error


def _record(given: Given, recipe: recipes.Verdicts, cell: Cell, store: Store) -> Record:
    measures = cell_measures.measure(
        prompts=artefacts.read_prompts(recipe.candidate.prompts, store),
        candidates=artefacts.read_completions(recipe.candidate, store),
        baselines=artefacts.read_completions(recipe.baseline, store),
        verdicts=artefacts.read_verdicts(recipe, store),
        divergences=[],
        training={},
    )
    is_degenerate, reason = degenerate(measures)
    parts = {"completions": recipe.candidate, "baseline": recipe.baseline, "verdicts": recipe}
    return {
        "cell_id": fingerprint(recipe),
        "status": "done",
        "policy": cell.policy,
        "reference": given.name,
        "beta": None,
        "seed": cell.seed,
        "settings": cell.settings,
        "labels": {"reference_kind": "imported", "file": _source_name(given)},
        "recipes": {name: fingerprint(part) for name, part in parts.items()},
        "measures": measures,
        "degenerate": is_degenerate,
        "reason": reason,
        "finished_at": now(),
        "provenance": provenance(),
        "recipe": describe(recipe),
    }


def _source_name(given: Given) -> str:
    source: Any = given.outputs or given.checkpoint or given.cell
    return Path(source).name


def _named(folder: Path, name: str) -> list[Path]:
    """The record files of imports of that name."""
    return [
        records.record_path(folder / records.IMPORTED, record["cell_id"]) for record in read(folder) if record["reference"] == name
    ]
