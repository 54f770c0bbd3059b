"""What `refstudy compare` is asked to compare: cells, imports, checkpoints and output files, as answers with verdicts.

Invariant: answers of a cell are read by the ids in its record, so that a sweep whose data are gone can still be compared; what must
be made (a checkpoint's answers, a file's tokens, a judge's direct verdicts) becomes an artefact of the store like any other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy import artefacts, copies, grid, imports, judges, outputs, recipes, records, results, texts
from refstudy.errors import RefstudyError, SpecError, StoreError
from refstudy.grid import Cell
from refstudy.identity import describe, fingerprint
from refstudy.measurement import Emit, silent
from refstudy.measures.comparison import Side
from refstudy.records import Record
from refstudy.results import Results
from refstudy.store import MANIFEST, RECIPE, Store
from refstudy.texts import Completion

LOCAL_JUDGES = (recipes.GoldJudge, recipes.RewardJudge)
"""Judges that cost no money and no network: a comparison asks these directly."""
OTHER_STORES = "No head-to-head: the answers lie in different stores."


@dataclass(frozen=True)
class Pairing:
    """Two sides, and A's verdicts directly against B where a local judge could be asked."""

    a: Side
    b: Side
    direct: dict[str, float | None] | None
    notes: list[str]
    """Why something that a reader may expect is not there, in sentences."""


@dataclass(frozen=True)
class _Home:
    """A cell, and where its artefacts are: whose prompts, decoding and judge a side takes."""

    at: Results
    cell: Cell


@dataclass(frozen=True)
class _Given:
    """An argument that names an output file or a checkpoint's folder."""

    title: str
    path: Path


@dataclass(frozen=True)
class _Recorded:
    """An argument that names a cell or an import."""

    title: str
    at: Results
    record: Record
    cells: tuple[Cell, ...]
    """The cells of its sweep; none if the sweep cannot be read again."""
    why: str
    """Why it cannot; empty if it can."""

    @property
    def home(self) -> _Home | None:
        """The cell itself, or for an import a cell that it was judged beside."""
        baseline = self.record["recipes"].get("baseline")
        own = next((each for each in self.cells if each.id == self.record["cell_id"]), None)
        own = own or next((each for each in self.cells if fingerprint(each.verdicts.baseline) == baseline), None)
        return None if own is None else _Home(self.at, own)


def pair(a: str, b: str, like: str | None = None, store: Path | None = None, emit: Emit = silent) -> Pairing:
    """The two sides that `a` and `b` name: RESULTS:CELL, a cell's id or how it begins, an output file, or a checkpoint's folder.

    Files and checkpoints answer the prompts of the cell `like`, or else of the other side's cell; two files without any are
    compared on the prompts that stand in both. SpecError for what cannot be found.
    """
    named = [_find(each, store) for each in (a, b)]
    home = _home(like, store) if like else next((each.home for each in named if isinstance(each, _Recorded) and each.home), None)
    (one, first), (two, second) = [_side(each, home, emit) for each in named]
    lost = [each for each in named if isinstance(each, _Recorded) and each.why]
    notes = [f"No head-to-head with {each.title}: its sweep cannot be read again ({each.why})." for each in lost]
    if home is None:
        notes += [] if notes else ["No judge: neither side is a cell. Name one whose judge to ask with --like RESULTS:CELL."]
        return Pairing(one, two, None, notes)
    if first is None or second is None:
        notes += [] if notes else ["No head-to-head: the sweep no longer leads to the answers of a side."]
        return Pairing(one, two, None, notes)
    roots = {each.at.store.root for each in named if isinstance(each, _Recorded)}
    why = OTHER_STORES if roots - {home.at.store.root} else _no_duel(home, first, second)
    return Pairing(one, two, None, [*notes, why]) if why else Pairing(one, two, _duel(home, first, second, emit), notes)


def _home(like: str, store: Path | None) -> _Home:
    found = _find(like, store)
    if isinstance(found, _Recorded) and found.home is not None:
        return found.home
    why = found.why if isinstance(found, _Recorded) else "it is a file"
    raise SpecError(f"--like {like} names no cell whose sweep can be read again ({why}); expected RESULTS:CELL")


