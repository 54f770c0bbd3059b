"""Which pairs are tried, and what is said of them."""

from refstudy import chat, renderings
from refstudy.texts import Pair
from tests import checkpoints, tiny
from tests.reference_world import PLAIN

ASK = [{"role": "user", "content": "What is a wolf?"}]


def pair(pair_id: str, chosen: str = "A canine.", rejected: str = "A bird.") -> Pair:
    return Pair(pair_id=pair_id, messages=ASK, chosen=chosen, rejected=rejected, cluster=pair_id)


def test_sample_of_few_pairs_is_all_of_them() -> None:
    pairs = tiny.pairs(7)
    assert renderings.sample(pairs, [], count=7) == renderings.Sample(pairs, [])


def test_sample_of_many_is_half_spread_and_holds_every_awkward_kind() -> None:
    """Of 100 pairs 16: eight from the first to the last, and two at most of each kind of awkwardness."""
    awkward = {50: "Say <|end|>.", 51: " edge", 52: "cafe\u0301", 53: "long " * 40}
    pairs = [pair(str(number), chosen=awkward.get(number, f"It is {number}.")) for number in range(100)]
    chosen = renderings.sample(pairs, ["<|end|>", " "], count=16)
    assert [int(each.pair_id) for each in chosen.spread] == [0, 14, 28, 42, 57, 71, 85, 99]
    assert {"50", "51", "52", "53"} <= {each.pair_id for each in chosen.awkward}
    assert len(chosen.awkward) <= 8


def test_cut_lists_each_pair_that_fails_and_keeps_the_others() -> None:
    tokenizer = checkpoints.tokenizer_of("llama-3")
    text = renderings.cut(renderings.Sample([pair("a"), pair("b", " edge "), pair("c", "word " * 50)], []), tokenizer, 120)
    assert [row.pair_id for row in text.spread] == ["a"]
    assert [fault.split(":")[0] for fault in text.refused] == ["pair 'b'", "pair 'c'"]
    assert renderings.cut(renderings.Sample([pair("a")], []), tokenizer, 4).too_long[0].startswith("pair 'a'")


def test_read_counts_tokens_of_spread_pairs_and_the_longest_of_all() -> None:
    tokenizer = checkpoints.tokenizer_of("smollm2")
    text = renderings.cut(renderings.Sample([pair("a")], [pair("b", "A canine. " * 5)]), tokenizer, 512)
    read = renderings.read(text, tokenizer, "keep")
    spread, awkward = text.rows
    assert read.tokens_per_pair == 2 * len(spread.prompt_ids) + len(spread.chosen_ids) + len(spread.rejected_ids)
    assert (read.longest_tokens, read.longest_pair) == (len(awkward.prompt_ids) + len(awkward.chosen_ids), "b")
    assert (read.pairs, read.refused, read.as_policy) == (2, [], True)


def test_read_of_a_reference_that_merges_the_system_message_is_not_the_policys() -> None:
    """One tokenizer and one template; where the system message stands is another matter."""
    tokenizer = checkpoints.tokenizer_of("smollm2")
    text = renderings.cut(renderings.Sample([pair("a")], []), tokenizer, 512, system="Be brief.")
    assert renderings.read(text, tokenizer, "keep").as_policy
    assert not renderings.read(text, tokenizer, "merge").as_policy


def test_relation_is_by_rules_and_template() -> None:
    one, plain, other = (checkpoints.tokenizer_of(style) for style in ("smollm2", "smollm2", "mistral-v0.2"))
    plain.chat_template = PLAIN
    assert renderings.relation(one, checkpoints.tokenizer_of("smollm2")) == "same"
    assert renderings.relation(one, plain) == "same vocabulary"
    assert renderings.relation(one, other) == "other"
    assert chat.same_vocabulary(one, plain)


def test_relation_of_a_tokenizer_that_normalises_is_another() -> None:
    """The same entries, but Qwen's rules compose Unicode first: the same text can be other ids."""
    one, composing = checkpoints.tokenizer_of("smollm2"), checkpoints.tokenizer_of("qwen2.5")
    assert one.get_vocab() == composing.get_vocab()
    assert renderings.relation(one, composing) == "other"
