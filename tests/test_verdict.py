"""What `validate` prints."""

import csv
from pathlib import Path
from typing import Any

import pytest

from refstudy import verdict
from refstudy.validation import Row

KNOWN: dict[str, Any] = {
    "role": "reference", "policy": "small", "reference": "larger", "settings": {}, "kind": "model", "family": "/models/larger",
    "parameters": 1_540_000_000, "vocabulary": "other", "template": "kept", "pairs": 20, "pairs_checked": 20,
    "chosen_cut_share": 0.05, "rejected_cut_share": 0.1, "longest_tokens": 812, "context_tokens": 2048, "memory_gb": 9.5,
    "made": 0, "of": 1, "tokens": 12_000, "tokens_are_bound": True, "petaflops": 0.037, "price": 1.5,
    "remarks": ["a [/INST] remark"], "refusals": [],
}  # fmt: skip


def test_show_has_every_number_of_a_row_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    verdict.show("sweep", [Row(**KNOWN)])
    out = capsys.readouterr().out
    for shown in ("1.54 G", "5.0% / 10.0%", "812 of 2,048", "9.5 GB", "0/1", "at most 12 k tokens, 37 TFLOP, price 1.50"):
        assert shown in out
    assert "/models" not in out
    assert "small larger: a [/INST] remark" in out
    assert out.rstrip().endswith("All can be used (20 pairs tried).")


def test_show_of_words_has_the_saturation_at_each_beta(capsys: pytest.CaptureFixture[str]) -> None:
    measures = {"intercept_nats": 1.0, "saturation_beta_1": 8.24, "saturation_beta_0.1": 0.824}
    verdict.show("sweep", [Row(**KNOWN, measures=measures, words="likely to help")])
    assert "small larger: likely to help; beta times spread of D: 8.2 at 1, 0.82 at 0.1" in capsys.readouterr().out


def test_show_of_unknown_sizes_leaves_operations_out(capsys: pytest.CaptureFixture[str]) -> None:
    verdict.show("sweep", [Row(**{**KNOWN, "petaflops": None, "price": None, "parameters": None, "refusals": ["why"]})])
    out = capsys.readouterr().out
    assert "To score in all: 12 k tokens.\n" in out
    assert out.rstrip().endswith("1 of 1 are refused:\n  reference larger of policy small: why")


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (999, "999"), (422_112, "422 k"), (7_241_000_000, "7.24 G"), (3e16, "30 P")]
)
def test_short_has_three_digits_and_a_prefix(number: float, shown: str) -> None:
    assert verdict.short(number) == shown


def test_words_are_followed_by_what_the_study_showed(capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers are the study's own file's, which is written from its records."""
    study = Path(__file__).parents[1] / "sweeps" / "why_references_help" / "predictions.csv"
    assert verdict.STUDY.read_bytes() == study.read_bytes()
    said = "\n".join(verdict.borne_out())
    with study.open() as file:
        for row in csv.DictReader(file):
            if (row["outcome"], row["predictor"]) == ("gain", "intercept_over_residual_spread"):
                assert f"with gain over self: {float(row['correlation']):+.2f} (" in said
