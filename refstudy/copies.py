"""Folders of this machine that stand for addresses of an object store (s3://BUCKET/PATH), so that all else works on paths.

Two kinds: a results folder is this process' own copy, read anew where `refresh` is called, and what is written by `write` stands in
the store before it stands here. The store of artefacts has a folder that all processes of the machine share, as a cache; `depot`
fills it. Invariant: for every other path each function here does nothing, at once.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from refstudy.errors import StoreError
from refstudy.objects import Entry, Objects, checked, is_url
from refstudy.processes import host, life, this_process

CACHE = "REFSTUDY_CACHE"
"""The variable that names the folder for copies; default ~/.cache/refstudy."""
THREADS = 16
LARGE = (".html", ".md")
"""Endings of files that are written for people: they are never read back."""
OWN = ("cells", "runs", "imported", "wandb")
"""Folders of a results folder whose files are written one by one."""

_copies: dict[Path, Objects] = {}
"""The folders of this process that stand for addresses."""
_etags: dict[Path, str] = {}
"""What a file's object was when it was last read or written here."""
_digests: dict[Path, str] = {}
"""What a file held then."""
_lock = threading.RLock()
"""A file and its object change together: a sign of life must never bring an older content back."""


def results_folder(location: str | Path) -> Path:
    """The folder for a sweep's results at a path or an address, which it stands for from now on."""
    if not is_url(location):
        return Path(location)
    url = checked(str(location))
    found = _folder_of(url)
    if found is not None:
        return found
    folder = Path(tempfile.mkdtemp(prefix=f"{_owner()}.", dir=_cache("results"))) / url.rpartition("/")[2]
    folder.mkdir()
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    _clear_dead(folder.parent.parent)
    _copies[folder] = Objects(url)
    return folder


def existing(location: str | Path) -> Path:
    """As `results_folder`, with what stands in the folder itself read."""
    folder = results_folder(location)
    refresh(folder, deep=False)
    return folder


def store_root(location: str | Path) -> Path:
    """The folder for the artefacts at a path or an address; for an address one that this machine keeps."""
    if not is_url(location):
        return Path(location)
    url = checked(str(location))
    root = _cache("store") / url.removeprefix("s3://")
    _copies.setdefault(root, Objects(url))
    return root


def beside(folder: Path, name: str) -> Path:
    """The store's folder of that name beside a results folder."""
    place = location(folder)
    return store_root(f"{place.rpartition('/')[0]}/{name}") if is_url(place) else folder.parent / name


def refuse_unsafe(folder: Path) -> None:
    """StoreError for a folder that stands for an address whose server cannot keep claims apart."""
    found = of(folder)
    if found is not None:
        found[0].refuse_without_conditions()


def here(place: str) -> Path:
    """The path in this process for what `location` told in another one; the folder it lies in must be known here."""
    if not is_url(place):
        return Path(place)
    for folder, objects in _copies.items():
        if place == objects.url or place.startswith(f"{objects.url}/"):
            return folder / place.removeprefix(objects.url).lstrip("/")
    raise StoreError(f"{place} lies in no folder that this process has opened")


def location(path: Path) -> str:
    """The path's name for people and other machines: an address where it stands for one."""
    found = of(path)
    return str(path) if found is None else f"{found[0].url}/{found[1]}".rstrip("/")


def in_words(text: str) -> str:
    """The text with addresses in place of the folders that stand for them."""
    for folder, objects in _copies.items():
        text = text.replace(str(folder), objects.url)
    return text


def of(path: Path) -> tuple[Objects, str] | None:
    """(the objects, the key) that a path stands for; None for a path that stands for itself."""
    for folder, objects in _copies.items():
        if path.is_relative_to(folder):
            return objects, "" if path == folder else path.relative_to(folder).as_posix()
    return None


def write(path: Path, content: bytes, hasty: bool = False) -> None:
    """Puts into the store what is about to be written to the path."""
    found = of(path)
    if found is not None:
        with _lock:
            _etags[path] = (found[0].hastily() if hasty else found[0]).write(found[1], content)
            _digests[path] = _digest(content)


@contextlib.contextmanager
def writing(path: Path, content: bytes, hasty: bool = False) -> Iterator[None]:
    """Puts into the store what the block then writes to the path; a sign of life comes before both or after."""
    if of(path) is None:
        yield
        return
    with _lock:
        write(path, content, hasty)
        yield


