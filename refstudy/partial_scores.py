"""Scores on their way into a table, kept line by line, so that half a pass is never lost.

Invariant: a line is whole or passed over. Each pass, or worker of a pass, writes a file of its own into the table's folder, which
outlives it and is removed once the table is published; each score stands under the hash of exactly the tokens that were scored.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from refstudy.chat import Turn
from refstudy.passes import Text
from refstudy.tables import ROUNDING_NATS


class Kept:
    """The scores of a pass by `key`: those of earlier passes that answer its texts, and what it adds."""

    def __init__(self, folder: Path | None, texts: Iterable[Text]) -> None:
        self._folder = folder
        self._out: IO[str] | None = None
        self.lengths = {key(text.turn): len(text.turn.answer_ids) for text in texts}
        """Answer tokens of each text that is asked for."""
        found = {} if folder is None else read(folder)
        self.logps = {name: row for name, row in found.items() if self.lengths.get(name) == len(row)}
        self.resumed = len(self.logps)
        """Texts that an earlier pass has scored."""

    @property
    def is_whole(self) -> bool:
        return len(self.logps) == len(self.lengths)

    def add(self, name: str, logps: np.ndarray) -> None:
        """Keeps one score; it is in the operating system's hands when this returns."""
        self.logps[name] = logps
        if self._folder is None:
            return
        if self._out is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._out = open(self._folder / f"{uuid.uuid4().hex}.jsonl", "x", encoding="utf-8")  # noqa: SIM115 - closed by `kept`
        self._out.write(json.dumps({"key": name, "logps": logps.tolist()}) + "\n")
        self._out.flush()

    def of(self, texts: Iterable[Text]) -> list[np.ndarray]:
        """The token log-probs in nats of each text, all of which must be there."""
        return [self.logps[key(text.turn)] for text in texts]

    def close(self) -> None:
        if self._out is not None:
            self._out.close()


@contextmanager
def kept(folder: Path | None, texts: Iterable[Text]) -> Iterator[Kept]:
    """The scores of a pass over `texts`, kept in `folder`; in memory alone without one."""
    scores = Kept(folder, texts)
    try:
        yield scores
    finally:
        scores.close()


def key(turn: Turn) -> str:
    """The hash of a prompt's and its answer's tokens."""
    return hashlib.sha256(json.dumps([turn.prompt_ids, turn.answer_ids]).encode()).hexdigest()


def read(folder: Path) -> dict[str, np.ndarray]:
    """The answer's token log-probs in nats by `key`, as far as whole lines of the folder's files hold them; empty without one."""
    rows = (_row(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_bytes().split(b"\n"))
    return dict(row for row in rows if row is not None)


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
