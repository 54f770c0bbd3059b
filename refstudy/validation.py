"""A sweep's policies and references checked before anything is paid for: `refstudy validate`.

Invariant: without `score` nothing is written and nothing is trained; what cannot be known before something is made is None, and a
remark says when it will be known. Every refusal is told, not the first alone.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refstudy import cost, make, memory, plan, recipes, reference_compatibility
from refstudy.artefacts import read_token_pairs
from refstudy.errors import RefstudyError, TableError
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from refstudy.measures import compatibility
from refstudy.progress import Board, Item, Reporter, stage_of
from refstudy.recipes import Recipe
from refstudy.scorer_checks import MADE_FIRST, Checks, Known
from refstudy.store import Store

Showing = Callable[[Board], AbstractContextManager[Any]]
"""What shows a board while the block lasts, such as progress.Display."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of one policy, or of one reference to it; None where it does not apply or is not known yet."""

    role: str
    """policy or reference."""
    policy: str
    reference: str | None
    settings: dict[str, Any]
    """Values of further axes that make another reference of it."""
    kind: str
    family: str
    parameters: int | None
    vocabulary: str | None
    """Of a reference's tokens to the policy's: same, same vocabulary (other template), other; None: it reads no text."""
    template: str | None
    """kept: the answers tried stand in the rendering as they are; probe: tried on a probe alone; refused."""
    pairs: int | None
    pairs_checked: int
    chosen_cut_share: float | None
    """Of the pairs, cut to train.max_length in the policy's tokens."""
    rejected_cut_share: float | None
    longest_tokens: int | None
    """In the model's own tokens: prompt and answer of one pair."""
    context_tokens: int | None
    memory_gb: float | None
    """Of scoring (references) or of training (policies, on each worker), at most."""
    made: int
    """Tables in the store, over seeds and validation; of a policy its start."""
    of: int
    tokens: int | None
    """To score: of tables that are made, or stand in another row, none; of a policy those that one cell trains on."""
    tokens_are_bound: bool
    """Whether lengths are unknown, so that the tokens are those of pairs of full max_length."""
    petaflops: float | None
    price: float | None
    """Of these, in the currency of the sweep's `price`; None: no price is given."""
    remarks: list[str]
    refusals: list[str]
    measures: dict[str, float] | None = None
    """Of compatibility, by flat name; None: not scored."""
    words: str | None = None
    """What the measures suggest."""

    @property
    def name(self) -> str:
        """What the row is about, e.g. `reference larger-same of policy small`."""
        settings = "".join(f" {path}={value}" for path, value in self.settings.items())
        about = f"policy {self.policy}" if self.reference is None else f"reference {self.reference} of policy {self.policy}"
        return about + settings

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Subject:
    """The cells that a row is about: one policy, or one reference of it, over seeds and betas."""

    reference: str | None
    settings: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        return self.cells[0]

    @property
    def texts(self) -> recipes.TokenPairs:
        return _token_pairs(self.cell.dpo.table)

    @property
    def tables(self) -> list[recipes.Table]:
        """Over training and validation pairs of every seed, each once."""
        found = [table for cell in self.cells for table in (cell.dpo.table, cell.dpo.validation) if table is not None]
        return list({fingerprint(table): table for table in found}.values())


def validate(sweep: Sweep, cells: Sequence[Cell], store: Store) -> list[Row]:
    """A row for each policy and each reference on the axis; data that is malformed or absent raises."""
    return _rows(sweep, list(_subjects(cells)), store)


def score(sweep: Sweep, cells: Sequence[Cell], store: Store, showing: Showing) -> list[Row]:
    """Rows as of `validate`, after models, pairs and tables have been made that are missing; no cell is trained.

    A reference that is refused is not scored; one that cannot be made is refused.
    """
    subjects = list(_subjects(cells))
    faults = _make(subjects, _rows(sweep, subjects, store), store, showing)
    rows = []
    for subject, row in zip(subjects, _rows(sweep, subjects, store), strict=True):
        fault = faults.get(id(subject))
        if fault is not None and fault not in row.refusals:
            row = replace(row, refusals=[*row.refusals, fault])
        rows.append(row if subject.reference is None or row.refusals else _measured(subject, row, store))
    return rows


