"""A user's own scorer as judge: a function in the signature of TRL's reward functions, found in an installed package.

    # pyproject.toml of the package
    [project.entry-points."refstudy.judges"]
    brevity = "my_package.rewards:brevity"

    def brevity(prompts, completions, completion_ids, **options) -> list[float]: ...

    # the sweep file
    judge: {kind: plugin, name: brevity, options: {target: 40}}

Prompts and completions are lists of messages, as TRL gives them for conversational data, or texts with `form: text`. A score of
None is no verdict. P(the candidate wins) is 1, 0.5 or 0 by comparison of the scores, or with `compare: sigmoid` that of their
difference. Name and version of the package stand in the recipe: raise the version when the scores change.

Invariant: what is no list of one finite number or None for each answer is refused; each score is kept as soon as it is there.
"""

import hashlib
import importlib.metadata
import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refstudy import journal, recipes
from refstudy.errors import JudgeError, SpecError
from refstudy.identity import fingerprint
from refstudy.judges import Judged, Verdict, check_same_prompts, sigmoid
from refstudy.measurement import Emit, Measurement, silent
from refstudy.texts import Completion, Prompt, conversation_text, in_place

GROUP = "refstudy.judges"
GIVEN = ("prompts", "completions", "completion_ids")
"""Arguments of every call; no option may have such a name."""

Scorer = Callable[..., Any]


@dataclass(frozen=True)
class Package:
    """The installed distribution that offers a judge."""

    name: str
    version: str


def package(name: str, key: str = "judge") -> Package:
    """Which installed package offers the judge called `name`, from metadata: nothing of it is imported. `key`: its YAML path."""
    return _package(_entry_point(name, key))


def judge(
    recipe: recipes.PluginJudge,
    prompts: Sequence[Prompt],
    candidate: Sequence[Completion],
    baseline: Sequence[Completion],
    kept: Path,
    emit: Emit = silent,
) -> Judged:
    """A verdict for each prompt from the scores of both answers; `kept`, a journal, holds known ones, and takes new ones."""
    check_same_prompts(prompts, candidate, baseline)
    scorer = _load(recipe)
    rows = [row for side in (candidate, baseline) for row in zip(in_place(prompts, side), side, strict=True)]
    source = _source_sha256(scorer)
    keys = [_key(recipe, source, *row) for row in rows]
    asked = dict(zip(keys, rows, strict=True))
    scores = {row["key"]: row["score"] for row in journal.rows(kept) if _is_sound(row) and row["key"] in asked}
    scores |= _scored(recipe, scorer, {key: row for key, row in asked.items() if key not in scores}, len(scores), kept, emit)
    found = [scores[key] for key in keys]
    pairs = zip(prompts, found[: len(prompts)], found[len(prompts) :], strict=True)
    verdicts = [_verdict(recipe, prompt, ours, theirs) for prompt, ours, theirs in pairs]
    return Judged(verdicts, {"verdicts": len(verdicts), "no_verdict": sum(each.p is None for each in verdicts)})


def _entry_point(name: str, key: str = "judge") -> importlib.metadata.EntryPoint:
    installed = importlib.metadata.entry_points(group=GROUP)
    found = [each for each in installed if each.name == name]
    if not found:
        known = ", ".join(sorted({each.name for each in installed})) or "none"
        raise SpecError(
            f"{key}.name: no installed package offers {name!r} (known: {known}); install one whose entry points of the group "
            f"{GROUP} have it"
        )
    packages = {_package(each) for each in found}
    if len(packages) > 1:
        several = ", ".join(sorted(each.name for each in packages))
        raise SpecError(f"{key}.name: {name!r} is offered by several packages ({several}); uninstall all but one")
    return found[0]


def _package(found: importlib.metadata.EntryPoint) -> Package:
    if found.dist is None:
        raise SpecError(f"judge {found.name!r} belongs to no installed package, so that its version is not known; install it")
    return Package(found.dist.name, found.dist.version)


