"""What was made elsewhere beside the cells of a tiny real sweep: imported, judged like them, and compared with them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis import report
from refstudy import alone, artefacts, cli, grid, imports, outcomes, recipes, records, results, sides
from refstudy.errors import DataError, ModelError, SpecError
from refstudy.grid import Cell
from refstudy.identity import fingerprint
from refstudy.measures import comparison
from refstudy.results import Results
from tests import sweeps
from tests.test_cli import run


@dataclass(frozen=True)
class Bench:
    at: Results
    cells: list[Cell]
    outputs: Path
    """The first cell's answers as AlpacaEval writes such files."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two finished cells, the first with its policy kept."""
    folder = tmp_path_factory.mktemp("imports")
    settings = ["wandb.enabled=false", "keep=full", "axes.beta=[1]"]
    sweep = grid.read(sweeps.write(folder), settings)
    cells, at = grid.cells(sweep), results.place(sweep, folder / "results" / "tiny", None)
    results.begin(at, sweep, cells)
    for cell in cells:
        assert alone.run_cell(cell, at, sweep, cells, again=False)["status"] == "done"
    prompts = {each.prompt_id: each for each in artefacts.read_prompts(cells[0].completions.prompts, at.store)}
    rows = [
        {
            "instruction": prompts[each.prompt_id].messages[-1]["content"],
            "output": each.text,
            "generator": "copy",
            "terminated": each.terminated,
        }
        for each in artefacts.read_completions(cells[0].completions, at.store)
    ]
    path = folder / "model_outputs.json"
    path.write_text(json.dumps(rows))
    return Bench(at, cells, path)


def test_imported_outputs_get_the_win_rate_that_the_cell_with_the_same_answers_has(bench: Bench) -> None:
    (record,) = imports.bring(imports.Given(name="copy", outputs=bench.outputs), bench.at, bench.cells)
    own = records.read_record(records.record_path(bench.at.folder, bench.cells[0].id))
    for name in ("win_rate", "win_rate_se", "judge_reward", "length_characters_mean", "truncation_rate", "distinct_answers"):
        assert record["measures"][name] == pytest.approx(own["measures"][name], abs=1e-6), name
    assert (record["reference"], record["beta"], record["policy"]) == ("copy", None, "small")
    assert bench.at.store.has(imports.recipe_of(imports.Given(name="copy", outputs=bench.outputs), bench.cells[0]))


def test_imported_checkpoint_answers_as_the_cell_that_kept_it(bench: Bench) -> None:
    folder = bench.at.store.path(bench.cells[0].dpo)
    (record,) = imports.bring(imports.Given(name="mine", checkpoint=folder), bench.at, bench.cells)
    answers = imports.answers_of(imports.Given(name="mine", checkpoint=folder), bench.cells[0])
    own = artefacts.read_completions(bench.cells[0].completions, bench.at.store)
    assert [each.token_ids for each in artefacts.read_completions(answers, bench.at.store)] == [each.token_ids for each in own]
    assert record["cell_id"] != bench.cells[0].id


def test_imported_votes_take_the_judges_place(bench: Bench, tmp_path: Path) -> None:
    """Six prompts, five won and one lost: 5/6."""
    prompts = artefacts.read_prompts(bench.cells[0].completions.prompts, bench.at.store)
    votes = tmp_path / "votes.jsonl"
    votes.write_text("".join(json.dumps({"prompt_id": each.prompt_id, "p": float(n > 0)}) + "\n" for n, each in enumerate(prompts)))
    given = imports.Given(name="people", cell=bench.cells[1].id, votes=votes)
    (record,) = imports.bring(given, bench.at, bench.cells)
    assert record["measures"]["win_rate"] == pytest.approx(5 / 6)
    assert record["recipes"]["completions"] == fingerprint(bench.cells[1].completions)
    votes.write_text(votes.read_text().splitlines()[0] + "\n")
    (record,) = imports.bring(given, bench.at, bench.cells)
    assert record["measures"]["judge_failures"] == 5


