"""Ray that cannot be started, told in words."""

from pathlib import Path

import pytest
import ray

from refstudy import driver, grid, results
from refstudy.errors import RefstudyError
from tests import sweeps


def test_ray_that_comes_up_too_late_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray says so with a bare Exception."""

    def late(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because\nof load.")

    monkeypatch.setattr(ray, "init", late)
    read = grid.read(sweeps.write(tmp_path))
    at, cells = results.place(read, tmp_path / "results" / read.name, None), grid.cells(read)
    with pytest.raises(RefstudyError, match=r"Ray cannot be started on this machine: The current node timed out .* without Ray"):
        driver.run_sweep(read, at, cells)