def _load(recipe: recipes.PluginJudge) -> Scorer:
    """The function, out of the very version that the recipe names."""
    found = _entry_point(recipe.name)
    here = _package(found)
    if here != Package(recipe.package, recipe.version):
        raise JudgeError(
            f"judge {recipe.name!r} is {here.name} {here.version} here, and was {recipe.package} {recipe.version} when the sweep "
            "was planned; install that version on every machine, or run the sweep again"
        )
    try:
        scorer = found.load()
    except Exception as error:  # whatever a stranger's module does when it is imported
        raise JudgeError(f"judge {recipe.name!r} ({found.value}) cannot be imported: {_short(error)}") from error
    if not callable(scorer):
        raise JudgeError(f"judge {recipe.name!r} ({found.value}) is a {type(scorer).__name__}; expected a function")
    return scorer


def _scored(
    recipe: recipes.PluginJudge,
    scorer: Scorer,
    missing: dict[str, tuple[Prompt, Completion]],
    known: int,
    kept: Path,
    emit: Emit,
) -> dict[str, float | None]:
    """Scores by key, batch by batch."""
    scores: dict[str, float | None] = {}
    keys = list(missing)
    with journal.adding(kept) as out:
        for start in range(0, len(keys), recipe.batch_size):
            batch = keys[start : start + recipe.batch_size]
            found = dict(zip(batch, _call(recipe, scorer, [missing[key] for key in batch]), strict=True))
            for key, score in found.items():
                journal.add(out, {"key": key, "score": score})
            scores |= found
            emit(Measurement("judge", known + len(scores), known + len(missing), {}))
    return scores


def _call(recipe: recipes.PluginJudge, scorer: Scorer, rows: list[tuple[Prompt, Completion]]) -> list[float | None]:
    prompts: list[Any] = [prompt.messages for prompt, _ in rows]
    completions: list[Any] = [[{"role": "assistant", "content": answer.text}] for _, answer in rows]
    if recipe.form == "text":
        prompts = [conversation_text(prompt.messages) for prompt, _ in rows]
        completions = [answer.text for _, answer in rows]
    ids = [answer.token_ids for _, answer in rows]
    try:
        values = scorer(prompts=prompts, completions=completions, completion_ids=ids, **json.loads(recipe.options))
    except Exception as error:  # a stranger's function may raise anything
        raise JudgeError(f"judge {recipe.name!r} failed: {_short(error)}") from error
    return _checked(recipe.name, values, len(rows))


def _checked(name: str, values: Any, count: int) -> list[float | None]:
    """The scores as floats; JudgeError unless there is a finite number, or None, for each answer."""
    if inspect.iscoroutine(values):
        values.close()
        raise JudgeError(f"judge {name!r} gave a coroutine; expected a list of numbers: give a function that is not async")
    if not isinstance(values, list | tuple):
        raise JudgeError(f"judge {name!r} gave a {type(values).__name__}; expected a list of numbers (`tolist()` of an array)")
    if len(values) != count:
        raise JudgeError(f"judge {name!r} gave {len(values)} scores for {count} answers; expected one for each, in their order")
    for place, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):
            raise JudgeError(
                f"judge {name!r} gave {value!r:.40} for answer {place + 1} of {count}; expected a finite number, or None for no "
                "verdict"
            )
    return [None if value is None else float(value) for value in values]


def _verdict(recipe: recipes.PluginJudge, prompt: Prompt, ours: float | None, theirs: float | None) -> Verdict:
    return Verdict(
        prompt_id=prompt.prompt_id,
        p=None if ours is None or theirs is None else _p(recipe.compare, ours, theirs),
        candidate_reward=ours,
        baseline_reward=theirs,
        candidate_detail={},
        baseline_detail={},
    )


def _p(compare: str, ours: float, theirs: float) -> float:
    if compare == "sigmoid":
        return sigmoid(ours - theirs)
    return 0.5 if ours == theirs else float(ours > theirs)


def _key(recipe: recipes.PluginJudge, source: str, prompt: Prompt, answer: Completion) -> str:
    """What a score is kept under: all that a call tells of one answer, and the function's source, which may be at work on."""
    parts = [fingerprint(recipe), source, prompt.messages, answer.text, answer.token_ids]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _source_sha256(scorer: Scorer) -> str:
    """The hash of the file that defines the function; "" where there is none to read."""
    try:
        return hashlib.sha256(Path(inspect.getfile(scorer)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return ""


def _is_sound(row: dict[str, Any]) -> bool:
    score = row.get("score", "")
    is_number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    return isinstance(row.get("key"), str) and (score is None or is_number)


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
