"""Degeneration measures and the label's limits against published outputs of 20 real models: their averages, counted on words.

The texts themselves are not in that file, so formulas are checked where one answer is all there is (NullModel gives the same answer
805 times, so its averages are the counts of one text), and limits where a bound follows from the averages.
"""

import csv
from pathlib import Path

import pytest

from refstudy.measures import limits, repetition

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "published"
OUTPUTS, LENGTHS = PUBLISHED / "degeneration_on_real_outputs.csv", PUBLISHED / "length_along_dpo.csv"
needs_outputs = pytest.mark.skipif(not OUTPUTS.is_file(), reason="measures of published outputs are not beside the project")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def text_with(repeats: dict[int, int], distinct: int) -> list[int]:
    """Tokens with `distinct` different values in which `repeats[n]` n-grams stand that stood before.

    A copied run of k tokens, between tokens that stand nowhere else, repeats k - n + 1 n-grams. So there are repeats[n] -
    repeats[n + 1] runs of at least n tokens.
    """
    at_least = [repeats[n] - repeats.get(n + 1, 0) for n in sorted(repeats)]
    tokens = list(range(distinct - at_least[0]))
    for run in range(at_least[0]):
        length = sum(count > run for count in at_least)
        tokens += [*range(length), distinct - at_least[0] + run]
    return tokens


@needs_outputs
def test_seq_rep_and_diversity_of_a_real_answer_are_the_published_ones() -> None:
    """NullModel: 146 words, 78 distinct, 111 of 145 bigrams, 125 of 144 trigrams and 135 of 143 4-grams unique: 8 / 143 = 0.055944,
    (111 / 145) (125 / 144) (135 / 143) = 0.62734. Any other denominator misses these digits."""
    (published,) = [row for row in rows(OUTPUTS) if row["model"] == "NullModel"]
    tokens = text_with({1: 68, 2: 34, 3: 19, 4: 8}, distinct=78)
    assert len(tokens) == float(published["words"]) == 146
    assert 1 - repetition.seq_rep(tokens, 1) == pytest.approx(float(published["distinct1"]), abs=1e-5)
    assert 1 - repetition.seq_rep(tokens, 2) == pytest.approx(float(published["distinct2"]), abs=1e-5)
    assert repetition.seq_rep(tokens) == pytest.approx(float(published["seq_rep_4"]), abs=1e-6)
    assert repetition.diversity(tokens) == pytest.approx(float(published["diversity"]), abs=1e-5)


@needs_outputs
def test_no_real_model_is_degenerate_by_repetition_or_truncation() -> None:
    """At most so many answers are repetitive as have seq-rep-4 above 0.5, an end loop, or windows that compress by more than 2.4
    (the limit is 4), and at most so many are cut off as do not end as sentences do."""
    found = rows(OUTPUTS)
    assert len(found) == 20
    for row in found:
        repetitive = sum(float(row[name]) for name in ("seqrep_gt_.5", "loop3", "cr_win_gt_2.4"))
        measures = {"repetitive_share": repetitive, "truncation_rate": 1 - float(row["ends_ok"])}
        assert limits.degenerate(measures) == (False, None), row["model"]


@pytest.mark.skipif(not LENGTHS.is_file(), reason="published lengths along DPO are not beside the project")
def test_published_growth_of_lengths_is_not_degenerate() -> None:
    """Zephyr from SFT to full DPO: 862 to 1,570 characters, and the same the other way round."""
    lengths = [float(row["mean_length_characters"]) for row in rows(LENGTHS)]
    assert max(lengths) / min(lengths) > 1.5
    for ratio in (max(lengths) / min(lengths), min(lengths) / max(lengths)):
        assert limits.degenerate({"length_ratio": ratio}) == (False, None)
