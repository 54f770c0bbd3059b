"""LLMBar's judges as its authors ran them, asked over HTTP: their published accuracy and agreement come out at the other end."""

import csv
import json
from pathlib import Path

import pytest

from refstudy import judges
from refstudy.judges import judging
from refstudy.measurement import silent
from refstudy.measures import judge_quality
from refstudy.store import Store
from refstudy.texts import Completion, Prompt
from tests.judge_server import Judging
from tests.judges.test_llm import SHORT, impatient, recipe, says
from tests.scoring_server import listening

__all__ = ["impatient"]

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "judges"
PUBLISHED = {"GPT-4": (80.4, 82.6), "ChatGPT": (34.8, 52.2), "LLaMA2": (37.0, 65.2), "PaLM2": (65.2, 87.0), "Falcon": (51.1, 50.0)}
"""(Average accuracy, positional agreement rate), in percent, on the subset Manual: statistics.json of
github.com/princeton-nlp/LLMBar, Vanilla."""


@pytest.mark.skipif(not DATA.is_dir(), reason="LLMBar's pairs and verdicts are not beside the project")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_verdicts_asked_over_http_reproduce_the_published_rates(name, tmp_path):
    """The server gives the letter of the answer that the judge preferred in the order that it is asked in."""
    pairs = [json.loads(line) for line in (DATA / "llmbar.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [pair for pair in pairs if pair["subset"] == "Manual"]
    with open(DATA / "llmbar_verdicts_both_orders.csv", newline="", encoding="utf-8") as file:
        said = {int(row["index"]): row for row in csv.DictReader(file) if row["judge"] == name and row["subset"] == "Manual"}
    letters = {}
    for pair in pairs:
        one, two = pair["output_1"], pair["output_2"]
        verdict = said[pair["index"]]
        letters[_asked(pair["prompt"], one, two)] = {"1": "A", "2": "B", "": "?"}[verdict["winner_order12"]]
        letters[_asked(pair["prompt"], two, one)] = {"2": "A", "1": "B", "": "?"}[verdict["winner_order21"]]
    prompts = [_prompt(pair) for pair in pairs]
    sides = [
        [_answer(prompt, pair[side]) for prompt, pair in zip(prompts, pairs, strict=True)] for side in ("output_1", "output_2")
    ]
    served = Judging(None, None, spoil=says(letters.__getitem__))
    served.answer = lambda body: {}
    with listening(served):
        judging.write(recipe(served, concurrency=4), prompts, *sides, Store(tmp_path), tmp_path, silent)
    found = judges.read(tmp_path)
    first, second, ids = ([getattr(each, name) for each in found] for name in ("p_first", "p_second", "prompt_id"))
    accuracy, consistency = PUBLISHED[name]
    assert 100 * judge_quality.position_consistency(first, second, ids).share_of_all == pytest.approx(consistency, abs=0.051)
    right = judge_quality.agreement([*first, *second], [each.label == 1 for each in found] * 2, ids * 2)
    assert 100 * right.share_of_all == pytest.approx(accuracy, abs=0.051)


def _asked(prompt, first, second):
    return SHORT.replace("{{conversation}}", prompt).replace("{{answer_1}}", first).replace("{{answer_2}}", second)


def _prompt(pair):
    messages = [{"role": "user", "content": pair["prompt"]}]
    meta = {"candidate_is_better": int(pair["label"] == 1)}
    return Prompt(prompt_id=str(pair["index"]), messages=messages, cluster=str(pair["index"]), meta=meta)


def _answer(prompt, text):
    return Completion(prompt_id=prompt.prompt_id, text=text, token_ids=[], terminated=True, logp_sum_nats=0.0)
