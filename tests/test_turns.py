import pytest
from hypothesis import given
from hypothesis import strategies as st

from refstudy import turns
from refstudy.errors import DataError

ASK = {"role": "user", "content": "Why?"}
HH = "\n\nHuman: Why?\n\nAssistant:"


def says(text):
    return {"role": "assistant", "content": text}


def transcript_text(messages):
    """HH's plain form of alternating turns, its answer open."""
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages) + "\n\nAssistant:"


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "Why?", "chosen": "A", "rejected": "B"}, id="texts"),
        pytest.param({"prompt": HH, "chosen": " A", "rejected": " B"}, id="hh"),
        pytest.param({"chosen": HH + " A", "rejected": HH + " B"}, id="hh-implicit-prompt"),
        pytest.param({"prompt": None, "chosen": HH + " A", "rejected": HH + " B"}, id="hh-null-prompt"),
        pytest.param({"prompt": [ASK], "chosen": [says("A")], "rejected": [says("B")]}, id="messages"),
        pytest.param({"prompt": "Why?", "chosen": [says("A")], "rejected": [says("B")]}, id="text-and-messages"),
        pytest.param({"chosen": [ASK, says("A")], "rejected": [ASK, says("B")]}, id="messages-implicit-prompt"),
        pytest.param({"prompt": "Why?", "chosen": [ASK, says("A")], "rejected": [ASK, says("B")]}, id="ultrafeedback"),
        pytest.param({"prompt": [ASK], "chosen": [ASK, says("A")], "rejected": [ASK, says("B")]}, id="prompt-twice"),
        pytest.param({"prompt": [ASK], "chosen": "A", "rejected": "B"}, id="messages-and-texts"),
    ],
)
def test_preference_in_each_accepted_form_is_the_same_pair(row):
    assert turns.preference(row) == ([ASK], "A", "B")


def test_preference_of_plain_texts_without_a_prompt_parts_as_trl_does():
    """TRL 1.16: the common prefix is "It is ", and its last space goes to the answers."""
    assert turns.preference({"chosen": "It is blue.", "rejected": "It is green."}) == (
        [{"role": "user", "content": "It is"}], " blue.", " green.",
    )  # fmt: skip


def test_preference_without_a_prompt_agrees_with_trl_on_messages():
    from trl import extract_prompt

    row = {"chosen": [ASK, says("a"), ASK, says("A")], "rejected": [ASK, says("a"), ASK, says("B")]}
    theirs = extract_prompt(row)
    assert turns.preference(row) == (theirs["prompt"], theirs["chosen"][0]["content"], theirs["rejected"][0]["content"])


def test_preference_of_two_equal_conversations_keeps_the_answers():
    row = {"chosen": [ASK, says("A")], "rejected": [ASK, says("A")]}
    assert turns.preference(row) == ([ASK], "A", "A")


def test_preference_of_hh_without_a_prompt_parts_at_the_last_shared_marker():
    """The rejected answer goes on by itself with another turn: that is its text, not the conversation's."""
    rejected = " B\n\nHuman: More\n\nAssistant: C"
    assert turns.preference({"chosen": HH + " A", "rejected": HH + rejected}) == ([ASK], "A", rejected[1:])


def test_preference_of_hh_with_two_conversations_is_refused():
    tails = [f" {word}\n\nHuman: More\n\nAssistant: C" for word in "AB"]
    with pytest.raises(DataError, match="both go on"):
        turns.preference({"chosen": HH + tails[0], "rejected": HH + tails[1]})


