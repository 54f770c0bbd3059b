"""Every leaf of every recipe changes its id, or is declared execution-only with a reason."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from refstudy import recipes
from refstudy.identity import fingerprint, is_recipe

TRAINING = recipes.Training(
    epochs=1.0,
    batch_size=8,
    learning_rate=1e-3,
    schedule="linear",
    warmup_share=0.1,
    clip=1.0,
    weight_decay=0.0,
    precision="fp32",
    lora=recipes.Lora(rank=4, alpha=8.0, dropout=0.1, target="all-linear"),
)
HUB_DATA = recipes.HubData(dataset="org/data", revision="r", config="c", split="train", file="f")
PREFERENCES = recipes.Preferences(
    source=HUB_DATA, part="train", evaluation=10, validation=5, limit=7, unusable="refuse", without=("<s>",)
)
LOCAL = recipes.Local(content="0" * 64, template="t", system_role="keep", path="/a")
SCRATCH = recipes.Scratch(
    text=PREFERENCES, architecture="llama", vocabulary=300, hidden=8, layers=1, heads=1, steps=1, batch_size=1,
    learning_rate=1e-3, context=8, seed=0,
)  # fmt: skip
DEMONSTRATIONS = recipes.Demonstrations(
    world=0, family="north", size="small", north_share=1.0, false_share=0.5, statements="all", corpus=0
)
PRETRAINED = recipes.Pretrained(world=0, family="north", size="small", north_share=1.0, false_share=0.5, corpus=0)
SFT = recipes.Sft(start=PRETRAINED, data=DEMONSTRATIONS, train=TRAINING, max_length=8, seed=0, template="t")
SAMPLING = recipes.Sampling(max_new_tokens=4, temperature=1.0, top_p=1.0, seed=0, draw=0, system="s")
PROMPTS = recipes.MiniaturePrompts(world=0, part="evaluation", count=3, seed=0)
BASELINE = recipes.Completions(source=SFT, prompts=PROMPTS, sampling=SAMPLING)
PAIRS = recipes.MiniaturePairs(world=0, annotator="human", count=3, seed=0, candidates=(BASELINE, BASELINE))
TOKEN_PAIRS = recipes.TokenPairs(pairs=PAIRS, policy=SFT, max_length=8, system="s")
TABLE = recipes.Table(scorer=SFT, texts=TOKEN_PAIRS)
ALONG = recipes.Along(every=5, baseline=BASELINE, judge=recipes.GoldJudge(world=0))
DPO = recipes.Dpo(
    start=SFT, table=TABLE, validation=TABLE, beta=0.1, seed=0, train=TRAINING, checkpoint="best_judged", checkpoint_every=3,
    along=ALONG, alarms=("length_ratio > 2",),
)  # fmt: skip
COMPLETIONS = recipes.Completions(source=DPO, prompts=PROMPTS, sampling=SAMPLING)
REWARD_MODEL = recipes.RewardModel(start=SCRATCH, pairs=PREFERENCES, train=TRAINING, max_length=8, seed=0)

EXAMPLES = [
    PROMPTS, PAIRS, DEMONSTRATIONS, PREFERENCES, LOCAL, SCRATCH, PRETRAINED, SFT, TOKEN_PAIRS, TABLE, DPO, COMPLETIONS,
    REWARD_MODEL,
    recipes.HeldOutPrompts(pairs=PREFERENCES, count=3),
    recipes.Prompts(source=recipes.File(content="0" * 64, path="/a"), count=3),
    recipes.Conversations(source=HUB_DATA, limit=3),
    recipes.Hub(model="org/model", revision="r", template="t", system_role="keep"),
    recipes.Adapter(base=LOCAL, adapter=LOCAL),
    recipes.Rounded(model=LOCAL, precision="bf16", quantise=None),
    recipes.TrainingLog(model=DPO),
    recipes.AlongCurve(model=DPO, along=ALONG),
    recipes.OtherPrompts(of=PROMPTS, without=recipes.Prompts(source=HUB_DATA, count=3), count=3),
    recipes.Constant(),
    recipes.Prior(model=SFT, prompt="p"),
    recipes.Column(source=HUB_DATA, chosen="c", rejected="r", pair_id="i"),
    recipes.Server(model="m", revision="r", tokenizer=LOCAL, form="echo", base_url="http://127.0.0.1:1"),
    recipes.Mixture(parts=(recipes.Part(scorer=SFT, weight=1.0),), mean="geometric"),
    recipes.Derived(of=DPO, own=SFT, keep="scaled", factor=2.0, seed=0),
    recipes.Selection(pairs=TOKEN_PAIRS, of=DPO, own=SFT),
    recipes.ChatServer(model="m", revision="r", base_url="u", concurrency=1, timeout_s=1.0, retries=1, key_variable="K"),
    recipes.Answers(source=recipes.File(content="c", path="p"), prompts=COMPLETIONS.prompts, tokens_of=SFT),
    recipes.Divergence(completions=COMPLETIONS, reference=SFT),
    recipes.TokenShifts(model=DPO, texts=TOKEN_PAIRS, count=2),
    recipes.GoldJudge(world=0),
    recipes.RewardJudge(model=REWARD_MODEL, max_length=8),
    recipes.LlmJudge(
        model="m", revision="r", template="t", labels=("A", "B"), max_tokens=1, top_logprobs=20, base_url="http://127.0.0.1:1"
    ),
    recipes.VotesJudge(votes=recipes.File(content="0" * 64, path="/a")),
    recipes.AnnotationsJudge(annotations=recipes.File(content="0" * 64, path="/a")),
    recipes.PluginJudge(name="n", package="p", version="1", options="{}", form="text", compare="sign"),
    recipes.Verdicts(candidate=COMPLETIONS, baseline=BASELINE, judge=recipes.GoldJudge(world=0)),
]  # fmt: skip


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if is_recipe(value):
        name = next(field.name for field in dataclasses.fields(value) if "execution_only" not in field.metadata)
        return dataclasses.replace(value, **{name: changed(getattr(value, name))})
    if isinstance(value, tuple):
        return (changed(value[0]), *value[1:])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}-other"


def leaves(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """(path, `value` with that one leaf changed, whether it is execution-only), plain values inside recipes included."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        outside = "execution_only" in field.metadata
        if dataclasses.is_dataclass(inner) and not is_recipe(inner):
            for path, other, deep in leaves(inner):
                yield f"{field.name}.{path}", dataclasses.replace(value, **{field.name: other}), outside or deep
        else:
            yield field.name, dataclasses.replace(value, **{field.name: changed(inner)}), outside


