"""The answers that a page holds: the same prompts for every cell, evaluation sets too, and never too much."""

import json

import pytest

from analysis import browser, evaluation_sets, frames, report, samples
from tests import chromium
from tests.analysis import synthetic
from tests.analysis.test_evaluation_sets import SET, add_set

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}


def _panel(prompts, sets, characters):
    answers = [["x" * characters, 9, 1, 0.5]] * prompts
    asked = [{"id": str(number), "turns": []} for number in range(prompts)]
    return {
        "name": "small",
        "of": 768,
        "prompts": asked,
        "sets": [{"title": str(number), "answers": answers} for number in range(sets)],
    }


def test_bounded_takes_fewer_prompts_of_every_set_until_the_bytes_fit():
    """40 prompts x 100 sets x 1,000 characters are 4 MB; a fourth of it is left below 1 MB, at even places."""
    (panel,) = browser.bounded([_panel(40, 100, 1_000)], most=1_000_000)
    assert len(json.dumps(panel)) < 1_000_000
    assert 8 <= len(panel["prompts"]) < 10
    assert {len(each["answers"]) for each in panel["sets"]} == {len(panel["prompts"])}
    places = [int(each["id"]) for each in panel["prompts"]]
    assert places == browser.evenly(40, len(places))


def test_bounded_keeps_what_fits_and_one_prompt_at_least():
    panels = [_panel(4, 2, 10)]
    assert browser.bounded(panels) == panels
    assert len(browser.bounded([_panel(4, 2, 1_000)], most=10)[0]["prompts"]) == 1


def test_browse_says_how_many_of_the_prompts_there_are(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    found = browser.browse([("", frames.load(folder, store))], store)
    assert [(panel["name"], panel["of"], len(panel["prompts"]), len(panel["sets"])) for panel in found.panels] == [
        ("small", 12, 12, 5)
    ]
    assert found.shown.endswith("12 of 12 prompts.")


def test_browse_has_the_answers_of_evaluation_sets(tmp_path):
    folder, store = synthetic.build(tmp_path, **SMALL)
    add_set(folder, store)
    loaded = frames.load(folder, store)
    (of,) = evaluation_sets.load(loaded, store)
    own, on_set = browser.browse([("", loaded), (of.name, of.results)], store).panels
    assert on_set["name"] == f"small, on {SET}"
    assert len(on_set["prompts"]) == 6
    place = [each["id"] for each in own["prompts"]].index(on_set["prompts"][0]["id"])
    text, tokens, _, p = on_set["sets"][1]["answers"][0]
    assert own["sets"][1]["answers"][place][:2] == [text, tokens]
    assert p == pytest.approx(1 - own["sets"][1]["answers"][place][3])


def test_about_reads_lines_of_the_prompts_wanted_however_they_are_written(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"prompt_id": "a\\"b", "n": 1}\n{"n": 2, "prompt_id": "c"}\n\n{"prompt_id": "d", "n": torn\n', encoding="utf-8"
    )
    assert [row["n"] for row in samples.about(file, {'a"b', "c"})] == [1, 2]
    with pytest.raises(ValueError, match="Expecting value"):
        list(samples.about(file, {"d"}))


@pytest.mark.long
@pytest.mark.skipif(not chromium.is_installed(), reason="needs chromium and chromedriver")
def test_report_of_a_thousand_cells_is_below_30_megabytes_and_works(tmp_path):
    references = ("self", "larger-same", "larger-near", "larger-far", *(f"other-{number}" for number in range(6)))
    folder, store = synthetic.build(
        tmp_path,
        betas=(30, 10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        references=references,
        policies=("small", "medium"),
        seeds=range(5),
        entities=192,
    )
    path = report.write(folder, store)
    assert path.stat().st_size < 30_000_000
    assert len((folder / "report.md").read_bytes()) <= 65_536
    with chromium.window() as page:
        page.open(path)
        assert page.run("return document.querySelectorAll('#cells tbody tr').length") == 1_000
        page.run("document.querySelectorAll('#cells thead .sort')[3].click()")
        page.run("document.querySelector('#cells .filter input').focus()")
        page.press("larger-far 0.001")
        assert "of 1000 rows" in page.run("return document.querySelector('#cells .filter output').value")
        assert page.run("return document.querySelectorAll('#browser .answer').length") == 3
        assert page.complaints() == []
