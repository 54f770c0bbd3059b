"""Tables by real passes over real artefacts: kept as they come in, shared by workers, scored over HTTP."""

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from refstudy import (
    artefacts,
    checkpoints,
    grid,
    make,
    models,
    partial_scores,
    passes,
    plan,
    recipes,
    reference_scores,
    scoring,
    server,
    shared_prompt,
    shelf,
    tables,
    trial,
)  # fmt: skip
from refstudy.endpoint import endpoint
from refstudy.errors import ModelError
from refstudy.passes import Shard
from refstudy.store import Store
from tests import checkpoints as families
from tests import sweeps
from tests.scoring_server import Served, answering, listening

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep file over real checkpoints: self, another family, the same family larger, and a server."""
    folder = tmp_path_factory.mktemp("tables")
    for name, style, hidden in (("start", "smollm2", 32), ("larger", "smollm2", 64), ("other", "qwen2.5", 32)):
        families.write(style, folder / name, seed=hidden, hidden=hidden)
    _spread(folder / "other")
    families.write_reward_model("qwen2.5", folder / "judge")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, sweeps.pairs(30))))
    train = "{epochs: 1, batch_pairs: 8, learning_rate: 1.0e-3, max_length: 192}"
    (folder / "tables.yaml").write_text(f"""
name: tables
data: {{kind: file, path: pairs.jsonl, eval_prompts: 6, unicode: nfc}}
policies: {{p: {{kind: model, model: start}}}}
references:
  self:   {{kind: policy}}
  larger: {{kind: model, model: larger}}
  other:  {{kind: model, model: other}}
  blank:  {{kind: prior, of: other}}
  served: {{kind: server, model: tiny, base_url: "http://127.0.0.1:1/v1", tokenizer: other, retries: 0}}
axes: {{beta: [1]}}
train: {train}
generate: {{max_new_tokens: 8}}
judge: {{kind: reward_model, model: judge, max_length: 192}}
""")
    return folder


def _spread(folder: Path) -> None:
    """Makes the checkpoint's log-probs differ: a server whose tokens are all alike cannot be checked."""
    model, words = models.load(checkpoints.Checkpoint(str(folder)))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    models.save(model, words, folder)


def cell_of(folder: Path, reference: str, *assignments: str) -> grid.Cell:
    return grid.cells(grid.read(folder / "tables.yaml", [f"axes.reference=[{reference}]", *assignments]))[0]


@pytest.fixture
def small_batches(monkeypatch):
    """About a dozen batches a pass, and a list of how many texts each forward pass has scored."""
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 300)
    seen, whole = [], scoring.batch_logits

    def watched(model, batch, turns, pad_id):
        seen.append(len(batch.rows))
        return whole(model, batch, turns, pad_id)

    monkeypatch.setattr(scoring, "batch_logits", watched)
    return seen


def made(folder: Path, reference: str, root: Path) -> tuple[grid.Cell, Store]:
    """The cell of a reference, with all that its table needs made in a store of its own."""
    cell, store = cell_of(folder, reference), Store(root)
    make.make_all([each for each in plan.missing([cell.dpo.table], store) if each != cell.dpo.table], store)
    return cell, store


def table_of(cell: grid.Cell, store: Store) -> tables.PairTable:
    return artefacts.read_pair_table(cell.dpo.table, store)


def assert_same(table: tables.PairTable, expected: tables.PairTable, atol: float = 1e-5) -> None:
    assert table.pair_ids == expected.pair_ids
    assert table.bytes_sha256 == expected.bytes_sha256
    for name in ("chosen_logp_sum", "rejected_logp_sum", "chosen_tokens", "rejected_tokens"):
        assert getattr(table, name) == pytest.approx(getattr(expected, name), abs=atol)
    assert (table.chosen_logps is None) == (expected.chosen_logps is None)
    for one, other in zip(table.chosen_logps or [], expected.chosen_logps or [], strict=True):
        assert one == pytest.approx(other, abs=atol)


@pytest.mark.parametrize(("reference", "of"), [("larger", 5), ("other", 2), ("blank", 2)])
def test_table_of_shards_is_that_of_one_pass_row_for_row(folder, tmp_path, small_batches, monkeypatch, reference, of):
    cell, store = made(folder, reference, tmp_path / "one")
    make.make(cell.dpo.table, store)
    batches = list(small_batches)
    small_batches.clear()
    cell, shared = made(folder, reference, tmp_path / "many")
    for number in range(of):
        make.score_shard([cell.dpo.table], Shard(number, of), shared)
    assert sorted(small_batches) == sorted(batches)
    monkeypatch.setattr(shelf.Shelf, "take", None)  # what joins the shards loads no model
    make.make(cell.dpo.table, shared)
    assert_same(table_of(cell, shared), table_of(cell, store), atol=0)
    assert not list((shared.root / "partial").iterdir())
    assert tables.summary(shared.path(cell.dpo.table))["texts_resumed"] == sum(batches)


