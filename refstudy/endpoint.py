"""JSON over HTTP with patience: what a busy or broken server does is waited out, what it refuses is final.

Invariant: the API key goes into one request header and nowhere else: no object keeps it, no message shows it, no redirect takes it
along. One connection a request, so that an answer that comes late or twice is never read as the answer to another request.
"""

import email.utils
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any

from refstudy.errors import ModelError, RequestError, ServerAway

LONGEST_BACKOFF_S = 30.0
LONGEST_WAIT_S = 300.0
"""A server that asks for a longer pause than this is not waited for."""
LARGEST_ANSWER = 2**28
"""Bytes of an answer at most."""
SHOWN = 200
"""Characters of a server's own words in a message."""
OF_REQUEST = (400, 413, 422)
"""Refusals of one request for what stands in it."""

KEPT = "then run the sweep again: what is scored is kept"

Body = dict[str, Any]


class Pace:
    """At most so many requests a minute, evenly spaced, whichever threads send them."""

    def __init__(self, per_minute: float) -> None:
        self._gap_s = 60.0 / per_minute
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> bool:
        """Waits for this request's turn; False if `stop` is set before."""
        with self._lock:
            turn_s = max(time.monotonic(), self._next_s)
            self._next_s = turn_s + self._gap_s
        return not stop.wait(turn_s - time.monotonic()) if turn_s > time.monotonic() else True


@dataclass(frozen=True)
class Endpoint:
    """One URL that takes JSON and answers JSON."""

    url: str
    timeout_s: float
    """Seconds from the request to the last byte of its answer."""
    retries: int
    key_variable: str
    """The environment variable that holds the API key; unset: requests carry none."""
    backoff_s: float = 0.5
    """The pause before the first repetition, at most; it doubles with each."""
    jitter: Callable[[], float] = random.random
    """Draws the share of the pause that is taken, so that clients that failed together do not return together."""
    expected: str = "a completions server"
    needs: str = "the text must fit into its context, and its completions take token ids as prompt"
    """What a request that is refused as such has to meet."""
    fault: Callable[[Body], str | None] = lambda answer: None
    """What an answer lacks, in words; None if nothing. A faulty one is asked for again."""
    pace: Pace | None = None
    """Which requests of this process share a rate; None: there is no limit."""

    def post(self, body: Body, stop: threading.Event) -> Body:
        """The JSON object that the server answers to `body`; once `stop` is set, a failed request is not sent again.

        ModelError if the server refuses the request (RequestError: this one, whatever it does with others), ServerAway after
        `retries` repetitions of what may pass: 429, 500 to 504, silence, a cut connection, an answer that is no JSON or is faulty.
        """
        data = json.dumps(body).encode()
        attempt = 0
        while isinstance(outcome := self._attempt(data, stop), _Failure):
            if outcome.final or attempt == self.retries or stop.wait(self._pause_s(outcome, attempt)):
                times = f", {attempt + 1} times" if attempt else ""
                kind = RequestError if outcome.of_request else ModelError if outcome.final else ServerAway
                raise kind(f"{self.url} {outcome.what}{times}; {outcome.remedy}")
            attempt += 1
        return outcome

    def without_key(self, text: str) -> str:
        """The text with the API key taken out, should a server have put it there."""
        key = _key(self.key_variable)
        return text.replace(key, "[API key]") if key else text

    def _attempt(self, data: bytes, stop: threading.Event) -> "Body | _Failure":
        if self.pace is not None and not self.pace.wait(stop):
            return _Failure("was not asked any more", "see the failure before it", final=True)
        key = _key(self.key_variable)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            return self._decoded(self._exchange(urllib.request.Request(self.url, data, headers)), key)
        except urllib.error.HTTPError as error:
            with error:
                return self._refusal(error, key)
        except TimeoutError:
            return self._silence()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return self._silence()
            words = _shown(str(reason) or type(reason).__name__, key)
            return _Failure(f"cannot be reached or broke off ({words})", f"start the server or mend base_url, {KEPT}")

    def _exchange(self, request: urllib.request.Request) -> bytes:
        """The answer's bytes; a socket's timeout begins anew with each of them, so the whole time is watched here."""
        end = time.monotonic() + self.timeout_s
        read = b""
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_s) as answer:
            while part := answer.read1(2**16):
                read += part
                if time.monotonic() > end:
                    raise TimeoutError
                if len(read) > LARGEST_ANSWER:
                    raise http.client.HTTPException(f"an answer of more than {LARGEST_ANSWER:,} bytes")
        return read

    def _refusal(self, error: urllib.error.HTTPError, key: str) -> "_Failure":
        what = f"answered {error.code}{_words(_body(error), key)}"
        if error.code == 429 or 500 <= error.code <= 504:
            remedy = "lower the entry's concurrency" if error.code == 429 else "look into the server's log"
            wait_s = _retry_after_s(error.headers.get("Retry-After"))
            if wait_s is not None and wait_s > LONGEST_WAIT_S:
                return _Failure(f"{what} and asks for a pause of {wait_s:,.0f} s", f"wait, {KEPT}", final=True)
            return _Failure(what, f"{remedy} or raise its retries, {KEPT}", wait_s=wait_s)
        match error.code:
            case 401 | 403:
                remedy = f"put the server's API key into the environment variable {self.key_variable}"
            case 404:
                remedy = "mend the entry's base_url (such as http://127.0.0.1:8000/v1) or model"
            case code if code < 400:
                remedy = "expected no redirect: let base_url name the place itself"
            case _:
                remedy = f"mend what it names: {self.needs}"
        return _Failure(what, remedy, final=True, of_request=error.code in OF_REQUEST)

    def _decoded(self, answer: bytes, key: str) -> "Body | _Failure":
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            begins = _shown(answer[:SHOWN].decode(errors="replace"), key)
            return _Failure(f"answered no JSON object (it begins {begins})", f"expected {self.expected}: mend base_url, {KEPT}")
        fault = self.fault(value)
        if fault is None:
            return value
        return _Failure(f"answered {fault}{_words(answer, key)}", f"expected {self.expected}: look into the server's log, {KEPT}")

    def _silence(self) -> "_Failure":
        remedy = f"raise the entry's timeout_s or lower its concurrency, {KEPT}"
        return _Failure(f"gave no whole answer within {self.timeout_s:g} s", remedy)

    def _pause_s(self, failure: "_Failure", attempt: int) -> float:
        """Exponential backoff with full jitter; on top of the pause that the server asks for, if it asks."""
        backoff_s = min(LONGEST_BACKOFF_S, self.backoff_s * 2**attempt) * self.jitter()
        return backoff_s + (failure.wait_s or 0.0)


