import dataclasses
import json
import threading
import time

import pytest

from refstudy import partial_scores, recipes, scoring, server, token_pairs
from refstudy.endpoint import Endpoint, endpoint
from refstudy.errors import ModelError, ServerAway
from refstudy.tables import PairTable
from tests import tiny
from tests.scoring_server import Served, answering, cut, hang_up, listening, slow

KEY = "sk-very-secret"
FORMS = ("prompt_logprobs", "echo")


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model(words):
    return tiny.llama(words)


@pytest.fixture(scope="module")
def pairs(words):
    return token_pairs.tokenise(tiny.pairs(6), words, max_length=20)


@pytest.fixture
def served(model, words):
    with listening(Served(model, words)) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Pauses of hundredths of a second."""
    monkeypatch.setattr(server, "endpoint", lambda *settings: endpoint(*settings, backoff_s=0.02))
    monkeypatch.setenv("TEST_SERVER_KEY", KEY)


def recipe(served: Served, form: str = "prompt_logprobs", **changes: object) -> recipes.Server:
    settings = {
        "model": "tiny",
        "revision": None,
        "tokenizer": recipes.Local(content="0" * 64, path="unused"),
        "form": form,
        "base_url": served.base_url,
        "timeout_s": 5.0,
        "retries": 2,
        "concurrency": 2,
        "key_variable": "TEST_SERVER_KEY",
    }
    return recipes.Server(**(settings | changes))  # type: ignore[arg-type]


def assert_equal(table: PairTable, expected: PairTable) -> None:
    assert table.pair_ids == expected.pair_ids
    assert table.bytes_sha256 == expected.bytes_sha256
    assert table.chosen_tokens.tolist() == expected.chosen_tokens.tolist()
    assert table.chosen_logp_sum == pytest.approx(expected.chosen_logp_sum, abs=1e-4)
    assert table.rejected_logp_sum == pytest.approx(expected.rejected_logp_sum, abs=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_table_over_http_equals_direct_scoring(served, model, words, pairs, tmp_path, form):
    seen = []
    table, summary = server.score_pairs(recipe(served, form), words, pairs, tmp_path / "partial" / "a.jsonl", seen.append)
    expected = scoring.score_pairs(model, words, pairs)
    assert_equal(table, expected.table)
    assert [len(row) for row in table.chosen_logps] == [len(pair.chosen_ids) for pair in pairs]
    assert summary["tokens_scored"] == expected.summary["tokens_scored"]
    assert summary["check_largest_nats"] < 1e-4
    assert summary["check_tokens"] >= 32
    assert (seen[-1].stage, seen[-1].step, seen[-1].of) == ("score", 12, 12)
    assert len(served.scored) == 12


def test_server_with_another_tokenizer_scores_the_same_text(pairs, tmp_path):
    other = tiny.tokenizer(vocabulary=290, seed=5)
    reference = tiny.llama(other, seed=3, hidden=16)
    with listening(Served(reference, other)) as served:
        table, _ = server.score_pairs(recipe(served), other, pairs, tmp_path / "a.jsonl")
    assert_equal(table, scoring.score_pairs(reference, other, pairs).table)
    assert table.chosen_logps is None


def test_template_that_trims_is_refused_before_anything_is_sent(served, words, tmp_path):
    spaced = token_pairs.tokenise([dataclasses.replace(tiny.pairs(1)[0], chosen="a fish ")], words, max_length=64)
    trimming = tiny.tokenizer(template=tiny.TEMPLATE.replace("m['content']", "m['content'] | trim"))
    with pytest.raises(ModelError, match=r"pair 'pair0'.*trims or rewrites"):
        server.score_pairs(recipe(served), trimming, spaced, tmp_path / "a.jsonl")
    assert served.asked == []


# The check ---------------------------------------------------------------------------------------------------------------------


def shifted(body, answer):
    """Each log-prob of given text stands one token too late, as one known server's echo gives them."""
    choice = answer["choices"][0]
    if "prompt_logprobs" in body:
        entries = [entry[str(token)] for token, entry in zip(body["prompt"][1:], choice["prompt_logprobs"][1:], strict=True)]
        for entry, logp in zip(entries, [-1.0, *[entry["logprob"] for entry in entries[:-1]]], strict=True):
            entry["logprob"] = logp
    elif body.get("echo"):
        choice["logprobs"]["token_logprobs"] = [None, -1.0, *choice["logprobs"]["token_logprobs"][1:-1]]
    return answer


