"""The report as Markdown for a pull request: the content of the page in GitHub's flavour, short enough for a comment.

Invariant: whatever a model, a judge or a file said is inert text: it makes no markup, no link, no image, no mention; what does not
fit is left out from the end, and the text says what.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from analysis.beside_paper import Panel
from analysis.content import CLAIMS, Content
from analysis.figures import FOLDER, Figure
from analysis.findings import Finding
from analysis.tables import Table
from refstudy.texts import visible

LIMIT = 65_536
"""Characters of a description or comment on GitHub; counted here as bytes of UTF-8, which are never fewer."""
RESERVED = 1_500
"""Bytes kept for saying what was left out."""
ROWS = 12
"""Rows beyond which a table is folded."""
SHARE = 4
"""A long table takes this part of the room that is left at most, so that others follow it."""
CELLS = {
    *("status", "policy", "reference", "beta", "seed", "win rate", "length-controlled", "length (tokens)", "truncated"),
    *("KL to start (nats an answer)", "note"),
}
"""Columns of cells that are shown."""
NAMED = 10
"""Sections left out that are named before the rest is counted."""
BIASED = "The best of several noisy values is biased upwards."

_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$^])")
_LINKING = re.compile(r"@(?=\S)|#(?=\d)|\b[Gg][Hh]-(?=\d)|:(?=//)|\bwww(?=\.)|\bmailto(?=:)")
_START = re.compile(r"^(?:[-+=#]|\d+(?=[.)](?:\s|$)))")
_ZERO = "&#8203;"
"""An unseen space: no mention, reference or address begins over it."""


@dataclass(frozen=True)
class Block:
    """A part of the text that is there whole, or cut to fewer rows, or not at all."""

    name: str
    """What is named where it is left out."""
    text: Callable[[int], str]
    """The text with at most so many rows."""
    rows: int = 0
    """Rows there are; 0: it cannot be cut."""


def render(said: Content) -> str:
    """The Markdown, at most LIMIT bytes of UTF-8."""
    parts: list[str] = []
    left_out: list[str] = []
    room = LIMIT - RESERVED
    for block in _blocks(said):
        rows = _fitting(block, room)
        if rows is None:
            left_out.append(block.name)
            continue
        if rows < block.rows:
            left_out.append(f"{block.rows - rows} of {block.rows} rows of {block.name}")
        parts.append(block.text(rows))
        room -= _bytes(parts[-1]) + 2
    return "\n\n".join([*parts, _closing(left_out)]) + "\n"


def inert(text: str) -> str:
    """Text that stays text wherever Markdown is read: in a line of its own, a list, a table cell, or a summary."""
    plain = " ".join(visible(text).split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _SPECIAL.sub(r"\\\1", plain)
    plain = _LINKING.sub(lambda found: found.group() + _ZERO, plain)
    return _START.sub(lambda found: _escaped(found.group()), plain)


def _escaped(start: str) -> str:
    """What would begin a list or a heading: a number keeps its digits, and its dot goes unread."""
    return f"{start}{_ZERO}" if start.isdigit() else f"\\{start}"


def _cell(text: str) -> str:
    """A table cell: as inert, but nothing begins a block there, so that numbers stay as they are."""
    return re.sub(r"^\\([-+=])", r"\1", inert(text)) or " "


def code(text: str) -> str:
    """A fenced block that its own text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(visible(line) for line in text.replace("\r\n", "\n").split("\n"))
    return f"{fence}yaml\n{lines.rstrip()}\n{fence}"


def _blocks(said: Content) -> list[Block]:
    """The sections by what a reader needs first; those at the end are the first to be left out."""
    return [
        _fixed("the heading", _heading(said)),
        *_listed("Before you read on", said.faults, 2),
        *_findings(said),
        *_section("Best betas", said.best, f"{BIASED} {said.coverage}"),
        *_section("Win rate minus self's at the same beta", said.differences, ""),
        *_figures("Figures", [*said.figures, *said.best_figures, *said.effect_figures]),
        *_listed("Summary", said.sentences, 2),
        *_section("What the win rates rest on: the judge", said.judges, "Beside each win rate what its verdicts say of the judge."),
        *_section("Alarms", said.alarms, ""),
        *_figures("Along training", said.training_figures),
        *_section("Cells", _narrow(said.cells), " ".join(said.controlling)),
        *_paper(said.paper, said.paper_figures),
        *_sets(said),
        *_section("References", said.references, ""),
        *_section("Brought from elsewhere", said.imported, ""),
        *_section("How the references fit the policy", said.compatibility, "", said.compatibility_figures),
        *_listed("What the measures suggest: hypotheses, no findings", [*said.suggested, *said.borne_out], 3),
        *_section("The most moved tokens", said.moved, "", said.token_figures),
        *(
            [_fixed("the sweep file", f"## The sweep as it was run\n\n{_folded('sweep.yaml', code(said.text))}")]
            if said.text
            else []
        ),
        *_listed("Provenance", [f"{what}: {value}" for what, value in said.provenance], 2),
    ]


def _heading(said: Content) -> str:
    return "\n\n".join([f"# {inert(said.name)}", *([inert(said.question)] if said.question else [])])


def _findings(said: Content) -> list[Block]:
    if not said.findings:
        return []
    head = "\n".join(["## Findings", "", *(f"- {inert(sentence)}" for sentence in said.lead)])
    groups = [
        Block(f"findings that are {decision}", partial(_group, decision, rows), len(rows)) for decision, rows in said.findings
    ]
    return [_fixed("the findings in a few words", head), *groups]