def _find(name: str, store: Path | None) -> _Given | _Recorded:
    path = Path(name)
    if path.is_file() or (path.is_dir() and (path / "config.json").is_file()):
        return _Given(path.name, path)
    place, separator, wanted = name.rpartition(":")
    folder = copies.existing(place)
    if separator and (folder / records.SWEEP).is_file():
        return _recorded(results.opened(folder, store), wanted)
    if separator or "/" in name or path.suffix in (".json", ".jsonl", ".csv", ".parquet"):
        raise SpecError(f"{name} is no file, checkpoint or cell; expected RESULTS:CELL, a cell's id, an output file or a folder")
    at = results.holding(name, Path("results"))
    return _recorded(results.opened(at.folder, store), name)


def _recorded(at: Results, wanted: str) -> _Recorded:
    """The cell of a folder whose id begins with `wanted`, or the import of that name or id."""
    cells, brought = records.read_records(at.folder), imports.read(at.folder)
    found = [each for each in [*cells, *brought] if wanted and each["cell_id"].startswith(wanted)]
    found = found or [each for each in brought if each["reference"] == wanted]
    if len(found) != 1:
        some = ", ".join(f"{each['cell_id'][:8]} ({_title(each)})" for each in (found or [*cells, *brought])[:3])
        what = "no cell or import" if not found else f"{len(found)} of them"
        raise SpecError(
            f"{at.folder} has {what} with an id that begins with {wanted!r}, or of that name; expected one of {some}, ..."
        )
    (record,) = found
    if record["status"] != "done":
        raise SpecError(f"cell {record['cell_id']} ({_title(record)}) is {record['status']}; expected one that is done")
    try:
        rebuilt, why = tuple(grid.cells(results.sweep(at))), ""
    except RefstudyError as error:
        rebuilt, why = (), str(error)
    return _Recorded(_title(record), at, record, rebuilt, why)


def _title(record: Record) -> str:
    if record["beta"] is None:
        return f"{record['reference']} (imported)"
    return grid.label(record["policy"], record["reference"], record["beta"], record["seed"], record["settings"])


def _side(named: _Given | _Recorded, home: _Home | None, emit: Emit) -> tuple[Side, recipes.AnyAnswers | None]:
    """The side, and the recipe of its answers where there is one."""
    if isinstance(named, _Recorded):
        return _of_record(named), _answers_again(named)
    if home is not None:
        return _made(named, home, emit)
    if named.path.is_dir():
        raise SpecError(f"checkpoint {named.path} must be asked something: compare it with a cell, or name one with --like")
    rows = outputs.conversations(named.path)
    answers = [
        Completion(
            prompt_id=prompt.prompt_id,
            text=said.text,
            token_ids=[],
            terminated=said.terminated,
            logp_sum_nats=None,
            earlier=list(said.earlier),
        )
        for prompt, said in rows
    ]
    return Side(title=named.title, prompts=[prompt for prompt, _ in rows], answers=answers), None


def _made(named: _Given, home: _Home, emit: Emit) -> tuple[Side, recipes.AnyAnswers]:
    """A file's or checkpoint's answers to the prompts of the home's cell, judged as that cell is if its judge is a local one."""
    cell, at, path = home.cell, home.at, named.path
    is_checkpoint = path.is_dir()
    given = imports.Given(name=named.title, checkpoint=path if is_checkpoint else None, outputs=None if is_checkpoint else path)
    answers = imports.answers_of(given, cell)
    judge, baseline = cell.verdicts.judge, cell.verdicts.baseline
    verdicts = recipes.Verdicts(candidate=answers, baseline=baseline, judge=judge) if isinstance(judge, LOCAL_JUDGES) else None
    imports.make_missing([verdicts or answers], at.store, emit)
    rows = artefacts.read_verdicts(verdicts, at.store) if verdicts else []
    side = Side(
        title=named.title,
        prompts=artefacts.read_prompts(answers.prompts, at.store),
        answers=artefacts.read_completions(answers, at.store),
        p={row["prompt_id"]: row["p"] for row in rows} if verdicts else None,
        rewards=_rewards(rows),
        baseline=fingerprint(baseline),
        judge=fingerprint(judge) if verdicts else None,
        counted_by=_counted_by(describe(answers)),
    )
    return side, answers


