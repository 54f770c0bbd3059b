"""One trial: train, generate, judge, measure, record. It runs the same with Ray and without.

Invariant: a trial always ends in a record, done or failed; only the death of its process escapes. What the store has is not made
again, so a cell that needs only a new judge trains nothing.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from refstudy import alarms, artefacts, make, plan, policies, records, results, shelf
from refstudy.alarms import Raised
from refstudy.errors import RefstudyError
from refstudy.evaluations import Evaluation
from refstudy.grid import Cell
from refstudy.measurement import Emit, Measurement, silent
from refstudy.measures import cell as cell_measures
from refstudy.measures.limits import degenerate
from refstudy.provenance import now, provenance
from refstudy.recipes import Completions, Model
from refstudy.records import Record
from refstudy.store import Claim, Store
from refstudy.webhook import Webhook

TIMES = ("phases_s", "duration_s", "started_at", "finished_at")


def run_trial(cell: Cell, store: Store, folder: Path, emit: Emit = silent) -> Record:
    """The cell's record, written to the sweep's folder: done with its measures, or failed with the traceback.

    Its times are those of making: where the store had everything, an earlier record's times stand.
    """
    is_made, before = plan.is_made(cell, store), _times_of_done(folder, cell) if plan.is_judged(cell, store) else {}
    with records.running(folder, results.heading(cell)):
        teller = _Teller(cell, folder)
        emit = alarms.watched(cell.alarms, emit, teller.tell)
        started, clock = now(), _Clock(emit)
        try:
            body = _trial(cell, store, clock, emit)
            teller.end(body["alarms"], emit)
        except Exception as error:
            body = records.failure(error) | {"alarms": teller.told}
        teller.webhook.finish()
        phases_s = clock.phases_s if not before else _joined(before["phases_s"], clock.phases_s)
        timing = {"phases_s": phases_s, "duration_s": sum(phases_s.values()), "started_at": started, "finished_at": now()}
        record = results.heading(cell) | body | timing | {"provenance": provenance()} | (before if is_made else {})
        records.write_record(folder, record)
    shelf.free_device()  # a warm worker's next trial may wait for a while, and others share the device
    return record


def _times_of_done(folder: Path, cell: Cell) -> dict[str, Any]:
    """The times in the cell's record, if there is one that says done."""
    known = [record for record in records.read_records(folder) if record["cell_id"] == cell.id]
    return {name: known[0][name] for name in TIMES} if known and known[0]["status"] == "done" else {}


