"""The report in a real browser: figures visible, tables that sort and filter, answers to browse, nothing on the console."""

from dataclasses import replace

import pytest

from analysis import content, report
from analysis.browser import ANSWERS, Browsed
from analysis.tables import Table
from tests import chromium
from tests.analysis import synthetic

pytestmark = pytest.mark.skipif(not chromium.is_installed(), reason="needs chromium and chromedriver")

HOSTILE = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'></script><!-- \u2028 ${7 * 7} javascript:alert(3)"
BETAS = (10, 1, 0.1, 0.01)


@pytest.fixture(scope="module")
def browser():
    with chromium.window() as opened:
        yield opened


@pytest.fixture
def page(browser, tmp_path):
    """The report of eight cells whose models wrote hostile text, open."""
    folder, store = synthetic.build(
        tmp_path, betas=BETAS, references=("self", "larger-far"), entities=6, prompts_each=2, text=HOSTILE
    )
    browser.resize(1200, 900)
    browser.open(report.write(folder, store))
    return browser


def _column(page, number):
    rows = "return [...document.querySelector('#cells table').tBodies[0].rows]"
    return page.run(f"{rows}.filter((row) => !row.hidden).map((row) => row.cells[arguments[0]].textContent)", number)


def _heading(page, words):
    headings = page.run("return [...document.querySelectorAll('#cells thead th')].map((each) => each.textContent)")
    return headings.index(words)


def test_page_figures_are_visible_and_the_console_is_silent(page):
    sizes = page.run("return [...document.querySelectorAll('figure svg')].map((each) => each.getBoundingClientRect().toJSON())")
    assert len(sizes) >= 3
    assert all(size["width"] > 300 and size["height"] > 150 for size in sizes)
    assert page.complaints() == []


def test_page_hostile_model_text_is_shown_and_does_nothing(page):
    assert page.run("return window.hurt ?? null") is None
    assert page.run("return document.querySelectorAll('img, iframe, #browser script').length") == 0
    said = page.run("return document.querySelector('#browser .answer .said').textContent")
    assert "<script>window.hurt = 1</script>" in said


def test_page_table_sorts_by_number_both_ways_from_the_keyboard(page):
    """Enter on a heading's button sorts; as text 0.01 < 0.1 < 1 < 10 would also hold, so win rates are looked at too."""
    beta, rate = _heading(page, "beta"), _heading(page, "win rate")
    page.run("document.querySelectorAll('#cells thead .sort')[arguments[0]].focus()", beta)
    page.press("\ue007")
    assert _column(page, beta) == ["0.01", "0.01", "0.1", "0.1", "1", "1", "10", "10"]
    page.press("\ue007")
    assert _column(page, beta) == ["10", "10", "1", "1", "0.1", "0.1", "0.01", "0.01"]
    page.run("document.querySelectorAll('#cells thead .sort')[arguments[0]].click()", rate)
    rates = [float(text.split(" ")[0]) for text in _column(page, rate)]
    assert rates == sorted(rates)


def test_page_every_table_sorts_and_has_a_name(page):
    tables = "[...document.querySelectorAll('table')]"
    unnamed = page.run(f"return {tables}.filter((each) => !each.ariaLabel).length")
    unsorted = page.run(f"return {tables}.filter((each) => each.tBodies[0].rows.length > 1 && !each.querySelector('.sort')).length")
    assert (unnamed, unsorted) == (0, 0)


def test_page_rows_are_filtered_by_every_word(page):
    page.run("document.querySelector('#cells .filter input').focus()")
    page.press("larger-far 0.1")
    assert _column(page, _heading(page, "reference")) == ["larger-far"] * len(_column(page, 0))
    assert 0 < len(_column(page, 0)) < 4
    assert "of 8 rows" in page.run("return document.querySelector('#cells .filter output').value")


def _cards(page):
    return page.run("return [...document.querySelectorAll('#browser .answer h4')].map((each) => each.textContent)")


def _prompt(page):
    return page.run("return document.querySelector('#browser .asked .said').textContent")


def test_page_browser_shows_chosen_cells_side_by_side_for_one_prompt(page):
    titles = page.run("return [...document.querySelectorAll('#browser .cells label')].map((each) => each.textContent.trim())")
    assert titles == ["baseline", *(f"{name}, beta {beta:g}" for name in ("self", "larger-far") for beta in BETAS)]
    assert _cards(page) == [titles[0], titles[1], titles[-1]]
    page.run("document.querySelectorAll('#browser .cells input')[arguments[0]].click()", titles.index("larger-far, beta 1"))
    assert _cards(page) == [titles[0], titles[1], "larger-far, beta 1", titles[-1]]
    assert page.run("return document.querySelectorAll('#browser .asked').length") == 1


def test_page_browser_lists_the_cells_that_have_every_word(page):
    page.run("document.querySelector('#browser .find input').focus()")
    page.press("far 0.1")
    listed = "return [...document.querySelectorAll('#browser .cells label')].filter((each) => each.offsetHeight)"
    assert page.run(f"{listed}.map((each) => each.textContent.trim())") == ["larger-far, beta 0.1"]
    assert page.run("return document.querySelector('#browser .find output').value").startswith("1 of 9 sets")


