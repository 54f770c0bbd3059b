"""Quantiles of answer lengths over all runs of a point."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import answer_lengths, effects, frames, grids, study
from tests.analysis import synthetic


@pytest.fixture
def made(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self",), entities=4, prompts_each=2, seeds=(0, 1))
    results = frames.load(folder, store)
    whole = study.joined([results], [store])
    of = grids.of_study(whole)
    return results, whole, answer_lengths.distribution(of, whole, effects.points(of, whole, results))


def test_distribution_has_the_quantiles_of_all_answers_of_both_runs(made):
    results, whole, found = made
    row = found[found["beta"] == 0.1].iloc[0]
    cells = results.done.loc[results.done["beta"] == 0.1, "cell_id"]
    lengths = whole.prompts.loc[whole.prompts["cell_id"].isin(cells), "length_tokens"].to_numpy()
    assert row["answers"] == len(lengths) == 16
    assert row[["p05", "p25", "p50", "p75", "p95"]].tolist() == pytest.approx(
        np.quantile(lengths, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    )
    assert row["mean_tokens"] == pytest.approx(lengths.mean())


def test_distribution_is_in_the_order_of_references_and_betas_with_their_marks(made):
    _, _, found = made
    assert found["beta"].tolist() == [0.1, 1]
    assert {"degenerate", "stopped", "truncation_rate", "baseline_length_tokens"} <= set(found)


def test_distribution_without_answers_is_empty(made):
    results, whole, _ = made
    bare = replace(whole, prompts=whole.prompts.iloc[:0])
    of = grids.of_study(bare)
    assert answer_lengths.distribution(of, bare, effects.points(of, bare, results)).empty