def shifted_early(body, answer):
    """Each log-prob of given text stands one token too early, the generated token's at the end."""
    listed = answer["choices"][0]["logprobs"]
    if body.get("echo"):
        listed["token_logprobs"] = [None, *listed["token_logprobs"][2:], -1.0]
    return answer


@pytest.mark.parametrize("form", FORMS)
def test_server_off_by_one_token_is_refused_before_it_scores(served, words, pairs, tmp_path, form):
    served.spoil = shifted
    with pytest.raises(ModelError, match=r"one token too late; expected at most 0.05 and 0.5.*try the other form") as refused:
        server.score_pairs(recipe(served, form), words, pairs, tmp_path / "a.jsonl")
    assert served.base_url in str(refused.value)
    assert served.scored == []
    assert not list(tmp_path.iterdir())


def test_server_off_by_one_token_in_the_other_direction_is_refused(served, words, pairs, tmp_path):
    served.spoil = shifted_early
    with pytest.raises(ModelError, match="one token too early"):
        server.score_pairs(recipe(served, "echo"), words, pairs, tmp_path / "a.jsonl")


def test_server_that_draws_with_other_weights_than_it_scores_with_is_refused(served, words, pairs, tmp_path):
    def scaled(body, answer):
        listed = answer["choices"][0]["logprobs"]
        if listed:
            listed["token_logprobs"] = [logp and logp / 2 for logp in listed["token_logprobs"]]
        return answer

    served.spoil = scaled
    with pytest.raises(ModelError, match=r"other log-probs as text, by \d\.\d\d nats in the middle and up to \d+\.\d\d; expected"):
        server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")


def test_server_that_tells_nothing_of_what_it_draws_is_refused(served, words, pairs, tmp_path):
    def silent_on_drawn(body, answer):
        if body["temperature"]:
            answer["choices"][0]["logprobs"] = {"tokens": [], "token_logprobs": []}
        return answer

    served.spoil = silent_on_drawn
    with pytest.raises(ModelError, match="cannot be checked: of what it drew itself only 0 tokens"):
        server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")


@pytest.mark.parametrize("form", FORMS)
def test_tokenizer_that_is_not_the_servers_is_refused(served, pairs, tmp_path, form):
    with pytest.raises(ModelError, match=r"the server reads token \d+.*name it in the entry's `tokenizer`"):
        server.score_pairs(recipe(served, form), tiny.tokenizer(seed=9), pairs, tmp_path / "a.jsonl")


def test_server_without_prompt_log_probs_is_refused_with_the_other_form(served, words, pairs, tmp_path):
    served.spoil = lambda body, answer: {"choices": [{**answer["choices"][0], "prompt_logprobs": None}]}
    with pytest.raises(ModelError, match=r"answered without `prompt_logprobs`.*`form: echo`"):
        server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")


# Wrong answers -------------------------------------------------------------------------------------------------------------------


def entry(answer, place):
    return next(iter(answer["choices"][0]["prompt_logprobs"][place].values()))


def with_logprob(value):
    def spoil(body, answer):
        entry(answer, -1)["logprob"] = value
        return answer

    return spoil


def short(body, answer):
    del answer["choices"][0]["prompt_logprobs"][1]
    return answer


def twice(body, answer):
    return {"choices": answer["choices"] * 2}


def of_another_text(body, answer):
    entries = answer["choices"][0]["prompt_logprobs"]
    entries[2:] = reversed(entries[2:])
    return answer


@pytest.mark.parametrize(
    ("spoil", "words_of_it"),
    [
        (with_logprob(float("nan")), r"first: nan"),
        (with_logprob(float("-inf")), r"first: -inf"),
        (with_logprob(-9999.0), r"first: -9999.0"),
        (with_logprob(0.7), r"first: 0.7"),
        (with_logprob(None), r"first: None"),
        (with_logprob("-1"), r"first: -1"),
        (short, r"log-probs to \d+ tokens"),
        (twice, r"2 choices to one text"),
        (of_another_text, r"not of token \d+, which was sent there"),
        (lambda body, answer: {"error": "overloaded"}, r"no `choices`"),
    ],
)
def test_wrong_answer_is_refused_with_pair_and_remedy_and_the_rest_is_kept(served, words, pairs, tmp_path, spoil, words_of_it):
    wrong = pairs[3].prompt_ids + pairs[3].chosen_ids
    served.spoil = lambda body, answer: spoil(body, answer) if body["prompt"] == wrong else answer
    with pytest.raises(ModelError, match=rf"pair 'pair3' \(chosen\): .*{words_of_it}.*expected") as refused:
        server.score_pairs(recipe(served, concurrency=1), words, pairs, tmp_path / "a.jsonl")
    assert f"{served.base_url} (model 'tiny')" in str(refused.value)
    assert len(partial_scores.read(tmp_path / "a.jsonl")) == 6


