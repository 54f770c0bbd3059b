"""Whether one reference can score one policy's pairs, and what is known of it before it does.

Invariant: nothing is raised that is a fault of one reference: it is listed, so that all faults are told at once. Nothing is
trained, and nothing is written.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from refstudy import chat, checkpoints, composed, cost, data, memory, models, plan, recipes, renderings, scoring, server
from refstudy.artefacts import read_pairs
from refstudy.chat import Turn
from refstudy.errors import DataError, ModelError, RefstudyError, TableError
from refstudy.identity import fingerprint
from refstudy.outlines import Outline, outline
from refstudy.renderings import Cut, Read, Sample
from refstudy.store import Store
from refstudy.texts import Pair
from refstudy.token_pairs import TokenPair

T = TypeVar("T")

SERVER_PATIENCE_S = 30.0
"""How long a check waits for a server's answer; a run has the entry's own patience."""
SERVER_PROMPTS = 32

MADE_FIRST = "is made first, by `refstudy run` or `validate --score`"

RELATIONS = {
    "same": "the policy's tokenizer and template: log-probs of each token, and the shares of its signal by place, are possible",
    "same vocabulary": "the policy's vocabulary under another template: whole answers are compared, tokens are not",
    "other": "another tokenizer than the policy's: whole answers are compared, which is all that DPO needs; tokens cannot be",
}


@dataclass(frozen=True)
class Known:
    """What is known of one scorer over one policy's pairs; None where it does not apply or cannot be known yet."""

    parameters: int | None = None
    vocabulary: str | None = None
    template: str | None = None
    """kept: every answer tried stands in the rendering as it is; probe: tried on a probe alone; refused."""
    pairs_checked: int = 0
    longest_tokens: int | None = None
    context_tokens: int | None = None
    memory_bytes: int | None = None
    tokens_per_pair: float | None = None
    remarks: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """What a policy trains on, as far as it is known."""

    originals: list[Pair] | None
    """None: not made yet, or out of reach."""
    cut: Cut | None
    refusals: tuple[str, ...] = ()