def touch(path: Path) -> None:
    """A sign of life for a file that is kept by a heartbeat; OSError if the store is out of reach."""
    with _lock:
        os.utime(path)
        try:
            if of(path) is not None:
                write(path, path.read_bytes())
        except StoreError as error:
            raise OSError(str(error)) from error


def remove(path: Path) -> None:
    """Removes a file, and its object."""
    found = of(path)
    with _lock:
        path.unlink(missing_ok=True)
        if found is not None:
            _etags.pop(path, None)
            found[0].remove(found[1])


def remove_folder(folder: Path) -> None:
    """Removes a folder with all that it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    found = of(folder)
    if found is not None:
        for entry in list(found[0].below(f"{found[1]}/")):
            found[0].remove(entry.key)


def refresh_file(path: Path, hasty: bool = False) -> None:
    """Brings one file to what the store has now."""
    found = of(path)
    if found is None:
        return
    objects = found[0].hastily() if hasty else found[0]
    with _lock:
        entry = objects.look(found[1])
        if entry is None:
            path.unlink(missing_ok=True)
        else:
            _bring(objects, path, entry)


def refresh(folder: Path, deep: bool = True, hasty: bool = False) -> None:
    """Brings a folder to what the store has now, what was removed there too; without `deep` the files in it alone.

    A file's time becomes that of its object, so that signs of life can be told from it.
    """
    found = of(folder)
    if found is None:
        return
    objects, key = found[0].hastily() if hasty else found[0], found[1]
    with _lock:
        entries = {
            folder / each.key.removeprefix(key).lstrip("/"): each
            for each in objects.below(f"{key}/" if key else "", deep)
            if not each.key.endswith(LARGE)
        }
        for path in list(folder.rglob("*") if deep else folder.glob("*")):
            if path.is_file() and path not in entries and path in _etags:
                path.unlink(missing_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda each: _bring(objects, *each), entries.items()))


def push(folder: Path) -> None:
    """Puts the files of a folder into the store that changed here; of a results folder not those that are written one by one."""
    if of(folder) is None:
        return
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    written = [folder / name for name in OWN]
    chosen = [path for path in files if not any(path.is_relative_to(each) for each in written)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_send, [path for path in chosen if not path.name.startswith(".")]))


def folders(folder: Path) -> set[str]:
    """The names of the folders that the store has in a folder; none for a path that stands for itself."""
    found = of(folder)
    return set() if found is None else set(found[0].folders(f"{found[1]}/" if found[1] else ""))


def _send(path: Path) -> None:
    found = of(path)
    assert found is not None
    digest = _digest(path.read_bytes())
    if _digests.get(path) != digest:
        found[0].upload(path, found[1])
        _digests[path] = digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bring(objects: Objects, path: Path, entry: Entry) -> None:
    """Reads an object unless the file has it already."""
    if _etags.get(path) != entry.etag or not path.exists():
        found = objects.read(entry.key)
        if found is None:
            return  # removed since it was listed
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
        temporary.write_bytes(found.body)
        entry, _etags[path], _digests[path] = found.entry, found.entry.etag, _digest(found.body)
        _age(temporary, entry)
        os.replace(temporary, path)
    else:
        _age(path, entry)


def _age(path: Path, entry: Entry) -> None:
    then = time.time() - entry.age_s
    with contextlib.suppress(FileNotFoundError):
        os.utime(path, (then, then))


def _folder_of(url: str) -> Path | None:
    return next((folder for folder, objects in _copies.items() if objects.url == url and folder.parent.exists()), None)


def _cache(part: str) -> Path:
    """The folder of this machine for copies of one kind."""
    named = os.environ.get(CACHE)
    folder = (Path(named) if named else Path.home() / ".cache" / "refstudy").absolute() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}; name a folder for copies with {CACHE}") from error
    return folder


def _owner() -> str:
    """This process, in a folder's name; hosts that share a cache are told apart."""
    process = this_process()
    return f"{_host()}-{process['pid']}-{process['started']}"


def _host() -> str:
    return hashlib.sha256(host().encode()).hexdigest()[:12]


def _clear_dead(results: Path) -> None:
    """Removes the copies of processes of this host that are dead."""
    for folder in results.glob(f"{_host()}-*"):
        _, pid, started = folder.name.partition(".")[0].split("-")
        if pid.isdigit() and started.isdigit():
            process = {**this_process(), "pid": int(pid), "started": int(started)}
            if life(process) == "dead":
                shutil.rmtree(folder, ignore_errors=True)
