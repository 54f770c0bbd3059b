"""Answers over HTTP from a server that really generates with a small checkpoint, and from one that misbehaves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refstudy import artefacts, evaluations, generation, grid, make, plan, recipes, reference_scores, served_answers
from refstudy.errors import ModelError
from refstudy.store import Store
from refstudy.texts import Completion, Said, write_lines
from tests import sweeps, tiny
from tests.chat_server import Chat
from tests.scoring_server import answering, listening

PROMPTS = tiny.prompts(5)
GREEDY = recipes.Sampling(max_new_tokens=6, temperature=0.0, top_p=1.0, seed=0, draw=1, system="Be brief.")
DRAWN = recipes.Sampling(max_new_tokens=6, temperature=1.0, top_p=1.0, seed=0, draw=1)


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.tokenizer()


@pytest.fixture
def server(words: Any) -> Iterator[Chat]:
    with listening(Chat(tiny.llama(words), words)) as served:
        yield served


def recipe(server: Chat, **changes: Any) -> recipes.ChatServer:
    settings = {"model": "m", "revision": None, "base_url": server.base_url, "concurrency": 2, "timeout_s": 20.0, "retries": 0}
    return recipes.ChatServer(**(settings | changes))


def test_greedy_answers_of_a_server_are_those_of_its_model(server: Chat, tmp_path: Path) -> None:
    """The same text as transformers gives, and the same ends, in the order of the prompts."""
    found = served_answers.answers(recipe(server), PROMPTS, GREEDY, tmp_path / "partial.jsonl")
    own = generation.generate(server.model, server.tokenizer, PROMPTS, GREEDY)
    assert [(each.text, each.terminated) for each in found] == [(each.text, each.terminated) for each in own]
    assert len({each.text for each in found}) > 1
    assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in server.asked)


def test_draws_differ_by_prompt_draw_and_seed_and_repeat_otherwise(server: Chat, tmp_path: Path) -> None:
    def drawn(number: int, sampling: recipes.Sampling) -> list[str]:
        return [each.text for each in served_answers.answers(recipe(server), PROMPTS, sampling, tmp_path / f"{number}.jsonl")]

    other = recipes.Sampling(max_new_tokens=6, temperature=1.0, top_p=1.0, seed=0, draw=0)
    first = drawn(0, DRAWN)
    assert drawn(1, DRAWN) == first
    assert drawn(2, other) != first
    assert len({body["seed"] for body in server.asked}) == 2 * len(PROMPTS)


def test_answers_kept_from_half_a_pass_are_not_asked_again(server: Chat, tmp_path: Path) -> None:
    partial = tmp_path / "partial.jsonl"
    bad = PROMPTS[3].messages[-1]["content"]
    server.fault = lambda handler, body: body["messages"][-1]["content"] == bad and answering(400)(handler, body)
    with pytest.raises(ModelError, match=f"prompt '{PROMPTS[3].prompt_id}': .*answered 400"):
        served_answers.answers(recipe(server, concurrency=1), PROMPTS, DRAWN, partial)
    server.fault, kept = (lambda handler, body: False), len(partial.read_text().splitlines())
    assert kept == 3
    partial.write_text(partial.read_text() + '{"key": "torn')
    server.asked.clear()
    whole = served_answers.answers(recipe(server), PROMPTS, DRAWN, partial)
    assert len(server.asked) == len(PROMPTS) - kept
    assert whole == served_answers.answers(recipe(server), PROMPTS, DRAWN, tmp_path / "fresh.jsonl")


def test_busy_server_is_asked_again(server: Chat, tmp_path: Path) -> None:
    busy = iter([True, True])
    server.fault = lambda handler, body: next(busy, False) and answering(503)(handler, body)
    assert len(served_answers.answers(recipe(server, retries=3), PROMPTS, GREEDY, tmp_path / "partial.jsonl")) == 5


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"message": {"content": "x"}, "finish_reason": "content_filter"}, "ended with 'content_filter'"),
        ({"message": {"content": ["x"]}, "finish_reason": "stop"}, r"is \['x'\]; expected a text"),
        ({"text": "x", "finish_reason": "stop"}, "expected a chat server of OpenAI's form"),
        ({"message": {"content": "\ud800"}, "finish_reason": "stop"}, "half a character"),
    ],
)
def test_what_is_no_answer_is_refused_in_words(choice: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        served_answers.read({"choices": [choice]})


def test_answer_that_thinking_used_up_is_empty_and_cut() -> None:
    choice = {"message": {"content": None}, "finish_reason": "length"}
    assert served_answers.read({"choices": [choice]}) == Said("", terminated=False)


def test_served_baseline_of_a_set_is_made_and_counted_in_the_policys_tokens(server: Chat, tmp_path: Path) -> None:
    entry = f"eval.far={{baseline: {{kind: server, model: m, base_url: '{server.base_url}/'}}}}"
    cells = grid.cells(grid.read(sweeps.write(tmp_path), [entry, "axes.reference=[self]", "axes.beta=[0.1]"]))
    of: evaluations.Evaluation = cells[0].evaluations[0]
    store = Store(tmp_path / "store")
    make.make_all(plan.missing([of.verdicts.baseline], store), store)
    answers = artefacts.read_completions(of.verdicts.baseline, store)
    prompts = artefacts.read_prompts(of.completions.prompts, store)
    assert [each.prompt_id for each in answers] == [each.prompt_id for each in prompts]
    assert len(server.asked) == len(prompts)
    assert all(len(each.token_ids) >= each.terminated and each.logp_sum_nats is None for each in answers)
    assert not store.partial(of.verdicts.baseline).exists()
    assert "127.0.0.1" not in json.dumps(plan.title(of.verdicts.baseline))


def test_server_reference_answers_for_its_own_score_only_where_its_entry_says_so(server: Chat, tmp_path: Path) -> None:
    entry = f"references.far={{kind: server, model: m, base_url: '{server.base_url}', tokenizer: {tmp_path}, answers: ANSWERS}}"
    (tmp_path / "tokenizer.json").write_text("{}")
    file = sweeps.write(tmp_path / "sweep")
    store = Store(tmp_path / "store")

    def far(answers: str) -> grid.Cell:
        axes = ["axes.reference=[far]", "axes.beta=[0.1]"]
        return grid.cells(grid.read(file, [entry.replace("ANSWERS", answers), *axes]))[0]

    silent, cell = far("false"), far("true")
    assert silent.id == cell.id
    answers = generation_stub(cell, store)
    kl = recipes.Table(scorer=silent.dpo.table.scorer, texts=silent.completions)
    assert plan.reference_passes([silent], store) == [[kl]]
    own = plan.own_verdicts(cell)
    (group,) = plan.reference_passes([cell], store)
    assert [type(each).__name__ for each in group][-3:] == ["Completions", "Verdicts", "Table"]
    assert group[-2:] == [own, kl]
    make.make_all(group[:-1], store)  # this server chats, and scores no text
    (row,) = reference_scores._own_scores([cell], store)
    assert len(server.asked) == len(answers)
    assert row["reference"] == "far"
    assert 0 < row["own_win_rate"] < 1


def generation_stub(cell: grid.Cell, store: Store) -> list[Completion]:
    """Makes what the cell's judge needs, and answers of the start in the place of the cell's own, which are not read here."""
    make.make_all(plan.missing([cell.verdicts.baseline, cell.verdicts.judge.model], store), store)
    answers = artefacts.read_completions(cell.verdicts.baseline, store)
    claim = store.claim(cell.completions)
    assert claim is not None
    with claim:
        write_lines(claim.folder / artefacts.COMPLETIONS, answers)
        store.publish(claim)
    return answers
