"""States of a training on disk: enough to go on from a step as if nothing had happened.

Invariant: a state appears by one rename, after every byte of it is on the disk. It is safetensors and JSON and nothing else, so
reading one runs no code; what lies there and is not whole, to the hash, is passed over.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from refstudy import disk
from refstudy.errors import TrainingError

STATE, SEAL = "state.json", "seal.json"
KEPT = 2
"""So many states lie there: the last, and the one before it in case the last is damaged."""
FILE_BYTES = 2**31
"""Tensors of one file; writing holds a second copy of as much in memory."""


@dataclass(frozen=True)
class Kept:
    """What something that a training changes needs to go on."""

    values: Mapping[str, Any]
    """JSON."""
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A whole state on disk."""

    folder: Path
    step: int

    def part(self, name: str) -> Kept:
        """What `write` was given under that name; its tensors lie on the CPU."""
        values = json.loads((self.folder / STATE).read_bytes())["parts"][name]
        files = sorted(self.folder.glob(f"{name}.*.safetensors"))
        return Kept(values, {key: tensor for file in files for key, tensor in load_file(file).items()})


def write(folder: Path, step: int, terms: str, parts: Mapping[str, Kept], more: Mapping[str, str]) -> Saved:
    """The state of `parts` in a folder of its own below `folder`, and `more` texts by file name beside it.

    `terms` says in words what the training follows from. TrainingError if the disk refuses; nothing of the state is left then.
    """
    making = folder / f".{uuid.uuid4().hex}"
    target = folder / f"step-{step:09d}-{making.name[1:9]}"
    try:
        making.mkdir(parents=True)
        for name, kept in parts.items():
            _write_tensors(making, name, kept.tensors)
        state = {"step": step, "terms": terms, "parts": {name: kept.values for name, kept in parts.items()}}
        for name, text in {**more, STATE: json.dumps(state)}.items():
            (making / name).write_text(text, encoding="utf-8")
        (making / SEAL).write_text(json.dumps({each.name: disk.sha256(each) for each in sorted(making.iterdir())}))
        for each in (*making.iterdir(), making):
            disk.sync(each)
        os.rename(making, target)
        disk.sync(folder)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the state of training at step {step} cannot be saved: {_reason(error)}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Saved(target, step)


def newest(folder: Path, terms: str) -> tuple[Saved | None, list[str]]:
    """The newest whole state below `folder` that was written under the same terms, and what is wrong with those passed over."""
    faults: list[str] = []
    for each in sorted(folder.glob("step-*"), reverse=True):
        found = _read(each, terms)
        if isinstance(found, Saved):
            return found, faults
        faults.append(f"{each.name}: {found}")
    return None, faults


def fault(folder: Path, terms: str) -> str | None:
    """What is wrong with the state in a folder; None if it is whole and was written under the same terms."""
    found = _read(folder, terms)
    return None if isinstance(found, Saved) else found


def remove_others(folder: Path, but: list[Saved], in_use: Collection[Path] = ()) -> None:
    """Removes all that lies in `folder` beside the last KEPT of these states and those in use, and the folder if nothing stays."""
    stays = {*(each.folder for each in but[-KEPT:]), *in_use}
    for each in _entries(folder):
        if each not in stays:
            shutil.rmtree(each, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read(folder: Path, terms: str) -> Saved | str:
    """The state in a folder, or why it is none."""
    try:
        sealed = json.loads((folder / SEAL).read_bytes())
        files = {each.name: each for each in folder.iterdir()}  # a name under the seal may lead elsewhere
        torn = [name for name, sha256 in sealed.items() if disk.sha256(files[name]) != sha256]
        if torn or STATE not in sealed:
            return f"{(torn or [STATE])[0]} is torn"
        if strange := files.keys() - {SEAL, *sealed}:
            return f"{min(strange)} is not under its seal"
        state = json.loads((folder / STATE).read_bytes())
        if state["terms"] != terms:
            return "it is of a training under other settings or versions"
        return Saved(folder, int(state["step"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "it is torn"


def _write_tensors(folder: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    for number, part in enumerate(_in_files(tensors)):
        save_file(part, folder / f"{name}.{number:05d}.safetensors")


def _in_files(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors in groups of about FILE_BYTES, each with memory of its own on the CPU, as safetensors wants it."""
    part: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        part[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size += tensor.numel() * tensor.element_size()
        if size >= FILE_BYTES:
            yield part
            part, size = {}, 0
    if part:
        yield part


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
