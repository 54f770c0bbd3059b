"""The judge of a sweep file: which leaves make it another judge, and what is refused before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from refstudy import entries, grid, recipes, results, sweepfile
from refstudy.entries import Place
from refstudy.errors import ModelError, RefstudyError, SpecError
from refstudy.judges import question
from refstudy.sweepfile import Document
from tests.judges import plugins
from tests.test_grid import QUICKSTART, execution_only, ids, leaves, other, sweep_of

LLM = {
    "kind": "llm", "model": "m", "base_url": "http://127.0.0.1:8000/v1", "revision": "r", "template": "judge.txt", "max_tokens": 1,
    "top_logprobs": 20, "limit": "max_tokens", "concurrency": 4, "requests_per_minute": 60.0, "timeout_s": 10.0, "retries": 2,
    "key_variable": "SOME_KEY", "price": {"prompt": 1.0, "completion": 2.0},
}  # fmt: skip
TEXT = "{{conversation}} {{answer_1}} {{answer_2}}"


def document(judge: dict[str, Any]) -> Document:
    """The quickstart's grid with one cell and another judge."""
    whole = sweepfile.read(QUICKSTART)
    return {**whole, "axes": {"beta": [1], "reference": ["self"]}, "judge": judge}


def judge_of(judge: dict[str, Any], folder: Path) -> Any:
    return grid.cells(sweep_of(document(judge), folder))[0].verdicts.judge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"judge.txt": TEXT, "votes.jsonl": "{}", "votes.jsonlx": "{} ", "judge.txtx": ""}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def wrong_leaves(judge: dict[str, Any], folder: Path, exempt: tuple[str, ...]) -> list[str]:
    """Leaves of the judge that do, or do not, change the cell's id, against what is declared."""
    before, tried = ids(document(judge), folder), []
    for path, value in leaves({"judge": judge}):
        if path in ("judge.kind", *exempt):
            continue
        changed = sweepfile.override(document(judge), [])
        sweepfile.place(changed, path, other(path, value))
        tried.append((path, (ids(changed, folder) == before) is execution_only(path)))
    assert len(tried) > 3
    return [path for path, is_right in tried if not is_right]


def test_every_leaf_of_an_llm_judge_changes_an_id_or_is_execution_only(folder: Path) -> None:
    """`limit` has two values only, and a template is its text: both are tried below."""
    assert wrong_leaves(LLM, folder, ("judge.limit", "judge.template", "judge.base_url")) == []


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"limit": "max_completion_tokens"}, True),
        ({"base_url": "http://other:1/v1/"}, True),
        ({"template": TEXT}, True),
        ({"template": TEXT + "."}, False),
        ({"template": None}, False),
        ({"labels": ["A", "B"]}, True),
        ({"labels": ["B", "A"]}, False),
    ],
)
def test_llm_judge_is_what_it_is_asked_and_not_where(folder: Path, change: dict[str, Any], same: bool) -> None:
    assert (ids(document(LLM), folder) == ids(document(LLM | change), folder)) is same


def test_llm_judge_without_a_template_is_asked_by_ours(folder: Path) -> None:
    made = judge_of({"kind": "llm", "model": "m", "base_url": "http://127.0.0.1:8000/v1/"}, folder)
    assert made.template == question.TEMPLATE
    assert made.base_url == "http://127.0.0.1:8000/v1"
    assert (made.labels, made.max_tokens, made.top_logprobs) == (("A", "B"), 1, 20)


@pytest.mark.parametrize("kind", ["votes", "alpaca_annotations"])
def test_given_verdicts_are_their_content_wherever_it_lies(folder: Path, kind: str) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "v").write_text("{}")
    one, moved, other = (document({"kind": kind, "path": path}) for path in ("votes.jsonl", "below/v", "votes.jsonlx"))
    assert ids(one, folder) == ids(moved, folder) != ids(other, folder)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plugins.install(tmp_path_factory.mktemp("plugins"))


