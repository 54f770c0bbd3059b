"""Artefacts as objects: made on one machine, there for all, whole or absent.

Invariant: an artefact is there once its manifest is, which is created last, by one maker only. Each maker writes its files into a
folder of its own, so that what a killed or beaten one left is never mixed with what the manifest names.

    manifests/<kind>-<id>.json            names the files with sizes and sha256, and their folder
    artefacts/<kind>-<id>/<folder>/...
    claims/<kind>-<id>.json               who makes it, written anew at every beat
    partial/<kind>-<id>....jsonl.<at>     what is worth keeping of a half-made one: pieces, and the byte at which each begins
    partial/<kind>-<id>.training/...      states of its training: see `far_states`

What a judge has said stays on its machine until a cell's verdicts are whole: it is kept for all cells, and each machine would have
to fetch all of it. A machine that dies costs what was asked for its cells under way.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from refstudy import copies, disk, processes
from refstudy.errors import StoreError
from refstudy.far_states import FarStates
from refstudy.objects import Entry, Found, Objects
from refstudy.processes import life, this_process
from refstudy.provenance import now

MANIFEST = "manifest.json"
FOLDER = "folder"
"""The manifest's entry that names the artefact's folder."""
THREADS = 8
FRESH_S = 2.0
"""How old a list of all manifests may be that is asked instead of the store."""
FEW = 16
"""So many questions in so short a time, and the list is read instead: a plan asks for thousands of artefacts."""


class Held:
    """A claim in the store, this process' own until it is removed or taken over."""

    def __init__(self, objects: Objects, key: str, body: bytes, etag: str) -> None:
        self._objects, self._key, self._body, self._etag = objects, key, body, etag
        self._lock, self._is_removed = threading.Lock(), False
        self.token = str(json.loads(body)["token"])
        """What tells this claim, and its maker's files, from all others."""

    def beat(self) -> None:
        """A sign of life; FileNotFoundError if the claim was taken over, OSError if the store is out of reach."""
        with self._lock:
            try:
                etag = self._objects.replace(self._key, self._body, self._etag)
            except StoreError as error:
                raise OSError(str(error)) from error
            if etag is None:
                raise FileNotFoundError(self._key)
            self._etag = etag

    def remove(self) -> None:
        """Frees the artefact; where the store is out of reach the claim stays, and counts as dead after three beats."""
        with self._lock, contextlib.suppress(StoreError):
            if not self._is_removed:
                self._objects.remove(self._key, self._etag)
                self._is_removed = True


