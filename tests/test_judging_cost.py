"""What `plan` says of judging: comparisons, requests, tokens and money, with the arithmetic by hand."""

import dataclasses
from pathlib import Path

import pytest

from refstudy import cost, grid, recipes, results, texts
from refstudy.cost import Estimate
from refstudy.store import Store
from refstudy.texts import Prompt

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
PRICE = "{prompt: 3, completion: 5}"
LLM = f"{{kind: llm, model: org/judge, base_url: 'http://127.0.0.1:1/v1', template: '%s', max_tokens: 2, price: {PRICE}}}"
TEMPLATE = "{{conversation}} {{answer_1}} {{answer_2}}"
TWO = ("axes.beta=[1]", "axes.reference=[self, larger-far]", "data.eval_prompts=10")


def estimate(tmp_path: Path, *assignments: str) -> Estimate:
    read = grid.read(QUICKSTART, list(assignments))
    return cost.estimate(read, grid.cells(read), results.place(read, tmp_path / "results" / read.name, None))


def test_judge_of_this_machine_is_counted_and_asks_nobody(tmp_path: Path) -> None:
    """Two cells and the two references' own answers, 10 prompts each."""
    (bill,) = estimate(tmp_path, *TWO).judging
    assert (bill.comparisons, bill.requests, bill.price) == (40, 0, None)
    assert bill.line == "judging by gold judge: 40 comparisons, no requests"


def test_judge_behind_a_server_is_asked_in_both_orders_and_its_tokens_wait_for_the_prompts(tmp_path: Path) -> None:
    found = estimate(tmp_path, *TWO, f"judge={LLM % TEMPLATE}")
    (bill,) = found.judging
    assert (bill.comparisons, bill.requests, bill.prompt_tokens, bill.price) == (40, 80, None, None)
    assert "judging by org/judge (llm, server): 40 comparisons, both orders: 80 requests at most, tokens unknown" in found.as_text()


def test_tokens_and_price_of_a_judge_behind_a_server(tmp_path: Path) -> None:
    """One request: the template's 41 characters are 10 tokens, 16 around it; the question's 9 are 3; two answers of at most 96.
    221 tokens; 80 requests read 17,680 and write 160: (17,680 x 3 + 160 x 5) / 1e6.
    """
    judge = f"judge={LLM % TEMPLATE}"
    make_prompts(tmp_path, judge)
    found = estimate(tmp_path, *TWO, judge)
    (bill,) = found.judging
    assert (bill.requests, bill.prompt_tokens, bill.completion_tokens) == (80, 80 * (10 + 16 + 3 + 96 + 96), 160)
    assert bill.price == pytest.approx((17_680 * 3 + 160 * 5) / 1e6)
    assert "about 17,680 tokens read and 160 written at most, price 0.05" in found.as_text()


def test_looks_along_training_are_judged_too(tmp_path: Path) -> None:
    """3,000 pairs in batches of 32 for one epoch are 94 steps: looks at 40, 80 and 94, of 8 prompts, by two cells."""
    plain = estimate(tmp_path, *TWO, "train.epochs=1")
    along = estimate(tmp_path, *TWO, "train.epochs=1", "along={every_steps: 40, prompts: 8}")
    assert along.judging[0].comparisons - plain.judging[0].comparisons == 2 * 3 * 8


def make_prompts(tmp_path: Path, *assignments: str) -> None:
    """Publishes the sweep's prompts: ten of nine characters."""
    read = grid.read(QUICKSTART, [*TWO, *assignments])
    store: Store = results.place(read, tmp_path / "results" / read.name, None).store
    cell = grid.cells(read)[0]
    assert isinstance(cell.completions.prompts, recipes.MiniaturePrompts)
    claim = store.claim(cell.completions.prompts)
    assert claim is not None
    one = Prompt(prompt_id="p", messages=[{"role": "user", "content": "nine char"}], cluster="c")
    with claim:
        texts.write_lines(claim.folder / "prompts.jsonl", [dataclasses.replace(one, prompt_id=str(n)) for n in range(10)])
        store.publish(claim)


def test_prompts_of_a_file_are_counted_before_they_are_made_and_each_turn_is_an_answer(tmp_path: Path) -> None:
    """Two prompts of three turns in all, two cells: 4 comparisons, 8 requests. One order reads the template (10 and 16 each), 2 + 3
    tokens of questions ("one" and the two-turn text are 1 and 6) and twice 3 answers of at most 96."""
    (tmp_path / "mt.jsonl").write_text('{"turns": ["one"]}\n{"turns": ["two", "three"]}\n')
    judge = LLM % TEMPLATE
    found = estimate(tmp_path, *TWO, f"eval.mt={{prompts: {{kind: file, path: {tmp_path}/mt.jsonl}}, judge: {judge}}}")
    (bill,) = [each for each in found.judging if each.requests]
    asked = -(-len("one") // 4) + -(-len("user: two\n\nuser: three") // 4)
    assert (bill.comparisons, bill.requests) == (4, 8)
    assert bill.prompt_tokens == 4 * (2 * (10 + 16) + asked + 2 * 3 * 96)
