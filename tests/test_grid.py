"""The cells of a sweep: which leaves change them, and what a grid refuses."""

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refstudy import content, grid, plan, recipes, spec, sweepfile
from refstudy.entries import Place
from refstudy.errors import SpecError
from refstudy.grid import Cell, Sweep
from refstudy.identity import describe
from refstudy.sweepfile import Document

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"


def sweep_of(document: Document, folder: Path = QUICKSTART.parent) -> Sweep:
    return Sweep(document["name"], "", document, spec.check(document, "t"), Place(folder))


def cells_of(*assignments: str) -> list[Cell]:
    return grid.cells(grid.read(QUICKSTART, list(assignments)))


def checkpoint(folder: Path) -> str:
    """A folder that has the files of a checkpoint; only their bytes matter to the grid."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(folder.name)
    return folder.name


@pytest.fixture
def file_document(tmp_path: Path) -> Document:
    """A sweep over file data in which every optional leaf is set."""
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    (tmp_path / "other.jsonl").write_text("{} \n")
    for name in ("small", "base", "adapter", "judge", "small-other", "base-other", "adapter-other", "judge-other"):
        checkpoint(tmp_path / name)
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "target": "all-linear"}
    sft = {
        "data": {"kind": "file", "path": "pairs.jsonl", "count": 3}, "unusable": "drop", "epochs": 1.0, "batch_size": 4,
        "learning_rate": 1e-4, "schedule": "cosine", "warmup_share": 0.1, "max_length": 64, "seed": 0, "precision": "fp32",
        "template": "T", "micro_batch": 2, "checkpointing": False, "lora": dict(lora),
    }  # fmt: skip
    scratch = {
        "kind": "scratch", "family": "llama", "architecture": "llama", "vocabulary": 300, "hidden": 16, "layers": 1, "heads": 2,
        "steps": 5, "batch_size": 2, "learning_rate": 1e-3, "context": 32, "seed": 0, "sft": json.loads(json.dumps(sft)),
        "resources": {"cpus": 1.0, "gpus": 0.0, "custom": {"big": 1.0}},
    }  # fmt: skip
    model = {
        "kind": "model", "model": "base", "family": "f", "template": "T", "system": "be brief",
        "system_role": "keep", "adapter": "adapter", "sft": json.loads(json.dumps(sft)),
        "resources": {"cpus": 1.0, "gpus": 0.0, "custom": {"big": 1.0}, "shards": 2},
    }  # fmt: skip
    reference = {**model, "model": "small", "system": None, "precision": "bf16"}
    return {
        "name": "files",
        "data": {"kind": "file", "path": "pairs.jsonl", "unusable": "drop", "without": ["<s>"], "unicode": "keep",
                 "white_space": "keep", "pairs": 8, "eval_prompts": 4, "validation_pairs": 2},
        "policies": {"p": model},
        "references": {"self": {"kind": "policy"}, "scratch": {**scratch, "precision": "bf16"}, "model": reference},
        "axes": {"beta": [0.1], "reference": ["self", "scratch", "model"], "policy": ["p"]},
        "train": {"epochs": 1.0, "batch_pairs": 4, "learning_rate": 1e-4, "max_length": 64, "schedule": "linear",
                  "warmup_share": 0.1, "clip": 1.0, "weight_decay": 0.1, "precision": "fp32", "lora": dict(lora),
                  "micro_batch": 2, "checkpointing": False},
        "generate": {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.9},
        "judge": {"kind": "reward_model", "start": {**scratch, "sft": None}, "max_length": 64, "seed": 0,
                  "train": {"epochs": 1.0, "batch_pairs": 4, "learning_rate": 1e-4, "schedule": "linear", "warmup_share": 0.1,
                            "precision": "fp32", "micro_batch": 2, "checkpointing": False}},
        "keep": "none",
        "resources": {"trial": {"cpus": 1.0, "gpus": 0.0, "custom": {"x": 1.0}},
                      "artefact": {"cpus": 1.0, "gpus": 0.0, "custom": {"x": 1.0}}},
        "price": {"device_hour": 1.0, "device_tflops": 100.0, "utilisation": 0.3},
        "measure": {"token_shifts": 16},
        "wandb": {"enabled": True, "project": "refstudy", "entity": "me"},
    }  # fmt: skip


OTHER_WORDS = {
    "drop": "refuse", "keep": "nfc", "cosine": "linear", "linear": "cosine", "fp32": "bf16", "llama": "neox", "human": "flat",
    "north": "south", "south": "north", "small": "large", "large": "small", "none": "full", "all": "few", "few": "many",
    "bf16": "fp32", "nf4": "int8", "pairs.jsonl": "other.jsonl", "base": "base-other", "adapter": "adapter-other",
}  # fmt: skip
NO_OTHER_VALUE = ("kind", "*.kind")
"""What an entry is cannot be changed without changing its other keys."""


def other(path: str, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 1 if path.endswith("heads") else value * 2 + 2
    if isinstance(value, float):
        return value / 2
    if isinstance(value, list):
        return [*value, "more"]
    if path.endswith("white_space"):
        return "strip"
    if path.endswith("system_role"):
        return "merge"
    return OTHER_WORDS.get(value, f"{value}x")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif value is not None:
        yield path, value


def execution_only(path: str) -> bool:
    prefixes = (".".join(path.split(".")[: depth + 1]) for depth in range(path.count(".") + 1))
    return any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in spec.EXECUTION_ONLY)


def ids(document: Document, folder: Path) -> list[str]:
    return [cell.id for cell in grid.cells(sweep_of(document, folder))]


def unexpected(document: Document, folder: Path, exempt: tuple[str, ...] = ()) -> list[str]:
    """Leaves whose change does, or does not, change the cells' ids, against what is declared."""
    before, wrong, tried = ids(document, folder), [], 0
    for path, value in leaves({key: value for key, value in document.items() if key != "axes"}):
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in (*NO_OTHER_VALUE, *exempt)):
            continue
        changed = sweepfile.override(document, [])
        sweepfile.place(changed, path, other(path, value))
        tried += 1
        if (ids(changed, folder) == before) is not execution_only(path):
            wrong.append(path)
    assert tried > 10
    return wrong