def test_import_of_the_same_name_replaces_the_earlier_one_and_no_cell(bench: Bench, tmp_path: Path) -> None:
    cells = records.read_records(bench.at.folder)
    first = imports.bring(imports.Given(name="again", outputs=bench.outputs), bench.at, bench.cells)
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{**row, "output": "No."} for row in json.loads(bench.outputs.read_text())]))
    second = imports.bring(imports.Given(name="again", outputs=other), bench.at, bench.cells)
    named = [each["cell_id"] for each in imports.read(bench.at.folder) if each["reference"] == "again"]
    assert named == [second[0]["cell_id"]] != [first[0]["cell_id"]]
    assert records.read_records(bench.at.folder) == cells


def test_import_without_all_answers_leaves_nothing_behind(bench: Bench, tmp_path: Path) -> None:
    short = tmp_path / "short.json"
    short.write_text(json.dumps(json.loads(bench.outputs.read_text())[:4]))
    with pytest.raises(DataError, match="2 of 6 prompts have no answer"):
        imports.bring(imports.Given(name="short", outputs=short), bench.at, bench.cells)
    assert not [each for each in imports.read(bench.at.folder) if each["reference"] == "short"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs one of --outputs, --checkpoint and --cell"),
        ({"outputs": Path("a"), "cell": "b"}, "needs one of"),
        ({"cell": "b"}, "give --verdicts"),
        ({"outputs": Path("a"), "template": Path("t")}, "--template is a checkpoint's"),
        ({"outputs": Path("a"), "name": " "}, "--name is empty"),
    ],
)
def test_wrong_combination_is_refused(given: dict, message: str, bench: Bench) -> None:
    with pytest.raises(SpecError, match=message):
        imports.bring(imports.Given(**{"name": "x", **given}), bench.at, bench.cells)


def test_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="an adapter without its base"):
        imports.local(tmp_path)


def test_report_shows_imports_beside_the_cells(bench: Bench) -> None:
    imports.bring(imports.Given(name="<b>copy</b>", outputs=bench.outputs), bench.at, bench.cells)
    page = report.write(bench.at.folder, bench.at.store).read_text()
    assert "Brought from elsewhere" in page
    assert "&lt;b&gt;copy&lt;/b&gt;" in page
    assert len(records.status_rows(bench.at.folder)) == 2


def test_head_to_head_of_two_cells_is_an_artefact_and_agrees_with_the_rewards(bench: Bench) -> None:
    """The reward judge: P(A beats B) is above half exactly where A's reward is the higher one."""
    names = [f"{bench.at.folder}:{cell.id}" for cell in bench.cells]
    pairing = sides.pair(*names)
    assert pairing.direct is not None, pairing.notes
    one, two = pairing.a.rewards, pairing.b.rewards
    assert all((p > 0.5) is (one[each] > two[each]) for each, p in pairing.direct.items() if p != 0.5)
    judge = bench.cells[0].verdicts.judge
    first, second = (cell.completions for cell in bench.cells)
    assert bench.at.store.has(recipes.Verdicts(candidate=first, baseline=second, judge=judge))
    found = comparison.compare(pairing.a, pairing.b, pairing.direct)
    assert found.difference.n == 6
    assert [each.unit for each in found.lengths] == ["tokens", "characters", "words"]


def test_import_file_and_checkpoint_are_sides_too(bench: Bench) -> None:
    imports.bring(imports.Given(name="same", outputs=bench.outputs), bench.at, bench.cells)
    own, other = (f"{bench.at.folder}:{cell.id}" for cell in bench.cells)
    reference = sides.pair(own, other).direct
    for name in (f"{bench.at.folder}:same", str(bench.outputs), str(bench.at.store.path(bench.cells[0].dpo))):
        pairing = sides.pair(name, other)
        assert pairing.direct == pytest.approx(reference, abs=1e-6), name
        assert not pairing.notes


