"""A finished policy as a checkpoint for use elsewhere: merged weights, tokenizer, and a model card that says what it is."""

from pathlib import Path

from refstudy import checkpoints, grid, models
from refstudy.errors import StoreError
from refstudy.grid import Cell
from refstudy.records import Record
from refstudy.store import MANIFEST, Store


def export(cell: Cell | None, record: Record, store: Store, destination: Path) -> Path:
    """The folder with a cell's policy as an ordinary checkpoint (adapters merged) and its README.md.

    `cell` None: the sweep file no longer has the cell, and its record says which policy of the store is meant.
    """
    source = _recorded(record, store) if cell is None else _kept(cell, store)
    _begin(destination)
    model, tokenizer = models.load(source, device="cpu")
    models.save(model, tokenizer, destination)
    heading = record if cell is None else {**record, **cell.row}
    (destination / "README.md").write_text(card(heading), encoding="utf-8")
    return destination


def card(record: Record) -> str:
    """The model card: what the policy was trained from and against, and what was measured."""
    measures = record.get("measures", {})
    shown = ("win_rate", "win_rate_low", "win_rate_high", "length_tokens_mean", "truncation_rate", "kl_start_nats")
    rows = "\n".join(f"| {name} | {measures[name]:.4g} |" for name in shown if measures.get(name) is not None)
    policy, reference, beta, seed = record["policy"], record["reference"], record["beta"], record["seed"]
    return f"""---
library_name: transformers
tags: [dpo, refstudy]
---
# {grid.label(policy, reference, beta, seed, record.get("settings") or {})}

A policy trained with DPO by refstudy: policy `{policy}`, reference `{reference}`, beta {beta:g}, seed {seed}.
Cell `{record["cell_id"]}`, finished {record.get("finished_at")}.

| measure | value |
|---|---|
{rows}

Win rate: against the policy's own answers before DPO, in [0, 1], with a 95 % interval. Lengths in the policy's tokens.
"""


def _kept(cell: Cell, store: Store) -> checkpoints.Checkpoint:
    if not store.has(cell.dpo):
        raise StoreError(_not_kept(f"{cell.id} ({cell.label})", cell.id))
    folder = store.path(cell.dpo)
    if (folder / checkpoints.ADAPTER_FILE).exists():
        return checkpoints.checkpoint(cell.dpo, store)
    return checkpoints.Checkpoint(str(folder))  # a whole policy needs no start, which may be gone


def _recorded(record: Record, store: Store) -> checkpoints.Checkpoint:
    """The policy by the id in the record. Whole ones only: an adapter's start is known to the sweep file alone."""
    cell_id = record["cell_id"]
    folder = store.folder("dpo", str(record.get("recipes", {}).get("dpo")))
    if not (folder / MANIFEST).is_file():
        raise StoreError(_not_kept(f"{cell_id}, which the sweep file no longer has,", cell_id))
    if (folder / checkpoints.ADAPTER_FILE).exists():
        raise StoreError(
            f"the policy of cell {cell_id} is kept as an adapter, and the folder's sweep no longer has the cell, so that its start "
            f"is not known; expected a sweep that has it: give the sweep file and settings that it was run with (--sweep, --set), "
            f"or merge {folder} onto its base with peft"
        )
    return checkpoints.Checkpoint(str(folder))


def _not_kept(what: str, cell_id: str) -> str:
    return (
        f"the policy of cell {what} was not kept; expected `keep: full` (or `adapter`) in the sweep file: "
        f"set it, delete nothing, and run `refstudy trial SWEEP --cell {cell_id} --again`"
    )


def _begin(destination: Path) -> None:
    """Makes the destination before a model is loaded, which may take minutes."""
    if destination.exists() and not destination.is_dir():
        raise StoreError(f"{destination} is a file; expected a new or empty folder")
    try:
        destination.mkdir(parents=True, exist_ok=True)
        is_empty = not any(destination.iterdir())
    except OSError as error:
        raise StoreError(f"{destination} cannot be made: {error.strerror}; expected a new folder in a writable one") from None
    if not is_empty:
        raise StoreError(f"{destination} is not empty; expected a new or empty folder")
