"""Frames as CSV files beside the report, so that every number of it can be computed with.

Invariant: a file holds its frame as it is, with all columns; what the page leaves out stands here.
"""

from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = "tables"


def write(results: Path, frames: dict[str, pd.DataFrame]) -> None:
    """Writes each frame as tables/NAME.csv into a results folder."""
    folder = results / FOLDER
    folder.mkdir(exist_ok=True)
    for name, frame in frames.items():
        frame.map(_cell_text).to_csv(folder / f"{name}.csv", index=False, encoding="utf-8", errors="replace")


def _cell_text(value: Any) -> Any:
    """Tuples as words between spaces, so that a spreadsheet shows them."""
    return " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value) if isinstance(value, tuple) else value