def test_every_leaf_of_a_plug_in_changes_an_id_or_is_execution_only(
    folder: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    judge = {"kind": "plugin", "name": "brevity", "options": {"a": 1, "b": {"c": [1, 2.5], "d": "x"}}, "batch_size": 4}
    assert wrong_leaves(judge, folder, ("judge.name",)) == []
    changes = [{}, {"name": "echo"}, {"compare": "sigmoid"}, {"form": "text"}]
    assert len({ids(document(judge | change), folder)[0] for change in changes}) == 4
    swapped = judge | {"options": {"b": {"d": "x", "c": [1, 2.5]}, "a": 1}}
    assert ids(document(judge), folder) == ids(document(swapped), folder)


def test_version_of_a_plug_in_is_part_of_the_judge(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for version in ("1.0", "1.1"):
        with monkeypatch.context() as patched:
            patched.syspath_prepend(str(plugins.install(tmp_path, version)))
            found.append(judge_of({"kind": "plugin", "name": "brevity"}, folder))
    assert [(each.package, each.version) for each in found] == [("refstudy-test-judges", "1.0"), ("refstudy-test-judges", "1.1")]


def test_options_of_a_plug_in_are_not_taken_for_paths(
    folder: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep read again from its results folder has the same cells, though `votes` lies in the working directory only."""
    monkeypatch.syspath_prepend(str(installed))
    away = tmp_path_factory.mktemp("away")
    monkeypatch.chdir(away)
    (away / "votes").write_text("x")
    judge = {"kind": "plugin", "name": "brevity", "options": {"path": "votes", "model": "votes"}}
    written = entries.located(document(judge), Place(folder))
    assert written["judge"]["options"] == judge["options"]
    assert entries.located(document({"kind": "votes", "path": "votes"}), Place(folder))["judge"]["path"] == str(away / "votes")
    (away / "ask.txt").write_text(TEXT)
    assert entries.located(document(LLM | {"template": "ask.txt"}), Place(folder))["judge"]["template"] == str(away / "ask.txt")


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (LLM | {"template": "{{conversation}} {{answer_1}}"}, "judge.template: it lacks {{answer_2}}; expected all of {{conv"),
        (LLM | {"template": TEXT + "{{x}}"}, "judge.template: it has the unknown placeholder {{x}}"),
        (LLM | {"template": "absent.txt"}, "judge.template: template absent.txt cannot be read"),
        (LLM | {"labels": ["A", "A"]}, "judge.labels: got 'A' twice"),
        (LLM | {"labels": ["A"]}, "judge.labels: got ['A']"),
        (LLM | {"labels": ["A", "B or C"]}, "judge.labels.1: got 'B or C'"),
        (LLM | {"base_url": "nowhere"}, "base_url 'nowhere' is no address"),
        (LLM | {"requests_per_minute": 0}, "judge.requests_per_minute: got 0"),
        ({"kind": "votes", "path": "absent.jsonl"}, "absent.jsonl does not exist"),
        ({"kind": "plugin", "name": "nobody"}, "judge.name: no installed package offers 'nobody'"),
        ({"kind": "plugin", "name": "n", "options": {"completions": 1}}, "judge.options.completions: every call has an argument"),
        ({"kind": "plugin", "name": "n", "options": {"x": float("nan")}}, "judge.options: Out of range float values"),
    ],
)
def test_wrong_judge_is_refused_in_words(folder: Path, judge: dict[str, Any], said: str) -> None:
    with pytest.raises(RefstudyError) as refused:
        judge_of(judge, folder)
    assert said in str(refused.value)


@pytest.mark.parametrize("field", ["key_variable", "api_key", "base_url"])
def test_key_in_the_sweep_file_is_refused_unshown(folder: Path, field: str) -> None:
    value = "http://me:sk-very-secret@host/v1" if field == "base_url" else "sk-very-secret"
    with pytest.raises((SpecError, ModelError)) as refused:
        judge_of(LLM | {field: value}, folder)
    assert "sk-very" not in str(refused.value)
    assert field in str(refused.value)


def test_key_in_the_entry_of_a_server_is_refused_unshown(folder: Path) -> None:
    whole = document({"kind": "gold"})
    whole["references"] = {
        "self": {"kind": "server", "model": "m", "base_url": "http://h/v1", "tokenizer": "t", "key_variable": "sk-very-secret"}
    }
    with pytest.raises(SpecError, match=r"references\.self\.key_variable: expected the name of an environment") as refused:
        sweep_of(whole, folder)
    assert "sk-very" not in str(refused.value)


def test_reference_is_not_judged_by_who_knows_given_answers_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes are on the cell's answers: the reference's own have none, and ask for none."""
    from refstudy import plan

    for judge, wanted in (({"kind": "votes", "path": "votes.jsonl"}, False), ({"kind": "gold"}, True)):
        sweep = sweep_of(document(judge), folder)
        cells = grid.cells(sweep)
        at = results.place(sweep, folder / "results" / "x", None)
        monkeypatch.setattr(type(at.store), "has", lambda store, recipe, done=cells[0].completions: recipe == done)
        passes = [recipe for group in plan.reference_passes(cells, at.store) for recipe in group]
        assert any(isinstance(recipe, recipes.Verdicts) for recipe in passes) is wanted


def test_judge_in_a_record_says_nothing_of_where_it_is_asked(folder: Path) -> None:
    cell = grid.cells(sweep_of(document(LLM | {"key_variable": "SOME_KEY"}), folder))[0]
    told = json.dumps(results.heading(cell)["recipe"]["judge"])
    assert '"model": "m"' in told
    assert "127.0.0.1" not in told
    assert "SOME_KEY" not in told
