"""Log-probs of given text by a completions server: how a model that runs elsewhere becomes a reference.

Invariant: a server is trusted after it has been checked, and checked anew in each pass. What can be known without the weights: a
token that the server draws has the log-prob that it tells when it draws it, so the same token, given back as text, must score the
same. A server that is off by a token, or that scores with other weights than it draws with, fails. Tokens are ours, so that sums
are exact.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refstudy import chat, partial_scores, passes, recipes
from refstudy.chat import Turn
from refstudy.endpoint import Endpoint, endpoint, fetch
from refstudy.errors import ModelError
from refstudy.measurement import Emit, Measurement, silent
from refstudy.partial_scores import Kept
from refstudy.passes import Text
from refstudy.server_form import Vocabulary, generation_request, read_generation, read_scores, scoring_request
from refstudy.tables import PairTable
from refstudy.token_pairs import TokenPair

MEDIAN_NATS = 0.05
"""Drawn and given tokens' log-probs differ by this much in the middle at most; bf16 servers by about a hundredth."""
LARGEST_NATS = 0.5
"""And nowhere by more than this."""
TELLING_NATS = 2 * LARGEST_NATS
"""Neighbours differ by this much somewhere in a check that would notice a shift by one token."""
CHECK_TOKENS = 32
DRAWN_TOKENS = 16
CHECK_DRAWS = 32
"""A check draws `DRAWN_TOKENS` so many times at most, each after another prompt if there are enough, until `CHECK_TOKENS` are
compared and would tell."""


@dataclass(frozen=True)
class Check:
    """How well the server agrees with itself."""

    tokens: int
    median_nats: float
    """Difference between the log-prob of a token drawn and of the same token given."""
    largest_nats: float


def score_pairs(
    served: recipes.Server, tokenizer: chat.Tokenizer, pairs: list[TokenPair], partial: Path, emit: Emit = silent
) -> tuple[PairTable, dict[str, Any]]:
    """(the served model's table over the pairs, rows in their order; what is worth knowing about its making).

    Scores are kept beside `partial` as they come in; what is there already is not asked again.
    """
    texts = passes.pair_texts(tokenizer, pairs, served.tokenizer.system_role)
    with partial_scores.kept(partial, texts) as kept:
        summary = {"texts_resumed": kept.resumed, **score_missing(served, tokenizer, texts, kept, emit)}
        return passes.pair_table(pairs, texts, kept.of(texts)), {"tokens_scored": passes.token_count(texts), **summary}


def check(served: recipes.Server, tokenizer: chat.Tokenizer, turns: list[Turn]) -> Check:
    """How well the server agrees with itself after the prompts of `turns`, before it is asked for a table; ModelError if it does
    not, or cannot be reached."""
    texts = {partial_scores.key(turn): Text(f"text {place}", turn) for place, turn in enumerate(turns, 1)}
    return _Client(served, Vocabulary(tokenizer)).check(texts, {})


def score_missing(
    served: recipes.Server, tokenizer: chat.Tokenizer, texts: list[Text], kept: Kept, emit: Emit = silent
) -> dict[str, Any]:
    """Adds to `kept` the scores that it lacks, each as soon as it is there; returns how well the server agreed with itself.

    ModelError if the server fails the check, refuses a text, or gives up. After the first failure nothing new is asked; what is
    under way is waited for and kept, then the failure is raised.
    """
    if kept.is_whole:
        return {}
    by_key = {partial_scores.key(text.turn): text for text in texts}
    client = _Client(served, Vocabulary(tokenizer))
    check = client.check(by_key, kept.logps)
    failure: ModelError | None = None
    first = {tuple(text.turn.prompt_ids): place for place, text in reversed(list(enumerate(texts)))}
    missing = [key for key in by_key if key not in kept.logps]
    missing.sort(key=lambda key: first[tuple(by_key[key].turn.prompt_ids)])  # a server that caches beginnings reads each once
    for key, fetched in client.fetch(missing, lambda key: client.scoring(by_key[key].turn)):
        try:
            kept.add(key, client.answer_logps(fetched(), by_key[key].turn))
        except ModelError as error:
            failure = failure or client.named(error, by_key[key].name)
            client.stop.set()
            continue
        emit(Measurement("score", len(kept.logps), len(by_key), {}))
    if failure is not None:
        raise failure
    return {"check_tokens": check.tokens, "check_median_nats": check.median_nats, "check_largest_nats": check.largest_nats}


