"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from refstudy import copies

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP", help="A sweep file, such as sweeps/quickstart.yaml.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Sets a leaf of the sweep file: --set train.learning_rate=1e-4"),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--results",
        metavar="DIR",
        parser=copies.results_folder,
        help="Folder or s3:// address; default results/<name>.",
    ),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", parser=copies.store_root, help="The artefacts, likewise; default store/ beside --results."
    ),
]
ResultsFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS", parser=copies.existing, help="A sweep's folder or s3:// address, such as results/quickstart."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON and nothing else.")]
