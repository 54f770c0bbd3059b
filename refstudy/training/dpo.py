"""DPO with TRL's DPOTrainer, the reference given as a table.

Invariant: no reference model is ever in memory, and the loss is TRL's own. Private hooks of the trainer are overridden: the rows
come tokenised, with the table's two log-probs joined by pair id, and the head skips what enters no loss and holds few logits whole
(`head`); prompts are computed once where the policy takes that (`lines`). TRL is pinned for them, and tests keep losses and
gradients equal to those of an unmodified trainer with a live reference.
"""

import tempfile
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import torch
import trl.trainer.dpo_trainer
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from refstudy import chat, line_attention, scoring
from refstudy.errors import TrainingError
from refstudy.measurement import Emit, Measurement
from refstudy.memory import Sharding
from refstudy.recipes import Training
from refstudy.tables import PairTable, join
from refstudy.token_pairs import TokenPair
from refstudy.training import batches, head, lines, saves, settings, sharding, workers, zero
from refstudy.training.looks import Look, Looking, Looks, Recall, no_memory
from refstudy.training.progress import Progress, check_finite, not_finite
from refstudy.training.saves import Saving
from refstudy.training.state import Kept


@dataclass(frozen=True)
class Validation:
    """Held-out pairs with the same reference's table over them."""

    pairs: list[TokenPair]
    table: PairTable


@dataclass(frozen=True)
class Checkpoint:
    """Which policy along training is kept."""

    rule: Literal["last", "lowest_validation_loss", "best_judged"] = "last"
    every: int = 0
    """Steps between the validation losses of lowest_validation_loss; 0: a tenth of the run."""


@dataclass(frozen=True)
class Along:
    """Evaluations of the policy along training."""

    look: Look
    every: int = 0
    """Steps from one to the next; 0: a tenth of the run."""
    recall: Recall = no_memory