def _subjects(cells: Sequence[Cell]) -> Iterator[_Subject]:
    """Each policy, followed by its references; settings under which all tables are the same stand once."""
    for about_policy in _grouped(cells, lambda cell: (cell.policy, cell.settings), lambda cell: _token_pairs(cell.dpo.table)):
        yield _Subject(None, _told(about_policy, cells), about_policy)
        for group in _grouped(about_policy, lambda cell: (cell.reference, cell.settings), lambda cell: cell.dpo.table):
            yield _Subject(group[0].reference, _told(group, cells), group)


def _grouped(
    cells: Sequence[Cell], key: Callable[[Cell], tuple[Any, ...]], what: Callable[[Cell], Recipe]
) -> list[tuple[Cell, ...]]:
    """The cells by key; groups that differ in nothing but settings, and are about the same recipes, are one."""
    by_key: dict[str, list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(json.dumps(key(cell), sort_keys=True), []).append(cell)
    by_content: dict[str, list[Cell]] = {}
    for group in by_key.values():
        content = [key(group[0])[0], *sorted({fingerprint(what(cell)) for cell in group})]
        by_content.setdefault(json.dumps(content), []).extend(group)
    return [tuple(group) for group in by_content.values()]


def _told(group: Sequence[Cell], cells: Sequence[Cell]) -> dict[str, Any]:
    """The settings in which the group stands apart from other cells: one value in it, others elsewhere."""
    first = group[0].settings
    return {
        path: value
        for path, value in first.items()
        if all(cell.settings[path] == value for cell in group) and any(cell.settings[path] != value for cell in cells)
    }


def _token_pairs(table: recipes.Table) -> recipes.TokenPairs:
    texts = table.texts.pairs if isinstance(table.texts, recipes.Selection) else table.texts
    assert isinstance(texts, recipes.TokenPairs)
    return texts


def _rows(sweep: Sweep, subjects: list[_Subject], store: Store) -> list[Row]:
    references = [each for each in subjects if each.reference is not None]
    checks = Checks(store, {fingerprint(each.cell.dpo.table.scorer): str(each.reference) for each in reversed(references)})
    bills = _bills(references, store)
    return [
        _policy(each, sweep, checks) if each.reference is None else _reference(each, sweep, checks, bills[id(each)])
        for each in subjects
    ]


def _bills(references: list[_Subject], store: Store) -> dict[int, list[recipes.Table]]:
    """The tables to be scored that stand on each reference's bill, by the subject's identity: each table on one bill, that of the
    reference whose own it is, else of the first that is made of it."""
    billed: dict[str, int] = {}
    tables: dict[str, recipes.Table] = {}
    for own in (True, False):
        for subject in references:
            wanted = [each for each in subject.tables if not store.has(each)] if own else plan.missing(subject.tables, store)
            for table in wanted:
                if isinstance(table, recipes.Table) and _is_scored(table):
                    billed.setdefault(fingerprint(table), id(subject))
                    tables[fingerprint(table)] = table
    return {id(each): [tables[key] for key, who in billed.items() if who == id(each)] for each in references}


def _policy(subject: _Subject, sweep: Sweep, checks: Checks) -> Row:
    cell, texts = subject.cell, subject.texts
    known, text, train = checks.scorer(cell.dpo.start, texts), checks.text(texts), cell.dpo.train
    found = checks.outline(cell.dpo.start)
    outline = None if isinstance(found, str) else found
    count = _count(texts, checks)
    per_pair, is_bound = _tokens_per_pair(known, texts)
    tokens = None if count is None else round(count * per_pair * train.epochs)
    flops = _flops(cost.TRAINING_FLOPS[train.lora is not None], known.parameters, tokens)
    row = Row(
        role="policy",
        reference=None,
        kind=sweep.spec.policies[cell.policy].kind,
        family=cell.labels["policy_family"],
        memory_gb=None if outline is None else memory.gb(_training_bytes(cell, outline.shape, texts)),
        made=int(outline is not None and outline.is_made),
        of=1,
        tokens=tokens,
        tokens_are_bound=is_bound,
        petaflops=None if flops is None else flops / 1e15,
        price=_price(sweep, flops),
        remarks=_policy_remarks(known, checks, texts),
        # The policy's own pairs are what it has cut itself: what they are refused for stands in the text's refusals.
        refusals=list(text.refusals or known.refusals),
        **_about(subject, known, checks),
    )
    return replace(row, vocabulary=None, template="refused" if row.refusals else row.template)


def _training_bytes(cell: Cell, shape: memory.Shape, texts: recipes.TokenPairs) -> int:
    """On each of the trial's workers."""
    on = cell.resources
    return memory.training_bytes(shape, cell.dpo.train, texts.max_length, on.workers, on.sharding)


def _policy_remarks(known: Known, checks: Checks, texts: recipes.TokenPairs) -> list[str]:
    text = checks.text(texts)
    remarks = [each for each in known.remarks if MADE_FIRST in each]
    if text.cut is None and not text.refusals and not known.refusals:
        remarks.append(f"{plan.title(texts.pairs)} are not made yet: lengths, cuts and templates on pairs are known after --score")
    if text.cut is not None and text.cut.too_long:
        count, first = len(text.cut.too_long), text.cut.too_long[0]
        remarks.append(f"{count:,} of the pairs tried leave no room for an answer and are dropped (first: {first})")
    return remarks


def _reference(subject: _Subject, sweep: Sweep, checks: Checks, bill: list[recipes.Table]) -> Row:
    cell, texts, store = subject.cell, subject.texts, checks.store
    known = _known(subject, checks)
    counted = [_to_score(table, texts, checks) for table in bill]
    tokens = None if any(each is None for each in counted) else sum(each[0] for each in counted if each)
    flops = None if any(each is None or each[1] is None for each in counted) else sum((each[1] or 0) for each in counted if each)
    return Row(
        role="reference",
        reference=subject.reference,
        kind=cell.labels["reference_kind"],
        family=cell.labels["family"],
        memory_gb=None if known.memory_bytes is None else memory.gb(known.memory_bytes),
        made=sum(store.has(table) for table in subject.tables),
        of=len(subject.tables),
        tokens=tokens,
        tokens_are_bound=bool(counted) and any(each is None or each[2] for each in counted),
        petaflops=None if flops is None else flops / 1e15,
        price=_price(sweep, flops),
        remarks=list(known.remarks),
        refusals=list(known.refusals),
        **_about(subject, known, checks),
    )


def _known(subject: _Subject, checks: Checks) -> Known:
    """What is known of the reference's scorer; a selection is self on pairs that another reference chooses."""
    table, texts = subject.cell.dpo.table, subject.texts
    known = checks.scorer(table.scorer, texts)
    if not isinstance(table.texts, recipes.Selection):
        return known
    of = checks.scorer(table.texts.of, texts)
    title = checks.name(table.texts.of)
    refusals = tuple(f"{title}: {refusal}" for refusal in of.refusals)
    return replace(known, remarks=(f"self, on the pairs that {title} raises",), refusals=(*known.refusals, *refusals))


def _about(subject: _Subject, known: Known, checks: Checks) -> dict[str, Any]:
    """What policies' and references' rows have alike."""
    cut = checks.text(subject.texts).cut
    return {
        "policy": subject.cell.policy,
        "settings": subject.settings,
        "parameters": known.parameters,
        "vocabulary": known.vocabulary,
        "template": known.template,
        "pairs": _count(subject.texts, checks),
        "pairs_checked": known.pairs_checked,
        "chosen_cut_share": None if cut is None else cut.cut_share("chosen"),
        "rejected_cut_share": None if cut is None else cut.cut_share("rejected"),
        "longest_tokens": known.longest_tokens,
        "context_tokens": known.context_tokens,
    }


def _count(texts: recipes.TokenPairs, checks: Checks) -> int | None:
    """Pairs of a seed; None where a dataset is out of reach and its whole is taken."""
    if isinstance(texts.pairs, recipes.MiniaturePairs):
        return texts.pairs.count
    if texts.pairs.part == "validation":
        return texts.pairs.validation
    originals = checks.text(texts).originals
    return texts.pairs.limit if originals is None else len(originals)


def _tokens_per_pair(known: Known, texts: recipes.TokenPairs) -> tuple[float, bool]:
    """(tokens of both answers with their prompts, whether that is a bound: both of full length)."""
    return (2.0 * texts.max_length, True) if known.tokens_per_pair is None else (known.tokens_per_pair, False)


def _is_scored(table: recipes.Table) -> bool:
    """Whether a table costs a pass of a model, here or on a server."""
    composed = (recipes.Constant, recipes.Column, recipes.Mixture, recipes.Derived)
    return not isinstance(table.scorer, composed) and not isinstance(table.texts, recipes.Selection)


def _to_score(table: recipes.Table, trained: recipes.TokenPairs, checks: Checks) -> tuple[int, float | None, bool] | None:
    """(tokens, floating-point operations of this machine, whether these are bounds) of a table's pass: 2 P a token, a forward pass
    (Kaplan et al. 2020, arXiv 2001.08361, table 1). Pairs held out, or of another seed, count as long as those trained on."""
    count = _count(_token_pairs(table), checks)
    if count is None:
        return None
    known = checks.scorer(table.scorer, trained)
    per_pair, is_bound = _tokens_per_pair(known, trained)
    tokens = round(count * per_pair)
    return tokens, 0.0 if isinstance(table.scorer, recipes.Server) else _flops(2, known.parameters, tokens), is_bound


def _flops(per_parameter: int, parameters: int | None, tokens: int | None) -> float | None:
    return None if parameters is None or tokens is None else float(per_parameter) * parameters * tokens


def _price(sweep: Sweep, flops: float | None) -> float | None:
    """What so many operations cost by the sweep's `price`."""
    price = sweep.spec.price
    if flops is None or not price.device_hour:
        return None
    return price.device_hour * flops / (price.device_tflops * 1e12 * price.utilisation) / 3600


# --score ------------------------------------------------------------------------------------------------------------------------


def _make(subjects: list[_Subject], rows: list[Row], store: Store, showing: Showing) -> dict[int, str]:
    """Makes what the usable references' measures need; why a subject's could not be made, by the subject's identity."""
    refused = {row.policy for row in rows if row.reference is None and row.refusals}
    wanted = {
        id(subject): [*subject.tables, *_measured_tables(subject)]
        for subject, row in zip(subjects, rows, strict=True)
        if subject.reference is not None and not row.refusals and row.policy not in refused
    }
    missing = plan.missing([table for tables in wanted.values() for table in tables], store)
    if not missing:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        board = Board(Path(folder))
        board.add(Item(fingerprint(each), stage_of(each), plan.title(each)) for each in missing)
        with showing(board):
            failed = _make_each(missing, store, Path(folder), subjects[0].cell.save_every_s)
    left = {key: [fingerprint(each) for each in plan.missing(tables, store)] for key, tables in wanted.items()}
    return {key: next(failed[each] for each in ids if each in failed) for key, ids in left.items() if failed.keys() & ids}


def _make_each(missing: list[Recipe], store: Store, folder: Path, save_every_s: float) -> dict[str, str]:
    """Makes the recipes in their order; why not, by the id of each that could not be made."""
    failed: dict[str, str] = {}
    for recipe in missing:
        key = fingerprint(recipe)
        below = [failed[fingerprint(each)] for each in plan.missing([recipe], store) if fingerprint(each) in failed]
        if below:
            failed[key] = below[0]
            continue
        reporter = Reporter(folder, key)
        try:
            make.make(recipe, store, reporter, save_every_s=save_every_s)
        except RefstudyError as error:
            failed[key] = f"{plan.title(recipe)} cannot be made: {error}"
        except Exception as error:  # what a user cannot mend ends this reference, not the others
            failed[key] = f"{plan.title(recipe)} cannot be made: {type(error).__name__}: {error}"
        reporter.end("failed" if key in failed else "done", {"reason": failed.get(key)})
    return failed


def _measured_tables(subject: _Subject) -> list[recipes.Table]:
    """The reference's table of the first seed, which is measured, and the policy's own."""
    table = subject.cell.dpo.table
    return [table, recipes.Table(scorer=subject.cell.own, texts=table.texts)]


def _measured(subject: _Subject, row: Row, store: Store) -> Row:
    """The row with its measures of compatibility and what they suggest."""
    table = subject.cell.dpo.table
    if isinstance(table.texts, recipes.Selection):
        chosen, among = (len(read_token_pairs(each, store)) for each in (table.texts, table.texts.pairs))
        return replace(row, words=f"self, trained on {chosen:,} of {among:,} pairs: those with D > 0")
    betas = sorted({cell.beta for cell in subject.cells}, reverse=True)
    try:
        fit = reference_compatibility.fit(table, subject.cell.own, betas, store)
    except TableError as error:
        return replace(row, remarks=[*row.remarks, f"cannot be measured: {error}"])
    return replace(row, measures=fit.values, words=compatibility.words(fit.measured))
