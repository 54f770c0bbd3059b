"""How far a judge can be trusted, from verdicts made by hand and from a sweep's folder."""

import json
import math

import pandas as pd
import pytest

from analysis import frames, judges, report, tables
from refstudy import records
from tests.analysis import synthetic

HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}"


def rows(verdicts, characters, baseline_characters, clusters):
    """Rows of the prompt frame; verdicts: (p, p_first, p_second, whether both orders were read, label)."""
    columns = ("p", "p_first", "p_second", "twice", "label")
    lengths = {"length_characters": characters, "baseline_length_characters": baseline_characters}
    return pd.DataFrame(verdicts, columns=columns).astype({"p": float, "label": float}).assign(cluster=clusters, **lengths)


def test_quality_worked_by_hand():
    """Five prompts. Verdicts .8, .5, none, .1, .6: one of five missing, one of four given a tie, mean .5.

    Both orders were read of four: (.9, .7) and (.3, -) no: of those read twice, (.9, .7) agree, (.9, .1) do not, (.1, .1) agree:
    2/3. The answer shown first is preferred with (.9 + 1 - .7) / 2 = .6, (.9 + 1 - .1) / 2 = .9, (.1 + 1 - .1) / 2 = .5: 2/3.
    Longer answers: .8 and .5, mean .65; shorter: .1 and the missing one, .1; of equal length .6. Difference .55.
    Labels on three: right, tie, missing: of the two given (1 + .5) / 2.
    """
    verdicts = [
        (0.8, 0.9, 0.7, True, 1),
        (0.5, 0.9, 0.1, True, 0),
        (None, 0.3, None, True, 1),
        (0.1, 0.1, 0.1, True, None),
        (0.6, None, None, False, None),
    ]
    found = judges.quality(rows(verdicts, [20, 30, 5, 5, 10], [10] * 5, list("abcde")))
    expected = {
        "verdicts": 5, "win_rate": 0.5, "no_verdict": 0.2, "tie_share": 0.25, "consistency": 2 / 3, "first_preferred": 2 / 3,
        "longer_win_rate": 0.65, "shorter_win_rate": 0.1, "length_bias": 0.55, "agreement": 0.75, "labels": 3,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["consistency_low"] < 2 / 3 < found["consistency_high"]


def test_quality_of_a_judge_of_one_order_and_no_labels_is_not_known():
    found = judges.quality(rows([(1.0, math.nan, math.nan, False, None)] * 3, [3] * 3, [2] * 3, list("abc")))
    assert math.isnan(found["consistency"])
    assert math.isnan(found["agreement"])
    assert math.isnan(found["first_preferred"])
    assert (found["win_rate"], found["labels"]) == (1.0, 0)


def test_quality_of_no_verdict_at_all_is_not_known():
    found = judges.quality(rows([(None, math.nan, math.nan, True, None)] * 2, [3] * 2, [2] * 2, list("ab")))
    assert found["no_verdict"] == 1.0
    assert all(math.isnan(found[name]) for name in ("win_rate", "tie_share", "consistency", "length_bias"))


def both_orders(store, folder, judge):
    """Gives the cells of a synthetic folder verdicts of an LLM judge that always leans to the answer shown first."""
    for path in sorted((folder / "cells").glob("*.json")):
        record = records.read_record(path)
        file = store.root / "verdicts" / record["recipes"]["verdicts"] / "verdicts.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for each in rows:
            each |= {"p_first": 0.9, "p_second": 0.1, "p": 0.5, "read": ["letter", "letter"]}
        file.write_text("".join(json.dumps(each) + "\n" for each in rows))
        spent = {"prompt_tokens": 100, "completion_tokens": 24, "cost": 0.5, "prompt_tokens_kept": 10, "completion_tokens_kept": 2}
        file.with_name("summary.json").write_text(json.dumps(spent))
        records.write_record(folder, {**record, "recipe": {**record["recipe"], "judge": judge}})


@pytest.fixture
def built(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self",), entities=6, prompts_each=2)
    both_orders(store, folder, {"kind": "llm_judge", "model": HOSTILE})
    return folder, store


def test_frame_has_a_row_for_all_and_one_for_each_cell(built):
    folder, store = built
    found = judges.frame(frames.load(folder, store), store)
    assert list(found.columns) == [column.name for column in judges.JUDGE_COLUMNS]
    assert found["reference"].tolist() == ["all", "self", "self"]
    assert found["verdicts"].tolist() == [24, 12, 12]
    assert found["consistency"].tolist() == [0.0, 0.0, 0.0]
    assert found["first_preferred"].tolist() == pytest.approx([0.9] * 3)
    assert found["tie_share"].tolist() == [1.0] * 3
    assert found["tokens"].tolist() == [272, 136, 136]
    assert found["cost"].tolist() == [1.0, 0.5, 0.5]
    assert set(found["judge"]) == {f"llm {HOSTILE}"}


def test_cell_whose_verdicts_are_gone_has_no_row(built):
    folder, store = built
    (store.root / "verdicts" / "vc0000" / "manifest.json").unlink()
    found = judges.frame(frames.load(folder, store), store)
    assert found["cell_id"].tolist() == ["c0001"]


def test_report_shows_the_judge_escaped_and_leaves_out_what_is_not_known(built):
    folder, store = built
    page = report.write(folder, store).read_text()
    assert "same in both orders" in page
    assert "agrees with labels" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page
    assert "<script>alert" not in page
    assert (folder / "tables" / "judges.csv").is_file()


def test_table_of_a_judge_of_one_order_has_no_column_of_orders(tmp_path):
    folder, store = synthetic.build(tmp_path, betas=(1,), references=("self",), entities=6, prompts_each=2)
    shown = tables.judges(judges.frame(frames.load(folder, store), store))
    headings = [column.heading for column in shown.headings]
    assert "win rate where longer" in headings
    assert not {"same in both orders", "agrees with labels"} & set(headings)
    assert len(shown.rows) == 1


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"kind": "gold_judge", "world": 0}, "gold"),
        ({"kind": "reward_judge", "model": {"kind": "hub", "model": "org/m"}}, "reward"),
        ({"kind": "plugin_judge", "name": "brevity"}, "plugin brevity"),
        ({"kind": "llm_judge", "model": "m"}, "llm m"),
        ({}, ""),
    ],
)
def test_judge_is_named_by_kind_and_name(judge, words):
    assert judges.name({"recipe": {"judge": judge}}) == words
