"""Answers of a model to prompts.

Invariant: a prompt's answer depends on model, prompt and its own stream of random numbers, never on what else stands in the
batch or in which order. Cells that share seed and draw share the numbers too, so that their answers differ by their models.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from refstudy import caches, chat, models, shared_prompt
from refstudy.checkpoints import SystemRole
from refstudy.errors import ModelError
from refstudy.measurement import Emit, Measurement, silent
from refstudy.recipes import Sampling
from refstudy.texts import Completion, Message, Prompt, dialogue

BATCH_TOKENS = 32_768
"""Prompt and answer tokens of one batch at most: what bounds the memory of the key-value cache."""
BATCH_ROWS = 256
SPARSE = 0.75
"""Finished rows leave a batch when its open rows fall below this share: leaving copies the cache."""
KEPT_VALUES = 2**26
"""Values of states that are kept for whoever asks for logits at the answers (256 MiB in fp32); beyond that none are."""


@dataclass(frozen=True)
class Drawn:
    """Answers, and what need not be computed again for their logits."""

    completions: list[Completion]
    states: list[torch.Tensor] | None
    """Of each answer what the model's head was given for its tokens, (tokens, hidden); None where they are not kept."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    sampling: Sampling,
    emit: Emit = silent,
    system_role: SystemRole = "keep",
    batch_tokens: int = BATCH_TOKENS,
) -> list[Completion]:
    """One answer to each prompt, in the order of the prompts; to one of several turns the answer to the last, after its own answers
    to those before, each drawn as the last is.

    Temperature 0 takes the likeliest token. Otherwise the next token is where the running sum of the probabilities, by token id,
    passes the prompt's next uniform number. Log-probs are under temperature 1 and full support, whatever was drawn with.
    """
    return drawn(model, tokenizer, prompts, sampling, emit, system_role, batch_tokens, keep_states=False).completions


def drawn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    sampling: Sampling,
    emit: Emit = silent,
    system_role: SystemRole = "keep",
    batch_tokens: int = BATCH_TOKENS,
    keep_states: bool = True,
) -> Drawn:
    """`generate`, with the states of the answers where prompts are long enough to be read on lines, and states are few enough.

    Where prompts are short it saves little, and a KL from states is not to the last digit the one from another pass.
    """
    ends = models.end_ids(model, tokenizer)
    opened = [chat.prompt_ids(tokenizer, _of_probes(prompt), sampling.system, system_role) for prompt in prompts]
    _check_room(model, prompts, opened, sampling)
    common = _Pass(model, sampling, ends, tokenizer.pad_token_id, _on_lines(model, opened))
    kept = keep_states and common.on_lines and _keeps_states(model, len(prompts) * sampling.max_new_tokens)
    given: list[list[Completion]] = [[] for _ in prompts]
    states: dict[int, torch.Tensor] = {}
    turns = [1 + len(prompt.turns) for prompt in prompts]
    for turn in range(max(turns, default=0)):
        rows = [row for row, count in enumerate(turns) if count > turn]
        asked = [dialogue(prompts[row], [each.text for each in given[row]]) for row in rows]
        ids = [chat.prompt_ids(tokenizer, messages, sampling.system, system_role) for messages in asked]
        for batch in _batches(ids, sampling.max_new_tokens, batch_tokens):
            of = [rows[each] for each in batch]
            answers = [
                _Answer(prompts[row].prompt_id, ids[each], _uniforms(sampling, prompts[row], turn))
                for row, each in zip(of, batch, strict=True)
            ]
            with _heard(model, kept) as heard:
                _extend(common, answers, heard)
            for row, answer in zip(of, answers, strict=True):
                given[row].append(_completion(tokenizer, answer))
                if answer.states:
                    states[row] = torch.cat(answer.states)
            emit(Measurement("generate", sum(map(len, given)), sum(turns), {}))
    completions = [replace(each[-1], earlier=[before.text for before in each[:-1]]) for each in given]
    whole = kept and all(len(states.get(row, ())) == len(each.token_ids) for row, each in enumerate(completions))
    return Drawn(completions, [states[row] for row in range(len(completions))] if whole else None)


