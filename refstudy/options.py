"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP", help="A sweep file, such as sweeps/quickstart.yaml.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Sets a leaf of the sweep file: --set train.learning_rate=1e-4"),
]
Folder = Annotated[Path | None, typer.Option("--results", metavar="DIR", help="The sweep's folder; default results/<name>.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="The artefacts; default store/ beside --results.")]
ResultsFolder = Annotated[Path, typer.Argument(metavar="RESULTS", help="A sweep's folder, such as results/quickstart.")]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON and nothing else.")]