# Faults that pass ----------------------------------------------------------------------------------------------------------------


def dripping(handler, body):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(10):
        handler.wfile.write(b" ")
        time.sleep(0.05)
    return True


FAULTS = {
    "429": answering(429),
    "500": answering(500),
    "503": answering(503, b"<html>"),
    "504": answering(504, b""),
    "cut": cut,
    "hang up": hang_up,
    "garbage": answering(200, b"<html>maintenance"),
    "slow": slow,
    "dripping": dripping,
}


@pytest.mark.parametrize("name", FAULTS)
def test_passing_fault_is_overcome(served, model, words, pairs, tmp_path, name):
    """Each text's first request fails, while the server is checked and while it scores."""
    met = set()

    def first_time(handler, body):
        known = json.dumps(body)
        is_first = known not in met and len(met) < 8
        met.add(known)
        return is_first and FAULTS[name](handler, body)

    served.fault = first_time
    few = pairs[:3]
    table, _ = server.score_pairs(recipe(served, timeout_s=0.3), words, few, tmp_path / "a.jsonl")
    assert_equal(table, scoring.score_pairs(model, words, few).table)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("429", r"answered 429 \('not now'\), 3 times; lower the entry's concurrency or raise its retries"),
        ("500", r"answered 500 \('not now'\), 3 times; look into the server's log"),
        ("504", r"answered 504, 3 times"),
        ("cut", r"broke off|no JSON object"),
        ("hang up", r"cannot be reached or broke off .*3 times"),
        ("garbage", r"answered no JSON object \(it begins '<html>maintenance'\), 3 times"),
        ("slow", r"gave no whole answer within 0.3 s, 3 times; raise the entry's timeout_s"),
        ("dripping", r"gave no whole answer within 0.3 s, 3 times"),
    ],
)
def test_lasting_fault_is_refused_after_the_retries(served, words, pairs, tmp_path, name, message):
    served.fault = FAULTS[name]
    with pytest.raises(ServerAway, match=message):
        server.score_pairs(recipe(served, timeout_s=0.3), words, pairs, tmp_path / "a.jsonl")
    assert len(served.asked) == 3


def test_nobody_listening_is_an_error_with_the_address(words, pairs, tmp_path):
    with listening(Served(None, words)) as gone:
        pass
    with pytest.raises(ServerAway, match=rf"{gone.base_url}/completions cannot be reached .*start the server or mend base_url"):
        server.score_pairs(recipe(gone), words, pairs, tmp_path / "a.jsonl")


# What is final -------------------------------------------------------------------------------------------------------------------


def test_refusal_is_final_with_the_servers_words_trimmed_and_escaped(served, words, pairs, tmp_path):
    text = json.dumps({"error": {"message": "maximum context length\x1b[31m is 16\n" + "x" * 500}}).encode()
    served.fault = answering(400, text)
    with pytest.raises(ModelError, match="maximum context length") as refused:
        server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")
    assert not isinstance(refused.value, ServerAway)
    assert len(served.asked) == 1
    assert "\x1b" not in str(refused.value)
    assert "x" * 201 not in str(refused.value)


def test_wrong_address_is_final(served, words, pairs, tmp_path):
    with pytest.raises(ModelError, match=r"answered 404 \('Not Found'\); mend the entry's base_url"):
        server.score_pairs(recipe(served, base_url=served.base_url + "/x"), words, pairs, tmp_path / "a.jsonl")
    assert len(served.asked) == 1


# The API key ---------------------------------------------------------------------------------------------------------------------


def test_api_key_is_sent_and_never_shown(served, words, pairs, tmp_path, caplog):
    seen = []

    def refuse(handler, body):
        seen.append(handler.headers["Authorization"])
        return answering(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode())(handler, body)

    served.fault = refuse
    with pytest.raises(ModelError, match=r"Incorrect API key provided: \[API key\].*variable TEST_SERVER_KEY") as refused:
        server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")
    assert seen == [f"Bearer {KEY}"]
    assert KEY not in str(refused.getrepr(showlocals=False)) + caplog.text


