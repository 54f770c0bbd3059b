"""A chat server that really generates with a small checkpoint, in OpenAI's form; `fault` and `spoil` as in scoring_server."""

from dataclasses import dataclass
from typing import Any

import torch

from refstudy import chat
from tests.scoring_server import Body, Served


@dataclass
class Chat(Served):
    path: str = "/v1/chat/completions"

    @torch.inference_mode()
    def answer(self, body: Body) -> Body:
        with self.lock:
            prompt = chat.prompt_ids(self.tokenizer, body["messages"])
            ids, ended = self._spoken(prompt, body)
        content = chat.answer_text(self.tokenizer, ids)
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop" if ended else "length"}
        return {"object": "chat.completion", "model": body["model"], "choices": [choice]}

    def _spoken(self, prompt: list[int], body: Body) -> tuple[list[int], bool]:
        """(the tokens drawn without the end token, whether it was drawn)."""
        random, ids = torch.Generator().manual_seed(body["seed"]), list(prompt)
        for _ in range(body["max_tokens"]):
            token = self._next(ids, body["temperature"], random)
            if token == self.tokenizer.eos_token_id:
                return ids[len(prompt) :], True
            ids.append(token)
        return ids[len(prompt) :], False

    def _next(self, ids: list[int], temperature: float, random: Any) -> int:
        logits = self.model(torch.tensor([ids])).logits[0, -1].double()
        if temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=random))
