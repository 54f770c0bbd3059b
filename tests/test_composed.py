"""Tables that no model pass makes, with numbers worked by hand."""

import dataclasses
import math

import numpy as np
import pytest

from refstudy import composed
from refstudy.errors import TableError
from refstudy.tables import PairTable
from refstudy.texts import Pair
from refstudy.token_pairs import TokenPair


def pair(pair_id: str, chosen: int = 2, rejected: int = 1) -> TokenPair:
    """A pair whose answers have so many tokens."""
    return TokenPair(
        pair_id=pair_id,
        prompt_ids=[1],
        chosen_ids=[2] * chosen,
        rejected_ids=[3] * rejected,
        messages=[{"role": "user", "content": f"ask {pair_id}"}],
        chosen=f"good {pair_id}",
        rejected=f"bad {pair_id}",
        chosen_complete=True,
        rejected_complete=True,
        cluster=pair_id,
    )


PAIRS = [pair("a"), pair("b", chosen=4), pair("c", chosen=1, rejected=3)]
ORIGINALS = [
    Pair(pair_id=each.pair_id, messages=each.messages, chosen=each.chosen, rejected=each.rejected, cluster=each.cluster)
    for each in PAIRS
]


def table(chosen: list[float], rejected: list[float], pairs: list[TokenPair] = PAIRS) -> PairTable:
    return PairTable(
        pair_ids=[each.pair_id for each in pairs],
        chosen_logp_sum=np.array(chosen),
        rejected_logp_sum=np.array(rejected),
        chosen_tokens=np.array([len(each.chosen_ids) for each in pairs]),
        rejected_tokens=np.array([len(each.rejected_ids) for each in pairs]),
        bytes_sha256=[each.text_sha256 for each in pairs],
    )


OWN = table([-3.0, -5.0, -2.0], [-4.0, -4.0, -6.0])
OTHER = table([-1.0, -7.0, -2.0], [-4.0, -8.0, -3.0])


def test_constant_is_zero_for_both_answers() -> None:
    made = composed.constant(PAIRS)
    assert not made.chosen_logp_sum.any()
    assert not made.rejected_logp_sum.any()
    assert made.bytes_sha256 == OWN.bytes_sha256


def test_geometric_mixture_is_the_weighted_mean_of_log_probs() -> None:
    """Chosen: 0.25 x (-3, -5, -2) + 0.75 x (-1, -7, -2) = (-1.5, -6.5, -2)."""
    made = composed.mixture([OWN, OTHER], [0.25, 0.75], "geometric", PAIRS)
    assert made.chosen_logp_sum == pytest.approx([-1.5, -6.5, -2.0])
    assert made.rejected_logp_sum == pytest.approx([-4.0, -7.0, -3.75])


def test_arithmetic_mixture_is_the_log_of_the_mean_probability() -> None:
    """Pair a: log(0.5 e^-3 + 0.5 e^-1); equal columns stay as they are."""
    made = composed.mixture([OWN, OTHER], [0.5, 0.5], "arithmetic", PAIRS)
    assert made.chosen_logp_sum[0] == pytest.approx(math.log(0.5 * math.exp(-3) + 0.5 * math.exp(-1)))
    assert made.chosen_logp_sum[2] == pytest.approx(-2.0)


def test_mixture_of_very_small_probabilities_does_not_underflow() -> None:
    deep = table([-2000.0] * 3, [-3000.0] * 3)
    made = composed.mixture([deep, deep], [0.5, 0.5], "arithmetic", PAIRS)
    assert made.chosen_logp_sum == pytest.approx([-2000.0] * 3)


def margins(made: PairTable) -> np.ndarray:
    return made.chosen_logp_sum - made.rejected_logp_sum


