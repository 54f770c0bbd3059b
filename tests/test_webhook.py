"""Messages to a webhook, over real HTTP, also to servers that refuse, hang, redirect or are not there."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from refstudy import webhook
from refstudy.webhook import Webhook

VARIABLE = "TEST_WEBHOOK"


class Server(ThreadingHTTPServer):
    """Keeps the bodies it gets; answers `status`, after `released` if it is told to hang."""

    def __init__(self, status: int = 200, hang: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.hang, self.released = status, hang, threading.Event()
        self.bodies: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/T0/B0/secret"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.server.hang:
            self.server.released.wait(20)
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(status: int = 200, hang: bool = False) -> Iterator[Server]:
    server = Server(status, hang)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def sent(url: str, monkeypatch: pytest.MonkeyPatch, text: str = "length_ratio 2.5 > 2", timeout_s: float = 5.0) -> float:
    """Seconds that sending and waiting took."""
    monkeypatch.setenv(VARIABLE, url)
    begun = time.monotonic()
    hook = Webhook(VARIABLE, timeout_s)
    hook.send(text)
    hook.finish()
    return time.monotonic() - begun


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == webhook.log.name and each.levelno == logging.WARNING]


def test_message_is_one_json_object_as_slack_takes_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        sent(server.url, monkeypatch, "cell <a&b>: length_ratio 2.5 > 2")
        assert server.bodies == [{"text": "cell &lt;a&amp;b&gt;: length_ratio 2.5 &gt; 2"}]
    assert warnings(caplog) == []


def test_hanging_server_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with serving(hang=True) as server:
        assert sent(server.url, monkeypatch, timeout_s=0.3) < 20
        assert len(server.bodies) == 1
    assert len(warnings(caplog)) >= 1
    assert all("no answer within 0.3 s" in each for each in warnings(caplog))
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("status", "words"), [(500, "answered 500"), (404, "answered 404"), (302, "answered 302")])
def test_refusal_is_one_warning_without_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    with serving(status) as server:
        sent(server.url, monkeypatch)
        assert len(server.bodies) == 1, "a redirect is not followed"
    assert warnings(caplog) == [f"the webhook in {VARIABLE} {words}; the alarm stands in the record all the same"]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["file:///etc/secret", "no address secret", "http://[secret", "https://127.0.0.1:1/secret"])
def test_address_that_is_none_or_where_nobody_is_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    sent(url, monkeypatch)
    assert len(warnings(caplog)) == 1
    assert "secret" not in caplog.text


def test_without_the_variable_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was opened"))
    hook = Webhook(VARIABLE, 5.0)
    hook.send("text")
    hook.finish()
    assert hook._threads == []