def _group(decision: str, rows: Sequence[Finding], most: int) -> str:
    told = "\n".join(
        f"- **{CLAIMS[row.finding]}** (`{row.finding}`{', confirmatory' if row.confirmatory else ''}): {inert(row.told)}"
        for row in rows[:most]
    )
    title = decision.replace("_", " ").capitalize()
    return _folded(f"{title} ({len(rows)})", told) if decision == "not_testable" else f"### {title}\n\n{told}"


def _section(title: str, table: Table, note: str, figures: Sequence[Figure] = ()) -> list[Block]:
    """A heading with its table, and perhaps figures; nothing without rows."""
    if not table.rows:
        return []
    return [_rows(title, table, f"## {inert(title)}", note), *(_fixed(f"figure {each.name}", _figure(each)) for each in figures)]


def _rows(name: str, table: Table, head: str = "", note: str = "", title: str = "") -> Block:
    """A table, perhaps below a heading and above a note."""

    def text(most: int) -> str:
        return "\n\n".join(part for part in (head, _table(table, most, title), inert(note)) if part)

    return Block(name, text, len(table.rows))


def _paper(panels: Sequence[Panel], figures: Sequence[Figure]) -> list[Block]:
    if not panels:
        return []
    blocks = [_fixed("the paper beside this sweep", "\n\n".join(["## Beside the paper's tables", *map(_figure, figures)]))]
    for each in panels:
        name = f"beside the paper: {each.question}"
        blocks.append(_rows(name, each.decisions, f"### {inert(each.question)}"))
        blocks += [_rows(f"cells {name}", each.cells, title="Cells")] if each.cells.rows else []
    return blocks


def _sets(said: Content) -> list[Block]:
    blocks = []
    for each in said.sets:
        title = f"Evaluation set {each['name']}"
        told = "\n".join(f"- {inert(sentence)}" for sentence in [*each["faults"], *each["notes"]])
        drawn = "\n\n".join(_image(figure["title"], figure["name"], figure["words"]) for figure in each["figures"])
        blocks.append(_fixed(title, "\n\n".join(part for part in (f"## {inert(title)}", drawn, told) if part)))
        if each["cells"].rows:
            blocks.append(_rows(f"cells on {each['name']}", _narrow(each["cells"])))
    return blocks


def _figures(title: str, figures: Sequence[Figure]) -> list[Block]:
    if not figures:
        return []
    return [_fixed(title, "\n\n".join([f"## {title}", *map(_figure, figures)]))]


def _figure(each: Figure) -> str:
    return _image(each.title, each.name, each.words)


def _image(title: str, name: str, words: str) -> str:
    """A figure by its place beside the report: it is seen where the folder is committed or the files are at hand."""
    return f"**{inert(title)}**\n\n![{inert(title)}]({FOLDER}/{quote(name)}.png)\n\n{inert(words)}"


def _listed(title: str, sentences: Sequence[str], level: int) -> list[Block]:
    if not sentences:
        return []
    head = f"{'#' * level} {inert(title)}"
    return [
        Block(title, lambda most: "\n".join([head, "", *(f"- {inert(sentence)}" for sentence in sentences[:most])]), len(sentences))
    ]


def _narrow(table: Table) -> Table:
    """The columns of a table of cells that a reader of a pull request needs; all stand in tables/cells.csv."""
    kept = [number for number, column in enumerate(table.headings) if column.heading in CELLS]
    return Table(
        [table.headings[number] for number in kept], [(style, [texts[number] for number in kept]) for style, texts in table.rows]
    )


def _table(table: Table, most: int, title: str = "") -> str:
    """A table with at most so many rows, folded where it is long."""
    rows = [texts for _, texts in table.rows[:most]]
    lines = [
        _row([column.heading for column in table.headings]),
        "|" + "|".join("---:" if column.numeric else "---" for column in table.headings) + "|",
        *map(_row, rows),
    ]
    text = "\n".join(lines)
    count = f"{len(rows)} rows" if len(rows) == len(table.rows) else f"{len(rows)} of {len(table.rows)} rows"
    return _folded(f"{title}: {count}" if title else count, text) if title or len(table.rows) > ROWS else text


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, texts)) + " |"


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{inert(summary)}</summary>\n\n{text}\n\n</details>"


def _fixed(name: str, text: str) -> Block:
    return Block(name, lambda most: text)


def _fitting(block: Block, room: int) -> int | None:
    """The most rows with which a block fits; None: it does not, not even with three."""
    if _bytes(block.text(block.rows)) <= (room if block.rows <= ROWS else room // SHARE):
        return block.rows
    low, high, room = 0, block.rows, room // SHARE
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _bytes(block.text(middle)) <= room else (low, middle)
    return low if low >= min(3, block.rows) and low > 0 else None


def _closing(left_out: Sequence[str]) -> str:
    if not left_out:
        return "The whole, with answers to browse: report.html beside this file; the numbers: tables/."
    rest = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
    named = inert("; ".join(_short(each) for each in left_out[:NAMED]) + rest)
    return (
        f"Left out for length (GitHub takes {LIMIT:,} characters): {named}. The whole: report.html beside this file; the numbers: "
        "tables/."
    )


def _short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", errors="replace"))
