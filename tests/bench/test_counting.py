import json

from refstudy import models, scoring, shared_prompt
from refstudy.checkpoints import Checkpoint
from refstudy.measurement import Measurement, silent
from tests import tiny
from tests.bench import counting
from tests.test_shared_prompt import turns_of


def test_probe_of_a_model_is_counted_apart_from_its_pass(tmp_path):
    """Of six prompts with two answers each every token is met once in the pass, and the tried family in the probe, both ways."""
    words, turns = tiny.tokenizer(), turns_of(6)
    models.save(tiny.llama(words), words, tmp_path / "model")
    with counting.counted(tmp_path, "score", "", silent) as counts:
        model, words = models.load(Checkpoint(str(tmp_path / "model")))
        counts.emit(Measurement("score", 0, None, {}))
        scoring.answer_logps(model, turns, words.pad_token_id)
    line = json.loads((tmp_path / counting.COUNTS).read_text())
    parameters = sum(weight.numel() for weight in model.parameters())
    whole = sum(shared_prompt.line_tokens(turns, rows) for rows in shared_prompt.couples(turns))
    assert line["passes"][f"score/{parameters}"]["tokens"] == whole
    tried = {
        shared_prompt.line_tokens(turns, rows) + sum(len(turns[row].prompt_ids) + len(turns[row].answer_ids) for row in rows)
        for rows in shared_prompt.couples(turns)
    }
    assert line["passes"][f"probe/{parameters}"]["tokens"] in tried