def test_shard_of_bf16_is_that_of_one_pass_to_the_bit(folder, tmp_path, small_batches):
    """Rounding in bf16 depends on what shares a batch, so that batches must be those of the whole pass."""
    cell, store = cell_of(folder, "larger", "references.larger.precision=bf16"), Store(tmp_path / "one")
    shared = Store(tmp_path / "many")
    for each in (store, shared):
        make.make_all([recipe for recipe in plan.missing([cell.dpo.table], each) if recipe != cell.dpo.table], each)
    make.make(cell.dpo.table, store)
    for number in range(3):
        make.score_shard([cell.dpo.table], Shard(number, 3), shared)
    make.make(cell.dpo.table, shared)
    assert_same(table_of(cell, shared), table_of(cell, store), atol=0)
    whole, _ = made(folder, "larger", tmp_path / "one")
    make.make(whole.dpo.table, store)
    apart = np.abs(table_of(cell, store).chosen_logp_sum - table_of(whole, store).chosen_logp_sum)
    assert 0 < apart.mean() < 0.1


KILLED = """
import os, signal, sys
from pathlib import Path
from refstudy import make, scoring
from refstudy.passes import Shard
from refstudy.store import Store
from tests.test_reference_tables import cell_of

def emit(measurement):
    if measurement.stage == "score" and measurement.step >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

scoring.BATCH_TOKENS = 300
cell, store = cell_of(Path(sys.argv[1]), "larger"), Store(sys.argv[2])
if sys.argv[4:]:
    make.score_shard([cell.dpo.table], Shard(int(sys.argv[4]), int(sys.argv[5])), store, emit)
else:
    make.make(cell.dpo.table, store, emit)
"""


