"""Cells are handed out as they become ready, each once, so many at a time."""

from types import SimpleNamespace

import pytest

from refstudy import grid, plan
from refstudy.feed import Feed, Waiting
from refstudy.identity import fingerprint
from refstudy.schedule import Schedule
from refstudy.store import Store
from tests.stub import SWEEP


class Making:
    """A making whose artefacts are done when the test says so."""

    def __init__(self, cells, tmp_path):
        self.schedule = Schedule(plan.shared(cells, Store(tmp_path)))
        self.is_under_way = False

    def go_on(self, wait_s):
        """The test does it."""

    def finish(self, but=frozenset()):
        """Makes all but these, and what stands on them."""
        for recipe in iter(self.schedule.take, None):
            if recipe not in but:
                self.schedule.done(recipe)
        self.is_under_way = True


@pytest.fixture
def cells(tmp_path):
    (tmp_path / "stub.yaml").write_text(SWEEP)
    return grid.cells(grid.read(tmp_path / "stub.yaml", []))


def test_cell_waits_for_its_own_table_alone(cells, tmp_path):
    making, stopped = Making(cells, tmp_path), []
    waiting = Waiting(cells, making, lambda: bool(stopped))
    assert waiting.ready() is None  # what cells share goes first
    south = next(cell.dpo.table for cell in cells if cell.reference == "larger-near")
    making.finish(but={south})
    order = [cell.id for cell in cells if cell.reference == "self"]
    for expected in order:
        assert waiting.ready() == expected
        waiting.begin(expected)
    assert waiting.ready() is None
    making.schedule.done(south)
    assert waiting.ready() == next(cell.id for cell in cells if cell.reference == "larger-near")
    assert set(waiting) == {cell.id for cell in cells} - set(order)
    stopped.append(True)
    assert waiting.ready() is None


def test_cell_whose_table_failed_never_begins(cells, tmp_path):
    making = Making(cells, tmp_path)
    waiting = Waiting(cells, making, lambda: False)
    south = next(cell.dpo.table for cell in cells if cell.reference == "larger-near")
    making.finish(but={south})
    making.schedule.failed(south, {"type": "ValueError", "message": "broken", "traceback": ""})
    for _ in range(2):
        waiting.begin(waiting.ready())
    assert waiting.ready() is None
    assert making.schedule.is_over
    assert making.schedule.failure_below(plan.trial_goals(cells[-1])).recipe == south


def feed(cells, making, at_once=None):
    found = Feed(Waiting(cells, making, lambda: False), at_once)
    found._trials = {cell.id: SimpleNamespace(trial_id=f"trial of {cell.id}") for cell in cells}
    return found


def test_tuner_is_over_when_its_cells_are_though_others_wait(cells, tmp_path):
    making = Making(cells, tmp_path)
    south = next(cell.dpo.table for cell in cells if cell.reference == "larger-near")
    making.finish(but={south})
    hands = feed(cells, making)
    trials = [hands.next_trial(), hands.next_trial()]
    assert hands.next_trial() is None
    assert not hands.is_finished()
    hands.on_trial_complete(trials[0].trial_id)
    assert hands.next_trial() is None
    assert not hands.is_finished()
    hands.on_trial_complete(trials[1].trial_id)
    assert not hands.is_finished()  # Tune asks again within a step
    assert hands.next_trial() is None
    assert hands.is_finished()
    making.schedule.done(south)
    assert hands.next_trial() is None  # its Tuner was told that it is over; the next one has it
    assert hands.begun == {cell.id for cell in cells if cell.reference == "self"}


def test_no_more_trials_at_a_time_than_there_is_room_for(cells, tmp_path):
    making = Making(cells, tmp_path)
    making.finish()
    hands = feed(cells, making, at_once=1)
    first = hands.next_trial()
    assert hands.next_trial() is None
    assert not hands.is_finished()
    hands.on_trial_complete(first.trial_id)
    assert hands.next_trial().trial_id == f"trial of {cells[1].id}"


def test_cell_judged_against_another_waits_for_what_that_needs(cells):
    """Else it would train the other one's policy itself, before its table is there."""
    goals = {fingerprint(each) for each in plan.trial_goals(cells[0])}
    assert {fingerprint(cells[0].dpo), fingerprint(cells[0].completions)} <= goals
    rival = next(cell for cell in cells if cell.reference != cells[0].reference)
    against = SimpleNamespace(goals=cells[0].goals, dpo=cells[0].dpo, along=cells[0].along, rivals=(rival,))
    assert fingerprint(rival.dpo) in {fingerprint(each) for each in plan.trial_goals(against)}
