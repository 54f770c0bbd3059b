"""The sweeps of real text and real models: their entries pointed at small local checkpoints of the same architectures."""

import csv
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from refstudy import artefacts, grid, make, plan, recipes, token_pairs, trial
from refstudy.checkpoints import Checkpoint
from refstudy.errors import ModelError
from refstudy.models import load_tokenizer
from refstudy.store import Store
from tests import checkpoints, tiny
from tests.scoring_server import Served, listening

# peft 0.21 asks transformers 5.23 for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SWEEPS = Path(__file__).parent.parent / "sweeps"
QUESTIONS = ["Why is the sky blue?", "How do I bake bread?\u2028 \U0001f388", "Who lives in caf\u00e9s?", "What do wolves eat?"]


@pytest.fixture(scope="module")
def ultrafeedback(tmp_path_factory):
    """A folder laid out as HuggingFaceH4/ultrafeedback_binarized, with the awkward rows that real data has."""
    folder = tmp_path_factory.mktemp("ultrafeedback") / "data"
    folder.mkdir()
    rows = [
        row(f"{number}. {QUESTIONS[number % 4]}", f"Because of {number}.", "I do not know. " * (number % 3 + 1))
        for number in range(24)
    ]
    rows += [row("Empty?", "", "B"), row("Equal?", "A", "A"), row("Decomposed cafe\u0301?", " edges \n", "cafe\u0301")]
    rows += [row("Special?", "Say </s> or <|im_end|>.", "B")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train_prefs-00000-of-00001.parquet")
    return folder.parent


def row(question, chosen, rejected):
    ask = {"content": question, "role": "user"}
    return {
        "prompt": question,
        "chosen": [ask, {"content": chosen, "role": "assistant"}],
        "rejected": [ask, {"content": rejected, "role": "assistant"}],
        "score_chosen": 8.0,
        "score_rejected": 4.0,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for style in checkpoints.STYLES:
        checkpoints.write(style, folder / style)
    checkpoints.write("smollm2", folder / "larger-smollm2", seed=1, hidden=64)
    checkpoints.write_reward_model("qwen2.5", folder / "judge")
    return folder


@pytest.fixture
def smollm2(models, ultrafeedback):
    """The file's entries with hub names replaced by folders, and sizes by ones for a test."""
    return [
        f"data.dataset={ultrafeedback}",
        "data.eval_prompts=4",
        "data.validation_pairs=4",
        f"policies.smollm2-135m.model={models / 'smollm2'}",
        f"references.larger-same.model={models / 'larger-smollm2'}",
        f"references.larger-cross.model={models / 'qwen2.5'}",
        f"judge.model={models / 'judge'}",
        "axes.seed=[0]",
        "axes.beta=[0.1]",
        "train.precision=fp32",
        "train.batch_pairs=8",
        "train.max_length=256",
        "generate.max_new_tokens=8",
        "judge.max_length=256",
    ]


@pytest.fixture
def ultrafeedback_7b(models, ultrafeedback, tmp_path):
    (tmp_path / "alpaca_eval.json").write_text(json.dumps([{"instruction": each, "dataset": "d"} for each in QUESTIONS]))
    return [
        f"data.dataset={ultrafeedback}",
        f"data.eval_prompts.dataset={tmp_path}",
        "data.validation_pairs=4",
        f"policies.mistral.model={models / 'zephyr'}",
        f"policies.tulu.model={models / 'tulu-2'}",
        f"policies.mistral-own-sft.model={models / 'zephyr'}",
        f"references.mistral-v02.model={models / 'mistral-v0.2'}",
        f"references.llama-3-8b.model={models / 'llama-3'}",
        f"judge.model={models / 'judge'}",
        "axes.beta=[0.1]",
        "train.precision=fp32",
        "train.epochs=1",
        "train.batch_pairs=8",
        "train.max_length=256",
        "generate.max_new_tokens=8",
        "judge.max_length=256",
    ]


def run(sweep, chosen, tmp_path):
    """(store, records) of the chosen cells, with everything that they need made first."""
    store = Store(tmp_path / "store")
    make.make_all(plan.shared(chosen, store), store)
    return store, [trial.run_trial(cell, store, tmp_path / sweep.name) for cell in chosen]


@pytest.mark.parametrize("name", ["real_text", "smollm2", "ultrafeedback_7b", "references_elsewhere"])
def test_sweep_reads_and_says_its_question_and_command(name):
    sweep = grid.read(SWEEPS / f"{name}.yaml")
    assert sweep.spec.name == name
    assert "?" in sweep.question
    assert f"refstudy run sweeps/{name}.yaml" in (SWEEPS / f"{name}.yaml").read_text()


def test_real_text_cells_hold_what_the_file_says():
    cells = grid.cells(grid.read(SWEEPS / "real_text.yaml"))
    assert [(cell.reference, cell.beta) for cell in cells] == [
        (reference, beta) for reference in ("self", "larger-same", "larger-cross") for beta in (1, 0.1, 0.01)
    ]
    vocabularies = {cell.dpo.table.scorer.start.vocabulary for cell in cells}
    assert len(vocabularies) == 2
    parts = {each.part for cell in cells for each in recipes.closure([cell.verdicts]) if isinstance(each, recipes.Preferences)}
    assert parts == {"train", "validation", "evaluation"}


def test_real_text_models_and_judge_come_from_the_training_part_alone():
    for cell in grid.cells(grid.read(SWEEPS / "real_text.yaml")):
        judge = cell.verdicts.judge.model
        assert {judge.pairs.part, judge.start.text.part, cell.dpo.start.data.part, cell.dpo.start.start.text.part} == {"train"}


def test_model_name_that_is_no_folder_is_a_hub_name():
    cells = grid.cells(grid.read(SWEEPS / "smollm2.yaml"))
    assert {cell.dpo.table.scorer.model for cell in cells} == {
        "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct",
    }  # fmt: skip


def test_local_model_without_a_tokenizer_is_refused_before_anything_runs(smollm2, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ModelError, match="has no tokenizer"):
        grid.cells(grid.read(SWEEPS / "smollm2.yaml", [*smollm2, f"policies.smollm2-135m.model={tmp_path}"]))


def test_smollm2_runs_on_local_checkpoints_of_its_architectures(smollm2, tmp_path):
    sweep = grid.read(SWEEPS / "smollm2.yaml", smollm2)
    store, records = run(sweep, grid.cells(sweep), tmp_path)
    assert [(each["reference"], each["status"], each.get("error")) for each in records] == [
        (reference, "done", None) for reference in ("self", "larger-same", "larger-cross")
    ]
    dropped = json.loads((store.path(grid.cells(sweep)[0].dpo.table.texts.pairs) / "summary.json").read_text())["dropped"]
    for group in plan.reference_passes(grid.cells(sweep), store):
        make.make_all(group, store)  # each reference's own answers and its log-probs of every cell's answers
    assert not any(plan.reference_passes(grid.cells(sweep), store))
    assert len(dropped) == 3  # no answer, equal answers, a special token's name; decomposed text is composed instead


@pytest.mark.long
@pytest.mark.parametrize("policy", ["mistral", "tulu", "mistral-own-sft"])
def test_ultrafeedback_7b_runs_on_local_checkpoints_of_its_architectures(ultrafeedback_7b, ultrafeedback, tmp_path, policy):
    own_sft = [
        f"policies.mistral-own-sft.sft.data.{key}" for key in (f"dataset={ultrafeedback_sft(tmp_path)}", "split=train_sft")
    ] + ["policies.mistral-own-sft.sft.precision=fp32", "policies.mistral-own-sft.sft.batch_size=4"]
    sweep = grid.read(SWEEPS / "ultrafeedback_7b.yaml", [*ultrafeedback_7b, *own_sft, f"axes.policy=[{policy}]"])
    _, records = run(sweep, grid.cells(sweep), tmp_path)
    assert [(each["reference"], each["status"], each.get("error")) for each in records] == [
        (reference, "done", None) for reference in ("self", "mistral-v02", "llama-3-8b")
    ]


def ultrafeedback_sft(folder):
    """A folder laid out as HuggingFaceH4/ultrachat_200k."""
    target = folder / "ultrachat" / "data"
    target.mkdir(parents=True)
    ask, answer = {"content": "Why?", "role": "user"}, {"content": "Because.", "role": "assistant"}
    rows = [{"prompt": "Why?", "prompt_id": str(number), "messages": [ask, answer, ask, answer]} for number in range(8)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), target / "train_sft-00000-of-00001.parquet")
    return target.parent


def test_smollm2_with_lora_and_an_adapter_runs(smollm2, models, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(models / "smollm2")
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    assignments = [
        *smollm2,
        f"policies.smollm2-135m.adapter={tmp_path / 'adapter'}",
        "train.lora={rank: 2, alpha: 4, dropout: 0.0, target: all-linear}",
        "keep=adapter",
        "axes.reference=[self]",
    ]
    sweep = grid.read(SWEEPS / "smollm2.yaml", assignments)
    store, (record,) = run(sweep, grid.cells(sweep), tmp_path)
    assert (record["status"], record.get("error")) == ("done", None)
    assert (store.path(grid.cells(sweep)[0].dpo) / "adapter_model.safetensors").exists()


@pytest.fixture
def small_real_text():
    """The file's path with a few pairs and models of a few thousand parameters."""
    models = ("policies.small", "references.larger-same", "references.larger-cross", "judge.start")
    sizes = {"hidden": 16, "layers": 1, "heads": 2, "steps": 2, "batch_size": 1, "vocabulary": 1024}
    return [
        *(f"{model}.{key}={value}" for model in models for key, value in sizes.items()),
        "references.larger-same.hidden=32",
        "references.larger-cross.vocabulary=1200",
        "data.pairs=24",
        "data.eval_prompts=6",
        "data.validation_pairs=4",
        "axes.beta=[0.1]",
        "generate.max_new_tokens=8",
    ]


def test_real_text_runs_with_nothing_leaked_or_cut_unsaid(small_real_text, tmp_path):
    sweep = grid.read(SWEEPS / "real_text.yaml", small_real_text)
    cells = grid.cells(sweep)
    store, records = run(sweep, cells, tmp_path)
    assert [(each["reference"], each["status"], each.get("error")) for each in records] == [
        (reference, "done", None) for reference in ("self", "larger-same", "larger-cross")
    ]
    rows = token_pairs.read(store.path(cells[0].dpo.table.texts))
    pairs = {pair.pair_id: pair for pair in artefacts.read_pairs(cells[0].dpo.table.texts.pairs, store)}
    assert not {row.cluster for row in rows} & {
        prompt.cluster for prompt in artefacts.read_prompts(cells[0].completions.prompts, store)
    }
    assert len(rows) == 24
    for row in rows:
        whole = (row.chosen == pairs[row.pair_id].chosen, row.rejected == pairs[row.pair_id].rejected)
        assert whole == (row.chosen_complete, row.rejected_complete)


@pytest.mark.long
def test_references_elsewhere_are_a_file_a_folder_and_a_server(models, tmp_path):
    """Every entry of the sweep as it stands, at a test's size: the folder is a tiny checkpoint, which a real server serves too."""
    at = tmp_path / "other"
    words = load_tokenizer(Checkpoint(str(models / "smollm2")))
    model = tiny.llama(words, context=4096)  # one whose log-probs differ, or no server that has it could be checked
    model.save_pretrained(at)
    words.save_pretrained(at)
    small = ["data.pairs=6", "generate.max_new_tokens=2", "train.max_length=2048"]  # a vocabulary of six pairs makes prompts long
    small += [f"{part}={steps}" for part, steps in (("policies.small.steps", 2), ("judge.start.steps", 2))]
    with listening(Served(model, words)) as served:
        sweep = grid.read(
            SWEEPS / "references_elsewhere.yaml",
            [
                *small,
                *("axes.reference=[self,columns,folder,served]", f"references.folder.model={at}"),
                *(f"references.served.tokenizer={at}", f"references.served.base_url={served.base_url}"),
            ],
        )
        store, records = run(sweep, grid.cells(sweep), tmp_path)
    assert [record["status"] for record in records] == ["done"] * 4, records
    columns, folder, by_server = (artefacts.read_pair_table(cell.dpo.table, store) for cell in grid.cells(sweep)[1:])
    given = {row["pair_id"]: row for row in csv.DictReader((SWEEPS / "data" / "hh_helpful_400_logps.csv").read_text().splitlines())}
    assert columns.chosen_logp_sum == pytest.approx([float(given[each]["chosen_logp_sum"]) for each in columns.pair_ids])
    assert by_server.chosen_logp_sum == pytest.approx(folder.chosen_logp_sum, abs=1e-3)