@pytest.mark.parametrize(
    "text", ["a\u2028b", "\U0001f388 tail \n", "  two spaces", "tab\t", "Human: x", "\u0301 combining", "\ufeff"]
)
def test_preference_texts_survive_character_for_character(text):
    row = {"prompt": "q " + text, "chosen": text, "rejected": text + "!"}
    assert turns.preference(row) == ([{"role": "user", "content": "q " + text}], text, text + "!")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Why?", "chosen": "A"}, "no rejected column"),
        ({"prompt": "Why?", "chosen": 1, "rejected": 2}, "a int"),
        ({"prompt": "Why?", "chosen": "A", "rejected": [says("B")]}, "both texts or both lists"),
        ({"prompt": 3, "chosen": "A", "rejected": "B"}, "prompt is a int"),
        ({"prompt": [ASK], "chosen": [{"role": "assistant"}], "rejected": [says("B")]}, r"chosen\[0\] is no message"),
        ({"prompt": [ASK], "chosen": [{"role": "bot", "content": "A"}], "rejected": [says("B")]}, "role 'bot'"),
        ({"prompt": [ASK], "chosen": [{**says("A"), "tool_calls": []}], "rejected": [says("B")]}, "tool_calls"),
        ({"prompt": [ASK], "chosen": [{**says("A"), "content": [{"type": "text"}]}], "rejected": [says("B")]}, "a list as content"),
        ({"prompt": [ASK], "chosen": [says("A"), ASK], "rejected": [says("B")]}, "goes on with 2 messages"),
        ({"prompt": [ASK, says("A")], "chosen": [says("A")], "rejected": [says("B")]}, "ends with the assistant's turn"),
        ({"prompt": "Other", "chosen": [ASK, says("A")], "rejected": [ASK, says("B")]}, "stands in no turn"),
        ({"prompt": "\n\nHuman: Why?", "chosen": " A", "rejected": " B"}, "expected it to end with"),
        ({"prompt": "Why?", "chosen": "\ud800", "rejected": "B"}, "lone surrogate"),
        ({"prompt": "Why \udfff?", "chosen": "A", "rejected": "B"}, "lone surrogate"),
        ({"chosen": "\n\nHuman: Why?\n\nAssistant: A", "rejected": "\n\nHuman: What?\n\nAssistant: A"}, "share no"),
    ],
)
def test_preference_malformed_is_refused_with_the_reason(row, said):
    with pytest.raises(DataError, match=said):
        turns.preference(row)


TURN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not turns.HH_SPEAKER.search(f"\n\n{text}") and not text.endswith("\n")
)


@given(st.lists(TURN, min_size=1, max_size=9).filter(lambda texts: len(texts) % 2 == 1))
def test_transcript_of_alternating_turns_gives_every_character_back(texts):
    messages = [{"role": "user" if index % 2 == 0 else "assistant", "content": text} for index, text in enumerate(texts)]
    assert turns.transcript(transcript_text(messages)) == messages


def test_transcript_with_a_repeated_speaker_keeps_the_marker_as_that_speakers_text():
    text = "\n\nHuman: Hi\n\nAssistant: Yes\n\nAssistant: No\n\nHuman: Why?\n\nAssistant:"
    assert turns.transcript(text) == [{"role": "user", "content": "Hi"}, says("Yes\n\nAssistant: No"), ASK]
    assert transcript_text(turns.transcript(text)) == text


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?"},
        {"prompt": HH},
        {"prompt": [ASK]},
        {"messages": [ASK]},
        {"messages": [ASK, says("A")]},
        {"instruction": "Why?"},
        {"turns": ["Why?"], "question_id": 81, "category": "writing"},
        {"turns": [{"content": "Why?"}], "question_id": "ab", "cluster": "c"},
    ],
)
def test_prompt_in_each_accepted_form_is_the_same(row):
    assert turns.prompt(row) == [ASK]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "turns is a list; expected a list of texts"),
        ("Why?", "turns is a str; expected a list of texts"),
        ([{"text": "Why?"}], "expected a list of texts, or of objects with content"),
    ],
)
def test_turns_that_are_no_questions_are_refused(given, words):
    with pytest.raises(DataError, match=words):
        turns.prompt({"turns": given})


def test_further_turns_are_those_after_the_first_and_only_of_turns():
    assert turns.prompt({"turns": ["Why?", "And then?"]}) == [ASK]
    assert turns.further_turns({"turns": ["Why?", {"content": "And then?"}, "So?"]}) == ["And then?", "So?"]
    assert turns.further_turns({"turns": ["Why?"]}) == turns.further_turns({"prompt": "Why?", "turns": ["Why?", "So?"]}) == []
    with pytest.raises(DataError, match="turn 2 of 3 is empty"):
        turns.further_turns({"turns": ["Why?", " ", "So?"]})


def test_prompt_without_a_known_column_is_refused_with_those_found():
    with pytest.raises(DataError, match="found: question, id"):
        turns.prompt({"question": "Why?", "id": 1})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, says("A")]},
        {"prompt": "Why?", "completion": "A"},
        {"prompt": HH, "completion": " A"},
        {"prompt": [ASK], "completion": [says("A")]},
    ],
)
def test_conversation_in_each_accepted_form_is_the_same(row):
    assert turns.conversation(row) == [ASK, says("A")]


def test_conversation_that_ends_with_the_user_is_refused():
    with pytest.raises(DataError, match="ends with the user"):
        turns.conversation({"messages": [ASK]})
