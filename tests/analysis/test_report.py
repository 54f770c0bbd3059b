"""The page as a reader gets it."""

import base64
import csv
import hashlib
import re
from html.parser import HTMLParser

import pytest

from analysis import content, report
from refstudy import records
from tests.analysis import synthetic

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7 * 7 }} {% raw %} </td></table> \u202e \x00'
SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.attributes, self.text, self.scripts = set(), [], [], [], 0

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text.append(data)


def _read(path):
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_write_makes_one_page_with_figures_and_tables_beside_it(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    path = report.write(folder, store)
    assert path == folder / "report.html"
    names = {each.name for each in (folder / "figures").iterdir()}
    drawn = ("win_rate_by_beta", "length_by_beta", "win_rate_by_kl", "win_rate_map", "win_rate_by_length", "accuracy_by_beta")
    drawn += ("answer_lengths", "best_betas", "gains")
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    for table in ("grid_points", "answer_lengths", "best_beta_by_reference", "gains"):
        assert (folder / "tables" / f"{table}.csv").stat().st_size > 0
    with open(folder / "tables" / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell_id"] for row in rows] == ["c0000", "c0001", "c0002", "c0003"]
    page = _read(path)
    text = " ".join(page.text)
    assert "does the best beta depend on how good, and how related, the reference is?" in text
    assert "The highest win rate is" in text
    assert "axes: {beta: [10, 1, 0.1, 0.01]" in text


def test_write_shows_how_references_fit_and_which_tokens_moved(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    synthetic.compatibility(folder, {"self": 0.0, "larger-same": -0.3})
    synthetic.token_shifts(folder, store)
    text = " ".join(_read(report.write(folder, store)).text)
    for name in ("compatibility", "end_token_by_beta", "token_shifts"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "larger-same: demands 0.3 nats." in text
    assert "References with a degenerate cell, by the bound of 2.2 nats a token: 0 of 1 below it." in text
    assert "'<|end|>' -10.00 (25)" in text
    assert "1 to 10" in text, "beta times the spread of D over the grid"
    with open(folder / "tables" / "compatibility.csv", newline="") as file:
        rows = {row["reference"]: row for row in csv.DictReader(file)}
    assert float(rows["larger-same"]["intercept_over_residual_spread"]) == 0.5
    assert rows["self"]["gain"] == ""
    with open(folder / "tables" / "token_shifts.csv", newline="") as file:
        assert {float(row["end_mean_nats"]) for row in csv.DictReader(file)} == {-1.0, -10.0}


def test_write_without_measures_of_references_has_no_section_of_them(tmp_path):
    page = _read(report.write(*synthetic.build(tmp_path, **SMALL)))
    assert not {("id", "compatibility"), ("id", "tokens"), ("href", "#tokens")} & set(page.attributes)


def test_write_hostile_token_and_words_stay_text(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    synthetic.compatibility(folder, {"larger-same": -0.3})
    synthetic.token_shifts(folder, store)
    path = folder / "compatibility.json"
    path.write_text(path.read_text().replace("demands 0.3 nats", "<script>alert(1)</script>"))
    for summary in store.root.glob("token_shifts/*/summary.json"):
        summary.write_text(summary.read_text().replace("<|end|>", "<img src=x>"))
    page = _read(report.write(folder, store))
    assert page.scripts == 2
    assert "img" not in page.tags
    assert "<img src=x>" in "".join(page.text)


def test_write_page_loads_nothing_and_runs_its_own_script_by_hash_alone(tmp_path):
    path = report.write(*synthetic.build(tmp_path, **SMALL))
    page = _read(path)
    assert not page.tags & {"iframe", "link", "img", "object", "form"}
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert [attributes.strip() for attributes, _ in scripts] == ['type="application/json" id="answers-data"', ""]
    own = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert any(f"script-src 'sha256-{own}'" in str(value) for _, value in page.attributes)
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert references
    assert all(value.startswith("#") for value in references)


def test_write_hostile_model_text_stays_text(tmp_path):
    page = _read(report.write(*synthetic.build(tmp_path, **SMALL, text=HOSTILE)))
    text = "".join(page.text)
    assert "<script>alert(1)</script><img src=x" in text
    assert "{{ 7 * 7 }} {% raw %}" in text
    assert "<U+202E> <U+0000>" in text
    assert page.scripts == 2
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_write_hostile_error_of_a_failed_cell_stays_text(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL, broken=("failed",))
    record = records.read_record(folder / "cells" / "c0000.json")
    records.write_record(folder, {**record, "error": {"type": "ValueError", "message": HOSTILE, "traceback": ""}})
    page = _read(report.write(folder, store))
    assert page.scripts == 2
    assert "img" not in page.tags
    assert "1 of 4 cells are failed" in "".join(page.text)


def test_write_with_no_done_cell_still_reports_status(tmp_path):
    small = {"betas": (1,), "references": ("self", "larger-same"), "entities": 2, "prompts_each": 1}
    page = _read(report.write(*synthetic.build(tmp_path, **small, broken=("planned", "failed"))))
    text = "".join(page.text)
    assert "No cell is done yet" in text
    assert "loss is nan at step 7" in text
    assert "svg" not in page.tags


def test_write_cells_without_any_verdict_are_reported_without_a_win_rate(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    for path in (folder / "cells").glob("*.json"):
        record = records.read_record(path)
        measures = {name: value for name, value in record["measures"].items() if not name.startswith("win_rate")}
        records.write_record(folder, {**record, "measures": {**measures, "judge_failures": 12}})
    text = "".join(_read(report.write(folder, store)).text)
    assert "The judge gave no verdict on 48 of 48 answers" in text
    assert "The highest win rate" not in text


def test_write_several_seeds_average_the_baselines_of_a_panel(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL, seeds=(0, 1, 2))
    page = _read(report.write(folder, store))
    with open(folder / "tables" / "baselines.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["panel"], row["draws"]) == ("small", "3")
    assert float(row["least"]) < float(row["length_tokens"]) < float(row["most"])
    text = " ".join(page.text)
    assert f"the baseline answers have {float(row['length_tokens']):.1f}" in text
    assert "Intervals cover the choice of prompts and of training runs" in text


def test_write_again_gives_the_same_page(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    first = report.write(folder, store).read_bytes()
    assert report.write(folder, store).read_bytes() == first


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("# Question: does it\n#   help?\n# Run:  refstudy run x\nname: x", "does it help?"),
        ("# A sweep.\n# Question: one line\nname: x", "one line"),
        ("name: x\n", ""),
    ],
)
def test_question_is_read_from_the_comment_on_top(text, asked):
    assert content.question(text) == asked
