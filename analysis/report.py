"""The report of a sweep: one HTML file that opens from disk, the same as Markdown, figures and tables as files beside them.

Invariant: all text on the page is escaped, and the page runs one script, its own, by hash.
"""

import base64
import hashlib
import os
from pathlib import Path

import jinja2
from markupsafe import Markup

from analysis import content, markdown, samples
from analysis.content import CLAIMS, Content
from refstudy.store import Store

PAGE, MARKDOWN = "report.html", "report.md"
SCRIPT = Path(__file__).parent / "report_script.js"


def write(results: Path | str, store: Store, refresh_s: int | None = None, with_paper: bool = False) -> Path:
    """The path of results/report.html, written from the folder's records and the store's artefacts; report.md beside it.

    With `refresh_s` an open page loads itself again after so many seconds, without a script. with_paper: the paper's tables are set
    beside the sweep.
    """
    folder, said = Path(results), content.gather(results, store, with_paper)
    _replace(folder / MARKDOWN, markdown.render(said))
    return _replace(folder / PAGE, page(said, refresh_s))


def page(said: Content, refresh_s: int | None = None) -> str:
    """The HTML page."""
    script = SCRIPT.read_text(encoding="utf-8")
    return _template().render(
        **vars(said),
        claims=CLAIMS,
        refresh_s=refresh_s,
        answers_json=Markup(said.answers.as_json),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _replace(path: Path, text: str) -> Path:
    """Writes a file whole: a browser that loads it again must never see half a page."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    whole.write_bytes(text.encode("utf-8", errors="replace"))
    os.replace(whole, path)
    return path


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = samples.shown
    return environment.get_template("report_template.html")