@dataclass(frozen=True)
class Trained:
    """A trained policy and what its training showed."""

    model: Any
    """The policy in eval mode; with LoRA a peft model, adapters not merged."""
    history: list[dict[str, float]]
    """One entry every `log_every` steps: step, epoch, and means over these steps: loss, reward_margin, ..."""
    final: dict[str, float]
    """loss, reward_margin, reward_accuracy, policy_accuracy over the training pairs, each pair as it was at its last visit; the
    same with `validation_` over validation pairs under the finished policy; steps; train_loss: TRL's mean over the run;
    checkpoint_step where a rule chose one: what speaks of training pairs then still speaks of the whole run."""
    phases_s: dict[str, float]
    """prepare, train, validate; of a training that was cut off, train is that of all processes whose work stands."""
    stopped: dict[str, Any] | None
    """{step, reason} of an early end; None: trained to the end."""
    along: list[dict[str, float]]
    """One entry for each evaluation along training: step, epoch and what it measured."""
    validations: list[dict[str, float]]
    """Of lowest_validation_loss one entry for each checkpoint: step, epoch, validation_loss and the rates beside it."""
    resumed_at: list[int]
    """The steps at which another process took training up; it changes no number here but phases_s."""


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: "Rows",
    *,
    beta: float,
    seed: int,
    training: Training,
    emit: Emit,
    validation: Validation | None = None,
    log_every: int = 10,
    along: Along | None = None,
    checkpoint: Checkpoint = Checkpoint(),
    saving: Saving | None = None,
    shared_out: Sharding = "none",
) -> Trained:
    """The policy trained from `model` (changed in place) on the pairs of `rows`, against the reference whose log-probs they hold.

    Evaluations `along` training do not change it; a Stop that answers one of their measurements ends it. TrainingError if the loss
    is not finite. Nothing is written but the states of `saving`, from which the same call goes on: `models.save` writes the policy.
    Of several workers the first one's is the trained policy; `shared_out` says how its weights lie on them meanwhile.
    """
    begun = time.perf_counter()
    progress = Progress("train", emit, settings.words(training, beta=beta))
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            **settings.arguments(training, seed, scratch, log_every, len(rows), workers.count()),
            beta=beta,
            max_length=None,  # the pairs are cut already, and the table scored what was kept
            precompute_ref_log_probs=True,
            disable_dropout=not (training.lora and training.lora.dropout),  # TRL would switch off a LoRA's own dropout too
        )
        trainer = TableDPOTrainer(
            model=model,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=batches.Collator(tokenizer.pad_token_id),
            peft_config=settings.lora(training.lora),
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        if workers.count() > 1:
            trainer.share_out(shared_out)
        looks = [
            Looks(each, emit, progress.settings, trainer.policy_as_it_is)
            for each in _lookings(along, checkpoint, validation, tokenizer, beta)
        ]
        for look in looks:
            trainer.add_callback(look)
        parts: dict[str, saves.Part] = {
            **{look.looking.stage: look for look in looks},
            "visits": trainer.visits,
            "history": progress,
        }
        ready = time.perf_counter()
        in_step = [workers.InStep(trainer, trainer.gather)] if workers.count() > 1 else []
        with settings.answers_alone(), head.whole(), trainer.on_lines(rows, training):
            ran = saves.run(trainer, saving, emit, "train", parts, callbacks=in_step)
    trained = trainer.trained_model()
    check_finite(trained, ran.steps, progress.settings)
    ended = time.perf_counter()
    final = {"steps": float(ran.steps), "train_loss": ran.train_loss, **trainer.last_visits()}
    for look in looks:
        if look.looking.best:
            final["checkpoint_step"] = float(look.restore_best(trained))
    if validation is not None and workers.rank() == 0:
        final |= _validated(trained, tokenizer, validation, beta)
    phases = {"prepare": ready - begun, "train": ended - ready + ran.before_s, "validate": time.perf_counter() - ended}
    stopped = next((each for each in (progress.stopped, *(look.stopped for look in looks)) if each), None)
    curves = {each.looking.stage: each.curve for each in looks}
    return Trained(
        trained, progress.history, final, phases, stopped, curves.get("along", []), curves.get("validate", []), ran.resumed_at
    )


def _lookings(
    along: Along | None, checkpoint: Checkpoint, validation: Validation | None, tokenizer: PreTrainedTokenizerBase, beta: float
) -> Iterator[Looking]:
    """What is looked at while the policy trains, the measure of the checkpoint rule as the best."""
    if along is not None:
        best = "win_rate" if checkpoint.rule == "best_judged" else None
        yield Looking("along", along.look, along.every, best=best, recall=along.recall)
    if checkpoint.rule == "lowest_validation_loss":
        if validation is None:
            raise TrainingError("lowest_validation_loss needs validation pairs; set data.validation_pairs above 0")

        def look(policy: Any) -> dict[str, float]:
            return _validated(policy, tokenizer, validation, beta)

        yield Looking("validate", look, checkpoint.every, best="validation_loss", lowest=True)
    if checkpoint.rule == "best_judged" and along is None:
        raise TrainingError("best_judged needs evaluations along training; add an `along` block to the sweep")


NAMES = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")


class Rows(Sequence[dict[str, Any]]):
    """Pairs as the trainer reads them, each with the reference's log-probs: numbers in three arrays, and nothing else of the pairs,
    whose lists and texts take fifteen times as much. TableError if the table lacks a pair or scored another text."""

    def __init__(self, pairs: Iterable[TokenPair], table: PairTable) -> None:
        ids, ends = array("i"), [0]

        def noted() -> Iterator[TokenPair]:
            for pair in pairs:
                for part in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
                    ids.extend(part)
                    ends.append(len(ids))
                yield pair

        self._logps = np.stack(join(table, noted()), axis=1)
        self._ids, self._ends = np.array(ids), np.array(ends)

    def __len__(self) -> int:
        return len(self._logps)

    def __getitem__(self, row: Any) -> Any:
        reference = self._logps[row].tolist()
        ids = (self._ids[begin:end].tolist() for begin, end in pairwise(self._ends[3 * row : 3 * row + 4]))
        return dict(zip(NAMES, (*ids, *reference), strict=True))


def metrics(
    chosen: np.ndarray, rejected: np.ndarray, reference_chosen: np.ndarray, reference_rejected: np.ndarray, beta: float
) -> dict[str, float]:
    """DPO's loss and the rates derived from log-prob sums (N,) in nats (Rafailov et al., arXiv 2305.18290, equation 7).

    reward margin = beta ((log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))), loss = mean of
    -log sigmoid(margin); reward accuracy: share of positive margins; policy accuracy: share of pairs where the policy alone gives
    the chosen answer the higher log-prob.
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return {
        "loss": float(np.logaddexp(0, -margin).mean()),
        "reward_margin": float(margin.mean()),
        "reward_accuracy": float((margin > 0).mean()),
        "policy_accuracy": float((chosen > rejected).mean()),
    }


class Visits:
    """The log-probs of pairs as training met them, in its order, as far back as the last visit of each pair lies."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs
        self._rows: deque[np.ndarray] = deque()
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        """Adds visits (4, N) in nats: of chosen and rejected under the policy, then under the reference."""
        self._rows.append(rows)
        self._count += rows.shape[1]
        while self._count - self._rows[0].shape[1] >= self._pairs:
            self._count -= self._rows.popleft().shape[1]

    def last(self) -> np.ndarray:
        """The last visits (4, N), of at most as many pairs as there are."""
        return np.concatenate(self._rows, axis=1)[:, -self._pairs :] if self._rows else np.zeros((4, 0))

    def kept(self) -> Kept:
        return Kept({}, {"rows": torch.from_numpy(self.last())})

    def take_up(self, kept: Kept) -> None:
        self._rows, self._count = deque(), 0
        self.add(kept.tensors["rows"].numpy())

    def told(self) -> Iterator[Measurement]:
        return iter(())


class TableDPOTrainer(DPOTrainer):
    """TRL's DPOTrainer on rows that are tokenised and hold `ref_chosen_logps` and `ref_rejected_logps` already."""

    loss_is_scaled_for_ga = True
    """The loss of a micro batch is weighted by its share of the step's pairs, so that a ragged last step counts each pair once."""

    def __init__(self, *, train_dataset: Rows, **kwargs: Any) -> None:
        # TRL names its cache of reference log-probs by a hash of all weights: 6.5 s for each 1e9 parameters, and no cache here.
        with settings.replaced(trl.trainer.dpo_trainer, "hash_module", lambda module: "the table"):
            super().__init__(train_dataset=Dataset.from_list([train_dataset[0]]), **kwargs)
        self.train_dataset = cast(Any, train_dataset)  # numbers, not columns of Arrow that each step would read
        if self.ref_model is not None or not self.precompute_ref_logps:
            raise AssertionError("a live reference stands beside the table; TRL's hooks have changed: pin the tested version")
        self.visits = Visits(len(train_dataset))
        self._padded = True
        self._sums = torch.zeros(0)
        self._hook = cast(torch.nn.Module, self.model).register_forward_hook(self._keep_sums)
        self._outline: sharding.Outline | None = None

    def share_out(self, how: Sharding) -> None:
        """Lets the policy, or what its training holds beside it, lie in parts on all workers while it trains."""
        if how == "deepspeed":
            zero.arrange(self)
        if how != "fsdp":
            return
        self._hook.remove()
        self._outline = sharding.Outline(cast(torch.nn.Module, self.model))
        _inner(self._outline.model).__dict__.pop("forward", None)
        self._hook = cast(torch.nn.Module, self.model).register_forward_hook(self._keep_sums)
        sharding.arrange(self)

    def gather(self) -> None:
        """Takes part where the first worker gathers the policy."""
        assert self._outline is not None
        self._outline.fill(cast(torch.nn.Module, self.model))

    def get_train_dataloader(self) -> Any:
        with workers.whole_batches(self.accelerator):
            return super().get_train_dataloader()

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], Any]:
        """The micro batches of one optimizer step, pairs of like length together where rows are padded."""
        samples, pairs = super().get_batch_samples(*arguments)
        return batches.by_length(samples, self._tokenizer.pad_token_id) if self._padded else samples, pairs

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        """Pairs in one optimizer step."""
        return sum(len(batch["ref_chosen_logps"]) for batch in batch_samples)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing reads the count; to reckon it takes a walk through the model's modules at each step."""
        return 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """TRL's loss over these pairs, weighted by their share of the optimizer step's pairs; TrainingError if not finite."""
        pairs = len(inputs["ref_chosen_logps"])
        # Under FSDP2 accelerate wraps no forward pass in autocast, as it does on one device.
        cast_here = nullcontext() if self._outline is None else self.accelerator.autocast()
        with workers.gathering(self.accelerator, pairs), cast_here:
            loss = super().compute_loss(model, workers.share(inputs, pairs))
        if not torch.isfinite(loss):
            words = f"beta {self.beta:g}, learning rate {self.args.learning_rate:g}"
            raise not_finite(loss.item(), self.state.global_step + 1, words)
        self._visit(inputs)
        own = len(workers.own_rows(pairs)) * workers.count()  # the gradient is the mean over workers
        return loss * (own / num_items_in_batch)

    def last_visits(self) -> dict[str, float]:
        """`metrics` over the pairs visited, each with the log-probs of its last visit."""
        visited = self.visits.last()
        return metrics(visited[0], visited[1], visited[2], visited[3], self.beta) if visited.size else {}

    def on_lines(self, rows: Rows, training: Training) -> AbstractContextManager[None]:
        """While the context lasts the policy computes each pair's prompt once, if that fits the pairs and the policy."""
        with self._patches_off() as policy:
            self._padded = not workers.from_first(lines.fit(policy.train(), rows, training))
        return nullcontext() if self._padded else lines.laid(policy)

    @contextmanager
    def policy_as_it_is(self) -> Iterator[tuple[Any, Any]]:
        """(the policy in eval mode as an ordinary model, the module whose weights are trained) while the context lasts; after it
        the trainer goes on as before. One that lies in parts is gathered, in which the other workers take part."""
        if self._outline is None:
            with self._patches_off() as policy:
                yield policy, self.accelerator.unwrap_model(self.model)
            return
        workers.call(workers.GATHER)
        with self._outline.filled(cast(torch.nn.Module, self.model)) as model, line_attention.attending(_inner(model), "sdpa"):
            yield _inner(model).eval(), model

    @contextmanager
    def _patches_off(self) -> Iterator[Any]:
        """The policy in eval mode and without TRL's fused head while the context lasts."""
        model = self.accelerator.unwrap_model(self.model)
        inner = _inner(model)
        modes = [(module, module.training) for module in model.modules()]
        patched = [(part, part.__dict__.pop("forward", None)) for part in dict.fromkeys((model, inner, inner.base_model))]
        self._hook.remove()
        try:
            with line_attention.attending(inner, "sdpa"):
                yield inner.eval()
        finally:
            for module, mode in modes:
                module.training = mode
            for part, forward in patched:
                if forward is not None:
                    part.__dict__["forward"] = forward
            self._hook = cast(torch.nn.Module, self.model).register_forward_hook(self._keep_sums)

    def trained_model(self) -> Any:
        """The policy in eval mode without TRL's fused head: an ordinary model to whatever comes next.

        One that lies in parts is gathered on the first worker; the others have an empty module.
        """
        self._hook.remove()
        if self._outline is not None:
            self.gather()
            return self._outline.model.eval() if workers.rank() == 0 else torch.nn.Module()
        if zero.is_arranged(self):
            zero.release(self)
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        _inner(model).__dict__.pop("forward", None)
        return model.eval()

    def _keep_sums(self, module: Any, args: Any, output: Any) -> None:
        if self._outline is not None:
            sharding.refuse_unshared_head(_inner(module))
        self._sums = output.log_probs.detach().sum(dim=1)

    def _visit(self, inputs: dict[str, Any]) -> None:
        reference = [inputs[name].double().cpu().numpy() for name in ("ref_chosen_logps", "ref_rejected_logps")]
        sums = workers.whole(self._sums.double().reshape(2, -1), len(reference[0]))
        chosen, rejected = sums.cpu().numpy()
        self.visits.add(np.stack([chosen, rejected, *reference]))
        self._metrics["train"]["policy_accuracy"].append(float((chosen > rejected).mean()))


def _inner(model: Any) -> Any:
    """The transformers model, of a peft model the one with the adapters inside."""
    return model.get_base_model() if is_peft_model(model) else model


def _validated(model: Any, tokenizer: PreTrainedTokenizerBase, validation: Validation, beta: float) -> dict[str, float]:
    chosen, rejected = join(validation.table, validation.pairs, "reference table of the validation pairs")
    turns = [chat.Turn(pair.prompt_ids, ids) for pair in validation.pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    policy = scoring.sums(scoring.answer_logps(model, turns, tokenizer.pad_token_id)).reshape(-1, 2)
    found = metrics(policy[:, 0], policy[:, 1], chosen, rejected, beta)
    return {f"validation_{name}": value for name, value in found.items()}