def test_page_browser_begins_where_chosen_cells_disagree_most_and_goes_on_by_arrows(page):
    """The largest difference of p among the cells shown falls from prompt to prompt, for the whole list."""
    page.run("document.querySelector('#browser .asked').focus()")
    spreads, seen = [], []
    for _ in range(12):
        p = "[...document.querySelectorAll('#browser .answer .role')].map((each) => /p = ([0-9.]+)/.exec(each.textContent))"
        found = [0.5, *(float(each) for each in page.run(f"return {p}.filter(Boolean).map((each) => each[1])"))]
        spreads.append(round(max(found) - min(found), 6))
        seen.append(_prompt(page))
        page.press("\ue014")
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 0
    assert page.run("return document.activeElement.className") == "asked"
    assert page.run("return [...document.querySelectorAll('#browser .step')].map((each) => each.disabled)") == [False, True]


def test_page_browser_search_keeps_the_prompts_that_contain_the_words(page):
    whole = page.run("return document.querySelectorAll('#browser .controls option').length")
    assert whole > 3
    page.run("document.querySelector('#browser .controls input').focus()")
    page.press("no such words")
    assert _cards(page) == []
    assert page.run("return document.querySelector('#browser .controls output').value") == "0 of 12 prompts"


def test_page_is_used_with_the_keyboard_alone_and_shows_where_it_is(page):
    """Tab reaches a heading's button, a box of the browser and the prompt; each has an outline there, and each has a name."""
    reached = {}
    page.run("document.querySelector('#best').scrollIntoView()")
    for _ in range(120):
        page.press("\ue004")
        about = page.run(
            "const at = document.activeElement; return [at.tagName + '.' + (at.className || at.type || ''), "
            "getComputedStyle(at).outlineStyle, at.textContent.trim() || at.ariaLabel || at.labels?.[0]?.textContent.trim() || '']"
        )
        reached.setdefault(about[0], about[1:])
        if about[0] == "DIV.asked":
            break
    assert {"A.", "BUTTON.sort", "SELECT.select-one", "INPUT.search", "INPUT.checkbox", "BUTTON.step", "DIV.asked"} <= set(reached)
    assert [name for name, (outline, _) in reached.items() if outline == "none"] == []
    assert [name for name, (_, words) in reached.items() if not words] == []


@pytest.mark.parametrize("dark", [False, True])
def test_page_on_a_narrow_screen_scrolls_inside_its_tables_only(page, dark):
    page.run("for (const each of document.querySelectorAll('#browser option')) each.textContent += ' and so on'.repeat(20)")
    page.emulate(360, 740, dark)
    try:
        assert page.run("return document.documentElement.scrollWidth") <= 360
        page.run("document.querySelector('#browse').scrollIntoView()")
        wide = "[...document.querySelectorAll('#browser *')].filter((each) => each.getBoundingClientRect().right > 361).length"
        assert page.run(f"return {wide}") == 0
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is not dark
    finally:
        page.emulate(1200, 900)


def test_page_is_printed_with_the_findings_and_without_controls(page):
    assert page.paper().startswith(b"%PDF")
    assert page.complaints() == []


def _thousand(said):
    """The content of four cells as that of a thousand: the same rows again, and as many answers as a page takes."""
    rows = {name: getattr(said, name) for name in ("cells", "judges", "identities")}
    (panel,) = said.answers.panels
    count = ANSWERS // 1_000
    answers = [["amber stone " * 33, 66, 1, 0.5 + number / 100] for number in range(count)]
    sets = [{"title": f"reference {number // 10}, beta {number % 10}", "answers": answers} for number in range(1_000)]
    prompts = (panel["prompts"] * count)[:count]
    return replace(
        said,
        **{name: Table(table.headings, table.rows * 250) for name, table in rows.items()},
        answers=Browsed([{**panel, "prompts": prompts, "sets": sets}]),
    )


def test_page_of_a_thousand_cells_is_below_30_megabytes_and_opens_filters_and_sorts(browser, tmp_path):
    """1,000 cells of 24 answers of 396 characters each: 24,000 answers are some 10 MB."""
    folder, store = synthetic.build(tmp_path, betas=(1, 0.1), references=("self", "larger-far"), entities=6, prompts_each=2)
    path = tmp_path / "thousand.html"
    path.write_text(report.page(_thousand(content.gather(folder, store))), encoding="utf-8")
    assert 10_000_000 < path.stat().st_size < 30_000_000
    browser.open(path)
    assert browser.run("return document.querySelectorAll('#cells tbody tr').length") == 1_000
    browser.run("document.querySelectorAll('#cells thead .sort')[arguments[0]].click()", _heading(browser, "beta"))
    betas = _column(browser, _heading(browser, "beta"))
    assert betas == ["0.1"] * 500 + ["1"] * 500
    browser.run("document.querySelector('#cells .filter input').focus()")
    browser.press("larger-far 0.1")
    assert browser.run("return document.querySelector('#cells .filter output').value").endswith("of 1000 rows")
    browser.run("document.querySelector('#browser .find input').focus()")
    browser.press("reference 77, beta 3")
    assert browser.run("return document.querySelector('#browser .find output').value").startswith("1 of 1000 sets")
    assert browser.complaints() == []
