"""The names of all measures, for whoever must know them before anything is measured; nothing heavy is imported for that."""

import difflib
from collections.abc import Iterable

CELL = (
    *("win_rate", "win_rate_se", "win_rate_low", "win_rate_high", "win_rate_seen", "win_rate_held_out"),
    *("tie_share", "judge_failures", "prompts"),
    *("length_tokens_mean", "length_tokens_median", "length_tokens_p95", "length_tokens_terminated_mean"),
    *("length_characters_mean", "length_characters_median", "length_characters_p95", "length_characters_terminated_mean"),
    *("length_words_mean", "length_words_median", "length_words_p95", "length_words_terminated_mean"),
    *("length_mean_low", "length_mean_high", "length_ratio", "truncation_rate"),
    *("seq_rep_4", "diversity", "repetitive_share", "distinct_answers"),
    *("gold_reward", "judge_reward", "statements_mean", "precision"),
    *("kl_start_nats", "kl_start_nats_per_token"),
    *("reward_accuracy", "policy_accuracy", "train_loss_final", "reward_margin_final", "checkpoint_step"),
    *("validation_loss", "validation_reward_accuracy", "validation_policy_accuracy"),
)
"""Every measure that a finished cell may have."""

ALONG = (
    *("win_rate", "win_rate_se", "win_rate_low", "win_rate_high", "tie_share", "judge_failures", "win_rate_fall"),
    *("length_tokens_mean", "length_tokens_terminated_mean", "length_characters_mean", "length_ratio", "truncation_rate"),
    *("seq_rep_4", "diversity", "repetitive_share", "distinct_answers", "gold_reward", "judge_reward"),
    *("kl_start_nats", "kl_start_nats_per_token"),
)
"""The measures of an evaluation along training; `win_rate_fall` is how far the win rate is below its best so far."""


def hint(typed: str, known: Iterable[str]) -> str:
    """What somebody may have meant by a name that is no measure: those near to it in letters, then those that share its beginning
    (`repetition`: repetitive_share, seq_rep_4); all where none is near."""
    names = sorted(set(known))
    close = difflib.get_close_matches(typed.lower(), names, n=1, cutoff=0.75)
    begun = (
        [name for name in names if any(part.startswith(typed.lower()[:3]) for part in name.split("_"))] if len(typed) > 1 else []
    )
    near = list(dict.fromkeys([*close, *begun]))[:6]
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(names)}"
