"""What a sweep's judges will be asked, before they are: comparisons, requests, tokens and money.

Invariant: an upper bound or an honest blank, as all of `cost`. What earlier passes kept of a judge's replies is not looked into, so
that a judge that has begun may be asked less.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from refstudy import artefacts, data, plan, recipes
from refstudy.grid import Cell
from refstudy.identity import fingerprint
from refstudy.store import Store
from refstudy.texts import Prompt, answer_text, asked_text

CHARACTERS_PER_TOKEN = 4
"""About what tokenizers make of English; how a text is counted whose tokenizer is not here."""
FRAME_TOKENS = 16
"""About what a chat template puts around a request."""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What one judge has to do for a sweep; None where a set of prompts or answers was not read yet."""

    judge: str
    comparisons: int | None
    """Pairs of answers: of cells, of references' own answers, and along training."""
    requests: int | None
    """Of a judge behind a server, both orders of each comparison; 0: it is asked on this machine."""
    prompt_tokens: int | None
    """About so many at most: answers that are still to be drawn count as max_new_tokens."""
    completion_tokens: int | None
    price: float | None
    """By the judge's declared price of a million tokens; None: none is declared, or tokens are not known."""

    @property
    def line(self) -> str:
        """The bill in words."""
        pairs = "an unknown number of comparisons" if self.comparisons is None else f"{self.comparisons:,} comparisons"
        if self.requests == 0:
            return f"judging by {self.judge}: {pairs}, no requests"
        if self.requests is None:
            return f"judging by {self.judge}: {pairs}, in both orders; its prompts were not read yet"
        tokens = "tokens unknown before its prompts are there"
        if self.prompt_tokens is not None:
            tokens = f"about {self.prompt_tokens:,} tokens read and {self.completion_tokens:,} written at most"
        price = "" if self.price is None else f", price {self.price:,.2f}"
        return f"judging by {self.judge}: {pairs}, both orders: {self.requests:,} requests at most, {tokens}{price}"


@dataclass(frozen=True)
class _Task:
    """Comparisons to be made `times` over: the candidates' answers to some prompts against others."""

    judge: recipes.Judge
    candidate: recipes.AnyAnswers
    baseline: recipes.AnyAnswers
    times: int | None = 1


def bills(pending: Iterable[Cell], looks: Callable[[Cell], int | None], store: Store) -> list[Bill]:
    """One bill for each judge of the pending cells, or for several that read alike and cost nothing.

    `looks`: how often a cell that trains is judged along its training.
    """
    tasks: dict[str, list[_Task]] = {}
    for task in _tasks(list(pending), looks, store):
        name = fingerprint(task.judge) if isinstance(task.judge, recipes.LlmJudge) else plan.title(task.judge)
        tasks.setdefault(name, []).append(task)
    sizes = _Sizes(store)
    return [_bill(of, sizes) for of in tasks.values()]


def _tasks(pending: list[Cell], looks: Callable[[Cell], int | None], store: Store) -> list[_Task]:
    verdicts = [each for cell in pending for each in (cell.verdicts, *(of.verdicts for of in cell.evaluations))]
    verdicts += [plan.own_verdicts(cell) for cell in pending if plan.answers_itself(cell)]
    missing = {fingerprint(each): each for each in verdicts if not store.has(each)}
    found = [_Task(each.judge, each.candidate, each.baseline) for each in missing.values()]
    for cell in pending:
        if cell.along is not None and plan.trains(cell, store):
            found.append(_Task(cell.along.judge, cell.along.baseline, cell.along.baseline, looks(cell)))
    return found


def _bill(tasks: list[_Task], sizes: "_Sizes") -> Bill:
    judge = tasks[0].judge
    comparisons = _sum(_times(sizes.prompts(task.candidate.prompts), task.times) for task in tasks)
    if not isinstance(judge, recipes.LlmJudge):
        return Bill(judge=plan.title(judge), comparisons=comparisons, requests=0, prompt_tokens=0, completion_tokens=0, price=None)
    requests = _times(comparisons, 2)
    read = _times(_sum(_times(_read_tokens(task, judge, sizes), task.times) for task in tasks), 2)
    written = _times(requests, judge.max_tokens)
    price = None
    if (judge.prompt_price or judge.completion_price) and read is not None and written is not None:
        price = (read * judge.prompt_price + written * judge.completion_price) / 1e6
    return Bill(
        judge=plan.title(judge),
        comparisons=comparisons,
        requests=requests,
        prompt_tokens=read,
        completion_tokens=written,
        price=price,
    )


def _read_tokens(task: _Task, judge: recipes.LlmJudge, sizes: "_Sizes") -> int | None:
    """Tokens of one order of a task's comparisons: template, conversation and both answers."""
    prompts = sizes.prompts(task.candidate.prompts)
    frame = _times(prompts, len(judge.template) // CHARACTERS_PER_TOKEN + FRAME_TOKENS)
    return _sum([frame, sizes.asked(task.candidate.prompts), sizes.answered(task.candidate), sizes.answered(task.baseline)])


class _Sizes:
    """How much there is to read, as far as it is known; each artefact is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, list[Prompt] | None] = {}
        self._answered: dict[str, int] = {}

    def prompts(self, of: recipes.AnyPrompts) -> int | None:
        found = self._prompts(of)
        return of.count if found is None else len(found)

    def asked(self, of: recipes.AnyPrompts) -> int | None:
        """Tokens of the conversations."""
        found = self._prompts(of)
        return None if found is None else _tokens(asked_text(each) for each in found)

    def answered(self, of: recipes.AnyAnswers) -> int | None:
        """Tokens of the answers: as they are, or at most."""
        found = self._prompts(of.prompts)
        if found is not None and self._store.has(of):
            if fingerprint(of) not in self._answered:
                rows = zip(found, artefacts.read_completions(of, self._store), strict=True)
                self._answered[fingerprint(of)] = _tokens(answer_text(*row) for row in rows)
            return self._answered[fingerprint(of)]
        if found is None or isinstance(of, recipes.Answers):
            return None
        return sum(1 + len(each.turns) for each in found) * of.sampling.max_new_tokens

    def _prompts(self, of: recipes.AnyPrompts) -> list[Prompt] | None:
        if fingerprint(of) not in self._known:
            self._known[fingerprint(of)] = known_prompts(of, self._store)
        return self._known[fingerprint(of)]


def known_prompts(of: recipes.AnyPrompts, store: Store) -> list[Prompt] | None:
    """The prompts, of the store or of a file on this machine; None where they must be made or downloaded first."""
    if store.has(of):
        return artefacts.read_prompts(of, store)
    return data.prompts(of).rows if isinstance(of, recipes.Prompts) and isinstance(of.source, recipes.File) else None


def _tokens(texts: Iterable[str]) -> int:
    return sum(-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts)


def _times(count: int | None, times: int | None) -> int | None:
    return None if count is None or times is None else count * times


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
