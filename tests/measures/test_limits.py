"""The grammar of limits, and the label that it decides."""

import pytest

from refstudy.errors import SpecError
from refstudy.measures import limits
from refstudy.measures.limits import Limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("truncation_rate > 0.5", Limit("truncation_rate", ">", 0.5)),
        ("win_rate>=0.6", Limit("win_rate", ">=", 0.6)),
        ("  length_ratio <= 2 ", Limit("length_ratio", "<=", 2.0)),
        ("kl_start_nats<1e2", Limit("kl_start_nats", "<", 100.0)),
        ("gold_reward < -1.5", Limit("gold_reward", "<", -1.5)),
    ],
)
def test_parse_reads_measure_operator_number(text, limit):
    assert limits.parse(text) == limit


@pytest.mark.parametrize(
    "text", ["", "truncation_rate", "> 0.5", "a > b", "a == 1", "a => 1", "a > nan", "a > 1 > 0", "a > 1 extra"]
)
def test_parse_anything_else_is_refused_with_an_example(text):
    with pytest.raises(SpecError, match="expected MEASURE OPERATOR NUMBER"):
        limits.parse(text)


def test_parse_of_a_limits_own_words_gives_it_back():
    limit = limits.parse("win_rate>=0.6")
    assert limits.parse(str(limit)) == limit


def test_holds_at_the_bound_depends_on_the_operator():
    measures = {"win_rate": 0.6, "undefined": float("nan")}
    assert limits.parse("win_rate >= 0.6").holds(measures) is True
    assert limits.parse("win_rate > 0.6").holds(measures) is False
    assert limits.parse("length_ratio > 2").holds(measures) is None
    assert limits.parse("undefined > 2").holds(measures) is None


def test_degenerate_names_each_limit_exceeded_with_its_value():
    assert limits.degenerate({"truncation_rate": 0.834, "repetitive_share": 0.3}) == (
        True,
        "truncation_rate 0.834 > 0.5; repetitive_share 0.3 > 0.2",
    )


def test_degenerate_at_the_limits_is_healthy():
    assert limits.degenerate({"truncation_rate": 0.5, "repetitive_share": 0.2, "length_ratio": 0.25}) == (False, None)


def test_degenerate_are_answers_that_shrink_to_nothing_though_nothing_repeats():
    shrunk = {"truncation_rate": 0.0, "repetitive_share": 0.0, "length_ratio": 0.1, "distinct_answers": 0.05}
    assert limits.degenerate(shrunk) == (True, "length_ratio 0.1 < 0.25")