def test_every_leaf_of_file_data_changes_an_id_or_is_execution_only(file_document: Document, tmp_path: Path) -> None:
    quantised = {**file_document["references"]["model"], "adapter": None, "quantise": "nf4"}
    file_document["references"]["quantised"] = quantised
    file_document["axes"]["reference"].append("quantised")
    assert unexpected(file_document, tmp_path) == []


def test_device_map_and_shards_change_no_id_and_are_found_where_they_work(file_document: Document, tmp_path: Path) -> None:
    before = ids(file_document, tmp_path)
    file_document["references"]["model"] |= {"device_map": "auto", "resources": {"shards": 4}}
    cell = grid.cells(sweep_of(file_document, tmp_path))[2]
    assert ids(file_document, tmp_path) == before
    assert cell.reference_resources == spec.Resources(shards=4)
    scorer = cell.dpo.table.scorer
    assert isinstance(scorer, recipes.Rounded)
    base = scorer.model.start.base  # type: ignore[union-attr]
    assert base.device_map == "auto"


def test_reference_in_fp32_keeps_the_recipe_that_it_had_before_there_was_a_choice() -> None:
    plain, chosen = (cells_of(f"references.self={{kind: miniature, family: north, size: small{each}}}")[0]
                     for each in ("", ", precision: fp32"))  # fmt: skip
    assert plain.id == chosen.id
    assert isinstance(plain.dpo.table.scorer, recipes.Sft)