def killed(folder: Path, store: Store, after: int, *shard: int) -> None:
    """A pass in a process of its own that is killed (-9) as soon as it has scored `after` texts."""
    arguments = [str(each) for each in (folder, store.root, after, *shard)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, timeout=120, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def test_killed_pass_goes_on_with_the_batch_that_was_cut_off(folder, tmp_path, small_batches):
    """48 texts; killed after 20 or a few more: the second pass scores the others alone, whole batches of them."""
    cell, store = made(folder, "larger", tmp_path)
    texts = 2 * len(artefacts.read_token_pairs(cell.dpo.table.texts, store))
    killed(folder, store, 20)
    before = len(partial_scores.read(store.partial(cell.dpo.table)))
    assert 20 <= before < texts
    assert not store.has(cell.dpo.table)
    make.make(cell.dpo.table, store)
    assert sum(small_batches) == texts - before
    cell, other = made(folder, "larger", tmp_path / "uninterrupted")
    make.make(cell.dpo.table, other)
    assert_same(table_of(cell, store), table_of(cell, other), atol=0)


def test_killed_shard_loses_nothing_of_its_own_or_of_the_others(folder, tmp_path, small_batches):
    """Three shards: the first ends, the second is killed, the third never begins; who makes the table scores the rest."""
    cell, store = made(folder, "larger", tmp_path)
    texts = 2 * len(artefacts.read_token_pairs(cell.dpo.table.texts, store))
    make.score_shard([cell.dpo.table], Shard(0, 3), store)
    first = sum(small_batches)
    killed(folder, store, 1, 1, 3)
    before = len(partial_scores.read(store.partial(cell.dpo.table)))
    assert first < before < texts
    small_batches.clear()
    make.score_shard([cell.dpo.table], Shard(0, 3), store)
    assert small_batches == []
    make.make(cell.dpo.table, store)
    assert sum(small_batches) == texts - before


def test_model_that_overflows_is_refused_with_pair_checkpoint_and_remedy_and_the_rest_is_kept(folder, tmp_path, small_batches):
    """One token of two texts (a number) has no finite embedding; the other texts come in before the pass stops."""
    families.write("tulu-2", tmp_path / "torn")
    words = families.tokenizer_of("tulu-2")
    cell, store = cell_of(folder, "larger", f"references.larger.model={tmp_path / 'torn'}"), Store(tmp_path / "store")
    make.make_all([each for each in plan.missing([cell.dpo.table], store) if each != cell.dpo.table], store)
    texts = passes.pair_texts(words, artefacts.read_token_pairs(cell.dpo.table.texts, store))
    counts = Counter(token for text in texts for token in {*text.turn.prompt_ids, *text.turn.answer_ids})
    rare = min(counts, key=lambda token: (counts[token], token))
    assert counts[rare] < len(texts) / 4
    model, _ = models.load(checkpoints.Checkpoint(str(tmp_path / "torn")))
    with torch.no_grad():
        model.get_input_embeddings().weight[rare] = float("nan")
    models.save(model, words, tmp_path / "torn")
    cell = cell_of(folder, "larger", f"references.larger.model={tmp_path / 'torn'}")
    with pytest.raises(
        ModelError,
        match=r"pair '\w+' \(\w+\): checkpoint .*torn' gives \d+ of \d+ tokens no finite log-prob .*`precision: fp32`",
    ):
        make.make(cell.dpo.table, store)
    assert partial_scores.read(store.partial(cell.dpo.table))
    assert not store.has(cell.dpo.table)


# Servers -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(folder, monkeypatch):
    monkeypatch.setattr(server, "endpoint", lambda *settings: endpoint(*settings, backoff_s=0.02))
    model, words = models.load(checkpoints.Checkpoint(str(folder / "other")), device="cpu")
    with listening(Served(model, words)) as running:
        yield running


def test_server_reference_is_scored_trained_against_and_has_its_kl_measured(folder, tmp_path, served):
    """The server serves `other`, so that all must come out as with the same checkpoint as a model."""
    store, records, kl = Store(tmp_path / "store"), {}, {}
    for reference in ("served", "other"):
        cell = cell_of(folder, reference, f"references.served.base_url={served.base_url}")
        make.make_all(plan.shared([cell], store), store)
        records[reference] = trial.run_trial(cell, store, tmp_path / "results")
        assert records[reference].get("error") is None
        groups = plan.reference_passes([cell], store)
        assert [len(group) for group in groups] == [1 if reference == "served" else 3]
        make.make_all(groups[0], store)
        assert plan.reference_passes([cell], store) == []
        kl[reference] = reference_scores.kl_to_reference(cell, store)
    tables_ = [table_of(cell_of(folder, each, f"references.served.base_url={served.base_url}"), store) for each in records]
    assert_same(tables_[0], tables_[1], atol=1e-4)
    assert kl["served"] == pytest.approx(kl["other"], abs=1e-3)
    assert kl["served"]["kl_reference_nats"] > 0
    assert not list((store.root / "partial").iterdir())


def test_answers_of_several_cells_to_long_prompts_are_scored_together(folder, tmp_path, monkeypatch):
    """As each cell's alone; every prompt is read once for both cells."""
    monkeypatch.setattr(shared_prompt, "LEAST_TOKENS", 10)
    sweep = grid.read(folder / "tables.yaml", ["axes.seed=[0, 1]", "axes.reference=[larger]"])
    cells, store = grid.cells(sweep), Store(tmp_path / "store")
    make.make_all(plan.shared(cells, store), store)
    for cell in cells:
        assert trial.run_trial(cell, store, tmp_path / "results")["status"] == "done"
    (group,) = plan.reference_passes(cells, store)
    wanted = [each for each in group if isinstance(each, recipes.Table)]
    assert len(wanted) == 2
    shutil.copytree(store.root, tmp_path / "apart")
    scored, own = [], shared_prompt.answer_logits
    monkeypatch.setattr(
        shared_prompt, "answer_logits", lambda model, families: scored.append([*map(len, families)]) or own(model, families)
    )
    make.make_all(wanted, store)
    assert scored[-1] == [2] * 6, "both answers to each of the six prompts"
    apart = Store(tmp_path / "apart")
    for each in wanted:
        make.make(each, apart)
        ours, alone = (tables.read_completions(at.path(each)) for at in (store, apart))
        assert ours.prompt_ids == alone.prompt_ids
        assert ours.logp_sum == pytest.approx(alone.logp_sum, abs=1e-4)
    assert not list((store.root / "partial").iterdir())


def test_answers_by_a_server_are_resumed_and_name_the_prompt_that_failed(folder, tmp_path, served):
    cell, store = cell_of(folder, "served", f"references.served.base_url={served.base_url}"), Store(tmp_path / "store")
    make.make_all(plan.shared([cell], store), store)
    trial.run_trial(cell, store, tmp_path / "results")
    ((table,),) = plan.reference_passes([cell], store)
    served.asked.clear()
    served.fault = lambda handler, body: len(served.scored) > 3 and answering(500)(handler, body)
    with pytest.raises(ModelError, match=r"the answer to prompt '\w+': .* answered 500"):
        make.make(table, store)
    assert len(partial_scores.read(store.partial(table))) == 3
    served.fault = lambda handler, body: False
    make.make(table, store)
    assert tables.summary(store.path(table))["texts_resumed"] == 3


def test_tokenizer_of_a_server_that_changed_since_the_sweep_was_read_is_refused(folder, tmp_path):
    recipe = recipes.Local(content="0" * 64, path=str(folder / "other"))
    with pytest.raises(ModelError, match=r"the tokenizer in .*other has changed since the sweep was read"):
        checkpoints.tokenizer(recipe)


def test_checkpoint_whose_tokenizer_knows_more_tokens_than_the_model_is_refused(folder, tmp_path):
    """Weights of 400 tokens beside a tokenizer of more."""
    model, words = models.load(checkpoints.Checkpoint(str(folder / "larger")))
    model.resize_token_embeddings(len(words) // 2)
    models.save(model, words, tmp_path / "cut")
    cell, store = cell_of(folder, "larger", f"references.larger.model={tmp_path / 'cut'}"), Store(tmp_path / "store")
    make.make_all([each for each in plan.missing([cell.dpo.table], store) if each != cell.dpo.table], store)
    with pytest.raises(ModelError, match=r"pair '\w+' \(chosen\) has the token \d+, and checkpoint .*cut' knows .* up to"):
        make.make(cell.dpo.table, store)
