import dataclasses
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from refstudy.endpoint import Endpoint, Pace, endpoint
from refstudy.errors import ModelError, RequestError
from tests import tiny
from tests.scoring_server import Served, answering, listening

BODY = {"model": "tiny", "prompt": [5, 6], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1}


def post(served: Served, retries: int = 0) -> dict:
    return endpoint(served.base_url, "completions", 5.0, retries, "TEST_SERVER_KEY", 0.01).post(BODY, threading.Event())


@pytest.fixture
def served():
    words = tiny.tokenizer()
    with listening(Served(tiny.llama(words), words)) as running:
        yield running


def test_pause_that_the_server_asks_for_is_kept(served):
    times = []

    def busy_once(handler, body):
        times.append(time.monotonic())
        return len(times) == 1 and answering(429, Retry_After="1")(handler, body)

    served.fault = busy_once
    assert "choices" in post(served, retries=1)
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize("asked", ["4000", format_datetime(datetime(2100, 1, 1, tzinfo=UTC))])
def test_pause_of_an_hour_is_not_waited_for(served, asked):
    served.fault = answering(429, Retry_After=asked)
    with pytest.raises(ModelError, match=r"asks for a pause of [\d,]+ s; wait"):
        post(served, retries=5)
    assert len(served.asked) == 1


def test_backoff_doubles_and_is_drawn():
    """0.5 s doubled three times is 4 s, of which the draw takes three quarters: 3 s."""
    patient = Endpoint("http://127.0.0.1:1", 1.0, 5, "UNSET_KEY", jitter=lambda: 0.75)
    failure = patient._silence()
    assert patient._pause_s(failure, 3) == 3.0
    assert patient._pause_s(failure, 20) == 0.75 * 30.0
    assert patient._pause_s(dataclasses.replace(failure, wait_s=7.0), 3) == 10.0


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000/v1", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999/v1", "http://a b/v1", ""]
)
def test_base_url_that_is_no_address_is_refused(url):
    with pytest.raises(ModelError, match="is no address of a server; expected one such as"):
        endpoint(url, "completions", 1.0, 0, "UNSET_KEY")


def test_password_in_the_address_is_refused_unshown():
    with pytest.raises(ModelError, match=r"of the server 127\.0\.0\.1 carries a user, a password") as refused:
        endpoint("http://me:hush@127.0.0.1:8000/v1", "completions", 1.0, 0, "UNSET_KEY")
    assert "hush" not in str(refused.value)


def test_request_is_not_sent_again_once_the_pass_has_stopped(served):
    stop = threading.Event()
    stop.set()
    served.fault = answering(500)
    with pytest.raises(ModelError, match="answered 500"):
        endpoint(served.base_url, "completions", 5.0, 5, "TEST_SERVER_KEY").post(BODY, stop)
    assert len(served.asked) == 1


@pytest.mark.parametrize("key", [None, "", "  \n"])
def test_unset_key_sends_no_header(served, monkeypatch, key):
    monkeypatch.delenv("TEST_SERVER_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TEST_SERVER_KEY", key)
    served.fault = lambda handler, body: "Authorization" in handler.headers and answering(400)(handler, body)
    assert "choices" in post(served)


def test_redirect_takes_the_key_nowhere(served, monkeypatch):
    monkeypatch.setenv("TEST_SERVER_KEY", "sk-secret")
    with listening(Served(None, None)) as elsewhere:
        served.fault = answering(302, Location=f"{elsewhere.base_url}/completions")
        with pytest.raises(ModelError, match=r"answered 302.*expected no redirect"):
            post(served)
        assert elsewhere.asked == []


@pytest.mark.parametrize("key", ["sk-se cret", "sk-s\u00e9cret", "sk-se\ncret"])
def test_key_that_no_header_can_carry_is_refused_unshown(served, monkeypatch, key):
    monkeypatch.setenv("TEST_SERVER_KEY", key)
    with pytest.raises(ModelError, match="variable TEST_SERVER_KEY holds no API key") as refused:
        post(served)
    assert "cret" not in str(refused.value)
    assert served.asked == []


@pytest.mark.parametrize(("code", "of_request"), [(400, True), (413, True), (422, True), (401, False), (404, False), (500, False)])
def test_refusal_of_one_request_is_told_from_that_of_all(served, code, of_request):
    served.fault = answering(code)
    with pytest.raises(ModelError, match=f"answered {code}") as refused:
        post(served)
    assert isinstance(refused.value, RequestError) is of_request


def test_faulty_answer_is_asked_for_again(served):
    at = endpoint(served.base_url, "completions", 5.0, 2, "TEST_SERVER_KEY", 0.01)
    sound = dataclasses.replace(at, fault=lambda answer: "nothing yet" if len(served.asked) < 3 else None)
    assert "choices" in sound.post(BODY, threading.Event())
    assert len(served.asked) == 3


def test_pace_spaces_requests_of_all_threads_and_ends_at_once():
    """Four turns of 600 a minute, 0.1 s apart: the last begins 0.3 s after the first. Then nobody waits for a turn an hour away."""
    pace, stop, began = Pace(600.0), threading.Event(), []
    start = time.monotonic()
    threads = [threading.Thread(target=lambda: pace.wait(stop) and began.append(time.monotonic() - start)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(began) == 4
    assert max(began) >= 0.29
    slow = Pace(1 / 60)
    assert slow.wait(stop)
    stop.set()
    assert not slow.wait(stop)
    assert time.monotonic() - start < 30.0