def test_self_in_bf16_is_what_others_are_measured_against_and_the_policy_stays_whole() -> None:
    """Also where a reference keeps a part of what another adds to self; with a whole self beside it that one is meant."""
    entries = ["references.self={kind: policy, precision: bf16}", "axes.beta=[1]",
               "references.part={kind: derived, of: larger-same, keep: length_free}",
               "references.chosen={kind: derived, of: larger-same, keep: selection_only}"]  # fmt: skip
    cells = {cell.reference: cell for cell in cells_of(*entries, "axes.reference=[self,larger-same,part,chosen]")}
    start = cells["self"].dpo.start
    rounded = recipes.Rounded(model=start, precision="bf16", quantise=None)
    assert cells["self"].dpo.table.scorer == rounded
    assert {cell.dpo.start for cell in cells.values()} == {start}
    assert {cell.own for cell in cells.values()} == {rounded}
    assert {cell.divergence.reference for cell in cells.values()} == {rounded}
    assert cells["part"].dpo.table.scorer.own == rounded  # type: ignore[union-attr]
    assert cells["chosen"].dpo.table.texts.own == cells["chosen"].dpo.table.scorer == rounded  # type: ignore[union-attr]
    assert cells["larger-same"].id == cells_of("axes.reference=[larger-same]", "axes.beta=[1]")[0].id
    beside = cells_of(*entries, "references.whole={kind: policy}", "axes.reference=[self,part]")
    assert {cell.own for cell in beside} == {start}


def test_derived_of_self_is_refused_in_whatever_precision_self_scores() -> None:
    entries = ["references.self={kind: policy, precision: bf16}", "references.part={kind: derived, of: self, keep: permuted}"]
    with pytest.raises(SpecError, match="adds nothing to itself"):
        cells_of(*entries, "axes.reference=[part]")


def test_rounded_reference_is_rounded_in_all_that_is_made_of_it() -> None:
    """Its own answers, the mixture and the column derived of it; what is trained from it begins with the weights themselves."""
    entries = ["references.larger-same.precision=bf16", "references.both={kind: mixture, of: {self: 1, larger-same: 1}}",
               "references.part={kind: derived, of: larger-same, keep: length_free}",
               "references.blank={kind: prior, of: larger-same}"]  # fmt: skip
    cells = {cell.reference: cell for cell in cells_of(*entries, "axes.beta=[1]", "axes.reference=[larger-same,both,part,blank]")}
    rounded = cells["larger-same"].dpo.table.scorer
    assert isinstance(rounded, recipes.Rounded)
    assert plan.own_verdicts(cells["larger-same"]).candidate.source == rounded
    assert cells["both"].dpo.table.scorer.parts[1].scorer == rounded  # type: ignore[union-attr]
    assert cells["part"].dpo.table.scorer.of == rounded  # type: ignore[union-attr]
    assert cells["blank"].dpo.table.scorer.model == rounded  # type: ignore[union-attr]


def test_every_leaf_of_the_miniature_changes_an_id_or_is_execution_only() -> None:
    document = sweepfile.read(QUICKSTART)
    document["references"] = {
        "self": {"kind": "policy"},
        "south": {
            "kind": "miniature",
            "family": "south",
            "size": "large",
            "north_share": 0.05,
            "false_share": 0.3,
            "statements": "few",
            "precision": "bf16",
        },
    }
    document["axes"] = {"beta": [1]}
    assert unexpected(document, QUICKSTART.parent, exempt=("*.family",)) == []


def test_family_of_a_miniature_model_changes_its_id() -> None:
    assert cells_of()[0].id != cells_of("policies.small={kind: miniature, family: south, size: small}")[0].id


def test_hub_revision_changes_an_id() -> None:
    entry = "references.self={{kind: model, model: org/name, revision: {}}}"
    assert cells_of(entry.format("a"))[0].id != cells_of(entry.format("b"))[0].id


def test_cells_are_the_product_of_the_axes_in_order() -> None:
    cells = cells_of()
    assert len(cells) == 24
    assert [cell.beta for cell in cells[:6]] == [10, 3, 1, 0.3, 0.1, 0.01]
    assert [cell.reference for cell in cells[::6]] == ["self", "larger-same", "larger-near", "larger-far"]


