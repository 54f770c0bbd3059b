"""Scores on their way into a table, kept line by line, so that half a pass is never lost.

Invariant: a line is whole or passed over; each score stands under the hash of exactly the tokens that were scored. Each pass, or
worker of a pass, writes a file of its own beside the others of its table, which outlives it and goes once the table is published.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from refstudy.chat import Turn
from refstudy.passes import Text
from refstudy.tables import ROUNDING_NATS


class Kept:
    """The scores of a pass by `key`: those of earlier passes that answer its texts, and what it adds."""

    def __init__(self, file: Path | None, texts: Iterable[Text]) -> None:
        self._file = file
        self._out: IO[str] | None = None
        self.lengths = {key(text.turn): len(text.turn.answer_ids) for text in texts}
        """Answer tokens of each text that is asked for."""
        found = {} if file is None else read(file)
        self.logps = {name: row for name, row in found.items() if self.lengths.get(name) == len(row)}
        self.resumed = len(self.logps)
        """Texts that an earlier pass has scored."""

    @property
    def is_whole(self) -> bool:
        return len(self.logps) == len(self.lengths)

    def add(self, name: str, logps: np.ndarray) -> None:
        """Keeps one score; it is in the operating system's hands when this returns."""
        self.logps[name] = logps
        if self._file is None:
            return
        if self._out is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            own = self._file.with_suffix(f".{uuid.uuid4().hex}.jsonl")
            self._out = open(own, "x", encoding="utf-8")  # noqa: SIM115 - closed by `kept`
        self._out.write(json.dumps({"key": name, "logps": logps.tolist()}) + "\n")
        self._out.flush()

    def of(self, texts: Iterable[Text]) -> list[np.ndarray]:
        """The token log-probs in nats of each text, all of which must be there."""
        return [self.logps[key(text.turn)] for text in texts]

    def close(self) -> None:
        if self._out is not None:
            self._out.close()


class Together:
    """The scores of several passes as those of one: each text is scored once, and kept for every pass that asks for it."""

    def __init__(self, passes: Sequence[Kept]) -> None:
        self._passes = passes
        names = {name for each in passes for name in each.lengths}
        self.logps = {name for name in names if all(name in each.logps for each in passes if name in each.lengths)}
        """The keys of what every pass that asks for it has."""

    def add(self, name: str, logps: np.ndarray) -> None:
        self.logps.add(name)
        for each in self._passes:
            if name in each.lengths and name not in each.logps:
                each.add(name, logps)


@contextmanager
def kept(file: Path | None, texts: Iterable[Text]) -> Iterator[Kept]:
    """The scores of a pass over `texts`, kept in files beside `file`; in memory alone without one."""
    scores = Kept(file, texts)
    try:
        yield scores
    finally:
        scores.close()


def key(turn: Turn) -> str:
    """The hash of a prompt's and its answer's tokens."""
    return hashlib.sha256(json.dumps([turn.prompt_ids, turn.answer_ids]).encode()).hexdigest()


def read(file: Path) -> dict[str, np.ndarray]:
    """The answer's token log-probs in nats by `key`, as far as whole lines of `file` and those beside it hold them."""
    files = sorted(file.parent.glob(f"{file.stem}.*jsonl"))
    rows = (_row(line) for each in files for line in _bytes(each).split(b"\n"))
    return dict(row for row in rows if row is not None)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # another maker has published the table meanwhile
        return b""


def _row(line: bytes) -> tuple[str, np.ndarray] | None:
    try:
        row = json.loads(line)
        logps = np.array(row["logps"], dtype=np.float64)
        return (row["key"], logps) if logps.ndim == 1 and is_sound(logps) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def is_sound(logps: np.ndarray) -> bool:
    """Whether all are finite numbers of nats of at most 0."""
    return bool(np.isfinite(logps).all() and (logps <= ROUNDING_NATS).all())
