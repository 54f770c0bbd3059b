"""What `along`, `alarms`, `train.checkpoint` and validation pairs make of a cell: which ids they change, and what they refuse."""

import json
from pathlib import Path

import pytest

from refstudy import data, grid, recipes
from refstudy.errors import SpecError
from refstudy.grid import Cell
from refstudy.identity import canonical, fingerprint
from refstudy.miniature import prompts as miniature_prompts
from tests import sweeps

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
ALONG = "along={every_steps: 20, prompts: 64}"


def cell(*assignments: str, file: Path = QUICKSTART) -> Cell:
    return grid.cells(grid.read(file, ["axes.beta=[0.1]", "axes.reference=[self]", *assignments]))[0]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return sweeps.write(tmp_path)


def test_what_only_watches_changes_no_id() -> None:
    plain = cell()
    for watched in (
        cell(ALONG),
        cell('alarms=[{limit: "length_ratio > 2"}]'),
        cell(ALONG, 'alarms=[{limit: "win_rate_fall > 0.2"}]', "webhook={variable: OTHER}"),
        cell("train.checkpoint=last"),
    ):
        assert (watched.id, fingerprint(watched.dpo)) == (plain.id, fingerprint(plain.dpo))
    assert canonical(cell(ALONG).dpo) == canonical(plain.dpo)


def test_along_has_a_curve_of_its_own_that_is_no_goal() -> None:
    watched = cell(ALONG)
    assert watched.curve is not None
    assert cell().curve is None
    assert watched.goals == cell().goals
    assert watched.curve.along.every == 20
    assert watched.curve.along.baseline.source == watched.dpo.start
    assert watched.curve.along.baseline.sampling.draw != watched.curve.along.sampling.draw
    assert watched.curve.along.judge == watched.verdicts.judge


CHOICES = [
    ["train.checkpoint=best_judged", ALONG],
    ["train.checkpoint=best_judged", "along={every_steps: 30, prompts: 64}"],
    ["train.checkpoint=best_judged", "along={every_steps: 20, prompts: 63}"],
    [ALONG, 'alarms=[{limit: "length_ratio > 2", stop: true}]'],
    [ALONG, 'alarms=[{limit: "length_ratio > 3", stop: true}]'],
    [ALONG, 'alarms=[{limit: "length_ratio > 2", stop: true}, {limit: "win_rate_fall > 0.1", stop: true}]'],
    ["data.validation_pairs=50"],
    ["data.validation_pairs=51"],
    ["data.validation_pairs=50", "train.checkpoint=lowest_validation_loss"],
    ["data.validation_pairs=50", "train.checkpoint=lowest_validation_loss", "train.checkpoint_every=5"],
]


def test_what_can_change_the_policy_changes_its_id() -> None:
    ids = [fingerprint(cell(*assignments).dpo) for assignments in ([], *CHOICES)]
    assert len(set(ids)) == len(CHOICES) + 1


def test_policy_that_alarms_may_stop_equals_one_with_the_same_alarms_in_any_order_and_spelling() -> None:
    both = ['{limit: "length_ratio>2.0", stop: true}', '{limit: "truncation_rate > 0.3", stop: true}']
    first = cell(ALONG, f"alarms=[{both[0]}, {both[1]}]")
    assert first.dpo.alarms == ("length_ratio > 2", "truncation_rate > 0.3")
    assert first.dpo == cell(ALONG, f'alarms=[{both[1]}, {{limit: "kl_start_nats > 9"}}, {both[0]}]').dpo
    assert first.dpo != cell(ALONG, f"alarms=[{both[0]}]").dpo


