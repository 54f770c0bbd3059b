"""AlpacaEval's annotations as a judge: its annotations.json, made elsewhere of the answers that `refstudy export` wrote.

    judge: {kind: alpaca_annotations, path: annotations.json}

Each annotation names an instruction, two outputs and a preference in [1, 2], 2 meaning output_2. p = preference - 1 of the output
that is the candidate's; 0 and 1.5 are draws; null is no verdict. One file may hold annotations of many models.

Invariant: annotations are joined by the texts of instruction and both outputs, and answers that none is about are refused.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refstudy.errors import DataError, JudgeError
from refstudy.judges import Judged, Verdict, check_same_prompts
from refstudy.texts import Completion, Prompt, answer_text, asked_text

Pair = tuple[str, str, str]
"""(instruction, output that wins at p = 1, the other output)"""


def read(path: Path) -> dict[Pair, list[float | None]]:
    """P(the first output of a pair is preferred), one value an annotation; each stands under both orders of its outputs."""
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"annotations {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotations {path} are no JSON ({error}); expected AlpacaEval's annotations.json") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"annotations {path} hold no list of annotations; expected AlpacaEval's annotations.json")
    found: dict[Pair, list[float | None]] = defaultdict(list)
    for number, row in enumerate(rows):
        instruction, one, two = _texts(row, f"{path}, annotation {number}")
        p = _p(row, f"{path}, annotation {number}")
        found[instruction, two, one].append(p)
        if one != two:
            found[instruction, one, two].append(None if p is None else 1 - p)
    return dict(found)


def judge(
    annotations: dict[Pair, list[float | None]],
    prompts: Sequence[Prompt],
    candidate: Sequence[Completion],
    baseline: Sequence[Completion],
) -> Judged:
    """A verdict for each prompt: the mean over the annotations of its two answers."""
    check_same_prompts(prompts, candidate, baseline)
    pairs = [
        (asked_text(prompt), answer_text(prompt, ours), answer_text(prompt, theirs))
        for prompt, ours, theirs in zip(prompts, candidate, baseline, strict=True)
    ]
    missing = [pair for pair in pairs if pair not in annotations]
    if missing:
        raise JudgeError(
            f"{len(missing):,} of {len(pairs):,} pairs of answers have no annotation (first instruction: {missing[0][0]!r:.80}); "
            "expected annotations of exactly these texts: write them with `refstudy export CELL --alpaca-eval FILE`, annotate "
            "both files, and name the annotations that come out"
        )
    verdicts = [_verdict(prompt.prompt_id, annotations[pair]) for prompt, pair in zip(prompts, pairs, strict=True)]
    used = sum(len(annotations[pair]) for pair in set(pairs))
    summary = {"verdicts": len(verdicts), "no_verdict": sum(each.p is None for each in verdicts), "annotations": used}
    return Judged(verdicts, summary)


def _verdict(prompt_id: str, values: list[float | None]) -> Verdict:
    given = [value for value in values if value is not None]
    return Verdict(
        prompt_id=prompt_id,
        p=sum(given) / len(given) if given else None,
        candidate_reward=None,
        baseline_reward=None,
        candidate_detail={"annotations": len(given)},
        baseline_detail={},
    )


def _texts(row: Any, where: str) -> Pair:
    names = ("instruction", "output_1", "output_2")
    values = [row.get(name) if isinstance(row, dict) else None for name in names]
    instruction, one, two = values
    if not (isinstance(instruction, str) and isinstance(one, str) and isinstance(two, str)):
        raise DataError(f"{where} lacks the texts {', '.join(names)}; expected AlpacaEval's annotations.json")
    return instruction, one, two


def _p(row: dict[str, Any], where: str) -> float | None:
    """P(output_2 is preferred): the preference less 1, with 0 and 1.5 as draws."""
    if "preference" not in row:
        raise DataError(f"{where} has no preference; expected a number in [1, 2], 0 or null")
    preference = row["preference"]
    if preference is None or (isinstance(preference, float) and math.isnan(preference)):
        return None
    number = isinstance(preference, int | float) and not isinstance(preference, bool)
    if not number or not (preference == 0 or 1 <= preference <= 2):
        raise DataError(f"{where} has the preference {preference!r:.40}; expected a number in [1, 2], 0 or null")
    return 0.5 if preference == 0 else float(preference) - 1
