"""Grids with numbers that one can check by hand. For tests of the findings only."""

import numpy as np

from analysis.grids import Grid, Reference

BETAS = (0.1, 1.0, 10.0)


def reference(name, win_rate, kind="model", betas=BETAS, own=None, length=None, accuracy=None, **more):
    """One reference; win_rate, length, accuracy: a row for each replicate, or one row for all of `replicates`."""
    win = np.array(win_rate, dtype=float)
    blank = np.full_like(win, np.nan)
    return Reference(
        name=name,
        kind=kind,
        betas=betas,
        win_rate=win,
        length_tokens=blank if length is None else np.array(length, dtype=float),
        accuracy=blank if accuracy is None else np.array(accuracy, dtype=float),
        own_win_rate=np.full(len(win), np.nan if own is None else own),
        own_win_rate_se=np.full(len(win), 0.01),
        **more,
    )


def grid(*references, error=None, **more):
    """A grid of these references; its replicates are worlds."""
    count = len(references[0].win_rate)
    return Grid("test", "small", "", "world", tuple(range(count)), references, policy_family="north", error=error, **more)


def rows(*values):
    """(replicates, betas) from one tuple of win rates a replicate."""
    return [list(each) for each in values]


def only(found, reference=...):
    """The one row (of a reference)."""
    chosen = [row for row in found if reference is ... or row.reference == reference]
    assert len(chosen) == 1, [row.sentence for row in found]
    return chosen[0]