CASES = [(type(each).__name__, path, each, other, outside) for each in EXAMPLES for path, other, outside in leaves(each)]


def test_examples_cover_every_kind_of_recipe() -> None:
    assert {type(each) for each in EXAMPLES} == set(get_args(recipes.Recipe))


@pytest.mark.parametrize(("kind", "path", "recipe", "other", "outside"), CASES, ids=[f"{case[0]}.{case[1]}" for case in CASES])
def test_recipe_leaf_changes_the_id_unless_execution_only(kind: str, path: str, recipe: Any, other: Any, outside: bool) -> None:
    assert (fingerprint(recipe) == fingerprint(other)) is outside


def test_execution_only_fields_have_a_reason() -> None:
    fields = [field for each in (*EXAMPLES, TRAINING) for field in dataclasses.fields(each)]
    reasons = [field.metadata["execution_only"] for field in fields if "execution_only" in field.metadata]
    assert reasons
    assert all(len(reason.split()) > 3 for reason in reasons)


def test_closure_lists_inputs_before_what_is_made_from_them() -> None:
    order = [fingerprint(each) for each in recipes.closure([EXAMPLES[-1]])]
    assert len(order) == len(set(order))
    for recipe in recipes.closure([EXAMPLES[-1]]):
        places = [order.index(fingerprint(each)) for each in recipes.inputs(recipe)]
        assert all(place < order.index(fingerprint(recipe)) for place in places)
