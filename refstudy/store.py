"""Artefacts on disk, each in a folder named by its recipe's id: made once, whole or absent, by one process at a time.

Invariant: a folder `<kind>/<id>` with a manifest whose sizes agree is complete and never changes. It appears by one rename.
Whatever else lies there is torn: it counts as absent and is moved aside when the artefact is made again. Where the root stands for
an address, its depot says what is there, and the folders are copies.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from refstudy import claims, depot, disk
from refstudy.depot import MANIFEST
from refstudy.errors import StoreError
from refstudy.far_states import FarStates
from refstudy.identity import canonical, describe, fingerprint, kind
from refstudy.processes import Heartbeat, life, this_process
from refstudy.provenance import now, versions

RECIPE = "recipe.json"
PROCESS = "process.json"
POLL_S, FAR_POLL_S = 0.2, 1.0
NO_SPACE = os.strerror(errno.ENOSPC)
STATES_KEPT_S = 30 * 24 * 3600.0
"""A training whose last state is older is not gone on with: its cell failed for good, or is in no grid any more."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


class Claim:
    """The right to make one artefact, held until it is published or released; a context manager that releases.

    Files are written into `folder`. An exception inside the `with` block removes the folder and frees the artefact for others;
    "disk full" and "not writable" then come out as StoreError.
    """

    def __init__(self, store: "Store", recipe: Any, held: claims.Held) -> None:
        self.store = store
        self.recipe = recipe
        self.file = held.file
        self.folder = store.root / "making" / f"{_name(recipe)}.{held.number}-{held.token}"
        self.far: depot.Held | None = None
        """The claim that other machines see, where the store is an address."""
        self._held = held
        self._heartbeat = Heartbeat(self._beat)

    def release(self) -> None:
        """Gives the claim up: removes what was written and not published."""
        self._heartbeat.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.store.keep_partial(self.recipe)
        if self.far is not None:
            self.far.remove()
        self._held.remove()

    def _beat(self) -> None:
        if not self._held.stands():
            raise FileNotFoundError(self.file)  # taken over while this process slept: no sign of life in another's name
        os.utime(self.file)
        if self.far is not None:
            self.far.beat()
            self.store.keep_partial(self.recipe)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, kind_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
        if error is not None and _is_unwritable(error):
            raise _unwritable(self.store.root, error) from error


