"""What a sweep still has to make: everything once, and never again. Artefacts here are stubs; ids, store and planning are real."""

import re
from collections import Counter
from pathlib import Path

import pytest

from refstudy import grid, plan, recipes
from refstudy.grid import Cell
from refstudy.identity import fingerprint, kind
from refstudy.recipes import Recipe
from refstudy.store import Store

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def cells_of(*assignments: str) -> list[Cell]:
    return grid.cells(grid.read(QUICKSTART, list(assignments)))


def make_stub(recipe: Recipe, store: Store) -> None:
    claim = store.claim(recipe)
    assert claim is not None, f"{kind(recipe)} made twice"
    with claim:
        (claim.folder / "stub").write_text(kind(recipe))
        store.publish(claim)


def run_stub(cells: list[Cell], store: Store) -> tuple[Counter[str], Counter[str]]:
    """(shared artefacts made, things made by trials) of a run over `cells`, by kind."""
    shared, trials = Counter[str](), Counter[str]()
    for recipe in plan.shared(cells, store):
        make_stub(recipe, store)
        shared[kind(recipe)] += 1
    for cell in cells:
        trials["trained"] += plan.trains(cell, store)
        for goal in plan.cell_goals(cell):
            if not store.has(goal):
                make_stub(goal, store)
                trials[kind(goal)] += 1
    return shared, trials


def test_shared_of_the_quickstart_is_each_thing_once(store: Store) -> None:
    shared, trials = run_stub(cells_of(), store)
    assert shared["pretrained"] == shared["sft"] == 5  # policy, neutral, larger-same, larger-near, larger-far
    assert (shared["table"], shared["token_pairs"], shared["miniature_pairs"]) == (4, 1, 1)
    assert shared["completions"] == 3  # candidates of policy and neutral model, baseline
    assert trials == {"trained": 24, "training_log": 24, "completions": 24, "divergence": 24, "verdicts": 24}


def test_shared_lists_inputs_before_what_needs_them(store: Store) -> None:
    order = plan.shared(cells_of(), store)
    for place, recipe in enumerate(order):
        later = order[place:]
        assert not any(each in later for each in plan.needs(recipe))


def test_second_run_makes_nothing(store: Store) -> None:
    run_stub(cells_of(), store)
    assert run_stub(cells_of(), store) == (Counter(), Counter({"trained": 0}))


def test_wider_beta_axis_makes_only_its_cells(store: Store) -> None:
    run_stub(cells_of(), store)
    shared, trials = run_stub(cells_of("axes.beta=[10,3,1,0.3,0.1,0.03,0.01]"), store)
    assert shared == Counter()
    assert trials["trained"] == 4


def test_new_reference_makes_one_model_one_table_and_its_cells(store: Store) -> None:
    run_stub(cells_of(), store)
    entry = "references.weak={kind: miniature, family: north, size: large, false_share: 0.3}"
    names = "axes.reference=[self,larger-same,larger-near,larger-far,weak]"
    shared, trials = run_stub(cells_of(entry, names), store)
    assert shared == {"pretrained": 1, "demonstrations": 1, "sft": 1, "table": 1}
    assert trials["trained"] == 6


def test_new_seed_draws_pairs_but_builds_no_model(store: Store) -> None:
    run_stub(cells_of(), store)
    shared, trials = run_stub(cells_of("axes.seed=[0,1]"), store)
    assert shared["pretrained"] == shared["sft"] == 0
    assert shared["miniature_pairs"] == 1
    assert trials["trained"] == 24