class Checks:
    """What is known of policies and scorers of one sweep; each thing is looked at once."""

    def __init__(self, store: Store, names: dict[str, str] | None = None) -> None:
        """`names`: what the sweep file calls a scorer, by its id."""
        self.store = store
        self._names = names or {}
        self._found: dict[tuple[str, ...], Any] = {}

    def outline(self, model: recipes.Model) -> Outline | str:
        """What is known of a model, or why it cannot be used."""

        def found() -> Outline | str:
            try:
                made = outline(model, self.store, self.pairs)
                chat.end_of_turn(made.tokenizer)  # the template on a probe
                return made
            except ModelError as error:
                return str(error)

        return self._once(("outline", fingerprint(model)), found)

    def pairs(self, recipe: recipes.Preferences) -> list[Pair]:
        """The pairs of a file or dataset, read where they are not in the store."""
        made = self.store.has(recipe)
        return self._once(
            ("pairs", fingerprint(recipe)), lambda: read_pairs(recipe, self.store) if made else data.preferences(recipe).rows
        )

    def text(self, texts: recipes.TokenPairs) -> Text:
        """The policy's pairs, cut as it trains on them."""
        return self._once(("text", fingerprint(texts)), lambda: self._text(texts))

    def scorer(self, scorer: recipes.Scorer, texts: recipes.TokenPairs) -> Known:
        """What is known of a scorer over the policy's pairs."""
        return self._once(("scorer", fingerprint(scorer), fingerprint(texts)), lambda: self._scorer(scorer, texts))

    def name(self, scorer: recipes.Scorer) -> str:
        """The sweep file's name of a scorer, else what it is in words."""
        return self._names.get(fingerprint(scorer)) or plan.title(scorer)

    def _once(self, key: tuple[str, ...], find: Callable[[], T]) -> T:
        if key not in self._found:
            self._found[key] = find()
        found: T = self._found[key]
        return found

    def _text(self, texts: recipes.TokenPairs) -> Text:
        try:
            originals = self._originals(texts.pairs)
        except DataError as error:
            if isinstance(texts.pairs, recipes.Preferences) and _is_remote(texts.pairs):
                return Text(None, None, (str(error),))
            raise
        policy = self.outline(texts.policy)
        if originals is None or isinstance(policy, str):
            return Text(originals, None)
        chosen = renderings.sample(originals, renderings.special_texts(policy.tokenizer))
        cut = renderings.cut(chosen, policy.tokenizer, texts.max_length, texts.system, policy.system_role)
        drop = isinstance(texts.pairs, recipes.Preferences) and texts.pairs.unusable == "drop"
        tried = len(chosen.spread) + len(chosen.awkward)
        faults = [cut.refused] if drop and cut.rows else [cut.refused, cut.too_long]
        return Text(originals, cut, tuple(_counted(each, tried) for each in faults if each))

    def _originals(self, pairs: recipes.MiniaturePairs | recipes.Preferences) -> list[Pair] | None:
        if isinstance(pairs, recipes.Preferences):
            return self.pairs(pairs)
        return read_pairs(pairs, self.store) if self.store.has(pairs) else None

    def _scorer(self, scorer: recipes.Scorer, texts: recipes.TokenPairs) -> Known:
        match scorer:
            case recipes.Constant():
                return Known(remarks=("the same for every answer: the reward is beta log p(answer | prompt), the posterior",))
            case recipes.Column():
                return self._columns(scorer, texts)
            case recipes.Server():
                return self._server(scorer, texts)
            case recipes.Prior():
                return self._prior(scorer, texts)
            case recipes.Mixture(parts=parts):
                return self._made_of([part.scorer for part in parts], texts)
            case recipes.Derived(of=of, own=own):
                return self._made_of([of, own], texts)
            case recipes.Dpo(table=table):
                return _joined(self._model(scorer, texts), self._made_of([table.scorer], texts, "trained against"))
            case _:
                return self._model(scorer, texts)

    def _model(self, model: recipes.Model, texts: recipes.TokenPairs, blank: str | None = None) -> Known:
        found = self.outline(model)
        if isinstance(found, str):
            return Known(parameters=self._size_by_name(model), template="refused", refusals=(found,))
        rounding = (model.quantise or model.precision) if isinstance(model, recipes.Rounded) else "fp32"
        weight = memory.ROUNDED_BYTES[rounding]
        known = Known(
            parameters=found.shape.parameters,
            context_tokens=found.shape.context_tokens,
            memory_bytes=memory.scoring_bytes(found.shape, scoring.BATCH_TOKENS, scoring.LOGIT_VALUES, weight),
            remarks=() if found.is_made else (f"{plan.title(model)} {MADE_FIRST}",),
        )
        known = self._reads(known, found.tokenizer, found.system_role, texts, blank)
        longest, context = known.longest_tokens, found.shape.context_tokens
        if longest is not None and context is not None and longest > context:
            too_long = (
                f"a text has {longest:,} tokens in its tokenizer, more than its context of {context:,}; lower train.max_length, "
                "or use a reference with a longer context"
            )
            return replace(known, refusals=(*known.refusals, too_long))
        return known

    def _reads(
        self, known: Known, tokenizer: Any, role: checkpoints.SystemRole, texts: recipes.TokenPairs, blank: str | None = None
    ) -> Known:
        """`known`, and what the tokenizer makes of the policy's pairs."""
        policy, text = self.outline(texts.policy), self.text(texts)
        relation = None if isinstance(policy, str) else renderings.relation(policy.tokenizer, tokenizer)
        if text.cut is None:
            known = replace(known, template="probe")
            return replace(known, vocabulary=relation) if blank is not None else _related(known, relation)
        read = renderings.read(text.cut, tokenizer, role, None if blank is None else lambda _: _asked(blank))
        if relation == "same" and blank is None and not read.refused and not read.as_policy:
            relation = "same vocabulary"  # a system message is written in another place
        known = replace(
            known,
            template="refused" if read.refused else "kept",
            pairs_checked=read.pairs,
            longest_tokens=read.longest_tokens,
            tokens_per_pair=read.tokens_per_pair,
            refusals=(*known.refusals, *_refusals(read)),
        )
        return replace(known, vocabulary=relation) if blank is not None else _related(known, relation)

    def _size_by_name(self, model: recipes.Model) -> int | None:
        """Parameters of a model whose configuration cannot be read: by a size in its name."""
        try:
            return cost.parameters(model, self.store)
        except ModelError:
            return None

    def _prior(self, prior: recipes.Prior, texts: recipes.TokenPairs) -> Known:
        known = self._model(prior.model, texts, prior.prompt)
        asked = repr(prior.prompt) if prior.prompt else "an empty prompt"
        return replace(known, remarks=(f"log p(answer) under {self.name(prior.model)} after {asked}", *known.remarks))

    def _server(self, served: recipes.Server, texts: recipes.TokenPairs) -> Known:
        try:
            at = checkpoints.tokenizer(served.tokenizer)
            tokenizer = models.load_tokenizer(at)
            chat.end_of_turn(tokenizer)
        except ModelError as error:
            return Known(template="refused", refusals=(str(error),))
        known = self._reads(Known(), tokenizer, at.system_role, texts)
        if self.store.has(recipes.Table(scorer=served, texts=texts)):
            return replace(known, remarks=(*known.remarks, "its table is made: the server was not asked"))
        if known.refusals:
            return replace(known, remarks=(*known.remarks, "the server was not asked: its text is refused"))
        cut = self.text(texts).cut
        asked = [row.messages for row in cut.rows[:SERVER_PROMPTS]] if cut else [chat.PROBE]
        turns = [Turn(chat.prompt_ids(tokenizer, messages, system_role=at.system_role), []) for messages in asked]
        try:
            impatient = replace(served, timeout_s=min(served.timeout_s, SERVER_PATIENCE_S), retries=0)
            agreed = server.check(impatient, tokenizer, turns)
        except ModelError as error:
            return replace(known, refusals=(str(error),))
        said = f"gives {agreed.tokens} tokens the log-probs that it drew them with, {agreed.largest_nats:.2g} nats apart at most"
        return replace(known, remarks=(*known.remarks, f"{served.base_url} answers, and {said}"))

    def _columns(self, column: recipes.Column, texts: recipes.TokenPairs) -> Known:
        text = self.text(texts)
        known = Known(remarks=("that its numbers are about the text that is trained cannot be checked",))
        try:
            rows = data.read_source(column.source)
            if text.originals is None or text.cut is None:
                _check_named(rows, column)
                return replace(known, remarks=(*known.remarks, "whether every pair has a row is known once the pairs are made"))
            pairs = self._all_rows(text.originals, text.cut, texts)
            text_of = partial(data.pair_text, recipe=texts.pairs)
            composed.from_columns(rows, column.chosen, column.rejected, column.pair_id, text_of, text.originals, pairs)
        except RefstudyError as error:
            return replace(known, refusals=(str(error),))
        return replace(known, pairs_checked=len(pairs), remarks=(f"{len(pairs):,} of {len(pairs):,} pairs joined", *known.remarks))

    def _all_rows(self, originals: list[Pair], cut: Cut, texts: recipes.TokenPairs) -> list[TokenPair]:
        """All pairs as the policy trains on them: a file must have a row for each, not for a sample."""
        policy = self.outline(texts.policy)
        if len(cut.rows) + len(cut.too_long) + len(cut.refused) == len(originals) or isinstance(policy, str):
            return cut.rows
        whole = Sample(originals, [])
        return renderings.cut(whole, policy.tokenizer, texts.max_length, texts.system, policy.system_role).rows

    def _made_of(self, scorers: list[recipes.Scorer], texts: recipes.TokenPairs, verb: str = "made of") -> Known:
        """What follows for a reference from those that it is made of."""
        named = [(self.name(each), each, self.scorer(each, texts)) for each in scorers]
        ready = {True: "table ready", False: "table to make"}
        said = [f"{title} ({ready[self.store.has(recipes.Table(scorer=each, texts=texts))]})" for title, each, _ in named]
        return Known(
            remarks=(f"{verb} {' and '.join(said)}",),
            refusals=tuple(f"{title}: {refusal}" for title, _, known in named for refusal in known.refusals),
        )


