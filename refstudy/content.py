"""The content of files as a hash, by which data files and local checkpoints stand in recipes.

Invariant: equal hashes mean equal bytes of everything that can change a result; where the files lie is no part of it.
"""

import hashlib
import os
from pathlib import Path

from refstudy import disk
from refstudy.errors import DataError, ModelError

LARGE_BYTES = 64 * 2**20
"""From this size on a file's hash is remembered beside its size and time of change: 14 GB of weights take half a minute to read."""

WEIGHTS, PICKLED = "*.safetensors", "*.bin"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
RESULT_FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "*.jinja",
)
"""What transformers and peft read of a checkpoint folder, weights apart; logs, optimizer states and model cards stand outside."""


def content_hash(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    file = Path(path)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise DataError(f"data file {file} {found}; expected a JSONL, JSON, CSV or Parquet file: check the path")
    try:
        return _remembered_sha256(file) if file.stat().st_size >= LARGE_BYTES else disk.sha256(file)
    except OSError as error:
        raise DataError(f"data file {file} cannot be read: {error.strerror}") from error


def checkpoint_hash(folder: str | Path) -> str:
    """The sha256 over names and bytes of a checkpoint's configuration, weights, tokenizer and template, as 64 digits.

    Refuses with ModelError a folder that is no checkpoint: without configuration, without safetensors weights, or (adapters
    apart, which have their base's) without a tokenizer.
    """
    path = Path(folder)
    files = _checkpoint_files(path)
    names = {file.name for file in files}
    if "config.json" not in names and "adapter_config.json" not in names:
        raise ModelError(f"{path} is no checkpoint: it has no config.json or adapter_config.json; give the folder that holds them")
    if not any(file.match(WEIGHTS) for file in files):
        raise ModelError(_no_weights(path))
    if "adapter_config.json" not in names and not names.intersection(TOKENIZERS):
        raise ModelError(
            f"checkpoint {path} has no tokenizer; expected tokenizer.json: save it there with `tokenizer.save_pretrained`"
        )
    lines = [f"{file.name} {content_hash(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tokenizer_hash(folder: str | Path) -> str:
    """The sha256 over the tokenizer's and template's files of a folder, weights or none; ModelError without a tokenizer."""
    path = Path(folder)
    patterns = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "*.jinja")
    files = sorted({file for pattern in patterns for file in path.glob(pattern)}, key=lambda file: file.name)
    if not {file.name for file in files}.intersection(TOKENIZERS):
        raise ModelError(f"{path} has no tokenizer; expected tokenizer.json: save it there with `tokenizer.save_pretrained`")
    return hashlib.sha256("".join(f"{file.name} {content_hash(file)}\n" for file in files).encode()).hexdigest()


def folder_hash(folder: str | Path) -> str:
    """The sha256 over the relative names and bytes of all files below a data folder (hidden ones apart), as 64 digits."""
    path = Path(folder)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = [(file.relative_to(path).as_posix(), file) for file in files]
    lines = [f"{name} {content_hash(file)}\n" for name, file in names if not any(part.startswith(".") for part in name.split("/"))]
    if not lines:
        raise DataError(f"data folder {path} holds no files; expected a dataset's files")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _checkpoint_files(folder: Path) -> list[Path]:
    """The folder's own files that change what the model computes, by name."""
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise ModelError(
            f"checkpoint {folder} {found}; expected a folder with config.json, weights and a tokenizer: check the path"
        )
    weights = list(folder.glob(WEIGHTS))
    others = [file for pattern in RESULT_FILES for file in folder.glob(pattern)]
    return sorted({*weights, *others}, key=lambda file: file.name)


def _no_weights(folder: Path) -> str:
    if any(folder.glob(PICKLED)):
        return (
            f"checkpoint {folder} has its weights in .bin files, which can run code when read; expected safetensors: convert them "
            "once with `model.save_pretrained(folder)` of transformers (or peft), which writes safetensors"
        )
    return f"checkpoint {folder} has no weights; expected model.safetensors (or its shards) beside its configuration"


def _remembered_sha256(file: Path) -> str:
    """`disk.sha256`, read again only when path, size, time of change or inode differ from those it was computed for."""
    state = file.stat()
    key = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    memory = _memory() / hashlib.sha256(key.encode()).hexdigest()
    try:
        if len(known := memory.read_text()) == 64:
            return known
    except OSError:
        pass  # not remembered yet
    digest = disk.sha256(file)
    _remember(memory, digest)
    return digest


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refstudy" / "content"


def _remember(memory: Path, digest: str) -> None:
    """Writes beside and renames; a cache folder that cannot be written costs time, never a result."""
    beside = memory.with_suffix(f".{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(digest)
        beside.replace(memory)
    except OSError:
        return
