"""The report in wandb: an artifact with the page, its Markdown and its figures, written by wandb itself, offline."""

import base64
import hashlib
import logging
from pathlib import Path

import pytest

from refstudy import tracking
from refstudy.spec import WandbEntry
from tests.test_tracking import ended, fake_wandb, run_files, warnings

PAGE = "<!doctype html><title>report</title><p>3 reproduced"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with a report; wandb keeps what it stages below the test's own folder."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "why references"
    (folder / "figures").mkdir(parents=True)
    (folder / "report.html").write_text(PAGE)
    (folder / "report.md").write_text("# report")
    for name in ("win_rate_by_beta.png", "win_rate_by_beta.svg"):
        (folder / "figures" / name).write_bytes(b"a figure")
    return folder


def test_upload_report_offline_holds_page_markdown_and_figures_as_one_artifact(written: Path, caplog) -> None:
    tracking.upload_report("why references", written / "report.html", WandbEntry(project="betas"))
    records = ended(run_files(written)[-1])
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.job_type, run.display_name) == ("betas", "why references", "report", "report")
    assert run.run_id.startswith("report-")
    made = [each.request.log_artifact.artifact for each in records if each.request.WhichOneof("request_type") == "log_artifact"]
    made += [each.artifact for each in records if each.WhichOneof("record_type") == "artifact"]
    reports = [each for each in made if each.type == "report"]
    assert [each.name for each in reports] == ["report-why-references"]
    digests = {entry.path: entry.digest for entry in reports[0].manifest.contents}
    expected = {name: (written / name).read_bytes() for name in ("report.html", "report.md", "figures/win_rate_by_beta.png")}
    assert digests == {name: base64.b64encode(hashlib.md5(content).digest()).decode() for name, content in expected.items()}
    (panel,) = written.glob("wandb/offline-run-*/files/media/html/*.html")
    assert panel.read_text() == PAGE
    assert warnings(caplog) == []


def test_upload_report_carries_no_key_command_or_package_list(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    tracking.upload_report("why", written / "report.html", WandbEntry())
    records = ended(run_files(written)[-1])
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert {item.key for item in run.config.update} <= {"cell_id", "_wandb"}
    files = [path for path in written.rglob("*") if path.is_file()]
    assert not {"wandb-metadata.json", "requirements.txt", "output.log"} & {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    assert not any(key.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("broken", ["init", "artifact"])
def test_upload_report_that_fails_is_one_warning(written: Path, monkeypatch: pytest.MonkeyPatch, caplog, broken: str) -> None:
    def init(**options: object) -> object:
        raise ConnectionError("no route\nto host")

    if broken == "init":
        fake_wandb(monkeypatch, init)
    else:
        (written / "report.html").unlink()
    tracking.upload_report("why", written / "report.html", WandbEntry())
    (said,) = warnings(caplog)
    assert said.levelno == logging.WARNING
    assert "does not take the report" in said.getMessage()
    assert "written all the same" in said.getMessage()