class _Client:
    """A server under one recipe: sends requests, a few at once, and reads their answers."""

    def __init__(self, served: recipes.Server, vocabulary: Vocabulary) -> None:
        self.served = served
        self.vocabulary = vocabulary
        self.stop = threading.Event()
        """Set: nothing new is asked, and what failed is not asked again."""
        self._endpoint: Endpoint = endpoint(served.base_url, "completions", served.timeout_s, served.retries, served.key_variable)

    def scoring(self, turn: Turn) -> dict[str, Any]:
        return scoring_request(self.served.form, self.served.model, turn.prompt_ids + turn.answer_ids)

    def answer_logps(self, answer: dict[str, Any], turn: Turn) -> np.ndarray:
        """float64 nats of each of the answer's tokens, out of a server's answer to `scoring(turn)`."""
        logps = read_scores(self.served.form, answer, turn.prompt_ids + turn.answer_ids, self.vocabulary)
        return logps[len(logps) - len(turn.answer_ids) :]

    def fetch(
        self, keys: list[str], request: Callable[[str], dict[str, Any]]
    ) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """(key, what gives the server's answer or raises why there is none) in the order in which they come, `concurrency` of
        them under way. Nothing more is sent once `stop` is set, nor after the caller leaves."""
        return fetch(self._endpoint, self.served.concurrency, keys, request, self.stop)

    def check(self, texts: dict[str, Text], known: dict[str, np.ndarray]) -> Check:
        """How well the server agrees with itself, and with one text that an earlier pass has scored; ModelError if it does not."""
        drawn, given, compared = [], [], []
        for seed, text in enumerate(_spread(list(texts.values()), CHECK_DRAWS)):
            ids, logps = self._draw(text, seed)
            if not ids:
                continue
            scored = self._score(Text(f"the check's text {seed + 1}", Turn(text.turn.prompt_ids, ids)))
            drawn.append(logps)
            given.append(scored)
            compared += np.abs(logps - scored).tolist()
            if len(compared) >= CHECK_TOKENS and _tells(drawn):
                break
        if len(compared) < CHECK_TOKENS // 4 or not _tells(drawn):
            raise self._unchecked(len(compared))
        check = Check(len(compared), float(np.median(compared)), max(compared))
        if check.median_nats > MEDIAN_NATS or check.largest_nats > LARGEST_NATS:
            raise self._untrue(check, _shift(drawn, given))
        self._check_known(texts, known)
        return check

    def named(self, error: ModelError, text: str) -> ModelError:
        return type(error)(f"{self._name()}, {text}: {error}")

    def _draw(self, text: Text, seed: int) -> tuple[list[int], np.ndarray]:
        """A continuation of the text's prompt by the server itself."""
        body = generation_request(self.served.form, self.served.model, text.turn.prompt_ids, DRAWN_TOKENS, seed)
        try:
            return read_generation(self._endpoint.post(body, self.stop), self.vocabulary)
        except ModelError as error:
            raise self.named(error, f"checked on the prompt of {text.name}") from error

    def _score(self, text: Text) -> np.ndarray:
        try:
            return self.answer_logps(self._endpoint.post(self.scoring(text.turn), self.stop), text.turn)
        except ModelError as error:
            raise self.named(error, text.name) from error

    def _check_known(self, texts: dict[str, Text], known: dict[str, np.ndarray]) -> None:
        for key in list(known)[:1]:
            now = np.abs(self._score(texts[key]) - known[key])
            if np.median(now) > MEDIAN_NATS or now.max() > LARGEST_NATS:
                raise ModelError(
                    f"{self._name()} scores {texts[key].name} otherwise than in the pass that was cut off, by up to "
                    f"{now.max():.2f} nats a token; expected the same model: serve it again, or give the entry another `revision`"
                )

    def _unchecked(self, tokens: int) -> ModelError:
        return ModelError(
            f"{self._name()} cannot be checked: of what it drew itself only {tokens} tokens could be told, or all of them were "
            f"certain; expected {CHECK_TOKENS} tokens with their log-probs (`logprobs`) and `temperature` 1: use a server that "
            "draws at that temperature and names tokens as the entry's tokenizer does, such as vLLM"
        )

    def _untrue(self, check: Check, shift: int) -> ModelError:
        place = {0: "", 1: ": they stand one token too late", -1: ": they stand one token too early"}[shift]
        return ModelError(
            f"{self._name()} gives {check.tokens} tokens that it drew itself other log-probs as text, by {check.median_nats:.2f} "
            f"nats in the middle and up to {check.largest_nats:.2f}{place}; expected at most {MEDIAN_NATS} and {LARGEST_NATS}: "
            f"its log-probs of given text (`form: {self.served.form}`) are not to be trusted: try the other form, another version "
            "of the server or vLLM, served without sampling settings of its own (`--generation-config vllm`)"
        )

    def _name(self) -> str:
        return f"server {self.served.base_url} (model {self.served.model!r})"


def _spread(texts: list[Text], count: int) -> list[Text]:
    """`count` texts, evenly spread over all; some of them again where there are fewer."""
    return [texts[place] for place in np.linspace(0, len(texts) - 1, count).round().astype(int)]


def _tells(drawn: list[np.ndarray]) -> bool:
    """Whether log-probs shifted by one place would be noticed."""
    return any(len(row) > 1 and np.abs(np.diff(row)).max() > TELLING_NATS for row in drawn)


def _shift(drawn: list[np.ndarray], given: list[np.ndarray]) -> int:
    """By how many places the log-probs of given text stand late: 1 or -1 if that explains them, else 0."""
    for shift, early, late in ((1, slice(None, -1), slice(1, None)), (-1, slice(1, None), slice(None, -1))):
        apart = [np.abs(said[early] - scored[late]) for said, scored in zip(drawn, given, strict=True)]
        if np.median(np.concatenate(apart)) <= MEDIAN_NATS:
            return shift
    return 0
