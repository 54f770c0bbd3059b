"""Rows laid into a line, and short families put side by side, by hand."""

import torch

from refstudy import line
from refstudy.line import lay


def test_line_of_two_families_matches_hand_layout():
    """Rows 1 2 3 and 1 2 4 5 share two tokens, 6 7 stands alone: 1 2 3 | 4 5 | 6 7 at positions 0 1 2 | 2 3 | 0 1."""
    line = lay([[[1, 2, 3], [1, 2, 4, 5]], [[6, 7]]], [2, 1])
    assert line.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert line.positions.tolist() == [0, 1, 2, 2, 3, 0, 1]
    assert [row.tolist() for row in line.rows] == [[0, 1, 2], [0, 1, 3, 4], [5, 6]]
    assert [family.cuts for family in line.families] == [(3, 2), (2,)]


def test_short_families_side_by_side_match_hand_layout():
    """Rows 1 2 3 and 1 2 4 5 share two tokens, 6 7 stands alone: five places for the first family, two for the other."""
    found = line.beside([line.Family(2, (1, 2)), line.Family(0, (2,))], torch.device("cpu"))
    assert found.places.tolist() == [[0, 1, 2, 3, 4], [5, 6, 0, 0, 0]]
    assert found.kept.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.sees[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert found.sees[1, 0, :2].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert found.sees.any(3).all(), "padding sees something, or its softmax would be no number"


def test_long_families_and_much_padding_are_not_put_side_by_side():
    def short(*tokens):
        return line.beside([line.Family(0, (each,)) for each in tokens], torch.device("cpu"))

    assert short(line.SHORT) is not None
    assert short(line.SHORT + 1) is None
    assert short(30, 10, 5) is not None, "90 places for 45 tokens"
    assert short(30, 10, 4) is None