def _asked(prompt: str) -> list[dict[str, str]]:
    """The conversation that stands in every prompt's place."""
    return [{"role": "user", "content": prompt}]


def _related(known: Known, relation: renderings.Relation | None) -> Known:
    return known if relation is None else replace(known, vocabulary=relation, remarks=(RELATIONS[relation], *known.remarks))


def _joined(model: Known, parts: Known) -> Known:
    return replace(model, remarks=(*model.remarks, *parts.remarks), refusals=(*model.refusals, *parts.refusals))


def _refusals(read: Read) -> tuple[str, ...]:
    return (_counted(read.refused, read.pairs),) if read.refused else ()


def _counted(faults: list[str], tried: int) -> str:
    """The first fault, and how many pairs have one."""
    return f"{faults[0]} ({len(faults):,} of {tried:,} pairs tried are refused)"


def _is_remote(pairs: recipes.Preferences) -> bool:
    return isinstance(pairs.source, recipes.HubData) and not pairs.source.path


def _check_named(rows: list[tuple[str, dict[str, Any]]], column: recipes.Column) -> None:
    where, values = rows[0]
    for name in (column.chosen, column.rejected, column.pair_id):
        if name is not None and name not in values:
            raise TableError(f"{where}: no column {name!r}; got {', '.join(values)}: name the right one in the reference's entry")
