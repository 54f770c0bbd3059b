"""What is worth keeping of work half done, line by line, so that half a pass is never lost.

Invariant: a line is a whole JSON object or passed over. A journal is a folder in which each pass writes a file of its own, so that
several processes may add at once.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects of the whole lines of all passes; none without a folder."""
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_bytes().split(b"\n"):
            row = _object(line)
            if row is not None:
                yield row


@contextmanager
def adding(folder: Path) -> Iterator[IO[str]]:
    """A new file of the journal, for `add`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{uuid.uuid4().hex}.jsonl", "x", encoding="utf-8") as out:
        yield out


def add(out: IO[str], row: dict[str, Any]) -> None:
    """Appends one object; it is in the operating system's hands when this returns."""
    out.write(json.dumps(row) + "\n")
    out.flush()


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