def test_cells_of_any_leaf_axis_carry_its_value_as_setting() -> None:
    cells = cells_of("axes.beta=[1]", "axes.reference=[self]", "axes.data.world=[0,1]", "axes.train.learning_rate=[1e-4,2e-4]")
    assert [tuple(cell.settings.values()) for cell in cells] == [(0, 1e-4), (0, 2e-4), (1, 1e-4), (1, 2e-4)]
    assert len({cell.id for cell in cells}) == 4


def test_cells_of_compared_references_share_pairs_prompts_and_baseline() -> None:
    cells = cells_of()
    assert len({(cell.dpo.table.texts, cell.completions.prompts, cell.verdicts.baseline) for cell in cells}) == 1


def test_cells_of_another_seed_share_prompts_but_not_pairs() -> None:
    first, second = cells_of("axes.beta=[1]", "axes.reference=[self]", "axes.seed=[0,1]")
    assert first.completions.prompts == second.completions.prompts
    assert first.dpo.table.texts != second.dpo.table.texts


def test_candidate_and_baseline_are_independent_draws() -> None:
    cell = cells_of()[0]
    assert cell.completions.sampling.draw != cell.verdicts.baseline.sampling.draw


def test_cell_id_is_the_same_for_whole_numbers_written_as_floats() -> None:
    assert cells_of("axes.beta=[1]")[0].id == cells_of("axes.beta=[1.0]")[0].id


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["axes.beta=[1, 0]"], "axes.beta.1: got 0; expected a number above 0"),
        (["axes.beta=[-1]"], "axes.beta.0: got -1"),
        (["axes.beta=[x]"], "axes.beta.0: got 'x'"),
        (["axes.beta=[.nan]"], "axes.beta.0: got nan"),
        (["axes.beta=[true]"], "axes.beta.0: got True"),
        (["axes.beta=[1, 1.0]"], "stands twice"),
        (["axes.seed=[0.5]"], "axes.seed.0: got 0.5"),
        (
            ["axes.reference=[slf]"],
            "'slf' is no entry of references (self, larger-same, larger-near, larger-far); did you mean self?",
        ),
        (["axes.policy=[big]"], "'big' is no entry of policies (small)"),
        (["axes.train.learning_rat=[1]"], "train.learning_rat: unknown key; did you mean learning_rate?"),
        (["axes.keep=[none]"], "axes.keep: unknown axis"),
        (["axes.bet=[1]"], "axes.bet: unknown axis; did you mean beta?"),
        (["references.twin={kind: policy}", "axes.reference=[self,twin]"], "are the same recipe; remove one"),
        (["policies.small={kind: miniature, family: north, size: small, north_share: 0.5}"], "policies.small.north_share"),
        (["data={kind: file, path: data/hh_helpful_400.jsonl, eval_prompts: 4}"], "lives in a miniature world; data.kind is file"),
        (["judge={kind: reward_model}"], "needs either `model`"),
        (["references.self={kind: model, model: ./absent}"], "checkpoint ./absent does not exist"),
        (["keep=adapter"], "keep: adapter needs train.lora"),
        (["axes.reference=[[a]]"], "axes.reference.0: got ['a']; expected the name of an entry of references"),
        (
            ["references={1: {kind: policy}}", "axes.reference=[1]"],
            "got 1; expected the name of an entry of references, written",
        ),
        (["axes.beta=[1" + "0" * 400 + "]"], "axes.beta.0: got 1000"),
        (["axes.seed=[4294967296]"], "axes.seed.0: got 4294967296; expected a whole number from 0 to 4,294,967,295"),
        (["axes.keep=[none]"], "leaves that change the result"),
        (["references.self={kind: model, model: a/b, system: s}"], "references.self.system: got 's', which changes nothing here"),
        (["references.self={kind: model, model: a/b, adapter_revision: r}"], "adapter_revision: got 'r', but no adapter"),
        (["references.self={kind: model, model: ., revision: v1}"], "revision v1, which only the hub knows: set revision to null"),
        (["policies.small.precision=bf16"], "policies.small.precision: got bf16, which only references have"),
        (["policies.small={kind: model, model: a/b, quantise: nf4}"], "policies.small.quantise: got nf4, which only"),
        (["policies.small={kind: model, model: a/b, device_map: auto}"], "policies.small.device_map: got auto, which only"),
        (["references.self={kind: model, model: a/b, adapter: c/d, quantise: int8}"], "cannot be merged into quantised weights"),
        (
            ["judge={kind: reward_model, start: {kind: model, model: a/b, resources: {shards: 2}}}"],
            "judge.start.resources.shards: got",
        ),
        (["resources.trial.shards=2"], "resources.trial: got"),
        (["judge={kind: reward_model, model: a/b, seed: 1}"], "judge.seed: got 1, which changes nothing beside judge.model"),
        (["judge={kind: reward_model, model: a/b, train: {}}"], "judge.train: got"),
        (["judge={kind: reward_model, start: {kind: model, model: a/b}, revision: r}"], "judge.revision: got 'r'"),
        (["references.self={kind: model, model: " + "x" * 300 + "}"], "can be no path"),
    ],
)
def test_cells_of_a_wrong_grid_are_refused_in_words(assignments: list[str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        cells_of(*assignments)
    assert message in str(caught.value)


def test_policy_of_a_model_entry_may_be_fine_tuned_first(file_document: Document, tmp_path: Path) -> None:
    cell = grid.cells(sweep_of(file_document, tmp_path))[0]
    assert isinstance(cell.dpo.start, recipes.Sft)
    assert cell.dpo.table.scorer == cell.dpo.start
    assert cell.labels == {"reference_kind": "policy", "family": "f", "policy_family": "f"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("judge.start={kind: model, model: base, system: s}", "judge.start.system: got 's', which changes nothing here"),
        ("policies.p.sft={unusable: drop}", "policies.p.sft.unusable: got 'drop' without policies.p.sft.data"),
        ("policies.p.revision=v1", "checkpoint base is a local folder"),
    ],
)
def test_key_that_would_change_nothing_is_refused(file_document: Document, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        ids(sweepfile.override(file_document, [change]), tmp_path)
    assert message in str(caught.value)


def test_local_dataset_is_its_content_wherever_it_lies(file_document: Document, tmp_path: Path) -> None:
    entry = "data={{kind: hub, dataset: {}, eval_prompts: 4}}"
    for name in ("here", "there/below"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "train.jsonl").write_text("{}")
    here, there = (sweepfile.override(file_document, [entry.format(name)]) for name in ("here", "there/below"))
    assert ids(here, tmp_path) == ids(there, tmp_path)
    assert str(tmp_path) not in json.dumps([describe(cell.verdicts) for cell in grid.cells(sweep_of(here, tmp_path))])
    (tmp_path / "there/below/train.jsonl").write_text("{} ")
    assert ids(here, tmp_path) != ids(there, tmp_path)


def test_cells_hash_each_file_once(file_document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    whole = content.checkpoint_hash
    monkeypatch.setattr(content, "checkpoint_hash", lambda folder: read.append(folder) or whole(folder))
    file_document["axes"] |= {"beta": [1, 0.1, 0.01], "seed": [0, 1]}
    assert len(ids(file_document, tmp_path)) == 18
    assert sorted(path.name for path in read) == ["adapter", "base", "small"]


def test_cells_carry_the_resources_that_their_entries_ask_for(file_document: Document, tmp_path: Path) -> None:
    del file_document["references"]["model"]["resources"]
    file_document["references"]["scratch"]["resources"] = {"gpus": 2.0}
    own, scratch, model = grid.cells(sweep_of(file_document, tmp_path))
    assert (own.reference_resources, model.reference_resources) == (None, None)
    assert scratch.reference_resources == spec.Resources(gpus=2.0)
    assert own.policy_resources == spec.Resources(custom={"big": 1.0}, shards=2)