def endpoint(base_url: str, path: str, timeout_s: float, retries: int, key_variable: str, backoff_s: float = 0.5) -> Endpoint:
    """The endpoint `path` under `base_url`; ModelError if that is no http address or carries a password."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
        usable = plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ModelError(f"base_url {base_url[:SHOWN]!r} is no address of a server; expected one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ModelError(
            f"base_url of the server {parts.hostname} carries a user, a password or a query; expected an address without: "
            f"put the API key into the environment variable {key_variable}"
        )
    return Endpoint(f"{base_url.rstrip('/')}/{path}", timeout_s, retries, key_variable, backoff_s)


def fetch(
    at: Endpoint, concurrency: int, keys: Iterable[str], request: Callable[[str], Body], stop: threading.Event
) -> Iterator[tuple[str, Callable[[], Body]]]:
    """(key, what gives the server's answer or raises why there is none) in the order in which they come, `concurrency` of them
    under way. Nothing more is sent once `stop` is set, nor after the caller leaves."""
    waiting = iter(keys)
    under_way: dict[Future[Body], str] = {}
    with ThreadPoolExecutor(concurrency, thread_name_prefix="server") as pool:
        try:
            while True:
                for key in () if stop.is_set() else islice(waiting, concurrency - len(under_way)):
                    under_way[pool.submit(at.post, request(key), stop)] = key
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result
        finally:
            stop.set()


@dataclass(frozen=True)
class _Failure:
    what: str
    remedy: str
    final: bool = False
    of_request: bool = False
    wait_s: float | None = None
    """The pause that the server asks for."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would take the API key along to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ModelError(
            f"the environment variable {variable} holds no API key: expected ASCII characters without spaces; set it anew"
        )
    return key


def _body(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(2**16)
    except (OSError, http.client.HTTPException):
        return b""


def _words(body: bytes, key: str) -> str:
    """The server's own words as ` (...)`, out of the error object of OpenAI's form where the body is one; "" if it has none."""
    text = body.decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return f" ({_shown(value if isinstance(value, str) else text, key)})" if text.strip() else ""


def _shown(text: str, key: str) -> str:
    """Foreign text for a message: without the API key, trimmed, control characters escaped."""
    clean = " ".join((text.replace(key, "[API key]") if key else text).split())
    return repr(clean[:SHOWN] + ("..." if len(clean) > SHOWN else ""))


def _retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3); None if it says neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