# Half a pass ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_second_pass_sends_only_the_rest(served, model, words, pairs, tmp_path, form):
    """Seven texts are scored, then the server dies; the second pass sends the other five, and one known text to be sure of it."""
    partial = tmp_path / "a.jsonl"
    served.fault = lambda handler, body: len(served.scored) > 7 and hang_up(handler, body)
    with pytest.raises(ModelError, match="start the server or mend base_url, then run the sweep again: what is scored is kept"):
        server.score_pairs(recipe(served, form, concurrency=1), words, pairs, partial)
    assert len(partial_scores.read(partial)) == 7
    first = served.scored[:7]
    served.asked.clear()
    served.fault = lambda handler, body: False
    table, summary = server.score_pairs(recipe(served, form), words, pairs, partial)
    assert_equal(table, scoring.score_pairs(model, words, pairs).table)
    assert summary["texts_resumed"] == 7
    assert served.scored[0] == first[0]
    assert len(served.scored) == 1 + 5
    assert set(served.scored[1:]).isdisjoint(first)


def test_finished_pass_is_never_asked_again(served, words, pairs, tmp_path):
    once, _ = server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")
    served.asked.clear()
    again, _ = server.score_pairs(recipe(served), words, pairs, tmp_path / "a.jsonl")
    assert served.asked == []
    assert again.chosen_logp_sum.tolist() == once.chosen_logp_sum.tolist()


def test_torn_and_foreign_lines_are_passed_over(served, model, words, pairs, tmp_path):
    partial = tmp_path / "a.jsonl"
    expected, _ = server.score_pairs(recipe(served), words, pairs, partial)
    (file,) = tmp_path.iterdir()
    lines = file.read_text().splitlines()
    unsound = json.dumps({"key": json.loads(lines[5])["key"], "logps": [1.0]})
    file.write_text("\n".join([*lines[:4], "[]", "\x00", unsound, lines[4][:-5]]))
    served.asked.clear()
    table, summary = server.score_pairs(recipe(served), words, pairs, partial)
    assert summary["texts_resumed"] == 4
    assert len(served.scored) == 1 + 8
    assert table.chosen_logp_sum.tolist() == expected.chosen_logp_sum.tolist()
    assert len(partial_scores.read(partial)) == 12


def test_another_model_behind_the_address_in_the_second_pass_is_refused(served, words, pairs, tmp_path):
    few = pairs[:2]
    server.score_pairs(recipe(served), words, few, tmp_path / "a.jsonl")
    with (
        listening(Served(tiny.llama(words, seed=1), words)) as other,
        pytest.raises(ModelError, match="otherwise than in the pass"),
    ):
        server.score_pairs(recipe(other), words, pairs, tmp_path / "a.jsonl")
    assert len(partial_scores.read(tmp_path / "a.jsonl")) == 4


def test_equal_answers_are_scored_once(served, words, tmp_path):
    pair = dataclasses.replace(tiny.pairs(1)[0], chosen="the river", rejected="the river")
    rows = token_pairs.tokenise([pair], words, max_length=64)
    table, _ = server.score_pairs(recipe(served), words, rows, tmp_path / "a.jsonl")
    assert len(served.scored) == 1
    assert table.chosen_logp_sum == table.rejected_logp_sum


def test_requests_under_way_are_bounded(served, words, pairs, tmp_path):
    under_way, most = [0], [0]
    three, first = threading.Barrier(3), iter(range(3))

    def watched(handler, body):
        with served.lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        if next(first, None) is not None:
            three.wait(30)  # all of three that may be under way at once are, however slow this machine is
        with served.lock:
            under_way[0] -= 1
        return False

    served.fault = watched
    server.score_pairs(recipe(served, concurrency=3), words, pairs, tmp_path / "a.jsonl")
    assert most[0] == 3


def test_nothing_follows_a_failure_and_what_is_under_way_is_kept(served, words, pairs, tmp_path, monkeypatch):
    wrong = pairs[2].prompt_ids + pairs[2].chosen_ids
    asked_until, stops, post = [], [], Endpoint.post

    def watched(self, body, stop):
        stops.append(stop)
        return post(self, body, stop)

    def failing(handler, body):
        if body["prompt"] == wrong:
            asked_until.append(len(served.scored))
            return answering(400)(handler, body)
        if asked_until:
            stops[0].wait(30)  # the failure is seen first, however slow this machine is
        return False

    monkeypatch.setattr(Endpoint, "post", watched)
    served.fault = failing
    with pytest.raises(ModelError, match=r"pair 'pair2' \(chosen\)"):
        server.score_pairs(recipe(served, concurrency=3), words, pairs, tmp_path / "a.jsonl")
    assert len(served.scored) <= asked_until[0] + 2
    assert len(partial_scores.read(tmp_path / "a.jsonl")) == len(served.scored) - 1
    assert not [each for each in threading.enumerate() if each.name.startswith("server")]
