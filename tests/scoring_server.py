"""A completions server that really scores with a small checkpoint, in vLLM's form and in the echo form.

    python -m tests.scoring_server CHECKPOINT --port 8000

It answers POST /v1/completions for token ids and draws tokens by temperature 1. Tests let it misbehave: `fault` sees each request
before it is answered, `spoil` each answer before it is sent.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

Body = dict[str, Any]


@dataclass
class Served:
    """A model behind HTTP, and what it was asked."""

    model: Any
    tokenizer: Any
    fault: Callable[["Handler", Body], bool] = lambda handler, body: False
    """Whether it has dealt with the request itself."""
    spoil: Callable[[Body, Body], Body] = lambda body, answer: answer
    """(request, answer) -> the answer to be sent."""
    asked: list[Body] = field(default_factory=list)
    base_url: str = ""
    lock: Any = field(default_factory=threading.Lock)

    drawn: set[tuple[int, ...]] = field(default_factory=set)
    """Prompts with what the server drew after them."""
    path: str = "/v1/completions"

    @property
    def scored(self) -> list[tuple[int, ...]]:
        """The texts whose log-probs were asked, but for those of its own drawing."""
        texts = [tuple(body["prompt"]) for body in self.asked if body["temperature"] == 0.0]
        return [text for text in texts if not any(each[: len(text)] == text for each in self.drawn)]

    @torch.inference_mode()
    def logps(self, ids: list[int]) -> torch.Tensor:
        """(n, V) log-probs of what follows each token."""
        return self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def answer(self, body: Body) -> Body:
        with self.lock:
            ids, told = self._drawn(body["prompt"], body["max_tokens"], body["seed"]) if "seed" in body else ([], [])
            given: list[float | None] = [None, *self._given(body["prompt"])]
        choice: Body = {"index": 0, "text": self.tokenizer.decode(ids), "finish_reason": "length", "logprobs": None}
        if body.get("echo"):
            choice["logprobs"] = self._listed(body["prompt"], given, body)
        elif "logprobs" in body:
            choice["logprobs"] = self._listed(ids, told, body)
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None, *map(self._beside, body["prompt"][1:], given[1:])]
        return {"object": "text_completion", "model": body["model"], "choices": [choice]}

    def _given(self, ids: list[int]) -> list[float]:
        return self.logps(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    def _drawn(self, prompt: list[int], count: int, seed: int) -> tuple[list[int], list[float]]:
        random, ids, told = torch.Generator().manual_seed(seed), list(prompt), []
        while len(told) < count and (not told or ids[-1] != self.tokenizer.eos_token_id):
            logps = self.logps(ids)[-1]
            ids.append(int(torch.multinomial(logps.exp(), 1, generator=random)))
            told.append(float(logps[ids[-1]]))
        self.drawn.add(tuple(ids))
        return ids[len(prompt) :], told

    def _listed(self, ids: list[int], logps: list[Any], body: Body) -> Body:
        as_ids = body.get("return_tokens_as_token_ids")
        tokens = [f"token_id:{each}" if as_ids else self.tokenizer.decode([each]) for each in ids]
        return {"tokens": tokens, "token_logprobs": logps, "top_logprobs": None, "text_offset": [0] * len(ids)}

    def _beside(self, token_id: int, logp: float | None) -> Body:
        own = {str(token_id): {"logprob": logp, "rank": 2, "decoded_token": self.tokenizer.decode([token_id])}}
        other = (token_id + 1) % len(self.tokenizer)
        return own | {str(other): {"logprob": -0.1, "rank": 1, "decoded_token": self.tokenizer.decode([other])}}


class Handler(BaseHTTPRequestHandler):
    """One request of the client."""

    server: "Listener"

    def do_POST(self) -> None:
        served = self.server.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.asked.append(body)
        if self.path != served.path:
            self.reply(404, {"detail": "Not Found"})
        elif not served.fault(self, body):
            self.reply(200, served.spoil(body, served.answer(body)))

    def reply(self, code: int, answer: Any, **headers: str) -> None:
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class Listener(ThreadingHTTPServer):
    served: Served

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is no news."""


def answering(code: int, text: bytes = b'{"error": {"message": "not now"}}', **headers: str) -> Callable[[Handler, Body], bool]:
    """A fault: this answer to everything."""

    def fault(handler: Handler, body: Body) -> bool:
        handler.reply(code, text, **headers)
        return True

    return fault


@contextmanager
def listening(served: Served, port: int = 0) -> Iterator[Served]:
    """The server on 127.0.0.1, its `base_url` set, until the block ends."""
    with Listener(("127.0.0.1", port), Handler) as listener:
        listener.served = served
        served.base_url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield served
        finally:
            listener.shutdown()
            thread.join()


def cut(handler: Handler, body: Body) -> bool:
    """A fault: the answer ends in its midst."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    return True


def hang_up(handler: Handler, body: Body) -> bool:
    """A fault: no answer."""
    handler.close_connection = True
    return True


def slow(handler: Handler, body: Body) -> bool:
    """A fault: no answer, half a second later."""
    time.sleep(0.5)
    return True


def main(made: type[Served], usage: str | None) -> None:
    """Serves the checkpoint that the command line names until Ctrl-C."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=usage)
    parser.add_argument("checkpoint")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.checkpoint).eval()
    with listening(made(model, AutoTokenizer.from_pretrained(options.checkpoint)), options.port) as served:
        print(f"serving {options.checkpoint} at {served.base_url}; Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main(Served, __doc__)