class Store:
    """The artefacts under one root folder; any number of processes and hosts may use the root at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self._depot = depot.of(self.root)
        self._claims = claims.Claims(self.root)

    def has(self, recipe: Any) -> bool:
        """Whether the artefact exists whole: its manifest parses and every file has the size that stands there."""
        if self._depot is not None:
            return self._depot.has(_name(recipe))
        return self._files(recipe) is not None

    def path(self, recipe: Any) -> Path:
        """The artefact's folder; refuses one that is absent, torn, or was made by another recipe."""
        folder = self.folder(kind(recipe), fingerprint(recipe))
        files = self._files(recipe)
        if files is None:
            state = "torn" if folder.exists() else "not in the store"
            raise StoreError(
                f"{kind(recipe)} '{fingerprint(recipe)}' is {state} ({folder}); run the sweep again: it makes what is missing"
            )
        if claims.read_object(folder / RECIPE).get("canonical") != canonical(recipe):
            raise StoreError(
                f"{folder} was made by another recipe than the one that asks for it (see its {RECIPE}); "
                "its files were changed by hand or two recipes share an id: move the folder away and run the sweep again"
            )
        return folder.resolve() if folder.is_symlink() else folder

    def folder(self, kind_: str, identity: str) -> Path:
        """Where an artefact lies by its kind and id, its copy brought up to date; whether it is there is for the caller to see."""
        folder = self.root / kind_ / identity
        if self._depot is not None and not self._depot.bring(f"{kind_}-{identity}", folder):
            shutil.rmtree(folder, ignore_errors=True)  # a copy of what is gone
        return folder

    def verify(self, recipe: Any) -> list[str]:
        """The artefact's files whose bytes differ from the manifest's sha256; reads every byte."""
        folder = self.path(recipe)
        files = self._files(recipe) or {}
        return [name for name, about in files.items() if disk.sha256(folder / name) != about["sha256"]]

    def claim(self, recipe: Any) -> Claim | None:
        """The right to make the artefact; None if it exists, or while another living process makes it.

        Claims of one artefact are numbered. A claim of a dead process is left lying and the next number is created exclusively, so
        that of several processes that find it dead exactly one takes over.
        """
        if self.has(recipe):
            return None
        try:
            return self._claim(recipe)
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def wait(self, recipe: Any, timeout_s: float | None = None) -> bool:
        """Waits while another living process makes the artefact: True once it exists, False once nobody makes it any more."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.has(recipe):
            holder = self.holder(recipe)
            if holder is None:
                return self.has(recipe)
            if end is not None and time.monotonic() > end:
                raise StoreError(
                    f"{kind(recipe)} '{fingerprint(recipe)}' is after {timeout_s:g} s still being made by process "
                    f"{holder.get('pid')} on {holder.get('host')}; wait for it, or end that process and run again"
                )
            time.sleep(POLL_S if self._depot is None else FAR_POLL_S)
        return True

    def holder(self, recipe: Any) -> dict[str, Any] | None:
        """The living process that makes the artefact now (pid, host, started, started_at); None if there is none."""
        return self._holder(_name(recipe))

    def provide(self, recipe: Any, write: Callable[[Claim], None]) -> None:
        """Publishes what `write` puts into the claim's folder, unless the artefact exists or another process makes it meanwhile."""
        while not self.has(recipe):
            claim = self.claim(recipe)
            if claim is None:
                self.wait(recipe)
                continue
            with claim:
                write(claim)
                self.publish(claim)

    def publish(self, claim: Claim) -> Path:
        """The artefact's folder, now complete and visible to all; an artefact published meanwhile by another is kept instead."""
        try:
            self._seal(claim)
            target = self._folder(claim.recipe)
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._depot is not None and claim.far is not None:
                self._depot.publish(_name(claim.recipe), claim.folder, claim.far.token, target)
            elif not self.has(claim.recipe):
                self._move_aside(target)
                _rename_unless_taken(claim.folder, target)
                disk.sync(target.parent)
        except OSError as error:
            raise _unwritable(self.root, error) from error
        finally:
            claim.release()
        self._clear_partial_here(_name(claim.recipe))
        return self.path(claim.recipe)

    def partial(self, recipe: Any) -> Path:
        """A file for what is worth keeping of an artefact half made, whoever goes on with it; several makers write beside it, with
        a word of their own before its ending. All are removed once it is published."""
        if self._depot is not None:
            self._depot.bring_partial(_name(recipe))
        return self.root / "partial" / f"{_name(recipe)}.jsonl"

    def training(self, recipe: Any) -> Path:
        """A folder for the saved states of a training, from which whoever goes on with it begins; it goes as `partial` does."""
        return self.root / "partial" / f"{_name(recipe)}.training"

    def far_training(self, recipe: Any) -> FarStates | None:
        """The states of the same training that other machines find, where the store is an address."""
        return None if self._depot is None else self._depot.states(_name(recipe))

    def clear_partial(self, recipe: Any) -> None:
        """Removes what was kept of an artefact half made; for what is made and not published."""
        self._clear_training(_name(recipe))

    def clear_states(self, done: Iterable[Any]) -> None:
        """Removes the saved states of trainings that nobody will go on with: of the recipes in `done`, which is gone through only
        if there are any states, of published artefacts, and of those that were left for STATES_KEPT_S. Whoever trains now for
        another sweep keeps its own."""
        found = {each.name.removesuffix(".training"): _age_s(each) for each in (self.root / "partial").glob("*.training")}
        if self._depot is not None:
            found |= self._depot.trainings()
        if not found:
            return
        finished = {_name(recipe) for recipe in done}
        for name, age_s in found.items():
            is_left = name in finished or age_s > STATES_KEPT_S or self._has(name)
            if is_left and self._holder(name) is None:
                self._clear_training(name)

    def keep_partial(self, recipe: Any) -> None:
        """Brings what is kept of an artefact half made to where other machines find it; a store out of reach is passed over."""
        if self._depot is not None:
            self._depot.keep_partial(_name(recipe))

    def discard(self, recipe: Any) -> None:
        """Removes the artefact, so that it will be made again when it is next needed."""
        self._remove(self._folder(recipe))

    @contextlib.contextmanager
    def aside(self, lent: Iterable[Any]) -> Iterator["Store"]:
        """A store of its own in which only the `lent` artefacts of this one are seen; it is gone after the block.

        For making anew what this store has: it lies on the same file system, so that `replace` can take what comes out well.
        """
        if self._depot is not None:
            raise depot.no_replacing()
        (self.root / "making").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="aside.", dir=self.root / "making") as folder:
            write_json(Path(folder) / PROCESS, this_process())
            other = Store(folder)
            for recipe in lent:
                link = other._folder(recipe)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(self.path(recipe), target_is_directory=True)
            yield other

    def replace(self, recipe: Any, other: "Store") -> None:
        """Moves the artefact of a store `aside` into the place of the one here."""
        target = self._folder(recipe)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.discard(recipe)
        _rename_unless_taken(other.path(recipe), target)
        disk.sync(target.parent)

    def discard_above(self, given: Iterable[Any]) -> int:
        """Removes the artefacts that were made of the given ones, directly or through others, and returns how many."""
        own = {self._folder(recipe): fingerprint(recipe) for recipe in given}
        found = []
        for file in self.root.glob(f"*/*/{RECIPE}"):
            made = file.parent.parent.name not in ("making", "torn") and file.parent not in own
            if made and any(each in file.read_text(encoding="utf-8") for each in own.values()):
                found.append(file.parent)
        for folder in found:
            self._remove(folder)
        return len(found)

    def clear_dead(self) -> int:
        """Removes claims and unfinished files of processes of this host that are dead; returns how many claims are left."""
        left = self._claims.clear_dead()
        if self._depot is not None:
            left = self._depot.clear_dead()
        for folder in (self.root / "making").glob("aside.*"):
            if life(claims.content(folder / PROCESS) or {}) == "dead":
                shutil.rmtree(folder, ignore_errors=True)
        return left

    def size_bytes(self, recipe: Any) -> int:
        """Bytes of the artefact's files; 0 if it is absent."""
        return sum(about["size"] for about in (self._files(recipe) or {}).values())

    def _holder(self, name: str) -> dict[str, Any] | None:
        if self._depot is not None:
            return self._depot.holder(name)
        held = self._claims.of(name)
        return held[-1].process if held and held[-1].is_alive() else None

    def _has(self, name: str) -> bool:
        """Whether something is published under a name."""
        return self._depot.has(name) if self._depot is not None else (self.root / name.replace("-", "/", 1) / MANIFEST).exists()

    def _clear_training(self, name: str) -> None:
        """Where the store is out of reach what lies there stays, until a run clears it."""
        if self._depot is not None:
            with contextlib.suppress(StoreError):
                self._depot.states(name).clear()
        self._clear_partial_here(name)

    def _clear_partial_here(self, name: str) -> None:
        for file in (self.root / "partial").glob(f"{name}.*jsonl"):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.root / "partial" / f"{name}.training", ignore_errors=True)

    def _folder(self, recipe: Any) -> Path:
        return self.root / kind(recipe) / fingerprint(recipe)

    def _files(self, recipe: Any) -> dict[str, dict[str, Any]] | None:
        """The manifest's files, {name: {size, sha256}}, if the artefact is whole."""
        folder = f"{self.root}/{kind(recipe)}/{fingerprint(recipe)}"
        try:
            with open(f"{folder}/{MANIFEST}", "rb") as file:
                files: dict[str, dict[str, Any]] = json.loads(file.read())["files"]
            whole = all(os.stat(f"{folder}/{name}").st_size == about["size"] for name, about in files.items())
        except PermissionError as error:
            raise StoreError(
                f"{folder} cannot be read: {error.strerror}; make it readable for this user, or choose another --store"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return files if whole and RECIPE in files else None

    def _claim(self, recipe: Any) -> Claim | None:
        held = self._claims.take(_name(recipe))
        if held is None:
            return None
        claim = Claim(self, recipe, held)
        try:
            claim.far = None if self._depot is None else self._depot.claim(_name(recipe))
            is_free = (self._depot is None or claim.far is not None) and not self.has(recipe)
        except StoreError:
            claim.release()
            raise
        if not is_free:  # made on another machine, or published between our first look and the claim
            claim.release()
            return None
        claim.folder.mkdir(parents=True)
        return claim

    def _seal(self, claim: Claim) -> None:
        """Writes recipe and manifest into the claim's folder and brings every byte to the disk."""
        write_json(claim.folder / RECIPE, {"canonical": canonical(claim.recipe), "description": describe(claim.recipe)})
        files = sorted(each for each in claim.folder.rglob("*") if each.is_file())
        listed = {
            each.relative_to(claim.folder).as_posix(): {"size": each.stat().st_size, "sha256": disk.sha256(each)} for each in files
        }
        for each in files:
            disk.sync(each)
        write_json(claim.folder / MANIFEST, {"files": listed, "made_at": now(), "versions": versions()})
        disk.sync(claim.folder / MANIFEST)
        disk.sync(claim.folder)

    def _move_aside(self, folder: Path) -> Path | None:
        """Where an artefact's folder was moved to, out of sight at once; None if there is none."""
        if not folder.exists():
            return None
        away = self.root / "torn" / f"{folder.parent.name}-{folder.name}-{uuid.uuid4().hex[:8]}"
        away.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder, away)
        return away

    def _remove(self, folder: Path) -> None:
        if away := self._move_aside(folder):
            shutil.rmtree(away, ignore_errors=True)


def _name(recipe: Any) -> str:
    return f"{kind(recipe)}-{fingerprint(recipe)}"


def _age_s(folder: Path) -> float:
    """Seconds since something last appeared in the folder."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _rename_unless_taken(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Published by another maker a moment ago: the two are equal by recipe, theirs stays.


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file of an artefact that is being made; publishing brings it to the disk."""
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _is_unwritable(error: BaseException) -> bool:
    """Whether a disk refused; writers in other languages (safetensors, pyarrow) give the reason in words only."""
    return (isinstance(error, OSError) and error.errno in UNWRITABLE) or NO_SPACE in str(error)


def _unwritable(root: Path, error: BaseException) -> StoreError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StoreError(f"the store {root} cannot be written: {reason}; free space or make it writable, or choose another --store")
