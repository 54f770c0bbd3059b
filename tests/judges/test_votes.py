"""Votes from a file: how they are joined and averaged, and which files are refused."""

import hashlib
import json

import pytest

from refstudy.errors import DataError, JudgeError
from refstudy.judges import votes
from refstudy.texts import Completion, Prompt

TURNS = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]
PROMPTS = [
    Prompt(prompt_id="a", messages=[{"role": "user", "content": "What is a wolf?"}], cluster="a"),
    Prompt(prompt_id="b", messages=TURNS, cluster="b"),
    Prompt(prompt_id="c", messages=[{"role": "user", "content": "caf\u00e9?"}], cluster="c"),
]


def answers(*texts):
    return [
        Completion(prompt_id=prompt.prompt_id, text=text, token_ids=[1], terminated=True, logp_sum_nats=-1.0)
        for prompt, text in zip(PROMPTS, texts, strict=True)
    ]


OURS, THEIRS = answers("A canine.", "So.", "Yes."), answers("A fish.", "No.", "No.")


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def judged(tmp_path):
    def judge(*rows, ours=OURS, theirs=THEIRS):
        (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return votes.judge(votes.read(tmp_path / "votes.jsonl"), PROMPTS, ours, theirs)

    return judge


def test_votes_on_a_prompt_are_averaged(judged):
    """(1 + 0.5 + 0.25 + 0) / 4 = 0.4375 on a; one vote on b; none on c."""
    found = judged(
        {"prompt_id": "a", "winner": "candidate", "annotator": "x"},
        {"prompt_id": "a", "winner": "tie", "annotator": "y"},
        {"prompt_id": "a", "p": 0.25},
        {"prompt_id": "a", "winner": "baseline"},
        {"prompt_id": "b", "p": 1},
    )
    assert [each.p for each in found.verdicts] == [0.4375, 1.0, None]
    assert found.verdicts[0].candidate_detail == {"votes": 4}
    assert found.summary["no_verdict"] == 1
    assert found.summary["prompts_with_several_votes"] == 1


def test_prompt_is_found_by_its_text_or_the_hash_of_it(judged):
    text = "user: Hi.\n\nassistant: Hello.\n\nuser: Why?"
    found = judged(
        {"prompt": "What is a wolf?", "p": 0.1}, {"prompt": text, "p": 0.2}, {"prompt_sha256": sha256("café?").upper(), "p": 0.3}
    )
    assert [each.p for each in found.verdicts] == [0.1, 0.2, 0.3]


def test_vote_on_other_answers_is_no_vote_on_these(judged):
    found = judged(
        {"prompt_id": "a", "candidate": "A canine.", "baseline": "A fish.", "p": 0.9},
        {"prompt_id": "a", "candidate": "Another cell's answer.", "p": 0.1},
        {"prompt_id": "a", "candidate_sha256": sha256("A canine."), "baseline_sha256": sha256("not this"), "p": 0.2},
        {"prompt_id": "b", "baseline_sha256": sha256("No."), "p": 0.3},
    )
    assert [each.p for each in found.verdicts] == [0.9, 0.3, None]
    assert found.summary["votes"] == 2
    assert found.summary["votes_on_other_answers"] == 2
    assert found.summary["votes_that_name_no_answers"] == 0


def test_conflicts_are_said(judged):
    found = judged(
        {"prompt_id": "a", "winner": "candidate", "annotator": "x"},
        {"prompt_id": "a", "winner": "baseline", "annotator": "y"},
        {"prompt_id": "b", "winner": "candidate", "annotator": "x"},
        {"prompt_id": "b", "winner": "baseline", "annotator": "x"},
        {"prompt_id": "c", "winner": "candidate"},
        {"prompt_id": "c", "winner": "tie"},
    )
    assert found.summary["prompts_in_conflict"] == 2
    assert found.summary["annotators_in_conflict_with_themselves"] == 1


@pytest.mark.parametrize("row", [{"prompt_id": "z", "p": 1}, {"prompt_id": "a", "candidate": "else", "p": 1}])
def test_votes_on_nothing_of_this_are_refused(judged, row):
    with pytest.raises(JudgeError, match="none of the 1 votes is about these 3 prompts and answers"):
        judged(row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"p": 1}, "0 of prompt_id, prompt, prompt_sha256"),
        ({"prompt_id": "a", "prompt": "x", "p": 1}, "2 of prompt_id"),
        ({"prompt_id": "a"}, "expected either `winner` or `p`"),
        ({"prompt_id": "a", "p": 1, "winner": "tie"}, "expected either `winner` or `p`"),
        ({"prompt_id": "a", "p": 1.5}, "p is 1.5; expected a number in"),
        ({"prompt_id": "a", "p": float("nan")}, "p is nan"),
        ({"prompt_id": "a", "p": True}, "p is True"),
        ({"prompt_id": "a", "p": "1"}, "p is '1'"),
        ({"prompt_id": "a", "winner": "A"}, "winner is 'A'; expected candidate, baseline, tie"),
        ({"prompt_id": "a", "winner": ["tie"]}, "winner is"),
        ({"prompt_id": 7, "p": 1}, "prompt_id is 7; expected a string"),
        ({"prompt_id": "a", "vote": 1, "p": 1}, "unknown key 'vote'"),
    ],
)
def test_line_that_is_no_vote_is_named(judged, row, said):
    with pytest.raises(DataError) as refused:
        judged({"prompt_id": "b", "p": 1}, row)
    assert "votes.jsonl, line 2" in str(refused.value)
    assert said in str(refused.value)
