"""References checked before anything is paid for: sound ones, and every faulty sort, on real small checkpoints."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from refstudy import cli, data, grid, recipes, results, validation
from refstudy.progress import Board
from refstudy.texts import Pair
from refstudy.validation import Row
from tests import reference_world, scoring_server, sweeps
from tests.reference_world import PLAIN, model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference_world.write_models(tmp_path_factory.mktemp("models"))


def rows_of(path: Path, *assignments: str) -> dict[str, Row]:
    """Rows by reference; the policy's under "policy"."""
    read = grid.read(path, list(assignments))
    at = results.place(read, path.parent / "results" / read.name, None)
    found = {row.reference or "policy": row for row in validation.validate(read, grid.cells(read), at.store)}
    assert not at.store.root.exists()  # checking writes nothing
    return found


def training_pairs(path: Path) -> list[Pair]:
    texts = grid.cells(grid.read(path))[0].dpo.table.texts
    assert isinstance(texts, recipes.TokenPairs)
    assert isinstance(texts.pairs, recipes.Preferences)
    return data.preferences(texts.pairs).rows


def length(tokenizer: PreTrainedTokenizerBase, pair: Pair, answer: str) -> int:
    """Tokens of prompt and answer, with the end of turn, as transformers renders them."""
    messages = [*pair.messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@contextmanager
def unseen(board: Board) -> Iterator[None]:
    """Shows nothing."""
    yield


def command(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["refstudy", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), *capsys.readouterr()


def test_validate_says_how_each_references_tokens_relate_to_the_policys(models: Path, tmp_path: Path) -> None:
    references = {
        "larger": model(models, "larger"),
        "plain": model(models, "larger", template=PLAIN),
        "qwen": model(models, "qwen2.5"),
        "likely": {"kind": "prior"},
        "posterior": {"kind": "constant"},
    }
    rows = rows_of(reference_world.write(tmp_path, models, references))
    assert {name: row.vocabulary for name, row in rows.items()} == {
        "policy": None, "self": "same", "larger": "same", "plain": "same vocabulary", "qwen": "other", "likely": "same",
        "posterior": None,
    }  # fmt: skip
    assert not any(row.refusals for row in rows.values())
    assert any("another tokenizer" in remark for remark in rows["qwen"].remarks)
    assert any("log p(answer) under self after an empty prompt" in remark for remark in rows["likely"].remarks)
    assert (rows["larger"].template, rows["larger"].pairs_checked, rows["posterior"].template) == ("kept", 10, None)


def test_validate_counts_parameters_tokens_and_operations_of_a_pass(models: Path, tmp_path: Path) -> None:
    """10 pairs to train on; a reference's tokens are those that its own tokenizer makes of both answers with their prompts."""
    path = reference_world.write(tmp_path, models, {"larger": model(models, "larger")})
    rows = rows_of(path)
    loaded = AutoModelForCausalLM.from_pretrained(models / "larger")
    tokenizer = AutoTokenizer.from_pretrained(models / "larger")
    pairs = training_pairs(path)
    tokens = sum(length(tokenizer, pair, answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
    row = rows["larger"]
    assert (row.parameters, row.tokens, row.tokens_are_bound) == (loaded.num_parameters(), tokens, False)
    assert row.petaflops == pytest.approx(2 * loaded.num_parameters() * tokens / 1e15)
    assert (row.made, row.of, row.price) == (0, 1, None)


def test_validate_shares_of_cut_answers_are_those_of_max_length(models: Path, tmp_path: Path) -> None:
    path, tokenizer = reference_world.write(tmp_path, models, {}), AutoTokenizer.from_pretrained(models / "smollm2")
    lengths = [length(tokenizer, pair, pair.rejected) for pair in training_pairs(path)]
    limit = sorted(lengths)[6]  # of ten: three or fewer are longer
    whole, cut = rows_of(path)["self"], rows_of(path, f"train.max_length={limit}")["self"]
    assert (whole.rejected_cut_share, whole.longest_tokens) == (0.0, max(lengths))
    assert (cut.chosen_cut_share, cut.longest_tokens) == (0.0, limit)
    assert cut.rejected_cut_share == sum(each > limit for each in lengths) / 10 > 0


def test_refusals_of_all_faulty_references_are_listed_together(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = training_pairs(reference_world.write(tmp_path, models, {}))[0]
    edge = {"prompt": trained.messages[0]["content"], "chosen": " With an edge. ", "rejected": "No."}
    references = {
        "sound": model(models, "larger"),
        "nameless": model(models, "no-template"),
        "silent": model(models, "silent"),
        "endless": model(models, "endless"),
        "short": model(models, "short"),
        "trimming": model(models, "llama-3"),
        "both": {"kind": "mixture", "of": {"sound": 1, "silent": 1}},
        "part": {"kind": "derived", "of": "trimming", "keep": "length_free"},
        "chosen": {"kind": "derived", "of": "endless", "keep": "selection_only"},
        "guided": {"kind": "trained", "dpo": {"reference": "nameless", "beta": 1.0}},
    }
    path = reference_world.write(tmp_path, models, references, [*reference_world.ROWS, edge])
    code, out, err = command("validate", path, "--results", tmp_path / "r" / "x", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err) == (1, "")
    said = {name: f"reference {name} of policy small: " for name in references}
    assert said["sound"] not in out
    lines = {name: next(line for line in out.splitlines() if intro in line) for name, intro in said.items() if name != "sound"}
    assert "has no chat template" in lines["nameless"]
    assert "give the model's entry a `template`" in lines["nameless"]
    assert "trims or rewrites the answer" in lines["silent"]
    assert "ends no turn" in lines["endless"]
    assert "more than its context of 48" in lines["short"]
    pair_id = next(pair.pair_id for pair in training_pairs(path) if "edge" in pair.chosen)
    assert f"pair '{pair_id}'" in lines["trimming"]
    assert "(1 of 11 pairs tried are refused)" in lines["trimming"]
    assert "silent: checkpoint" in lines["both"]
    assert "trimming: pair" in lines["part"]
    assert "endless: checkpoint" in lines["chosen"]
    assert "nameless: checkpoint" in lines["guided"]
    assert "9 of 12 are refused" in out


def test_policy_that_cannot_train_on_its_pairs_is_refused(models: Path, tmp_path: Path) -> None:
    rows = [*reference_world.ROWS, {"prompt": "word " * 300, "chosen": "Yes.", "rejected": "No."}]
    path = reference_world.write(tmp_path, models, {}, rows)
    assert "leaves no room for an answer" in rows_of(path, "data.eval_prompts=1")["policy"].refusals[0]
    dropping = rows_of(path, "data.eval_prompts=1", "data.unusable=drop")["policy"]
    assert dropping.refusals == []
    assert any("1 of the pairs tried leave no room" in remark for remark in dropping.remarks)


def test_file_reference_is_joined_with_every_pair_or_refused(models: Path, tmp_path: Path) -> None:
    entry = {"kind": "file", "path": "logps.jsonl", "chosen": "c", "rejected": "r"}
    path = reference_world.write(tmp_path, models, {"columns": entry})
    logps = [{**row, "c": -5.0, "r": -6.0} for row in reference_world.ROWS]

    def columns(rows: list[dict[str, Any]]) -> Row:
        (tmp_path / "logps.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        return rows_of(path)["columns"]

    sound = columns(logps)
    assert sound.refusals == []
    assert sound.remarks[0] == "10 of 10 pairs joined"
    assert (sound.tokens, sound.memory_gb, sound.vocabulary) == (0, None, None)
    assert "pairs have no row by text" in columns(logps[:8]).refusals[0]
    assert "no column 'c'" in columns([{**row, "c2": 1} for row in reference_world.ROWS]).refusals[0]
    assert "expected log p of the whole answer" in columns([*logps[:-1], {**logps[-1], "c": 2.0}]).refusals[0]


def test_server_reference_is_asked_and_one_out_of_reach_is_refused(models: Path, tmp_path: Path) -> None:
    loaded, tokenizer = (
        AutoModelForCausalLM.from_pretrained(models / "larger").eval(),
        AutoTokenizer.from_pretrained(models / "larger"),
    )
    served = {"kind": "server", "model": "larger", "tokenizer": str(models / "larger")}
    with scoring_server.listening(scoring_server.Served(loaded, tokenizer)) as server:
        path = reference_world.write(tmp_path, models, {"served": {**served, "base_url": server.base_url}})
        row = rows_of(path)["served"]
        assert row.refusals == []
        assert any("answers, and gives" in remark for remark in row.remarks)
        assert (row.vocabulary, row.template, row.petaflops, row.parameters) == ("same", "kept", 0.0, None)
        assert row.tokens > 0
    assert "cannot be reached" in rows_of(path)["served"].refusals[0]


def test_models_that_are_not_made_yet_are_known_from_what_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch models: their tokenizer and size before they are made are those that they have afterwards. Their trainings save
    states as a run's do."""
    intervals_s, make = set(), validation.make.make

    def watched(*given: Any, save_every_s: float, **named: Any) -> None:
        intervals_s.add(save_every_s)
        make(*given, save_every_s=save_every_s, **named)

    monkeypatch.setattr(validation.make, "make", watched)
    path = sweeps.write(tmp_path, betas=(1.0,))
    before = rows_of(path)
    assert before["cross"].vocabulary == "other"
    assert before["cross"].template == "kept"
    assert before["policy"].made == 0
    assert any("is made first" in remark for remark in before["cross"].remarks)
    read = grid.read(path)
    at = results.place(read, tmp_path / "results" / "tiny", None)
    after = {row.reference or "policy": row for row in validation.score(read, grid.cells(read), at.store, unseen)}
    assert intervals_s == {900.0}
    for name in ("policy", "self", "cross"):
        for field in ("parameters", "vocabulary", "longest_tokens", "context_tokens", "pairs", "rejected_cut_share"):
            assert getattr(after[name], field) == getattr(before[name], field), (name, field)
    assert (after["policy"].made, after["cross"].made, after["cross"].of, after["cross"].tokens) == (1, 2, 2, 0)
    assert not (at.store.root / "training_log").exists()  # no cell is trained
    assert after["self"].words == "says what the policy itself says in every pair; the same reference as self"
    assert after["self"].measures["saturation_beta_1"] == pytest.approx(0.0, abs=1e-3)
    assert "nats a token" in after["cross"].words
    assert after["cross"].measures["pairs"] == after["cross"].pairs
    assert "share_end_token" not in after["cross"].measures


def test_miniature_pairs_that_are_not_made_leave_blanks_and_bounds(tmp_path: Path) -> None:
    quickstart = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
    read = grid.read(quickstart, [])
    rows = {
        row.reference or "policy": row
        for row in validation.validate(read, grid.cells(read), results.place(read, tmp_path / "r", None).store)
    }
    assert {row.template for row in rows.values()} == {"probe"}
    assert {row.longest_tokens for row in rows.values()} == {None}
    assert rows["larger-same"].parameters == 422_112
    assert (rows["larger-same"].vocabulary, rows["larger-far"].vocabulary) == ("same", "other")
    assert (rows["larger-far"].tokens, rows["larger-far"].tokens_are_bound) == (3000 * 2 * 128, True)
    assert any("are not made yet" in remark for remark in rows["policy"].remarks)


def test_score_measures_sound_references_and_leaves_refused_ones_alone(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    references = {
        "larger": model(models, "larger"),
        "silent": model(models, "silent"),
        "half": {"kind": "derived", "of": "larger", "keep": "scaled", "factor": 0.5},
        "none": {"kind": "derived", "of": "larger", "keep": "selection_only"},
        "turned": {"kind": "derived", "of": "larger", "keep": "scaled", "factor": -1.0},
        "all": {"kind": "derived", "of": "turned", "keep": "selection_only"},
    }
    path = reference_world.write(tmp_path, models, references)
    told = ("validate", path, "--results", tmp_path / "r" / "x", "--score", "--json")
    code, out, err = command(*told, monkeypatch=monkeypatch, capsys=capsys)
    rows = {row["reference"]: row for row in json.loads(out)}
    assert code == 1
    assert "tables" in err  # progress lines, as `run` has them
    assert set(rows[None]) == {field.name for field in dataclasses.fields(Row)}
    assert rows["silent"]["measures"] is None
    whole, half = rows["larger"]["measures"], rows["half"]["measures"]
    assert half["difference_spread_nats"] == pytest.approx(whole["difference_spread_nats"] / 2)
    assert half["saturation_beta_0.1"] == pytest.approx(0.1 * half["difference_spread_nats"])
    assert whole["share_end_token"] + whole["share_first_tokens"] + whole["share_rest"] == pytest.approx(1.0)
    # Between these random models D < 0 in every pair: nothing is selected, and with the sign turned everything.
    assert rows["all"]["words"] == "self, trained on 10 of 10 pairs: those with D > 0"
    assert "leaves none of 10 pairs" in rows["none"]["refusals"][0]
    assert (rows["half"]["made"], rows["half"]["tokens"]) == (1, 0)
    code, out, err = command(*told[:-1], monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err) == (1, "")
    assert "small larger: demands" in out
    assert "beta times spread of D" in out


def test_validate_answers_0_when_all_can_be_used_and_2_for_bad_input(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = reference_world.write(tmp_path, models, {"larger": model(models, "larger")})
    code, out, _ = command("validate", path, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert "All can be used (10 pairs tried)." in out
    code, out, err = command("validate", path, "--set", "axes.beta=[0]", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    (tmp_path / "pairs.jsonl").write_text("{\n")
    code, _, err = command("validate", path, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "pairs.jsonl, line 1" in err


def test_seeds_and_settings_that_change_no_table_make_no_further_row(models: Path, tmp_path: Path) -> None:
    path = reference_world.write(tmp_path, models, {"larger": model(models, "larger")})
    read = grid.read(path, ["axes.seed=[0,1]", "axes.train.learning_rate=[1e-3,1e-4]", "axes.train.max_length=[256,40]"])
    rows = validation.validate(read, grid.cells(read), results.place(read, tmp_path / "r", None).store)
    assert [(row.reference, row.settings) for row in rows] == [
        (reference, {"train.max_length": length}) for length in (256, 40) for reference in (None, "self", "larger")
    ]