def test_derived_parts_add_up_to_the_difference() -> None:
    """Margins: own (1, -1, 4), other (3, 1, 1): D = (2, 2, -3); length differences (1, 3, -2).

    length_only + length_free = D, so the two derived margins sum to own + other.
    """
    only, free = (composed.derived(OTHER, OWN, keep, 1.0, 0, PAIRS) for keep in ("length_only", "length_free"))
    assert margins(only) + margins(free) == pytest.approx(margins(OWN) + margins(OTHER))


def test_derived_scaled_by_one_is_the_reference_and_by_two_doubles_the_difference() -> None:
    assert margins(composed.derived(OTHER, OWN, "scaled", 1.0, 0, PAIRS)) == pytest.approx(margins(OTHER))
    assert margins(composed.derived(OTHER, OWN, "scaled", 2.0, 0, PAIRS)) == pytest.approx([5.0, 3.0, -2.0])


def test_derived_numbers_stay_log_probs() -> None:
    made = composed.derived(OTHER, OWN, "scaled", 50.0, 0, PAIRS)
    assert (made.chosen_logp_sum <= 0).all()
    assert (made.rejected_logp_sum <= 0).all()


def test_selected_pairs_are_those_with_a_positive_difference() -> None:
    assert [each.pair_id for each in composed.selected(OTHER, OWN, PAIRS)] == ["a", "b"]


def test_sliced_keeps_rows_by_id_in_the_order_of_the_pairs() -> None:
    made = composed.sliced(OWN, [PAIRS[2], PAIRS[0]])
    assert made.pair_ids == ["c", "a"]
    assert made.chosen_logp_sum.tolist() == [-2.0, -3.0]
    assert made.chosen_tokens.tolist() == [1, 2]


def rows(**changes: object) -> list[tuple[str, dict]]:
    found = [
        (f"f, line {number}", {"id": each.pair_id, "messages": each, "c": -1.0 - number, "r": -9.0})
        for number, each in enumerate(ORIGINALS)
    ]
    found[1][1].update(changes)
    return found


def from_columns(found: list[tuple[str, dict]], pair_id: str | None = "id") -> PairTable:
    def text_of(values: dict) -> tuple:
        return values["messages"].messages, values["messages"].chosen, values["messages"].rejected

    return composed.from_columns(found, "c", "r", pair_id, text_of, ORIGINALS, PAIRS)


@pytest.mark.parametrize("pair_id", ["id", None])
def test_columns_are_found_by_id_or_text_whatever_their_order(pair_id: str | None) -> None:
    made = from_columns(rows()[::-1], pair_id)
    assert made.chosen_logp_sum.tolist() == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": 0.5}, r"f, line 1 \(pair 'b'\): c is 0.5; expected log p of the whole answer, .*: change its sign"),
        ({"c": float("nan")}, r"f, line 1 \(pair 'b'\): c is nan"),
        ({"r": float("-inf")}, r"f, line 1 \(pair 'b'\): r is -inf"),
        ({"c": None}, r"f, line 1 \(pair 'b'\): c is None"),
        ({"c": "many"}, r"f, line 1 \(pair 'b'\): c is 'many'"),
        ({"id": "a"}, r"f, line 1 \(pair 'a'\): a second row for the same pair with other numbers; .*: remove one"),
        ({"id": "z"}, r"1 of 3 pairs have no row by column 'id' \(first: 'b'\)"),
    ],
)
def test_wrong_column_is_refused_with_row_and_remedy(changes: dict, message: str) -> None:
    with pytest.raises(TableError, match=message):
        from_columns(rows(**changes))


def test_absent_column_names_those_that_are_there() -> None:
    with pytest.raises(TableError, match="no column 'r'; got id, messages, c"):
        from_columns([(where, {key: value for key, value in values.items() if key != "r"}) for where, values in rows()])


def test_table_over_other_text_is_refused() -> None:
    other = dataclasses.replace(PAIRS[0], chosen="another answer")
    with pytest.raises(TableError, match="scored another text"):
        composed.derived(OTHER, OWN, "scaled", 1.0, 0, [other, *PAIRS[1:]])