def test_two_files_are_compared_without_a_judge_or_with_that_of_a_cell(bench: Bench) -> None:
    alone_ = sides.pair(str(bench.outputs), str(bench.outputs))
    assert alone_.direct is None
    assert "neither side is a cell" in alone_.notes[0]
    like = sides.pair(str(bench.outputs), str(bench.outputs), like=f"{bench.at.folder}:{bench.cells[0].id}")
    assert like.notes == ["Both sides are the same answers."]
    assert like.a.p == like.b.p


def test_cell_of_a_sweep_whose_data_are_gone_is_compared_by_its_records(bench: Bench) -> None:
    data = Path(records.read_sweep(bench.at.folder)["sweep_folder"]) / "pairs.jsonl"
    names = [f"{bench.at.folder}:{cell.id[:6]}" for cell in bench.cells]
    data.rename(data.with_suffix(".gone"))
    try:
        pairing = sides.pair(*names)
    finally:
        data.with_suffix(".gone").rename(data)
    assert pairing.direct is None
    assert "its sweep cannot be read again" in pairing.notes[0]
    assert comparison.compare(pairing.a, pairing.b).difference.n == 6


def test_same_cell_of_two_stores_is_compared_by_what_each_store_has(bench: Bench, tmp_path: Path) -> None:
    """As after a change of the code: the recipe is the same, the answers need not be."""
    shutil.copytree(bench.at.folder, tmp_path / "tiny")
    shutil.copytree(bench.at.store.root, tmp_path / "store")
    sweep = records.read_sweep(bench.at.folder)
    records.write_json(tmp_path / "tiny" / "sweep.json", {**sweep, "store": str(tmp_path / "store")})
    answers = tmp_path / "store" / "completions" / fingerprint(bench.cells[0].completions) / "completions.jsonl"
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    answers.write_text("".join(json.dumps({**row, "text": "changed"}) + "\n" for row in rows))
    pairing = sides.pair(*(f"{folder}:{bench.cells[0].id}" for folder in (bench.at.folder, tmp_path / "tiny")))
    assert pairing.direct is None
    assert pairing.notes == ["No head-to-head: the answers lie in different stores."]
    found = comparison.compare(pairing.a, pairing.b)
    assert (found.same_text, len(found.examples)) == (0, 6)
    assert found.difference.value == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{at}:zz", "{at}:zz"], "has no cell or import with an id that begins with 'zz', or of that name"),
        (["compare", "nowhere.jsonl", "{at}:{cell}"], "nowhere.jsonl is no file, checkpoint or cell"),
        (["compare", "zz", "yy"], "cell 'zz' is in none of them"),
        (["compare", "{checkpoint}", "{checkpoint}"], "must be asked something"),
        (["import", "{at}", "--outputs", "nowhere.json", "--name", "x"], "nowhere.json does not exist"),
        (["import", "{at}", "--checkpoint", "nowhere", "--name", "x"], "checkpoint nowhere does not exist"),
        (["import", "nowhere", "--cell", "a", "--name", "x"], "no folder of a sweep"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"at": bench.at.folder, "cell": bench.cells[0].id, "checkpoint": bench.at.store.path(bench.cells[0].dpo)}
    filled = [each.format(**known) for each in arguments]
    code, out, err = run(*filled, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert "Traceback" not in out + err


def test_commands_import_compare_and_gate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    at, page, saved = bench.at.folder, tmp_path / "compare.html", tmp_path / "gate.json"
    cli.import_(at, "cli", outputs=bench.outputs)
    assert capsys.readouterr().out.startswith("cli (small, seed 0): win_rate ")
    outcomes.compare(f"{at}:cli", f"{at}:{bench.cells[1].id}", html=page, count=1)
    out = capsys.readouterr().out
    assert out.startswith("A: cli (imported)\nB: small cross beta=1 seed=0\nHead to head A beats B in ")
    assert out.endswith(f"{page}\n")
    assert page.is_file()
    for arguments, expected in ((["--save", saved], 0), (["--against", saved], 0), (["--limit", "win_rate>1"], 1)):
        code, out, _ = run("gate", at, *arguments, monkeypatch=monkeypatch, capsys=capsys)
        assert code == expected, out
    assert "small self beta=1 seed=0: win_rate is " in out