class Depot:
    """The artefacts of a store of objects, and this machine's copies of them below `root`."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self.root, self._objects = root, objects
        self._etags: dict[str, str] = {}
        """Of the manifests that are known to be there."""
        self._listed_at = self._asked_since = -float("inf")
        self._asked = 0
        self._sent: dict[Path, int] = {}
        """Bytes of each partial file that the store has."""
        self._keeping = threading.Lock()
        self._states: dict[str, FarStates] = {}

    def has(self, name: str) -> bool:
        """Whether the artefact is there."""
        if name not in self._etags and time.monotonic() - self._listed_at > FRESH_S:
            self._ask(name)
        return name in self._etags

    def bring(self, name: str, folder: Path) -> bool:
        """Makes `folder` the artefact's copy, checked by its manifest; False if the store does not have it.

        StoreError if its objects are lost or damaged: it then counts as absent, and the next run makes it again.
        """
        if not self.has(name):
            return False
        if _etag(folder) == self._etags[name] and _is_whole(folder):
            return True
        found = self._objects.read(_manifest(name))
        faults: list[str] = []
        for _ in range(2):  # it may be made again while it is read
            if found is None:
                self._etags.pop(name, None)
                return False
            self._etags[name] = found.entry.etag
            if _content(folder) == found.body and _is_whole(folder):
                return True
            faults = self._download(name, found, folder)
            if not faults:
                return True
            found = self._objects.read(_manifest(name))
        raise self._taken_back(name, found, faults)

    def publish(self, name: str, folder: Path, token: str, target: Path) -> bool:
        """Whether the sealed folder became the artefact, and `target` its copy: not, if another maker's is there already."""
        manifest = json.loads((folder / MANIFEST).read_bytes()) | {FOLDER: token}
        content = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        (folder / MANIFEST).write_bytes(content)
        place = f"artefacts/{name}/{token}"
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda each: self._objects.upload(folder / each, f"{place}/{each}"), manifest["files"]))
            etag = self._objects.create(_manifest(name), content)
        except StoreError:
            with contextlib.suppress(StoreError):
                self._clear(f"{place}/")
            raise
        if etag is not None:
            self._etags[name] = etag
            _put(folder, target, self.root / "torn")
        if name in self._states:
            self._states[name].stop()
        with contextlib.suppress(StoreError):  # litter of makers that were killed or beaten
            self._clear(f"artefacts/{name}/", except_for=f"{place}/") if etag else self._clear(f"{place}/")
            self._clear(f"partial/{name}.")
        for file in (self.root / "partial").glob(f"{name}.*jsonl"):
            file.unlink(missing_ok=True)  # or the claim's last beat brings it back
        return etag is not None

    def claim(self, name: str) -> Held | None:
        """The right to make the artefact; None while another living process has it. A dead one's is taken over."""
        process = {**this_process(), "started_at": now(), "token": uuid.uuid4().hex[:8]}
        key, body = _claim(name), json.dumps(process).encode()
        etag = self._objects.create(key, body)
        if etag is None:
            found = self._objects.read(key)
            if found is None or _is_alive(found):
                return None
            etag = self._objects.replace(key, body, found.entry.etag)
        if etag is None:
            return None
        self._listed_at = self._asked_since = -float("inf")  # what was made until now must be seen from here on
        return Held(self._objects, key, body, etag)

    def holder(self, name: str) -> dict[str, Any] | None:
        """The living process that makes the artefact now; None if there is none."""
        found = self._objects.read(_claim(name))
        return _process(found) if found is not None and _is_alive(found) else None

    def clear_dead(self) -> int:
        """Removes claims of processes that count as dead; returns how many claims are left."""
        left = 0
        for entry in list(self._objects.below("claims/")):
            found = self._objects.read(entry.key)
            if found is not None and not _is_alive(found):
                self._objects.remove(entry.key, found.entry.etag)
            elif found is not None:
                left += 1
        return left

    def bring_partial(self, name: str) -> None:
        """Reads what other machines have of a half-made artefact. Such files only grow: the longer one is the later."""
        pieces: dict[Path, list[Entry]] = {}
        for entry in self._objects.below(f"partial/{name}.", deep=False):
            key, _, at = entry.key.rpartition(".")
            if key.endswith("jsonl") and at.isdecimal():
                pieces.setdefault(self.root / key, []).append(entry)
        with self._keeping:
            for file, found in pieces.items():
                self._bring_pieces(file, found)

    def keep_partial(self, name: str) -> None:
        """Puts into the store the lines by which a half-made artefact grew here; a store out of reach costs this alone."""
        with self._keeping, contextlib.suppress(StoreError, OSError):
            for file in sorted((self.root / "partial").glob(f"{name}.*jsonl")):
                sent = self._sent.get(file, 0)
                with open(file, "rb") as opened:
                    opened.seek(sent)
                    grown = opened.read()
                lines = grown[: grown.rfind(b"\n") + 1]
                if lines:
                    self._objects.write(f"{file.relative_to(self.root).as_posix()}.{sent:015d}", lines)
                    self._sent[file] = sent + len(lines)

    def states(self, name: str) -> FarStates:
        """The saved states of the artefact's training."""
        return self._states.setdefault(name, FarStates(self._objects, f"partial/{name}.training"))

    def trainings(self) -> dict[str, float]:
        """The names of the artefacts of whose training states lie there, with the seconds since the last was put there."""
        found: dict[str, float] = {}
        for entry in self._objects.below("partial/"):
            name, ending, _ = entry.key.removeprefix("partial/").partition(".training/")
            if ending and "/" not in name:
                found[name] = min(entry.age_s, found.get(name, entry.age_s))
        return found

    def _bring_pieces(self, file: Path, pieces: list[Entry]) -> None:
        """Makes a file of its pieces, in their order and as far as they follow on each other, unless there is more of it here."""
        follow, end = list[Entry](), 0
        for each in pieces:
            at = int(each.key.rpartition(".")[2])
            if at == end:
                follow.append(each)
                end += each.size
            elif at > end:
                break  # one before it is lost
        if end > (file.stat().st_size if file.exists() else 0):
            with ThreadPoolExecutor(THREADS) as pool:
                found = list(pool.map(lambda each: self._objects.read(each.key), follow))
            there = found[: found.index(None)] if None in found else found  # one was removed since the list was made
            whole = b"".join(each.body for each in there if each is not None)
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
            temporary.write_bytes(whole)
            os.replace(temporary, file)
            end = len(whole)
        self._sent[file] = end

    def _ask(self, name: str) -> None:
        """Looks for one manifest, or, after many questions, for all."""
        clock = time.monotonic()
        if clock - self._asked_since > FRESH_S:
            self._asked_since, self._asked = clock, 0
        self._asked += 1
        if self._asked > FEW:
            found: list[Entry | None] = list(self._objects.below("manifests/"))
            self._listed_at = clock
        else:
            found = [self._objects.look(_manifest(name))]
        self._etags |= {_name(each.key): each.etag for each in found if each is not None}

    def _download(self, name: str, manifest: Found, folder: Path) -> list[str]:
        """Makes `folder` the copy of what a manifest names; what is wrong with its objects, in words, leaves it as it was."""
        making = self.root / "making" / f"fetch.{name}.{uuid.uuid4().hex[:8]}"
        _clear_old(making.parent, f"fetch.{name}.*")
        try:
            making.mkdir(parents=True)
            try:
                said = json.loads(manifest.body)
                files, place = dict(said["files"]), f"artefacts/{name}/{said[FOLDER]}"
                with ThreadPoolExecutor(THREADS) as pool:
                    found = pool.map(lambda each: self._fetched(f"{place}/{each[0]}", making, *each), files.items())
                    faults = [fault for fault in found if fault]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                return ["its manifest is torn"]
            if not faults:
                (making / MANIFEST).write_bytes(manifest.body)
                _put(making, folder, self.root / "torn")
            return faults
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _fetched(self, key: str, making: Path, name: str, about: dict[str, Any]) -> str | None:
        """What is wrong with an object that was to become the file `name` in the folder `making`; None if nothing is."""
        file = making / name
        if not file.resolve().is_relative_to(making.resolve()):
            return f"{name} leads out of the artefact's folder"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not self._objects.download(key, file):
            return f"{name} is lost"
        size = file.stat().st_size
        if size != about["size"]:
            return f"{name} has {size} bytes instead of {about['size']}"
        return None if disk.sha256(file) == about["sha256"] else f"{name} has other bytes than were written"

    def _taken_back(self, name: str, manifest: Found | None, faults: list[str]) -> StoreError:
        """The error for a damaged artefact, whose manifest is removed, so that it counts as absent."""
        where = f"{self._objects.url}/artefacts/{name}"
        if manifest is not None:
            self._objects.remove(_manifest(name), manifest.entry.etag)
        self._etags.pop(name, None)
        return StoreError(f"{where} is damaged: {'; '.join(faults[:3])}; it is given up: run the sweep again, which makes it anew")

    def _clear(self, prefix: str, except_for: str | None = None) -> None:
        found = [each.key for each in self._objects.below(prefix)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._objects.remove, [key for key in found if except_for is None or not key.startswith(except_for)]))