def _joined(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Times by phase of a cell that was judged before and gained an evaluation set: a phase took what it took when it did its
    work, and evaluation what both runs of it took."""
    took = {phase: max(before.get(phase, 0.0), now.get(phase, 0.0)) for phase in (*before, *now)}
    return took | {"evaluate": round(before.get("evaluate", 0.0) + now.get("evaluate", 0.0), 3)}


def _trial(cell: Cell, store: Store, clock: "_Clock", emit: Emit) -> Record:
    with _turn(cell, store) as claim:
        trained = _train_and_answer(cell, store, clock, emit)
        log = artefacts.read_log(cell.log, store)
        took = round(sum(log["phases_s"].values()), 3)
        # trained before, perhaps for another cell; or in part, by processes that were cut off
        clock.phases_s["train"] = max(took, clock.phases_s["train"] if trained else 0.0)
        with clock("judge"):
            if claim is not None:
                make.verdicts(cell.verdicts, store, claim, emit)
        if cell.evaluations:
            with clock("evaluate"):
                _evaluate(cell, store, emit)
        with clock("measure"):
            return _measured(cell, store, log)


def _train_and_answer(cell: Cell, store: Store, clock: "_Clock", emit: Emit) -> bool:
    """Makes all that only the cell's policy can give: its log, its answers to every set of prompts, its divergence. Returns
    whether it was trained for that."""
    with _training(cell, store) as training:
        policy = None
        with clock("train"):
            if training is not None:
                policy = policies.train_policy(cell, store, training, emit)
            elif store.has(cell.dpo):
                policies.log_of_kept(cell, store)
        with clock("generate"):
            drawn = make.answers(cell.completions, store, policy, emit)
            shelf.free_device()  # keys and values of the answers, before the start is loaded beside the policy
        with clock("divergence"):
            make.divergence_of(cell.divergence, store, policy, emit, drawn)
        del drawn  # states of its answers are no small thing
        if policy is not None and cell.token_shifts is not None:
            with clock("token_shifts"):
                make.token_shifts_of(cell.token_shifts, store, policy, emit)
        if cell.evaluations:
            with clock("evaluate"):
                make.answers_to_sets(cell, store, policy, emit)
        if training is not None:
            store.clear_partial(cell.dpo)  # not before: a policy that is not kept may be asked for until here
    if training is None:
        _clear_left(cell, store)
    return training is not None


def _clear_left(cell: Cell, store: Store) -> None:
    """Removes the saved states of a process that died after it had made all that its policy was asked for."""
    if store.training(cell.dpo).exists():
        claim = store.claim(cell.dpo)
        if claim is not None:
            with claim:
                store.clear_partial(cell.dpo)
        elif store.has(cell.dpo):
            store.clear_partial(cell.dpo)


def _evaluate(cell: Cell, store: Store, emit: Emit) -> None:
    """The verdicts on every evaluation set, after the answers of the cells that are its baseline: of those that have none yet the
    policy is trained here, and their own trials find it done."""
    aside = _aside(emit)
    for rival in cell.rivals:
        if not all(store.has(each) for each in rival.answers):
            _train_and_answer(rival, store, _Clock(aside), aside)
    for each in cell.evaluations:
        try:
            make.make(each.verdicts, store, emit)
        except RefstudyError as error:
            raise type(error)(f"evaluation set {each.name}: {error}") from error


def _aside(emit: Emit) -> Emit:
    """An emit for work on another cell's policy: it moves the progress, and is no curve of this cell's."""

    def passed_on(measurement: Measurement) -> None:
        emit(replace(measurement, stage="baseline"))

    return passed_on


@contextmanager
def _turn(cell: Cell, store: Store) -> Iterator[Claim | None]:
    """The right to run the cell: its verdicts claimed, or None if they exist. Waits while another process runs the same cell."""
    claim = store.claim(cell.verdicts)
    while claim is None and not store.has(cell.verdicts):
        store.wait(cell.verdicts)
        claim = store.claim(cell.verdicts)
    if claim is None:
        yield None
        return
    with claim:
        yield claim


@contextmanager
def _training(cell: Cell, store: Store) -> Iterator[Claim | None]:
    """The right to train the cell's policy; None if nothing asks for it. Waits while another cell's trial has the same policy.

    It is held until all is made that only the policy in memory can give, so that a cell which shares the policy finds that.
    """
    while plan.trains(cell, store):
        claim = store.claim(cell.dpo)
        if claim is None:
            store.wait(cell.dpo)
            continue
        with claim:
            if plan.trains(cell, store):  # else made between our look and the claim
                yield claim
                return
    yield None


def _measured(cell: Cell, store: Store, log: dict[str, Any]) -> Record:
    measures = cell_measures.measure(
        prompts=artefacts.read_prompts(cell.completions.prompts, store),
        candidates=artefacts.read_completions(cell.completions, store),
        baselines=artefacts.read_completions(cell.verdicts.baseline, store),
        verdicts=artefacts.read_verdicts(cell.verdicts, store),
        divergences=artefacts.read_divergence(cell.divergence, store),
        training=log["final"],
    )
    is_degenerate, reason = degenerate(measures)
    sets = {each.name: _measured_set(each, cell.dpo.start, store) for each in cell.evaluations}
    heading = results.heading(cell).get("evaluations", {})
    curve = artefacts.read_along(cell.curve, store) if cell.curve is not None and store.has(cell.curve) else []
    return {
        "status": "done",
        "measures": measures,
        "degenerate": is_degenerate,
        "reason": reason,
        "stopped": log.get("stopped"),
        "along": curve,
        "alarms": [each.as_json() for each in alarms.raised(cell.alarms, curve, measures)],
        **({"evaluations": {name: heading[name] | of for name, of in sets.items()}} if sets else {}),
    }


class _Teller:
    """Tells the alarms of a running cell: in its record, and to the webhook."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.webhook = Webhook(cell.webhook.variable, cell.webhook.timeout_s)
        self.told: list[dict[str, Any]] = []
        self._cell, self._folder = cell, folder

    def tell(self, alarm: Raised) -> None:
        self.told.append(alarm.as_json())
        records.note(self._folder, self._cell.id, alarms=self.told)
        self.webhook.send(f"refstudy alarm: {self._cell.label} ({self._cell.id}): {alarm.words}")

    def end(self, found: list[dict[str, Any]], emit: Emit) -> None:
        """Tells the alarms that the finished cell's own measures raise; those along training were told as they came."""
        final = [each for each in found if each["step"] is None]
        if final:
            emit(Measurement("measure", 0, None, {}, alarms=tuple(each["words"] for each in final)))
        for each in final:
            self.webhook.send(f"refstudy alarm: {self._cell.label} ({self._cell.id}): {each['words']}")


def _measured_set(of: Evaluation, start: Model, store: Store) -> Record:
    """The measures on an evaluation set: all but those of training and divergence, and the label that they give."""
    measures = cell_measures.measure(
        prompts=artefacts.read_prompts(of.completions.prompts, store),
        candidates=artefacts.read_completions(of.completions, store),
        baselines=artefacts.read_completions(of.verdicts.baseline, store),
        verdicts=artefacts.read_verdicts(of.verdicts, store),
        divergences=[],
        training={},
    )
    baseline = of.verdicts.baseline
    is_starts = isinstance(baseline, Completions) and baseline.source == start  # only against these is a length ratio telling
    is_degenerate, reason = degenerate({name: value for name, value in measures.items() if is_starts or name != "length_ratio"})
    return {"measures": measures, "degenerate": is_degenerate, "reason": reason}


class _Clock:
    """Wall time by phase, in seconds; each phase is announced as it begins."""

    def __init__(self, emit: Emit) -> None:
        self.phases_s: dict[str, float] = {}
        self._emit = emit

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._emit(Measurement(phase, 0, None, {}))
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases_s[phase] = round(self.phases_s.get(phase, 0.0) + time.perf_counter() - start, 3)
