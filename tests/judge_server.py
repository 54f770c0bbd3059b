"""A chat server that really generates with a small checkpoint, in the form of OpenAI's chat completions with log-probs.

    python -m tests.judge_server CHECKPOINT --port 8000

It answers POST /v1/chat/completions greedily, by the checkpoint's own chat template. Tests let it misbehave as they do
`tests.scoring_server`, whose listener it shares: `fault` sees each request before it is answered, `spoil` each answer.
"""

from dataclasses import dataclass

import torch

from tests.scoring_server import Body, Served, main

PATH = "/v1/chat/completions"


@dataclass
class Judging(Served):
    """A chat model behind HTTP, and what it was asked."""

    path: str = PATH

    @property
    def contents(self) -> list[str]:
        """What it was asked, in order."""
        return [body["messages"][0]["content"] for body in self.asked]

    def prompt_ids(self, messages: list[Body]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, body: Body) -> Body:
        with self.lock:
            ids = self.prompt_ids(body["messages"])
            written, listed = self._written(ids, body["max_tokens"], body.get("top_logprobs", 0))
        message = {"role": "assistant", "content": self.tokenizer.decode(written, skip_special_tokens=True)}
        choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": listed}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(written), "total_tokens": len(ids) + len(written)}
        return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}

    def _written(self, prompt: list[int], count: int, top: int) -> tuple[list[int], list[Body]]:
        ids, listed = list(prompt), []
        while len(listed) < count and (not listed or ids[-1] != self.tokenizer.eos_token_id):
            logps = self.logps(ids)[-1]
            ids.append(int(logps.argmax()))
            most = torch.topk(logps, min(top, len(logps)))
            pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
            told = [{"token": self.tokenizer.decode([token]), "logprob": logp, "bytes": None} for token, logp in pairs]
            chosen = {"token": self.tokenizer.decode([ids[-1]]), "logprob": float(logps[ids[-1]]), "bytes": None}
            listed.append({**chosen, "top_logprobs": told})
        return ids[len(prompt) :], listed


if __name__ == "__main__":
    main(Judging, __doc__)