def no_replacing() -> StoreError:
    """Why what is finished is never made anew here: other machines may read it at this moment."""
    return StoreError(
        "what is finished cannot be made anew in a store on s3://, where other machines may read it; expected a --store on a path "
        "(`refstudy trial --again` works there), or another --results and --store"
    )


def of(root: Path) -> Depot | None:
    """The depot whose copies lie in a store's folder, one a process; None for a store on a path."""
    found = copies.of(root)
    return _depot(root, found[0]) if found is not None and not found[1] else None


@functools.cache
def _depot(root: Path, objects: Objects) -> Depot:
    return Depot(root, objects)


def _manifest(name: str) -> str:
    return f"manifests/{name}.json"


def _name(key: str) -> str:
    return key.removeprefix("manifests/").removesuffix(".json")


def _claim(name: str) -> str:
    return f"claims/{name}.json"


def _process(claim: Found) -> dict[str, Any]:
    try:
        value = json.loads(claim.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_alive(claim: Found) -> bool:
    """Whether the claim's process counts as alive: for certain on this host, else by its last beat."""
    known = life(_process(claim))
    return known == "alive" if known != "unknown" else claim.entry.age_s < processes.MISSED_BEATS * processes.BEAT_S


def _content(folder: Path) -> bytes | None:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def _etag(folder: Path) -> str | None:
    """The etag that the copy's manifest has in a store which names objects by their MD5, as most do."""
    content = _content(folder)
    return None if content is None else f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _is_whole(folder: Path) -> bool:
    """Whether each file of the copy has the size that the manifest gives."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        return all((folder / name).stat().st_size == about["size"] for name, about in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _put(source: Path, target: Path, torn: Path) -> None:
    """Renames a whole folder into its place; one that another process of this machine put there meanwhile stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not (_content(target) == _content(source) and _is_whole(target)):
        torn.mkdir(parents=True, exist_ok=True)
        away = torn / f"{target.parent.name}-{target.name}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, away)
        shutil.rmtree(away, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rename(source, target)
    if not _is_whole(target):
        raise StoreError(f"{target} cannot be written; free space, or name another folder for copies with {copies.CACHE}")


def _clear_old(folder: Path, pattern: str, older_than_s: float = 3600.0) -> None:
    """Removes what downloads of killed processes left."""
    for each in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > older_than_s:
                shutil.rmtree(each, ignore_errors=True)