def test_another_judge_trains_nothing_and_answers_nothing(store: Store, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("x")
    run_stub(cells_of(), store)
    shared, trials = run_stub(cells_of(f"judge={{kind: reward_model, model: {tmp_path}}}"), store)
    assert shared == Counter()
    assert trials == {"trained": 0, "verdicts": 24}


def test_lost_answers_without_kept_weights_train_again(store: Store) -> None:
    cells = cells_of("axes.beta=[1]", "axes.reference=[self]")
    run_stub(cells, store)
    store.discard(cells[0].completions)
    assert plan.trains(cells[0], store)
    make_stub(cells[0].dpo, store)
    assert not plan.trains(cells[0], store)


def test_reference_passes_group_everything_by_reference(store: Store) -> None:
    cells = cells_of()
    assert plan.reference_passes(cells, store) == []  # cells without answers, such as failed ones, need no pass
    run_stub(cells, store)
    groups = plan.reference_passes(cells, store)
    assert len(groups) == 4
    for group in groups:
        assert sum(isinstance(each, recipes.Table) for each in group) == 6
        assert len({each.scorer for each in group if isinstance(each, recipes.Table)}) == 1
        assert sum(isinstance(each, recipes.Verdicts) for each in group) == 1
    for recipe in [each for group in groups for each in group]:
        make_stub(recipe, store)
    assert plan.reference_passes(cells, store) == []


def test_reference_passes_hold_the_own_verdicts_of_every_seed_and_judge(store: Store, tmp_path: Path) -> None:
    """2 references, 2 seeds and 2 judges: 8 own scores, in one group a reference."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("x")
    axes = ("axes.beta=[1]", "axes.reference=[self,larger-far]", "axes.seed=[0,1]")
    cells = [*cells_of(*axes), *cells_of(*axes, f"judge={{kind: reward_model, model: {tmp_path}}}")]
    run_stub(cells, store)
    groups = plan.reference_passes(cells, store)
    planned = {fingerprint(each) for group in groups for each in group if isinstance(each, recipes.Verdicts)}
    assert planned == {fingerprint(plan.own_verdicts(cell)) for cell in cells}
    assert len(planned) == 8
    assert len({each.scorer for group in groups for each in group if isinstance(each, recipes.Table)}) == 2


def test_reference_pass_of_a_server_scores_answers_and_asks_for_none(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("x")
    entry = f"references.far={{kind: server, model: m, base_url: 'http://127.0.0.1:1', tokenizer: {tmp_path}}}"
    cells = cells_of(entry, "axes.reference=[far]", "axes.beta=[1,0.1]")
    run_stub(cells, store)
    (group,) = plan.reference_passes(cells, store)
    assert group == [recipes.Table(scorer=cell.dpo.table.scorer, texts=cell.completions) for cell in cells]
    make_stub(group[0], store)
    assert plan.reference_passes(cells, store) == [[group[1]]]


def test_title_of_every_planned_recipe_is_words(store: Store) -> None:
    titles = [plan.title(recipe) for recipe in plan.shared(cells_of(), store)]
    near = r"reference table of SFT of pretrained south large \(world 0, [0-9.]+ false, 0\.05 of it north\)"
    assert any(re.fullmatch(near, title) for title in titles)
    assert all(title and "(" not in title[:1] for title in titles)


@pytest.mark.parametrize("rule", ["last", "best_judged"])
def test_shared_of_cells_that_train_has_what_is_looked_at_along_training(rule: str, store: Store) -> None:
    along = ("along={prompts: 8}", f"train.checkpoint={rule}")
    shared, trials = run_stub(cells_of(*along), store)
    assert (shared["other_prompts"], shared["miniature_prompts"]) == (1, 4)  # evaluation, candidates of two models, along
    assert shared["completions"] == 4  # candidates of policy and neutral model, baseline, and the start's answers along
    assert trials["trained"] == 24
    assert "along_curve" not in trials
    assert run_stub(cells_of(*along), store) == (Counter(), Counter({"trained": 0}))


def test_cells_that_only_need_a_judge_make_nothing_to_look_at(store: Store) -> None:
    run_stub(cells_of(), store)
    cells = cells_of("along={prompts: 8}")
    for cell in cells:
        store.discard(cell.verdicts)
    assert run_stub(cells, store) == (Counter(), Counter({"trained": 0, "verdicts": 24}))


def test_titles_tell_apart_what_differs_in_corpus_reference_seed_or_purpose(store: Store) -> None:
    """All that a run shows of its artefacts, of two seeds: no two of a kind read alike."""
    found = recipes.closure([goal for cell in cells_of("axes.seed=[0, 1]") for goal in cell.goals])
    shown = (recipes.Pretrained, recipes.Sft, recipes.Dpo, recipes.Demonstrations, recipes.MiniaturePrompts, recipes.MiniaturePairs)
    titles = Counter(plan.title(each) for each in found if isinstance(each, shown))
    assert [title for title, count in titles.items() if count > 1] == []
    assert any(title.endswith("corpus 1)") for title in titles)


def test_titles_say_what_prompts_and_answers_along_training_are_for(store: Store) -> None:
    titles = [plan.title(recipe) for recipe in plan.shared(cells_of("along={prompts: 8}"), store)]
    assert "prompts along training" in titles
    assert any(title.startswith("answers along training of SFT of") for title in titles)