def _of_record(named: _Recorded) -> Side:
    """The side by the ids that stand in its record, whatever has become of its sweep file."""
    ids, store, recipe = named.record["recipes"], named.at.store, named.record["recipe"]
    folder = _artefact(store, ("completions", "answers"), ids.get("completions"))
    kind, _, prompts = json.loads((folder / RECIPE).read_bytes())["canonical"]["prompts"]["recipe"].partition(":")
    rows = [vars(each) for each in judges.read(_artefact(store, ("verdicts",), ids.get("verdicts")))]
    return Side(
        title=named.title,
        prompts=texts.read_prompts(_artefact(store, (kind,), prompts) / artefacts.PROMPTS),
        answers=texts.read_completions(folder / artefacts.COMPLETIONS),
        p={row["prompt_id"]: row["p"] for row in rows},
        rewards=_rewards(rows),
        baseline=ids.get("baseline"),
        judge=_id(recipe.get("judge") or {}),
        counted_by=_counted_by(recipe.get("candidate") or {}),
    )


def _artefact(store: Store, kinds: tuple[str, ...], identity: str | None) -> Path:
    """The folder of an artefact by the id that stands in a record."""
    for kind in kinds:
        folder = store.folder(kind, identity or "none")
        if (folder / MANIFEST).is_file():
            return folder
    raise StoreError(f"{kinds[0]} '{identity}' is not in the store ({store.root}); run the sweep again: it makes what is missing")


def _rewards(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["prompt_id"]: row["candidate_reward"] for row in rows if row["candidate_reward"] is not None}


def _id(described: dict[str, Any]) -> str | None:
    """The id of a recipe as records write it: in full, or as kind:id where it stands a second time."""
    named = described.get("id") or str(described.get("recipe", "")).partition(":")[2]
    return str(named) or None


def _counted_by(answers: dict[str, Any]) -> str | None:
    """Whose tokenizer counted the answers: that of the start from which their policy was trained."""
    model = answers.get("tokens_of") or answers.get("source") or {}
    return _id(model["start"] if model.get("kind") == "dpo" else model)


def _answers_again(named: _Recorded) -> recipes.AnyAnswers | None:
    """The recipe of a record's answers; None if the sweep's cells do not lead to it."""
    if named.home is None:
        return None
    cell, wanted = named.home.cell, named.record["recipes"].get("completions")
    source = (named.record["recipe"].get("candidate") or {}).get("source") or {}
    candidates: list[recipes.AnyAnswers] = [each.completions for each in named.cells]
    if source.get("type") == "File":
        file = recipes.File(content=source["content"], path="")
        candidates.append(recipes.Answers(source=file, prompts=cell.completions.prompts, tokens_of=cell.dpo.start))
    if source.get("kind") == "local":
        model = recipes.Local(content=source["content"], template=source["template"], system_role=source["system_role"], path="")
        candidates.append(recipes.Completions(source=model, prompts=cell.completions.prompts, sampling=cell.completions.sampling))
    return next((each for each in candidates if fingerprint(each) == wanted), None)


def _no_duel(home: _Home, one: recipes.AnyAnswers, two: recipes.AnyAnswers) -> str:
    """Why the judge of the home's sweep cannot be asked about the two directly; empty if it can."""
    if fingerprint(one) == fingerprint(two):
        return "Both sides are the same answers."
    if not isinstance(home.cell.verdicts.judge, LOCAL_JUDGES):
        return "No head-to-head: the sweep's judge is no local one (gold or a reward model)."
    if fingerprint(one.prompts) != fingerprint(two.prompts):
        return "No head-to-head: the sides answer different sets of prompts."
    return ""


def _duel(home: _Home, one: recipes.AnyAnswers, two: recipes.AnyAnswers, emit: Emit) -> dict[str, float | None]:
    """P(A beats B) by prompt id, from the judge of the home's sweep."""
    verdicts = recipes.Verdicts(candidate=one, baseline=two, judge=home.cell.verdicts.judge)
    imports.make_missing([verdicts], home.at.store, emit)
    return {row["prompt_id"]: row["p"] for row in artefacts.read_verdicts(verdicts, home.at.store)}
