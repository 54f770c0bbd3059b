"""What a broken, busy, or talkative server does to the LLM judge, and where the API key may not be found."""

import json
import time

import pytest

from refstudy import journal, judges
from refstudy.errors import JudgeAway, JudgeError, ModelError
from refstudy.judges import judging, llm
from refstudy.measurement import silent
from refstudy.store import Store
from tests import tiny
from tests.judge_server import Judging
from tests.judges.test_llm import KEY, OURS, PROMPTS, THEIRS, answers, impatient, judged, model, recipe, says, served, words
from tests.scoring_server import answering, cut, hang_up, listening, slow

__all__ = ["impatient", "model", "served", "words"]


FAULTS = {
    "429": answering(429),
    "500": answering(500),
    "503": answering(503, b"<html>"),
    "cut": cut,
    "hang up": hang_up,
    "slow": slow,
    "garbage": answering(200, b"<html>maintenance"),
    "no choices": answering(200, b'{"choices": []}'),
    "error with 200": answering(200, b'{"error": {"message": "overloaded"}}'),
}


@pytest.mark.parametrize("name", FAULTS)
def test_passing_fault_is_overcome(served, tmp_path, name):
    """The first request of each question fails; the verdicts are those of a sound server."""
    expected = judged(recipe(served), tmp_path / "sound").verdicts
    met = set()

    def first_time(handler, body):
        known = json.dumps(body)
        is_first = known not in met
        met.add(known)
        return is_first and FAULTS[name](handler, body)

    served.fault = first_time
    found = judged(recipe(served, timeout_s=0.3, concurrency=9), tmp_path / "k")
    assert found.verdicts == expected
    assert len(met) == 9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("429", r"answered 429 \('not now'\), 3 times; lower the entry's concurrency or raise its retries"),
        ("500", r"answered 500 \('not now'\), 3 times"),
        ("cut", r"broke off|no JSON object"),
        ("hang up", r"cannot be reached or broke off .*3 times"),
        ("slow", r"gave no whole answer within 0.3 s, 3 times"),
        (
            "garbage",
            r"answered no JSON object \(it begins '<html>maintenance'\), 3 times; expected an OpenAI-compatible chat server",
        ),
        ("no choices", r"answered without a message .*3 times"),
        ("error with 200", r"answered without a message \('overloaded'\), 3 times"),
    ],
)
def test_lasting_fault_ends_the_pass_after_the_retries(served, tmp_path, name, message):
    served.fault = FAULTS[name]
    with pytest.raises(JudgeAway, match=message):
        judged(recipe(served, timeout_s=0.3, concurrency=1), tmp_path / "k")
    assert len(served.asked) == 3
    assert list(journal.rows(tmp_path / "k")) == []


def test_pause_that_the_server_asks_for_is_kept(served, tmp_path):
    times = []

    def busy_once(handler, body):
        times.append(time.monotonic())
        return len(times) == 1 and answering(429, Retry_After="1")(handler, body)

    served.fault = busy_once
    judged(recipe(served, concurrency=1), tmp_path / "k", OURS[:1], THEIRS[:1], PROMPTS[:1])
    assert times[1] - times[0] >= 1.0


def test_too_long_a_question_has_no_verdict_and_stops_nothing(served, tmp_path):
    def too_long(handler, body):
        fits = len(body["messages"][0]["content"]) < 1000
        return not fits and answering(400, b'{"error": {"message": "maximum context length is 256"}}')(handler, body)

    served.fault = too_long
    found = judged(recipe(served), tmp_path / "k", [*OURS[:4], "stone " * 500])
    assert [each.p is None for each in found.verdicts] == [False, False, False, False, True]
    assert found.verdicts[4].read == ["refused", "refused"]
    assert found.summary["reads"] == {"logprobs": 8, "refused": 2}
    served.fault = lambda handler, body: False
    assert judged(recipe(served), tmp_path / "k", [*OURS[:4], "stone " * 500]).verdicts[4].p is not None


def test_server_that_refuses_all_is_an_error_with_its_words(served, tmp_path):
    served.fault = answering(400, b'{"error": {"message": "logprobs is not supported"}}')
    with pytest.raises(JudgeError, match=r"answered 400 \('logprobs is not supported'\); .*top_logprobs: 0 asks for none") as told:
        judged(recipe(served, concurrency=1), tmp_path / "k", prompts=PROMPTS)
    assert not isinstance(told.value, JudgeAway)
    assert len(served.asked) == llm.REFUSALS


def test_nobody_listening_is_an_error_with_the_address(words, tmp_path):
    with listening(Judging(None, words)) as gone:
        pass
    with pytest.raises(JudgeAway, match=rf"{gone.base_url}/chat/completions cannot be reached"):
        judged(recipe(gone), tmp_path / "k")


@pytest.mark.parametrize("url", ["http://me:hush@127.0.0.1:1/v1", "http://127.0.0.1:1/v1?key=hush"])
def test_address_with_a_secret_is_refused_unshown(served, url):
    with pytest.raises(ModelError) as refused:
        llm.address(recipe(served, base_url=url))
    assert "hush" not in str(refused.value)


# The API key -------------------------------------------------------------------------------------------------------------------


def test_api_key_is_sent_and_stands_nowhere_else(served, tmp_path, caplog, capfd):
    """The server sends its header back in every way it can: as the verdict's text, as an error, and in garbage."""
    store, seen = Store(tmp_path / "store"), []
    echoes = [
        answering(500, json.dumps({"error": {"message": f"bad key Bearer {KEY}"}}).encode()),
        answering(200, f"<html>{KEY}".encode()),
        answering(200, json.dumps({"error": f"Bearer {KEY}"}).encode()),
    ]

    def fault(handler, body):
        seen.append(handler.headers["Authorization"])
        return len(seen) <= len(echoes) and echoes[len(seen) - 1](handler, body)

    served.fault = fault
    served.spoil = says(lambda content: f"{KEY} is the key")
    folder = tmp_path / "made"
    folder.mkdir()
    judge = recipe(served, retries=5, concurrency=1)
    judging.write(judge, PROMPTS, answers(OURS), answers(THEIRS), store, folder, silent)
    assert set(seen) == {f"Bearer {KEY}"}
    assert json.loads((folder / judges.SUMMARY).read_text())["unread"] == {"[API key] is the key": 9}
    for refusal in echoes:
        served.fault = refusal
        with pytest.raises(JudgeError) as refused:
            judging.write(recipe(served, model="b", retries=0), PROMPTS, answers(OURS), answers(THEIRS), store, folder, silent)
        assert KEY not in str(refused.getrepr(showlocals=False))
        assert "[API key]" in str(refused.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text + "".join(capfd.readouterr())


def test_judge_of_a_store_is_kept_for_other_cells(served, tmp_path):
    """What one cell's trial asked, another's does not ask again."""
    store = Store(tmp_path / "store")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        judging.write(recipe(served), PROMPTS, answers(OURS), answers(THEIRS), store, tmp_path / name, silent)
        assert len(served.asked) == 9
    one, two = (judges.read(tmp_path / name) for name in ("one", "two"))
    assert one == two


def test_label_of_a_prompt_stands_beside_its_verdict(served, tmp_path):
    labelled = tiny.prompts(2)
    labelled[0].meta["candidate_is_better"] = 0
    judging.write(
        recipe(served), labelled, answers(OURS[:2], labelled), answers(THEIRS[:2], labelled), Store(tmp_path), tmp_path, silent
    )
    assert [each.label for each in judges.read(tmp_path)] == [0, None]
