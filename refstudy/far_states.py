"""Saved states of a training beside a store at an address, so that another machine goes on from them.

Invariant: a state is there once its manifest is, which is written last. What lies there is not trusted: names, sizes and terms are
looked at before anything is fetched, the state's own seal before it is used, and what fails is passed over with its reason.

    partial/<kind>-<id>.training/<state>/<file>
    partial/<kind>-<id>.training/<state>.json      names the files with their sizes, and what the training follows from

States are put there by a thread, one at a time over one connection, while training goes on. They go once the training is published,
or all is made that only it could give; the next run of a sweep removes those of its cells that need none any more, and of any
training that nobody has gone on with for `store.STATES_KEPT_S`.
"""

import json
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from refstudy.objects import Entry, Objects

KEPT = 2
"""So many states stay there, as on a disk: the last, and the one before it."""
STATE = re.compile(r"step-(\d{9,18})-[0-9a-f]{8}")
FILE = re.compile(r"[A-Za-z0-9_]{1,64}(\.\d{5})?\.(json|safetensors)")
"""The only names of files that are fetched: none leads out of a folder, none is of a kind that runs code."""
MANIFEST_BYTES = 2**20
THREADS = 8


class FarStates:
    """The states of one training at an address."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects, self._prefix = objects, prefix
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waits: tuple[Path, str] | None = None
        self._sends: Path | None = None
        self._ends = False
        self._there: list[str] = []
        """The states that were brought from there or put there, the last ones first to be kept."""
        self._fault: str | None = None
        self._is_told = False
        self.took_s = math.inf
        """Seconds that the last state was on its way; infinity while none is there."""

    def send(self, state: Path, terms: str) -> None:
        """Puts a saved state there while the caller goes on; of states that wait for another one's end only the newest is."""
        with self._lock:
            self._waits = (state, terms)
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="states", daemon=True)
                self._thread.start()

    def fault(self) -> str | None:
        """Why a state could not be put there, in words; told once, until one could be again."""
        with self._lock:
            fault, self._fault = self._fault, None
            return fault

    def in_use(self) -> set[Path]:
        """The folders that are yet to be read here."""
        with self._lock:
            return {each for each in (self._sends, self._waits and self._waits[0]) if each is not None}

    def bring(
        self, folder: Path, terms: str, above: int, fault: Callable[[Path], str | None]
    ) -> tuple[tuple[Path, int] | None, list[str]]:
        """Puts the newest state of the same terms into `folder`, if there is one of a later step than `above`: (where it lies now
        and its step, what is wrong with those passed over).

        `fault` says what is wrong with one that was fetched. StoreError if the store cannot be read: to begin again from an earlier
        step would cost more than to fail here.
        """
        entries = {each.key.removeprefix(f"{self._prefix}/"): each for each in self._objects.below(f"{self._prefix}/")}
        faults: list[str] = []
        for state, step in _newer(entries, above):
            why = self._bring(state, entries, folder, terms, fault)
            if why is None:
                self._there = [state]
                return (folder / state, step), faults
            faults.append(f"{state}: {why}")
        return None, faults

    def stop(self) -> None:
        """Puts nothing there any more; waits for the file that is under way."""
        with self._lock:
            self._ends, self._waits, thread = True, None, self._thread
        if thread is not None:
            thread.join()
        self._ends = False

    def clear(self) -> None:
        """Removes all that is there. StoreError if the store is out of reach."""
        self.stop()
        self._there = []
        self._remove_others()

    def _send_all(self) -> None:
        while True:
            with self._lock:
                if self._waits is None or self._ends:
                    self._thread = self._sends = None
                    return
                (self._sends, terms), self._waits = self._waits, None
            try:
                self._send(self._sends, terms)
            except Exception as error:  # whatever it is, training goes on
                with self._lock:
                    if not self._is_told:
                        self._fault, self._is_told = str(error), True

    def _send(self, state: Path, terms: str) -> None:
        begun = time.monotonic()
        sizes = {each.name: each.stat().st_size for each in sorted(state.iterdir())}
        for name in sizes:
            if self._ends:
                return
            self._objects.upload(state / name, f"{self._prefix}/{state.name}/{name}", alone=True)
        self._objects.write(f"{self._prefix}/{state.name}.json", json.dumps({"terms": terms, "files": sizes}).encode())
        self.took_s, self._is_told = time.monotonic() - begun, False
        self._there = [*self._there, state.name][-KEPT:]
        self._remove_others()

    def _remove_others(self) -> None:
        """Removes all but the states that are to stay: manifests first, so that none names what is gone."""
        for entry in sorted(self._objects.below(f"{self._prefix}/"), key=lambda each: each.key.count("/")):
            if _state_of(entry.key.removeprefix(f"{self._prefix}/")) not in self._there:
                self._objects.remove(entry.key)

    def _bring(
        self, state: str, entries: dict[str, Entry], folder: Path, terms: str, fault: Callable[[Path], str | None]
    ) -> str | None:
        """Why a state cannot be had; None once it is in the folder."""
        sizes = self._sizes(entries.get(f"{state}.json"), terms)
        if isinstance(sizes, str):
            return sizes
        for name, size in sizes.items():
            there = entries.get(f"{state}/{name}")
            if there is None or there.size != size:
                return f"{name} is lost" if there is None else f"{name} has {there.size} bytes instead of {size}"
        making = folder / f".{uuid.uuid4().hex}"
        try:
            making.mkdir(parents=True)
            if sum(sizes.values()) > shutil.disk_usage(making).free:
                return f"it has {sum(sizes.values()):,} bytes, for which the disk has no room"
            with ThreadPoolExecutor(THREADS) as pool:
                found = pool.map(lambda name: self._objects.download(f"{self._prefix}/{state}/{name}", making / name), sizes)
                if not all(found):
                    return "it was removed meanwhile"
            why = fault(making)
            if why is None:
                shutil.rmtree(folder / state, ignore_errors=True)  # torn, or it would not have been asked for
                os.rename(making, folder / state)
            return why
        except OSError as error:
            return f"it cannot be written here ({error.strerror})"
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _sizes(self, manifest: Entry | None, terms: str) -> dict[str, int] | str:
        """Bytes of a state's files by name, or why it is not to be fetched."""
        found = None if manifest is None or manifest.size > MANIFEST_BYTES else self._objects.read(manifest.key)
        if found is None:
            return "it was not put there whole"
        try:
            said = json.loads(found.body)
            sizes, follows = dict(said["files"]), said["terms"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return "its manifest is torn"
        strange = [name for name, size in sizes.items() if not FILE.fullmatch(name) or type(size) is not int or size < 0]
        if strange:
            return f"its manifest names {strange[0][:80]!r}, which is no file of a state"
        return sizes if follows == terms else "it is of a training under other settings or versions"


def _newer(entries: dict[str, Entry], above: int) -> list[tuple[str, int]]:
    """The states of which something is there, of later steps than `above`, with their steps, the newest first."""
    found = {state: STATE.fullmatch(state) for state in map(_state_of, entries)}
    steps = {state: int(match[1]) for state, match in found.items() if match is not None}
    return sorted(((state, step) for state, step in steps.items() if step > above), key=lambda each: each[::-1], reverse=True)


def _state_of(key: str) -> str:
    return key.split("/")[0].removesuffix(".json")