def test_guiding_reference_is_trained_to_its_last_step() -> None:
    guide = "references.self={kind: trained, dpo: {reference: base, beta: 0.1}}"
    guided = cell(guide, "references.base={kind: policy}", "train.checkpoint=best_judged", ALONG)
    assert isinstance(guided.dpo.table.scorer, recipes.Dpo)
    assert (guided.dpo.checkpoint, guided.dpo.table.scorer.checkpoint) == ("best_judged", "last")
    assert guided.dpo.table.scorer.along is None


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train.checkpoint=lowest_validation_loss"], "needs validation pairs; set data.validation_pairs above 0"),
        (["train.checkpoint=best_judged"], "best_judged needs an `along` block"),
        (["train.checkpoint_every=5"], "train.checkpoint_every: got 5, which changes nothing beside train.checkpoint last"),
        (["train.checkpoint=best_judged", ALONG, "train.checkpoint_every=5"], "along.every_steps says when"),
        (['alarms=[{limit: "length_ratio > 2", stop: true}]'], "needs an `along` block: training ends where that sees"),
        ([ALONG, 'alarms=[{limit: "validation_loss > 2", stop: true}]'], "is not measured along training; expected one of"),
        (['alarms=[{limit: "win_rate_fall > 0.1"}]'], "win_rate_fall is measured along training only"),
        (['alarms=[{limit: "lenght_ratio > 2"}]'], "alarms.0.limit: got 'lenght_ratio > 2', but lenght_ratio is no measure; did"),
        (['alarms=[{limit: "length_ratio = 2"}]'], "alarms.0.limit: got 'length_ratio = 2'; limit 'length_ratio = 2' cannot be"),
        (["webhook={variable: 'https://hooks.example/secret'}"], "expected the name of an environment variable"),
        (["along={prompts: 193}"], "of the miniature's 960 evaluation questions data.eval_prompts 768 leaves 192"),
        (["data.validation_pairs=5", "axes.seed=[4294967295]"], "axes.seed: 4294967295 draws the miniature's validation pairs"),
    ],
)
def test_oversight_that_does_not_fit_is_refused_in_words(assignments: list[str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        cell(*assignments)
    assert message in str(caught.value)


def test_along_of_file_data_needs_validation_pairs_or_a_source(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"along.prompts: got 64, but data.validation_pairs is 4"):
        cell("along={}", file=tiny)
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "Is it cold?"}) + "\n")
    found = cell("along={prompts: {kind: file, path: own.jsonl}}", file=tiny).along
    assert found is not None
    assert isinstance(found.baseline.prompts.of, recipes.Prompts)
    assert cell("along={prompts: 4}", file=tiny).along is not None


def test_prompts_along_the_miniature_are_in_no_evaluation_and_no_pair() -> None:
    """Not in the evaluation because those are left out, and in no pair because pairs ask in other phrasings."""
    along = cell(ALONG).along
    assert along is not None
    others = along.baseline.prompts
    assert isinstance(others, recipes.OtherPrompts)
    evaluation = miniature_prompts.draw(others.without)
    drawn = data.other_prompts(others, miniature_prompts.draw(others.of), evaluation)
    texts = [each.messages[0]["content"] for each in drawn]
    assert (len(texts), len(set(texts))) == (64, 64)
    assert not set(texts) & {each.messages[0]["content"] for each in evaluation}
    assert others.without == cell(ALONG).completions.prompts
    pairs = recipes.MiniaturePrompts(world=0, part="policy", count=5000, seed=0)
    asked = {each.meta["phrasing"] for each in miniature_prompts.draw(pairs)}
    assert asked
    assert not asked & {each.meta["phrasing"] for each in drawn}
    assert {each.meta["held_out"] for each in drawn} == {False, True}


def test_validation_pairs_of_the_miniature_are_other_draws_and_the_same_for_all_seeds() -> None:
    first, second = (cell("data.validation_pairs=50", f"axes.seed=[{seed}]") for seed in (0, 1))
    assert first.dpo.validation is not None
    assert first.dpo.validation == second.dpo.validation
    held_out, trained = first.dpo.validation.texts.pairs, first.dpo.table.texts.pairs
    assert held_out.seed not in (trained.seed, second.dpo.table.texts.pairs.seed)
    assert held_out.count == 50
    assert first.dpo.validation.scorer == first.dpo.table.scorer
    assert not {each.sampling.seed for each in held_out.candidates} & {each.sampling.seed for each in trained.candidates}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("repetition", "did you mean repetitive_share or seq_rep_4"),
        ("win_rat", "did you mean win_rate"),
        ("KL", "did you mean kl_start_nats or kl_start_nats_per_token"),
        ("zzz", "expected one of checkpoint_step, distinct_answers"),
    ],
)
def test_alarm_on_no_measure_says_what_may_be_meant(typed: str, words: str) -> None:
    with pytest.raises(SpecError, match=f"alarms.0.limit: got '{typed} > 0.2', but {typed} is no measure; {words}"):
        cell(f"alarms=[{{limit: '{typed} > 0.2'}}]")
