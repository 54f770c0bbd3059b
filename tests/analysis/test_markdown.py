"""The report as Markdown: what GitHub would show, nothing that a model said as markup, and short enough."""

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from analysis import content, markdown
from analysis.tables import Column, Table
from tests.analysis import synthetic

SMALL = {"betas": (1, 0.1), "references": ("self", "larger-same"), "entities": 6, "prompts_each": 2}
HOSTILE = (
    "<img src=x onerror=alert(1)> | @owner `x` **b** _i_ [l](http://a.b) ![i](//c) #12 GH-3 www.d.e ~~s~~ $m$ "
    "</details> \n\n# H\n```"
)
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder, store = synthetic.build(tmp_path_factory.mktemp("markdown"), **SMALL)
    return content.gather(folder, store)


def _tokens(text):
    return [inner for each in READER.parse(text) for inner in (each, *(each.children or []))]


@pytest.mark.parametrize(
    "text", [HOSTILE, "- item", "+ item", "# head", "1. item", "12) item", "> said", "===", "a\\", "&lt;b&gt;"]
)
@pytest.mark.parametrize("around", ["{}", "- {}", "| a |\n|---|\n| {} |", "<details><summary>{}</summary>\n\nx\n\n</details>"])
def test_inert_text_is_text_wherever_it_stands(text, around):
    shape = [each.type for each in _tokens(around.format("plain"))]
    tokens = _tokens(around.format(markdown.inert(text)))
    assert [each.type for each in tokens if each.type != "text_special"] == shape
    if not around.startswith("<"):
        said = "".join(each.content for each in tokens if each.type in ("text", "text_special")).replace("\u200b", "")
        assert " ".join(text.split()) in said


def test_inert_mentions_references_and_addresses_link_nothing():
    """GitHub links @name, #12, GH-3, www. and :// in what it shows, so each is parted by a space that nobody sees."""
    shown = "".join(each.content for each in _tokens(markdown.inert(HOSTILE)))
    for linking in ("@owner", "#12", "GH-3", "www.", "://"):
        assert linking in HOSTILE.replace("http:", "http:")
        assert linking not in shown


def test_code_of_a_sweep_file_cannot_end_its_block():
    tokens = _tokens(markdown.code("a: 1\n```\n# not a heading\n````\n"))
    assert [each.type for each in tokens] == ["fence"]
    assert "# not a heading" in tokens[0].content


def drawn(said):
    """The figures in the order of the text."""
    figures = (*said.figures, *said.best_figures, *said.effect_figures, *said.training_figures)
    return [f"figures/{each.name}.png" for each in figures]


def test_render_puts_findings_first_and_figures_as_files_beside_it(tmp_path, said):
    text = markdown.render(said)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert headings[0] == "example"
    assert headings.index("Findings") < headings.index("Best betas") < headings.index("Figures") < headings.index("Cells")
    assert "A stronger reference raises the best win rate" in text
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert images == drawn(said)
    assert images[:3] == [f"figures/{name}.png" for name in ("win_rate_by_beta", "length_by_beta", "win_rate_by_kl")]
    assert "Left out" not in text
    assert {each.content.strip() for each in _tokens(text) if each.type == "html_block" and "<" not in each.content} == set()


def test_render_hostile_names_and_errors_make_no_markup(said):
    table = Table([Column(HOSTILE, str, numeric=False)], [("", [HOSTILE])])
    hostile = replace(said, name=HOSTILE, question=HOSTILE, faults=[HOSTILE], cells=table, best=table, text=HOSTILE)
    tokens = _tokens(markdown.render(hostile))
    inside = [each for each in tokens if each.type in ("html_inline", "html_block")]
    assert all(re.fullmatch(r"(</?(details|summary)>[^<]*)+", each.content.strip()) for each in inside)
    assert [each.attrs["src"] for each in tokens if each.type == "image"] == drawn(said)
    assert not any(each.type in ("link_open", "s_open") for each in tokens)
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.render(hostile).splitlines() if line.startswith("| ")]
    assert 2 in columns


def test_render_of_a_thousand_cells_fits_and_says_what_is_left_out(said):
    cells = Table(said.cells.headings, said.cells.rows * 250)
    large = replace(said, cells=cells, judges=Table(said.judges.headings, said.judges.rows * 250))
    text = markdown.render(large)
    assert len(text.encode()) <= markdown.LIMIT == 65_536
    assert "<details><summary>" in text
    closing = text.strip().splitlines()[-1]
    kept = re.search(r"(\d+) of 1000 rows of Cells", closing)
    assert kept
    shown = re.search(r"<summary>(\d+) of 1000 rows</summary>", text[text.index("## Cells") :])
    assert int(kept.group(1)) + int(shown.group(1)) == 1000
    assert "## Findings" in text