@dataclass
class _Answer:
    """An answer while it grows."""

    prompt_id: str
    prompt_ids: list[int]
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logp_sum_nats: float = 0.0
    terminated: bool = False
    states: list[torch.Tensor] = field(default_factory=list)

    def take(self, token: int, logp: float, is_end: bool, state: torch.Tensor | None) -> None:
        if not self.terminated:
            self.token_ids.append(token)
            self.logp_sum_nats += logp
            self.terminated = is_end
            if state is not None:
                self.states.append(state)


@dataclass(frozen=True)
class _Pass:
    """What all batches of one pass share."""

    model: PreTrainedModel
    sampling: Sampling
    ends: list[int]
    pad_id: int
    on_lines: bool
    """Prompts are read on lines, without padding."""


class _Heard:
    """What a model's head is given, as long as the logits are what the head alone makes of it: found at the first token."""

    def __init__(self, head: torch.nn.Module) -> None:
        self._head, self._given = head, list[torch.Tensor]()
        self._holds: bool | None = None

    def hear(self, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self._given.append(given[0])

    def states(self, logits: torch.Tensor) -> list[torch.Tensor | None]:
        """What the head was given for each row of `logits` (B, V), (1, hidden) each; None where that does not make them."""
        given, self._given = self._given, []
        if not given:
            return [None] * len(logits)
        if self._holds is None:
            made = torch.cat([self._head(each).flatten(0, 1) for each in given])
            self._holds, self._given = torch.equal(made.to(logits.device), logits), []
        rows = torch.cat([each.flatten(0, 1) for each in given])
        return list(rows.split(1)) if self._holds and len(rows) == len(logits) else [None] * len(logits)


def _of_probes(prompt: Prompt) -> list[Message]:
    """The whole conversation with a word in place of each answer that is yet to be given before the last."""
    return dialogue(prompt, [chat.PROBE_ANSWER] * len(prompt.turns))


def _check_room(model: PreTrainedModel, prompts: list[Prompt], ids: list[list[int]], sampling: Sampling) -> None:
    """Before anything is drawn, so that no policy is refused for how long its first answers are."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for prompt, row in zip(prompts, ids, strict=True):
        new = sampling.max_new_tokens * (1 + len(prompt.turns))
        if context is not None and len(row) + new > context:
            each = f" ({sampling.max_new_tokens} for each of {1 + len(prompt.turns)} turns)" if prompt.turns else ""
            raise ModelError(
                f"prompt {prompt.prompt_id!r} has {len(row)} tokens, which with {new} new ones{each} passes the "
                f"model's context of {context}; lower generate.max_new_tokens or leave the prompt out"
            )


def _batches(ids: list[list[int]], new_tokens: int, budget: int) -> Iterator[list[int]]:
    """Row numbers in batches of like prompt length, longest first, so that lack of memory shows at once."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda each: -len(ids[each])):
        width = len(ids[batch[0]] if batch else ids[row]) + new_tokens
        if batch and (len(batch) >= BATCH_ROWS or width * (len(batch) + 1) > budget):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _uniforms(sampling: Sampling, prompt: Prompt, turn: int) -> np.ndarray:
    """The prompt's own uniform numbers in [0, 1), one a token, by id and text: two worlds' first prompts share none. Each
    of several turns has its own, whatever was answered before it."""
    text = json.dumps([prompt.prompt_id, prompt.messages, *prompt.turns[:turn]], ensure_ascii=False, sort_keys=True)
    name = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([sampling.seed, sampling.draw, name]))).random(
        sampling.max_new_tokens
    )


