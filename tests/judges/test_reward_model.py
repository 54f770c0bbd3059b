import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from refstudy import chat
from refstudy.errors import JudgeError
from refstudy.judges import reward_model
from refstudy.texts import Completion, Prompt
from tests import checkpoints

QUESTIONS = ["What is a wolf?", "Where is Paris? " * 12, "Can you tell me how to bake bread at home?"]
PROMPTS = [
    Prompt(prompt_id=str(number), messages=[{"role": "user", "content": text}], cluster=str(number))
    for number, text in enumerate(QUESTIONS)
]
TEXTS = ["A large canine.", "On the Seine. " * 5, "No."]


def answers(texts):
    return [
        Completion(prompt_id=prompt.prompt_id, text=text, token_ids=[1], terminated=True, logp_sum_nats=-1.0)
        for prompt, text in zip(PROMPTS, texts, strict=True)
    ]


@pytest.fixture(scope="module", params=["smollm2", "llama-3", "tulu-2"])
def judge_model(request, tmp_path_factory):
    folder = checkpoints.write_reward_model(request.param, tmp_path_factory.mktemp(request.param))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def test_score_is_the_classifiers_output_on_the_whole_conversation(judge_model):
    """Batched and padded, each score is that of its text alone, as the tokenizer's own chat template tokenises it."""
    model, tokenizer = judge_model
    scores = reward_model.score(model, tokenizer, 512, PROMPTS, TEXTS, ends_with_turn=False)
    for prompt, text, score in zip(PROMPTS, TEXTS, scores, strict=True):
        messages = [*prompt.messages, {"role": "assistant", "content": text}]
        alone = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
        with torch.inference_mode():
            expected = model(input_ids=alone["input_ids"]).logits.item()
        assert score.reward == pytest.approx(expected, abs=1e-5)
        assert (score.tokens, score.cut_tokens) == (alone["input_ids"].shape[1], 0)


def test_score_of_a_model_trained_here_stands_at_the_end_of_the_turn(judge_model):
    """ChatML writes a newline after the end token; a model trained on rows that end there must not be asked one token later."""
    model, tokenizer = judge_model
    (score,) = reward_model.score(model, tokenizer, 512, PROMPTS[:1], TEXTS[:1], ends_with_turn=True)
    turn = chat.turn(tokenizer, PROMPTS[0].messages, TEXTS[0], complete=True)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([turn.prompt_ids + turn.answer_ids])).logits.item()
    assert score.reward == pytest.approx(expected, abs=1e-5)


def test_score_does_not_depend_on_the_batch(judge_model, monkeypatch):
    together = reward_model.score(*judge_model, 512, PROMPTS, TEXTS, ends_with_turn=False)
    monkeypatch.setattr(reward_model, "BATCH_TOKENS", 1)
    alone = reward_model.score(*judge_model, 512, PROMPTS, TEXTS, ends_with_turn=False)
    assert [each.reward for each in together] == pytest.approx([each.reward for each in alone], abs=1e-5)


def test_score_of_a_too_long_text_cuts_the_front_and_says_so(judge_model):
    model, tokenizer = judge_model
    whole = reward_model.score(model, tokenizer, 512, PROMPTS, TEXTS, ends_with_turn=False)
    limit = whole[0].tokens
    cut = reward_model.score(model, tokenizer, limit, PROMPTS, TEXTS, ends_with_turn=False)
    assert (cut[0].cut_tokens, cut[0].reward) == (0, pytest.approx(whole[0].reward, abs=1e-5))
    assert cut[1].tokens == whole[1].tokens
    assert cut[1].cut_tokens == whole[1].tokens - limit > 0


def test_score_of_equal_texts_is_computed_once(judge_model):
    model, tokenizer = judge_model
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True)
    scores = reward_model.score(model, tokenizer, 512, [PROMPTS[0]] * 3, ["Yes."] * 3, ends_with_turn=False)
    hook.remove()
    assert sum(seen) == 1
    assert len({each.reward for each in scores}) == 1


def test_judge_gives_the_sigmoid_of_the_difference(judge_model):
    verdicts = reward_model.judge(*judge_model, 512, PROMPTS, answers(TEXTS), answers(["Other."] * 3), ends_with_turn=False)
    for verdict in verdicts:
        difference = verdict.candidate_reward - verdict.baseline_reward
        assert verdict.p == pytest.approx(1 / (1 + math.exp(-difference)))
        assert verdict.candidate_detail["cut_tokens"] == 0


def test_judge_with_sides_exchanged_gives_the_complement(judge_model):
    forth = reward_model.judge(*judge_model, 512, PROMPTS, answers(TEXTS), answers(["Other."] * 3), ends_with_turn=False)
    back = reward_model.judge(*judge_model, 512, PROMPTS, answers(["Other."] * 3), answers(TEXTS), ends_with_turn=False)
    assert [each.p for each in forth] == pytest.approx([1 - each.p for each in back])


def test_judge_of_equal_answers_is_a_tie(judge_model):
    assert {
        each.p for each in reward_model.judge(*judge_model, 512, PROMPTS, answers(TEXTS), answers(TEXTS), ends_with_turn=False)
    } == {0.5}


def test_judge_with_a_classifier_of_two_labels_is_refused(judge_model):
    tokenizer = judge_model[1]
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_labels=2)
    model = LlamaForSequenceClassification(config)
    with pytest.raises(JudgeError, match="2 outputs"):
        reward_model.judge(model, tokenizer, 512, PROMPTS, answers(TEXTS), answers(TEXTS), ends_with_turn=False)


def test_judge_whose_rewards_are_no_numbers_is_refused(judge_model):
    model, tokenizer = judge_model
    broken = LlamaForSequenceClassification(model.config).eval()
    torch.nn.init.constant_(broken.score.weight, float("nan"))
    with pytest.raises(JudgeError, match="no finite number"):
        reward_model.judge(broken, tokenizer, 512, PROMPTS, answers(TEXTS), answers(TEXTS), ends_with_turn=False)
