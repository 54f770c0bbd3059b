from pathlib import Path

from refstudy import demand, grid, plan, recipes, spec
from refstudy.grid import Cell, Sweep
from refstudy.identity import fingerprint
from tests import sweeps
from tests.stub import SWEEP


def miniature(folder: Path, *assignments: str) -> tuple[Sweep, list[Cell]]:
    (folder / "stub.yaml").write_text(SWEEP)
    sweep = grid.read(folder / "stub.yaml", ["axes.beta=[1]", *assignments])
    return sweep, grid.cells(sweep)


def test_model_with_resources_of_its_own_takes_them_for_its_table_and_answers(tmp_path):
    """A reference that asks for a big device is scored there; what belongs to other models stays with the default."""
    sweep, cells = miniature(tmp_path, "references.larger-near.resources={custom: {big_gpu: 1}}")
    found = demand.by_model(sweep, cells)
    own, near = cells
    assert found[fingerprint(demand.loaded(near.dpo.table))].custom == {"big_gpu": 1.0}
    assert found[fingerprint(demand.loaded(plan.own_verdicts(near)))].custom == {"big_gpu": 1.0}
    assert fingerprint(demand.loaded(own.dpo.table)) not in found
    assert fingerprint(demand.loaded(near.verdicts.baseline)) not in found


def test_resources_of_an_entry_are_those_of_its_models_not_of_shared_data(tmp_path):
    """Fine-tuned from a pretrained model on the pairs that all share: two models, and no pairs."""
    sweep = grid.read(sweeps.write(tmp_path), ["policies.small.resources={gpus: 1}", "references.cross.resources=null"])
    cells = grid.cells(sweep)
    found = demand.by_model(sweep, cells)
    start = cells[0].dpo.start
    assert isinstance(start, recipes.Sft)
    assert set(found) == {fingerprint(start), fingerprint(start.start)}
    assert fingerprint(start.data) not in found


def test_rounded_reference_and_the_model_that_it_rounds_take_what_its_entry_asks(tmp_path):
    sweep, cells = miniature(
        tmp_path, "references.larger-near.precision=bf16", "references.larger-near.resources={gpus: 1, shards: 4}"
    )
    found = demand.by_model(sweep, cells)
    rounded = cells[1].dpo.table.scorer
    assert isinstance(rounded, recipes.Rounded)
    assert [demand.of(each, found) for each in (cells[1].dpo.table, rounded.model)] == [spec.Resources(gpus=1, shards=4)] * 2
    assert demand.of(cells[0].dpo.table, found) is None


def test_self_in_bf16_is_scored_where_the_policys_entry_says(tmp_path):
    sweep, cells = miniature(tmp_path, "references.self={kind: policy, precision: bf16}", "policies.small.resources={gpus: 1}")
    assert isinstance(cells[0].dpo.table.scorer, recipes.Rounded)
    assert demand.of(cells[0].dpo.table, demand.by_model(sweep, cells)) == spec.Resources(gpus=1)


def test_prior_takes_its_own_resources_before_those_of_its_model(tmp_path):
    entries = ("references.blank={kind: prior, of: larger-near, resources: {gpus: 2}}", "axes.reference=[blank, larger-near]")
    sweep, cells = miniature(tmp_path, *entries, "references.larger-near.resources={gpus: 1}")
    found = demand.by_model(sweep, cells)
    assert [demand.of(cell.dpo.table, found) for cell in cells] == [spec.Resources(gpus=2), spec.Resources(gpus=1)]
    sweep, cells = miniature(
        tmp_path, entries[0].replace(", resources: {gpus: 2}", ""), *entries[1:], "references.larger-near.resources={gpus: 1}"
    )
    assert demand.of(cells[0].dpo.table, demand.by_model(sweep, cells)) == spec.Resources(gpus=1)


def test_tables_that_a_model_scores_are_shared_out_and_others_are_not(tmp_path):
    entries = (
        "references.none={kind: constant}",
        "references.blank={kind: prior}",
        "references.both={kind: mixture, of: {self: 1}}",
    )
    _, cells = miniature(tmp_path, *entries, "axes.reference=[self, blank, none, both]")
    assert [demand.is_shared_out(cell.dpo.table) for cell in cells] == [True, True, False, False]
    assert demand.is_shared_out(recipes.Table(scorer=cells[0].dpo.start, texts=cells[0].completions))
    assert not demand.is_shared_out(cells[0].completions)


def test_reward_model_and_its_start_take_what_the_judge_asks(tmp_path):
    sweep = grid.read(sweeps.write(tmp_path), ["judge.start.resources={gpus: 1}"])
    cells = grid.cells(sweep)
    judge = cells[0].verdicts.judge.model
    assert demand.by_model(sweep, cells)[fingerprint(judge)].gpus == 1
    assert demand.by_model(sweep, cells)[fingerprint(judge.start)].gpus == 1
    assert demand.asked(sweep, cells)["judge.start.resources"].gpus == 1


def test_reference_that_only_an_axis_brings_in_has_its_resources(tmp_path):
    new = "{kind: miniature, family: south, size: small, north_share: 0, resources: {gpus: 1}}"
    sweep, cells = miniature(tmp_path, f"axes={{beta: [1], references.new: [{new}]}}")
    only = [cell for cell in cells if cell.reference == "new"]
    assert "new" not in sweep.spec.references
    assert demand.asked(sweep, only)["references.new.resources"].gpus == 1
    assert demand.by_model(sweep, only)[fingerprint(only[0].dpo.table.scorer)].gpus == 1
