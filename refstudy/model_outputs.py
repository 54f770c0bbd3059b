"""A cell's answers, and those that they are judged against, in AlpacaEval's form, to be judged elsewhere.

Invariant: instruction and output are the texts that annotations are joined by when they come back (`refstudy.judges.annotations`).
"""

import json
from pathlib import Path
from typing import Any

from refstudy import grid, records, texts
from refstudy.errors import DataError, StoreError
from refstudy.records import Record
from refstudy.store import MANIFEST, RECIPE, Store
from refstudy.texts import Completion, Prompt, answer_text, asked_text


def write(record: Record, store: Store, dataset: str, file: Path) -> list[Path]:
    """The paths of both files: the cell's answers in `file`, its baseline's beside it as NAME.baseline.json.

    `dataset`: what the rows of prompts that name no dataset of their own say.
    """
    label = grid.label(record["policy"], record["reference"], record["beta"], record["seed"], record.get("settings") or {})
    written = {
        file: _rows(store, record, "completions", f"{label} ({record['cell_id']})", dataset),
        file.with_name(f"{file.stem}.baseline{file.suffix}"): _rows(store, record, "baseline", "baseline", dataset),
    }
    for path in written:
        if path.exists():
            raise StoreError(f"{path} exists; expected a new file: remove it, or choose another name")
    for path, content in written.items():
        records.write_text(path, json.dumps(content, ensure_ascii=False, indent=1))
    return list(written)


def rows(prompts: list[Prompt], answers: list[Completion], generator: str, dataset: str) -> list[dict[str, str]]:
    """Rows of a model_outputs.json, in the prompts' order: dataset, instruction, output and generator."""
    by_id = {answer.prompt_id: answer for answer in answers}
    return [
        {
            "dataset": str(prompt.meta.get("dataset") or dataset),
            "instruction": asked_text(prompt),
            "output": answer_text(prompt, by_id[prompt.prompt_id]),
            "generator": generator,
        }
        for prompt in prompts
    ]


def _rows(store: Store, record: Record, part: str, generator: str, dataset: str) -> list[dict[str, str]]:
    """By the ids in the record, so that cells of earlier grids can be written too."""
    folder = _folder(store, "completions", record.get("recipes", {}).get(part), record["cell_id"])
    recipe: dict[str, Any] = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    kind, _, identity = recipe["canonical"]["prompts"]["recipe"].partition(":")
    prompts = texts.read_prompts(_folder(store, kind, identity, record["cell_id"]) / "prompts.jsonl")
    answers = texts.read_completions(folder / "completions.jsonl")
    if [prompt.prompt_id for prompt in prompts] != [answer.prompt_id for answer in answers]:
        raise DataError(f"{folder} does not answer the prompts that its recipe names; run the sweep again")
    return rows(prompts, answers, generator, dataset)


def _folder(store: Store, kind: str, identity: str | None, cell_id: str) -> Path:
    folder = store.folder(kind, str(identity))
    if not (folder / MANIFEST).is_file():
        raise StoreError(
            f"the answers of cell {cell_id} are not in the store ({kind} '{identity}'); run the sweep, which makes what is missing"
        )
    return folder