def _on_lines(model: PreTrainedModel, ids: list[list[int]]) -> bool:
    """Whether prompts are long enough for lines, by their texts alone, and the model can read them so."""
    turns = [chat.Turn(each[:-1], each[-1:]) for each in ids]
    alone = [(row,) for row in range(len(turns))]
    can = bool(ids) and shared_prompt.pays(turns, alone) and caches.takes_lines(caches.roomy(model, 0))
    return can and not shared_prompt.obstacle(model, turns, alone)


def _keeps_states(model: PreTrainedModel, tokens: int) -> bool:
    return tokens * model.config.get_text_config().hidden_size <= KEPT_VALUES


@contextmanager
def _heard(model: PreTrainedModel, kept: bool) -> Iterator[_Heard | None]:
    """What the model's head is given while the context lasts; None if nobody keeps it."""
    head = model.get_output_embeddings()
    if not kept or head is None:
        yield None
        return
    heard = _Heard(head)
    hook = head.register_forward_pre_hook(heard.hear)
    try:
        yield heard
    finally:
        hook.remove()


@torch.inference_mode()
def _extend(of: _Pass, answers: list[_Answer], heard: _Heard | None) -> None:
    """Lets the answers grow until each has drawn an end token or is full; finished rows leave the batch in groups."""
    model, sampling = of.model, of.sampling
    ids, mask = _left_padded([answer.prompt_ids for answer in answers], of.pad_id, models.input_device(model))
    cache = caches.roomy(model, mask.shape[1] + sampling.max_new_tokens)
    growing = list(answers)
    for step in range(sampling.max_new_tokens):
        if step == 0 and of.on_lines:
            logits = caches.read(model, [answer.prompt_ids for answer in answers], cache)
        else:
            logits = _next_logits(model, ids, mask, cache)
        states = heard.states(logits) if heard is not None else [None] * len(growing)
        uniforms = torch.tensor([answer.uniforms[step] for answer in growing], dtype=torch.float64, device=logits.device)
        tokens = choose(logits, uniforms, sampling.temperature, sampling.top_p)
        logps = logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for answer, token, logp, state in zip(growing, tokens.tolist(), logps, states, strict=True):
            answer.take(token, logp, token in of.ends, state)
        open_rows = [row for row, answer in enumerate(growing) if not answer.terminated]
        if not open_rows:
            return
        if len(open_rows) < SPARSE * len(growing):
            keep = torch.tensor(open_rows, device=logits.device)
            growing, tokens, mask = [growing[row] for row in open_rows], tokens[keep], mask[keep]
            cache.batch_select_indices(keep)
        ids, mask = tokens[:, None], torch.cat([mask, mask.new_ones(len(growing), 1)], dim=1)


def _next_logits(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Logits (B, V) of the token after `ids` (B, N), whose keys and values the cache then has too."""
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]} if takes_positions else {}
    out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **positions)
    logits: torch.Tensor = out.logits[:, -1]
    return logits


def choose(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The next token of each row (B): the likeliest at temperature 0, else by inverse CDF over token ids.

    logits (B, V); uniforms (B) in [0, 1). top_p keeps the smallest set of likeliest tokens whose probability reaches it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probs.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    sums = probs.cumsum(-1)
    below_total = torch.nextafter(sums[:, -1:], torch.zeros_like(sums[:, -1:]))  # a product may round up to the total
    return torch.searchsorted(sums, torch.minimum(uniforms[:, None] * sums[:, -1:], below_total), right=True)[:, 0]


def _left_padded(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _completion(tokenizer: PreTrainedTokenizerBase, answer: _Answer) -> Completion:
    return Completion(
        prompt_id=answer.prompt_id,
        text=chat.answer_text(tokenizer, answer.token_ids[:-1] if answer.terminated else answer.token_ids),
        token_ids=answer.token_ids,
        terminated=answer.terminated,
        logp_sum_nats=answer.logp_sum_nats,
    )
