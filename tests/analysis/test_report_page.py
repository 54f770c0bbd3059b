"""The report in a real browser: figures visible, tables that sort and filter, answers to browse, nothing on the console."""

import pytest

from analysis import report
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
    said = page.run("return document.querySelector('#browser .said + .role, #browser td:nth-child(2) .said').textContent")
    assert "<script>window.hurt = 1</script>" in page.run(
        "return document.querySelector('#browser td:nth-child(2) .said').textContent"
    )
    assert said


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


def test_page_rows_are_filtered_by_every_word(page):
    page.run("document.querySelector('#cells .filter input').focus()")
    page.press("larger-far 0.1")
    assert _column(page, _heading(page, "reference")) == ["larger-far"] * len(_column(page, 0))
    assert 0 < len(_column(page, 0)) < 4
    assert "of 8 rows" in page.run("return document.querySelector('#cells .filter output').value")


def test_page_browser_shows_chosen_cells_side_by_side(page):
    titles = page.run("return [...document.querySelectorAll('#browser select')[0].options].map((each) => each.textContent)")
    assert titles == ["baseline", *(f"{name}, beta {beta:g}" for name in ("self", "larger-far") for beta in BETAS)]
    change = "made.value = arguments[0]; made.dispatchEvent(new Event('change'))"
    page.run(f"const made = document.querySelectorAll('#browser select')[1]; {change}", str(titles.index("larger-far, beta 1")))
    heads = page.run("return [...document.querySelectorAll('#browser thead th')].map((each) => each.textContent)")
    assert heads[2] == "larger-far, beta 1"
    assert page.run("return document.querySelector('#browser').hidden") is False


def test_page_browser_search_keeps_the_prompts_that_contain_the_words(page):
    whole = page.run("return document.querySelectorAll('#browser tbody tr').length")
    page.run("document.querySelector('#browser input').focus()")
    page.press("no such words")
    assert page.run("return document.querySelectorAll('#browser tbody tr').length") == 0
    assert page.run("return document.querySelector('#browser output').value") == f"0 of {whole} prompts"


def test_page_on_a_narrow_screen_scrolls_inside_its_tables_only(page):
    page.resize(500, 800)
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth") is True
