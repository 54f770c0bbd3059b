import pytest

from tests.bench import figures
from tests.bench.figures import Size, Texts

TEXTS = Texts(pairs=10, each_answer=300, prompt_once=200, answers=100)


def task(what, passes=None, **changes):
    line = {"what": what, "of": "a", "pid": 1, "begun": 10.0, "ended": 14.0, "import_s": 0.0, "passes": passes or {}}
    return line | {"store_s": 0.0, "log_s": 0.0, "phases_s": {}, "process_cpu_s": 4.0} | changes


def met(tokens, places=None):
    return {"passes": 1, "tokens": tokens, "places": places or tokens}


def test_speedup_of_two_rounds_is_the_ratio_of_medians_scaled_to_all_cells():
    """(20 + 40) / 2 = 30 s for a third of the cells is 90 s for all; the sweep took 45 s in the median: 2."""
    assert figures.speedup([20.0, 40.0], [30.0, 60.0], scale=3.0) == pytest.approx(2.0)


def test_tolerance_in_fp32_is_exact_whatever_the_beta():
    assert figures.tolerances(10.0, False, 17.0, 320) == {"loss": 1e-3, "reward_margin": 1e-3}


def test_tolerance_in_bf16_follows_the_rounding_of_log_probs():
    """beta 2, 34 tokens: s = 2 sqrt(68 / 17) 0.05 = 0.2. Of 100 pairs 3 s / 10 = 0.06; for the loss 0.2^2 / 8 = 0.005 more."""
    allowed = figures.tolerances(2.0, True, 34.0, 100)
    assert allowed == pytest.approx({"loss": 0.066, "reward_margin": 0.061})


@pytest.mark.parametrize(("loss", "is_equal"), [(0.5, True), (0.5009, True), (0.502, False), (float("nan"), False)])
def test_cell_is_equal_only_within_the_tolerance(loss, is_equal):
    ours, theirs = {"loss": 0.5, "reward_margin": 1.0}, {"loss": loss, "reward_margin": 1.0}
    assert figures.compared(ours, theirs, figures.tolerances(1.0, False, 17.0, 320))["equal"] is is_equal


def test_cell_with_another_margin_is_not_equal():
    ours, theirs = {"loss": 0.5, "reward_margin": 1.0}, {"loss": 0.5, "reward_margin": 1.1}
    assert figures.compared(ours, theirs, figures.tolerances(1.0, False, 17.0, 320))["equal"] is False


def test_reference_ratio_of_one_pass_each_is_one():
    counts = [task("score", {"load/7": met(100), "score/7": met(200)}), task("score", {"score/9": met(300)})]
    assert figures.reference_token_ratio(counts, TEXTS, 2) == 1.0


def test_reference_ratio_of_passes_that_read_prompts_once_is_one():
    assert figures.reference_token_ratio([task("score", {"score/7": met(200)})], TEXTS, 1) == 1.0


def test_reference_ratio_of_a_reference_scored_for_each_of_two_betas_is_two():
    counts = [task("score", {"score/7": met(300)}), task("score", {"score/7": met(300)})]
    assert figures.reference_token_ratio(counts, TEXTS, 1) == 2.0


def test_probes_of_a_reference_are_told_apart_from_its_pass():
    """A pass of 200 tokens, and 50 on which it was tried: the ratio is 1, and 50 of 250 tokens were the probe's."""
    counts = [task("score", {"probe/7": met(50), "score/7": met(200)})]
    assert figures.reference_token_ratio(counts, TEXTS, 1) == 1.0
    assert figures.probe_share(counts) == pytest.approx(0.2)


def test_probes_are_spent_where_they_happen():
    """25 places in a trial and 10 in a pass, of a body of 10 parameters: 2 * 10 * 35."""
    size = Size(body=10, head=2)
    lean = [task("trial", {"train/12": met(200)}), task("score", {"score/12": met(200)})]
    tried = [task("trial", {"train/12": met(200), "probe/12": met(25)}), task("score", {"score/12": met(200), "probe/12": met(10)})]
    spent = [figures.spent_flops(each, size, {12: size}, TEXTS, 1, 1) for each in (lean, tried)]
    assert spent[1] - spent[0] == 2 * 10 * 35


def test_padding_is_what_training_computed_beyond_its_tokens():
    counts = [task("trial", {"train/7": met(300, 400), "generate/7": met(1, 9)})]
    assert figures.padding_share(counts) == pytest.approx(0.25)


def test_floor_counts_training_six_times_and_each_reference_once():
    """Body 10, head 2: 10 * 200 + 2 * 100 = 2,200 an epoch. 6 * 2,200 * 3 epochs * 4 cells + 2 * 2,200 for the one reference."""
    size = Size(body=10, head=2)
    assert figures.floor_flops(size, [size], TEXTS, 3, 4) == 6 * 2200 * 12 + 2 * 2200


def test_spent_without_waste_equals_the_floor_and_padding_adds_to_it():
    """One cell, one epoch, prompts read once: as the floor. 50 places of padding in training cost 6 * 10 * 50 more."""
    size = Size(body=10, head=2)
    lean = [task("trial", {"train/12": met(200)}), task("score", {"score/12": met(200)})]
    assert figures.spent_flops(lean, size, {12: size}, TEXTS, 1, 1) == figures.floor_flops(size, [size], TEXTS, 1, 1)
    padded = [task("trial", {"train/12": met(200, 250)}), lean[1]]
    more = figures.spent_flops(padded, size, {12: size}, TEXTS, 1, 1) - figures.floor_flops(size, [size], TEXTS, 1, 1)
    assert more == 6 * 10 * 50


def test_size_counts_a_tied_table_as_the_head_alone():
    config = {"vocab_size": 10, "hidden_size": 4, "tie_word_embeddings": True}
    assert figures.size(config, 140) == Size(body=100, head=40)
    assert figures.size(config | {"tie_word_embeddings": False}, 180) == Size(body=100, head=40)


def trials():
    """Two trials on one worker, half a second apart; 4 s each, of which 3 s train (0.5 s of it load) and 0.5 s generate."""
    own = {"train": 3.0, "generate": 0.5, "divergence": 0.0, "judge": 0.1, "measure": 0.1}
    one = task("trial", of="a", begun=10.0, ended=14.0, phases_s=own, store_s=0.2, process_cpu_s=4.0)
    return [one, task("trial", of="b", begun=14.5, ended=18.5, phases_s=own, log_s=0.1, process_cpu_s=8.0)]


LOGS = {each: {"prepare": 0.2, "train": 2.5, "validate": 0.0} for each in "ab"}
RUN = {"begun": 8.0, "run_s": 12.0, "whole_s": 13.0, "driver_cpu_s": 0.5}


def test_phases_of_two_trials_add_up_by_what_they_went_into():
    found = figures.phases(trials(), RUN, LOGS)
    assert found["start"] == 2.0
    assert found["train"] == 5.0
    assert found["load"] == 1.0
    assert found["record"] == pytest.approx(0.8)
    assert found["between trials"] == 0.5
    assert found["report"] == 1.0


def test_overhead_is_driver_store_logging_records_and_gaps_by_core_seconds():
    """0.5 driver + 0.2 store + 0.1 log + 0.8 record + 0.5 gap = 2.1 of 2 * 12 core-seconds."""
    found = figures.phases(trials(), RUN, LOGS)
    assert figures.overhead_share(trials(), RUN, found, 2) == pytest.approx(2.1 / 24)


def test_processor_time_of_a_warm_worker_is_counted_once():
    assert figures.processor_s(trials(), RUN) == 8.5
