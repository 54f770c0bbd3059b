"""Alarms: what goes off, when, and what a Stop rests on."""

import pytest

from refstudy import alarms
from refstudy.alarms import Alarm, Raised, Watch
from refstudy.measurement import Measurement, Stop
from refstudy.measures import limits

LONG, CUT = Alarm(limits.parse("length_ratio > 2"), stop=True), Alarm(limits.parse("truncation_rate>0.3"))
CURVE = [
    {"step": 10, "length_ratio": 1.5, "truncation_rate": 0.4},
    {"step": 20, "length_ratio": 2.5, "truncation_rate": 0.5},
    {"step": 30, "length_ratio": 3.0, "truncation_rate": 0.2},
]


def along(step: int, **values: float) -> Measurement:
    return Measurement("along", step, 30, values)


def test_watch_raises_each_alarm_once_at_the_first_moment_past_its_limit() -> None:
    watch = Watch([LONG, CUT])
    assert watch.look({"length_ratio": 2.0, "truncation_rate": 0.3}, 5) == [], "at the bound nothing is past it"
    assert watch.look({"truncation_rate": 0.4}, 10) == [Raised("truncation_rate > 0.3", 0.4, 10, False)]
    assert watch.look({"length_ratio": 2.5, "truncation_rate": 0.5}, 20) == [Raised("length_ratio > 2", 2.5, 20, True)]
    assert watch.look({"length_ratio": 9.0}, 30) == []


def test_raised_of_a_cell_are_those_of_its_curve_and_of_its_final_measures() -> None:
    found = alarms.raised([LONG, CUT], CURVE, {"length_ratio": 2.2, "truncation_rate": 0.1})
    assert [each.words for each in found] == [
        "truncation_rate 0.4 > 0.3 at step 10",
        "length_ratio 2.5 > 2 at step 20, where training ends",
        "length_ratio 2.2 > 2 in the finished cell",
    ]
    assert found[1].as_json() == {
        "limit": "length_ratio > 2",
        "value": 2.5,
        "step": 20,
        "stop": True,
        "words": "length_ratio 2.5 > 2 at step 20, where training ends",
    }


def test_watched_emit_passes_measurements_on_with_their_alarms() -> None:
    passed: list[Measurement] = []
    told: list[Raised] = []
    emit = alarms.watched([LONG, CUT], passed.append, told.append)
    emit(Measurement("train", 9, 30, {"length_ratio": 9.0}))
    for row in CURVE:
        assert emit(along(int(row["step"]), length_ratio=row["length_ratio"])) is None, "watching ends nothing"
    assert [each.alarms for each in passed] == [(), (), ("length_ratio 2.5 > 2 at step 20, where training ends",), ()]
    assert [each.step for each in told] == [20]


def test_stopping_emit_answers_stop_with_the_reason() -> None:
    emit = alarms.stopping(("length_ratio > 2", "win_rate_fall > 0.1"), lambda measurement: None)
    assert emit(Measurement("train", 9, 30, {"length_ratio": 9.0})) is None
    assert emit(along(10, length_ratio=2.0, win_rate_fall=0.05)) is None
    assert emit(along(20, length_ratio=2.5, win_rate_fall=0.2)) == Stop("length_ratio 2.5 > 2; win_rate_fall 0.2 > 0.1")


@pytest.mark.parametrize("answer", [Stop("somebody else's"), None])
def test_stopping_without_a_limit_past_gives_the_other_answer(answer: Stop | None) -> None:
    assert alarms.stopping(("length_ratio > 2",), lambda measurement: answer)(along(10, length_ratio=1.0)) == answer
