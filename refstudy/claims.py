"""Who makes an artefact now: claims as files, one living maker at a time, dead ones overtaken.

Invariant: claims of one artefact are numbered and each is created exclusively, so that of several processes that find a maker dead
exactly one takes over. A claim is there before the folder that its holder works in, and is removed after it.
"""

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy.processes import keeps, life, this_process
from refstudy.provenance import now


@dataclass(frozen=True)
class Held:
    """A claim as its file says it. Two are equal only if they are the same claim: numbers are used again, tokens are not."""

    file: Path
    number: int
    process: dict[str, Any]
    """Who holds it: pid, host, started, started_at and the claim's token; empty while the file is being written."""

    @property
    def token(self) -> str:
        return str(self.process.get("token", ""))

    def is_alive(self) -> bool:
        """Whether its process counts as alive; a claim still being written does for three beats."""
        return keeps(self.process, self.file)

    def stands(self) -> bool:
        """Whether the file still holds this claim, not a later one of the same number."""
        return content(self.file) == self.process

    def remove(self) -> None:
        if self.stands():
            self.file.unlink(missing_ok=True)


class Claims:
    """The claims on the artefacts of one root folder, and the folders in which their holders work."""

    def __init__(self, root: Path) -> None:
        self._files, self._folders = root / "claims", root / "making"

    def of(self, name: str) -> list[Held]:
        """The claims on the artefact `<kind>-<id>`, the newest last; those released while they are read are left out."""
        found = []
        for file in self._files.glob(f"{name}.*.json"):
            number = file.name.split(".")[-2]
            if number.isdigit() and (process := content(file)) is not None:
                found.append(Held(file, int(number), process))
        return sorted(found, key=lambda each: each.number)

    def take(self, name: str) -> Held | None:
        """A new claim on the artefact, what dead makers left being removed; None if a living process has it.

        Between the look at the claims and the creation of our own, another process may have taken over, given up and freed a
        number for a third. So the claims are looked at again: unless they are those seen before and our own, ours is dropped.
        """
        self._files.mkdir(parents=True, exist_ok=True)
        before = self.of(name)
        if before and before[-1].is_alive():
            return None
        own = created(self._files, name, before[-1].number + 1 if before else 1)
        if own is None:
            return None
        if self.of(name) != [*before, own]:
            own.remove()
            return None
        self._clear_folders(name)
        for dead in before:
            dead.remove()
        return own

    def clear_dead(self) -> int:
        """Removes claims and working folders of processes of this host that are dead; returns how many claims are left."""
        left = 0
        for name in {file.name.split(".")[0] for file in self._files.glob("*.json")}:
            claims = self.of(name)
            if not claims:
                continue  # released since they were listed
            if life(claims[-1].process) != "dead":
                left += 1
            elif taken := self.take(name):  # so that nobody begins in the folders that are cleared
                taken.remove()
        return left

    def _clear_folders(self, name: str) -> None:
        """Removes working folders without a living claim.

        The folders are listed first: a claim is there before its folder and is removed after it.
        """
        folders = list(self._folders.glob(f"{name}.*"))
        alive = {each.token for each in self.of(name) if each.is_alive()}
        for folder in folders:
            if folder.name.rpartition("-")[2] not in alive:
                shutil.rmtree(folder, ignore_errors=True)


def created(folder: Path, name: str, number: int) -> Held | None:
    """A claim of this process in a new file; None if that number is taken."""
    held = Held(folder / f"{name}.{number}.json", number, {**this_process(), "started_at": now(), "token": uuid.uuid4().hex[:8]})
    try:
        handle = os.open(held.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(held.process, out)
    return held


def content(file: Path) -> dict[str, Any] | None:
    """The JSON object in `file`, empty if it holds none; None if there is no such file."""
    try:
        return read_object(file)
    except FileNotFoundError:
        return None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; empty if it holds none, FileNotFoundError if there is none."""
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
