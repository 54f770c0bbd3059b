from refstudy import recipes
from refstudy.identity import fingerprint
from refstudy.schedule import Schedule


def pretrained(corpus: int, size: str = "small") -> recipes.Pretrained:
    return recipes.Pretrained(world=0, family="north", size=size, north_share=1.0, false_share=0.1, corpus=corpus)


def draws(seed: int) -> recipes.MiniaturePrompts:
    return recipes.MiniaturePrompts(world=0, part="evaluation", count=3, seed=seed)


def answers(model: recipes.Pretrained, prompts: recipes.MiniaturePrompts) -> recipes.Completions:
    sampling = recipes.Sampling(max_new_tokens=8, temperature=1.0, top_p=1.0, seed=0)
    return recipes.Completions(source=model, prompts=prompts, sampling=sampling)


ERROR = {"type": "ValueError", "message": "broken", "traceback": "..."}


def test_recipe_is_handed_out_after_all_that_it_needs():
    model, prompts = pretrained(0), draws(0)
    schedule = Schedule([prompts, model, answers(model, prompts)])
    assert [schedule.take(), schedule.take()] == [model, prompts]  # the longer chain first
    assert schedule.take() is None
    schedule.done(model)
    assert schedule.take() is None
    schedule.done(prompts)
    assert schedule.take() == answers(model, prompts)
    assert not schedule.is_over
    schedule.done(answers(model, prompts))
    assert schedule.is_over


def test_longest_remaining_chain_goes_first():
    short, long = pretrained(0), pretrained(1, "large")
    schedule = Schedule([short, draws(0), long, answers(long, draws(0))])
    assert [schedule.take() for _ in range(3)] == [long, short, draws(0)]


def test_what_is_already_made_is_not_waited_for():
    model, prompts = pretrained(0), draws(0)
    assert Schedule([answers(model, prompts)]).take() == answers(model, prompts)


def test_failed_recipe_holds_back_what_stands_above_it_and_nothing_else():
    broken, whole, prompts = pretrained(0), pretrained(1), draws(0)
    schedule = Schedule([broken, whole, prompts, answers(broken, prompts), answers(whole, prompts)])
    for recipe in iter(schedule.take, None):
        schedule.failed(recipe, ERROR) if recipe == broken else schedule.done(recipe)
    assert schedule.is_over
    assert set(schedule.failures) == {fingerprint(broken)}
    assert schedule.failure_below([answers(broken, prompts)]).recipe == broken
    assert schedule.failure_below([answers(whole, prompts)]) is None


def test_what_is_open_below_a_goal_is_what_keeps_it_waiting():
    ours, other, prompts = pretrained(0), pretrained(1), draws(0)
    schedule = Schedule([ours, other, prompts, answers(other, prompts)])
    needs = schedule.open_below([answers(ours, prompts)])
    assert needs == {fingerprint(ours), fingerprint(prompts)}
    assert schedule.has_next
    for recipe in iter(schedule.take, None):
        assert not schedule.is_made(needs)
        schedule.failed(recipe, ERROR) if recipe == other else schedule.done(recipe)
    assert schedule.is_made(needs)
    assert not schedule.is_made({fingerprint(other)})  # failed
    assert not schedule.has_next
    assert schedule.open_below([prompts]) == set()


def test_adapter_waits_for_the_base_that_it_names():
    base = pretrained(0)
    adapter = recipes.Adapter(base=base, adapter=recipes.Hub(model="somebody/adapter", revision="1"))
    schedule = Schedule([base, answers(adapter, draws(0))])
    assert schedule.take() == base
    assert schedule.take() is None
    schedule.done(base)
    assert schedule.take() == answers(adapter, draws(0))
