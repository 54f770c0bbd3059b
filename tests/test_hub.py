"""The hub is asked once, and only where something lies there."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from refstudy import hub, recipes

ON_HUB = recipes.Sft(
    start=recipes.Hub(model="org/model", revision=None),
    data=recipes.Conversations(source=recipes.File(content="0", path="x"), limit=None),
    train=recipes.Training(
        epochs=1.0,
        batch_size=1,
        learning_rate=1.0,
        schedule="linear",
        warmup_share=0.0,
        clip=1.0,
        weight_decay=0.0,
        precision="fp32",
    ),
    max_length=8,
    seed=0,
)


class Refusing(BaseHTTPRequestHandler):
    """Answers, if only with a refusal."""

    def do_HEAD(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv(hub.OFFLINE, "0")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_settle_leaves_a_hub_that_answers_to_the_libraries(listener: HTTPServer) -> None:
    hub.settle([ON_HUB])
    assert (listener.asked, hub.is_offline()) == (1, False)  # type: ignore[attr-defined]


def test_settle_says_offline_where_the_hub_is_silent(listener: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    hub.settle([ON_HUB])
    assert hub.is_offline()


def test_settle_asks_nothing_for_what_is_here(listener: HTTPServer) -> None:
    hub.settle([recipes.Local(content="0", path="/nowhere"), recipes.Constant()])
    assert listener.asked == 0  # type: ignore[attr-defined]
