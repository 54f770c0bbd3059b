"""The `judge` of a sweep file as a recipe.

Invariant: as with other entries, the recipe holds all that the entry says about the result. Nothing here imports a user's code.
"""

import json

from refstudy import entries, recipes, spec
from refstudy.entries import Place
from refstudy.errors import SpecError
from refstudy.judges import llm, plugin, question


def judge(entry: spec.Judge, data: spec.Data, place: Place, key: str = "judge") -> recipes.Judge:
    """The recipe of a judge; `key` is its YAML path. SpecError says what is wrong with its entry."""
    match entry:
        case spec.GoldJudgeEntry():
            if not isinstance(data, spec.MiniatureData):
                raise SpecError(f"{key}.kind: gold knows rewards of the miniature only; data.kind is {data.kind}: use reward_model")
            return recipes.GoldJudge(world=data.world)
        case spec.RewardJudgeEntry():
            return _reward_model(entry, data, place, key)
        case spec.LlmJudgeEntry():
            return _llm(entry, place, key)
        case spec.VotesJudgeEntry():
            return recipes.VotesJudge(votes=entries.file(entry.path, place))
        case spec.AlpacaJudgeEntry():
            return recipes.AnnotationsJudge(annotations=entries.file(entry.path, place))
        case spec.PluginJudgeEntry():
            return _plugin(entry, key)


def _reward_model(entry: spec.RewardJudgeEntry, data: spec.Data, place: Place, key: str) -> recipes.RewardJudge:
    if (entry.model is None) == (entry.start is None):
        raise SpecError(f"{key}: a reward_model needs either `model` (a trained one) or `start` (what it is trained from)")
    _refuse_unread(entry, key)
    if entry.start is None:
        given = entries.hub_or_local(str(entry.model), entry.revision, place)
        return recipes.RewardJudge(model=given, max_length=entry.max_length)
    if isinstance(data, spec.MiniatureData):
        raise SpecError(f"{key}.start: a reward model is trained on pairs of a file or hub dataset; data.kind is miniature")
    how = entry.train or spec.RewardTrainEntry()
    trained = recipes.RewardModel(
        start=entries.model(entry.start, data, f"{key}.start", place),
        pairs=entries.preferences(data, "train", place),
        train=entries.training(how, how.batch_pairs),
        max_length=entry.max_length,
        seed=entry.seed,
    )
    return recipes.RewardJudge(model=trained, max_length=entry.max_length)


def _refuse_unread(entry: spec.RewardJudgeEntry, key: str) -> None:
    """Refuses keys that speak of training a judge that is given, or of the revision of one that is trained."""
    unread = ("revision",) if entry.model is None else ("seed", "train")
    given = [name for name in unread if name in entry.model_fields_set and getattr(entry, name) is not None]
    if given:
        instead = f"{key}.start" if entry.model is None else f"{key}.model"
        got = repr(getattr(entry, given[0]))[:60]
        raise SpecError(f"{key}.{given[0]}: got {got}, which changes nothing beside {instead}; remove it")
    asked = entry.start.resources if entry.start is not None else None
    if asked is not None and asked.shards != 1:
        raise SpecError(f"{key}.start.resources.shards: got {asked.shards}; only tables are scored in shards: remove it")


def _llm(entry: spec.LlmJudgeEntry, place: Place, key: str) -> recipes.LlmJudge:
    template = place.template(entry.template, f"{key}.template", ".txt") or question.TEMPLATE
    fault = question.fault(template)
    if fault:
        raise SpecError(f"{key}.template: {fault}; expected all of {{{{conversation}}}}, {{{{answer_1}}}} and {{{{answer_2}}}}")
    if entry.labels[0] == entry.labels[1]:
        raise SpecError(f"{key}.labels: got {entry.labels[0]!r} twice; expected two words that differ")
    made = recipes.LlmJudge(
        model=entry.model,
        revision=entry.revision,
        template=template,
        labels=(entry.labels[0], entry.labels[1]),
        max_tokens=entry.max_tokens,
        top_logprobs=entry.top_logprobs,
        base_url=entry.base_url.rstrip("/"),
        limit=entry.limit,
        concurrency=entry.concurrency,
        requests_per_minute=entry.requests_per_minute,
        timeout_s=entry.timeout_s,
        retries=entry.retries,
        key_variable=entry.key_variable,
        prompt_price=entry.price.prompt,
        completion_price=entry.price.completion,
    )
    llm.address(made)  # refuses an address with a password before it is written anywhere
    return made


def _plugin(entry: spec.PluginJudgeEntry, key: str) -> recipes.PluginJudge:
    clash = [name for name in plugin.GIVEN if name in entry.options]
    if clash:
        raise SpecError(f"{key}.options.{clash[0]}: every call has an argument of that name; rename the option")
    try:
        options = json.dumps(entry.options, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{key}.options: {error}; expected plain values of YAML, with finite numbers") from None
    offered = plugin.package(entry.name, key)
    return recipes.PluginJudge(
        name=entry.name,
        package=offered.name,
        version=offered.version,
        options=options,
        form=entry.form,
        compare=entry.compare,
        batch_size=entry.batch_size,
    )
