"""A user's own scorer: found by its entry point in a package that is really installed, called as TRL calls reward functions."""

import dataclasses
import importlib
import json
import math
import sys

import pytest

from refstudy import recipes
from refstudy.errors import JudgeError, SpecError
from refstudy.judges import plugin
from refstudy.texts import Completion
from tests import tiny
from tests.judges import plugins

PROMPTS = tiny.prompts(3)
OURS, THEIRS = ["a bird", "sings", "stone"], ["a red bird", "never", "in"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return plugins.install(tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def module(installed, monkeypatch):
    """The package on the path, as it is in an environment that it is installed in."""
    monkeypatch.syspath_prepend(str(installed))
    sys.modules.pop("refstudy_test_judges", None)
    return importlib.import_module("refstudy_test_judges")


def recipe(name, **changes):
    settings = {
        "name": name,
        "package": "refstudy-test-judges",
        "version": "1.2.3",
        "options": "{}",
        "form": "messages",
        "compare": "sign",
    }
    return recipes.PluginJudge(**(settings | changes))


def answers(texts):
    return [
        Completion(prompt_id=prompt.prompt_id, text=text, token_ids=[len(text)], terminated=True, logp_sum_nats=-1.0)
        for prompt, text in zip(PROMPTS, texts, strict=True)
    ]


def judged(made, tmp_path, ours=OURS, theirs=THEIRS):
    return plugin.judge(made, PROMPTS, answers(ours), answers(theirs), tmp_path / "kept")


def test_package_of_a_judge_is_known_without_importing_it(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.delitem(sys.modules, "refstudy_test_judges", raising=False)
    assert plugin.package("brevity") == plugin.Package("refstudy-test-judges", "1.2.3")
    assert "refstudy_test_judges" not in sys.modules


def test_higher_score_wins_and_equal_scores_tie(module, tmp_path):
    """Of 6 and 10 characters the shorter wins, 5 and 5 tie, of 5 and 2 the other wins."""
    found = judged(recipe("brevity"), tmp_path)
    assert [each.p for each in found.verdicts] == [1.0, 0.5, 0.0]
    assert [(each.candidate_reward, each.baseline_reward) for each in found.verdicts] == [(-6, -10), (-5, -5), (-5, -2)]


def test_sigmoid_is_of_the_difference(module, tmp_path):
    """1 / (1 + e^-4), 1 / 2 and 1 / (1 + e^3)."""
    found = judged(recipe("brevity", compare="sigmoid"), tmp_path)
    assert [each.p for each in found.verdicts] == pytest.approx([1 / (1 + math.exp(-4)), 0.5, 1 / (1 + math.exp(3))])


def test_score_of_none_is_no_verdict(module, tmp_path):
    found = judged(recipe("brevity", options=json.dumps({"most": 6})), tmp_path)
    assert [each.p for each in found.verdicts] == [None, 0.5, 0.0]
    assert found.summary["no_verdict"] == 1


def test_call_has_the_form_of_trl(module, tmp_path):
    judged(recipe("echo", options='{"target": 40}'), tmp_path)
    prompts, completions, options = module.SEEN[-1]
    assert prompts == [prompt.messages for prompt in PROMPTS] * 2
    assert completions[:2] == [[{"role": "assistant", "content": "a bird"}], [{"role": "assistant", "content": "sings"}]]
    assert options == {"completion_ids": [[len(text)] for text in OURS + THEIRS], "target": 40}


def test_call_with_texts_has_strings(module, tmp_path):
    judged(recipe("echo", form="text"), tmp_path)
    prompts, completions, _ = module.SEEN[-1]
    assert completions == OURS + THEIRS
    assert prompts[0] == PROMPTS[0].messages[0]["content"]


def test_scores_are_kept_batch_by_batch(module, tmp_path, monkeypatch):
    """The third call fails; a second pass asks only for the last two answers."""
    whole = module.brevity

    def failing(prompts, completions, **kw):
        if len(module.CALLS) == 2:
            raise RuntimeError("out of memory")
        return whole(prompts, completions, **kw)

    monkeypatch.setattr(plugin.inspect, "getfile", lambda scorer: module.__file__)
    monkeypatch.setattr(module, "brevity", failing)
    with pytest.raises(JudgeError, match="judge 'brevity' failed: RuntimeError: out of memory"):
        judged(recipe("brevity", batch_size=2), tmp_path)
    monkeypatch.setattr(module, "brevity", whole)
    module.CALLS.clear()
    assert [each.p for each in judged(recipe("brevity", batch_size=2), tmp_path).verdicts] == [1.0, 0.5, 0.0]
    assert module.CALLS == [2]


def test_equal_answers_to_a_prompt_are_scored_once(module, tmp_path):
    module.CALLS.clear()
    assert {each.p for each in judged(recipe("brevity"), tmp_path, OURS, OURS).verdicts} == {0.5}
    assert module.CALLS == [3]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", "gave 1 scores for 6 answers"),
        ("nan", "gave nan for answer 1 of 6; expected a finite number, or None"),
        ("words", "gave 'good' for answer 1 of 6"),
        ("mapping", "gave a dict; expected a list of numbers"),
        ("later", "gave a coroutine"),
        ("raising", "failed: ValueError: a column is missing: answer"),
        ("number", "is a int; expected a function"),
        ("absent", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_wrong_scorer_is_refused_in_words(module, tmp_path, name, said):
    with pytest.raises(JudgeError) as refused:
        judged(recipe(name), tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_version_than_planned_is_refused(module, tmp_path):
    with pytest.raises(JudgeError, match=r"is refstudy-test-judges 1\.2\.3 here, and was refstudy-test-judges 1\.2\.2 when"):
        judged(recipe("brevity", version="1.2.2"), tmp_path)


def test_changed_source_is_asked_anew_under_the_same_version(module, tmp_path, monkeypatch):
    judged(recipe("brevity"), tmp_path)
    module.CALLS.clear()
    changed = tmp_path / "changed.py"
    changed.write_text("# at work")
    monkeypatch.setattr(plugin.inspect, "getfile", lambda scorer: str(changed))
    judged(recipe("brevity"), tmp_path)
    assert module.CALLS == [6]


def test_unknown_judge_names_the_known_ones(module):
    with pytest.raises(SpecError, match=r"no installed package offers 'brevty' \(known: absent, brevity, echo"):
        plugin.package("brevty")


def test_judge_of_two_packages_is_refused(module, installed, tmp_path, monkeypatch):
    """A second distribution's metadata with the same entry point, as an installation leaves it."""
    about = tmp_path / "other_judges-2.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other-judges\nVersion: 2.0\n")
    (about / "entry_points.txt").write_text("[refstudy.judges]\nbrevity = other:brevity\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError, match=r"'brevity' is offered by several packages \(other-judges, refstudy-test-judges\)"):
        plugin.package("brevity")


def test_version_and_options_change_the_recipe():
    one = recipe("brevity")
    assert len({dataclasses.replace(one, **change) for change in ({}, {"version": "2"}, {"options": "1"}, {"compare": "x"})}) == 4
