import builtins
import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from refstudy import claims, disk, processes, store
from refstudy.errors import StoreError
from refstudy.identity import fingerprint
from refstudy.recipes import Completions, GoldJudge, Hub, MiniaturePrompts, Sampling, Verdicts
from refstudy.store import Store


def recipe(seed: int = 0) -> MiniaturePrompts:
    return MiniaturePrompts(world=0, part="evaluation", count=3, seed=seed)


def make(at: Store, what: MiniaturePrompts, text: str = "hello") -> None:
    claim = at.claim(what)
    assert claim is not None
    with claim:
        (claim.folder / "prompts.jsonl").write_text(text)
        at.publish(claim)


def test_publish_makes_the_artefact_visible_with_its_files(tmp_path):
    at = Store(tmp_path)
    assert not at.has(recipe())
    make(at, recipe())
    assert at.has(recipe())
    assert not at.has(recipe(seed=1))
    folder = at.path(recipe())
    assert (folder / "prompts.jsonl").read_text() == "hello"
    assert folder == tmp_path / "miniature_prompts" / fingerprint(recipe())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["prompts.jsonl"]["size"] == 5
    assert manifest["files"]["prompts.jsonl"]["sha256"].startswith("2cf24dba5fb0a30e26e83b2ac5b9e29e")
    assert "refstudy" in manifest["versions"]
    assert at.size_bytes(recipe()) == sum(about["size"] for about in manifest["files"].values())


def test_publish_leaves_neither_claim_nor_working_folder(tmp_path):
    make(Store(tmp_path), recipe())
    assert list((tmp_path / "claims").iterdir()) == []
    assert list((tmp_path / "making").iterdir()) == []


def test_path_of_an_absent_artefact_names_it_and_the_remedy(tmp_path):
    with pytest.raises(StoreError, match=f"miniature_prompts '{fingerprint(recipe())}' is not in the store.*run the sweep again"):
        Store(tmp_path).path(recipe())


def test_path_refuses_an_artefact_of_another_recipe(tmp_path):
    at = Store(tmp_path)
    make(at, recipe(seed=1))
    shutil.copytree(at.path(recipe(seed=1)), tmp_path / "miniature_prompts" / fingerprint(recipe()))
    with pytest.raises(StoreError, match="made by another recipe"):
        at.path(recipe())


@pytest.mark.parametrize(
    "damage", ["no manifest", "empty manifest", "half a manifest", "short file", "lost file", "manifest of a list"]
)
def test_torn_artefact_counts_as_absent_and_is_made_again(tmp_path, damage):
    at = Store(tmp_path)
    make(at, recipe())
    folder = at.path(recipe())
    manifest = folder / "manifest.json"
    match damage:
        case "no manifest":
            manifest.unlink()
        case "empty manifest":
            manifest.write_text("")
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:40])
        case "short file":
            (folder / "prompts.jsonl").write_text("hel")
        case "lost file":
            (folder / "prompts.jsonl").unlink()
        case "manifest of a list":
            manifest.write_text("[1]")
    assert not at.has(recipe())
    with pytest.raises(StoreError, match="torn"):
        at.path(recipe())
    make(at, recipe(), "again")
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "again"
    assert len(list((tmp_path / "torn").iterdir())) == 1


def test_verify_names_files_whose_bytes_changed(tmp_path):
    at = Store(tmp_path)
    make(at, recipe())
    assert at.verify(recipe()) == []
    (at.path(recipe()) / "prompts.jsonl").write_text("hallo")
    assert at.verify(recipe()) == ["prompts.jsonl"]


def test_claim_is_refused_while_held_and_when_made(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    claim = first.claim(recipe())
    assert claim is not None
    assert second.claim(recipe()) is None
    assert second.holder(recipe())["pid"] == os.getpid()
    claim.release()
    assert second.holder(recipe()) is None
    make(second, recipe())
    assert first.claim(recipe()) is None


def test_exception_in_a_claim_frees_it_and_leaves_nothing(tmp_path):
    at = Store(tmp_path)
    claim = at.claim(recipe())
    (claim.folder / "half").write_text("x")
    with pytest.raises(ValueError, match="broken"), claim:
        raise ValueError("broken")
    assert list((tmp_path / "making").iterdir()) == []
    assert not at.has(recipe())
    make(at, recipe())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_full_disk_in_a_claim_becomes_one_clear_line(tmp_path, error):
    at = Store(tmp_path)
    with pytest.raises(StoreError, match=r"No space left on device.*; free space or make it writable, or choose another --store"):  # noqa: SIM117
        with at.claim(recipe()):
            raise error


def test_full_disk_while_publishing_becomes_one_clear_line(tmp_path, monkeypatch):
    at = Store(tmp_path)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    claim = at.claim(recipe())
    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        at.publish(claim)
    assert not at.has(recipe())
    assert at.holder(recipe()) is None


def test_store_under_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        Store(tmp_path / "file").claim(recipe())


def test_claim_of_a_dead_process_is_taken_over_at_once(tmp_path):
    script = (
        "import os, sys; sys.path.insert(0, 'tests'); from test_store import *\n"
        "claim = Store(sys.argv[1]).claim(recipe()); (claim.folder / 'half').write_text('x'); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert ended.returncode == -9
    assert len(list((tmp_path / "claims").iterdir())) == 1
    at = Store(tmp_path)
    assert at.holder(recipe()) is None
    make(at, recipe())
    assert list((tmp_path / "making").iterdir()) == []
    assert list((tmp_path / "claims").iterdir()) == []


def test_claim_of_another_host_is_taken_over_after_three_missed_beats(tmp_path):
    at = Store(tmp_path)
    claim = at.claim(recipe())
    claim.file.write_text(json.dumps({"pid": 1, "host": "elsewhere/1", "started": 5}))
    assert at.claim(recipe()) is None
    late = time.time() - processes.BEAT_S * processes.MISSED_BEATS - 1
    os.utime(claim.file, (late, late))
    assert at.claim(recipe()) is not None


def test_claim_whose_pid_now_belongs_to_another_process_is_taken_over(tmp_path):
    at = Store(tmp_path)
    claim = at.claim(recipe())
    content = json.loads(claim.file.read_text())
    claim.file.write_text(json.dumps({**content, "started": content["started"] - 1}))
    assert at.claim(recipe()) is not None


def test_heartbeat_touches_the_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "Heartbeat", lambda beat: processes.Heartbeat(beat, every_s=0.02))
    claim = Store(tmp_path).claim(recipe())
    os.utime(claim.file, (1, 1))
    end = time.monotonic() + 5
    while claim.file.stat().st_mtime < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert claim.file.stat().st_mtime > 2
    claim.release()


def _race(root: str, start, made) -> None:
    start.wait()
    at = Store(root)
    claim = at.claim(recipe())
    if claim is None:
        at.wait(recipe(), timeout_s=20)
        return
    with claim:
        (claim.folder / "prompts.jsonl").write_text(str(os.getpid()))
        time.sleep(0.1)
        at.publish(claim)
    made.put(os.getpid())


def test_of_many_processes_one_makes_the_artefact_even_over_a_dead_claim(tmp_path):
    at = Store(tmp_path)
    dead = at.claim(recipe())
    content = json.loads(dead.file.read_text())
    dead.file.write_text(json.dumps({**content, "started": -1}))
    context = multiprocessing.get_context("fork")
    start, made = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), start, made)) for _ in range(8)]
    for each in racers:
        each.start()
    start.set()
    for each in racers:
        each.join(30)
    assert [each.exitcode for each in racers] == [0] * 8
    assert at.has(recipe())
    assert made.get(timeout=5)
    assert made.empty()


def test_artefact_published_meanwhile_is_kept(tmp_path):
    at = Store(tmp_path)
    late = at.claim(recipe())
    (late.folder / "prompts.jsonl").write_text("late")
    late.file.unlink()  # as another host would after three missed beats
    make(at, recipe(), "first")
    late.folder.mkdir(exist_ok=True)
    at.publish(late)
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "first"


def test_wait_returns_true_once_the_artefact_is_published(tmp_path):
    at = Store(tmp_path)
    claim = at.claim(recipe())

    def finish() -> None:
        time.sleep(0.3)
        Store(tmp_path).publish(claim)

    thread = threading.Thread(target=finish)
    thread.start()
    assert at.wait(recipe(), timeout_s=20)
    thread.join()


def test_wait_returns_false_when_the_maker_gives_up_and_refuses_to_wait_for_ever(tmp_path):
    at = Store(tmp_path)
    claim = at.claim(recipe())
    with pytest.raises(StoreError, match=f"still being made by process {os.getpid()}"):
        at.wait(recipe(), timeout_s=0.1)
    claim.release()
    assert not at.wait(recipe(), timeout_s=1)


def test_clear_dead_frees_claims_of_dead_processes_only(tmp_path):
    at = Store(tmp_path)
    at.claim(recipe(seed=1))
    dead = at.claim(recipe())
    content = json.loads(dead.file.read_text())
    dead.file.write_text(json.dumps({**content, "started": -1}))
    assert at.clear_dead() == 1
    assert at.holder(recipe(seed=1))
    assert not dead.file.exists()
    assert not dead.folder.exists()
    assert len(list((tmp_path / "claims").iterdir())) == 1


def kill(claim) -> None:
    """Makes the claim that of a process which is dead."""
    claim.file.write_text(json.dumps({**json.loads(claim.file.read_text()), "started": -1}))


def test_overtaken_takeover_is_dropped_and_touches_nothing(tmp_path, monkeypatch):
    """B finds claim 1 dead; A takes 2, fails and frees it; C claims 1 and begins; then B creates 2."""
    at, create, others = Store(tmp_path), claims.created, []
    kill(at.claim(recipe()))

    def late(*arguments):
        monkeypatch.setattr(claims, "created", create)
        at.claim(recipe()).release()
        others.append(at.claim(recipe()))
        return create(*arguments)

    monkeypatch.setattr(claims, "created", late)
    assert Store(tmp_path).claim(recipe()) is None
    (begun,) = others
    assert begun.file.name.endswith(".1.json")
    assert begun.folder.is_dir()
    assert [file.name for file in (tmp_path / "claims").iterdir()] == [begun.file.name]
    assert Store(tmp_path).claim(recipe()) is None
    (begun.folder / "prompts.jsonl").write_text("whole")
    at.publish(begun)
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "whole"


def test_process_that_slept_through_a_takeover_leaves_the_later_claim_alone(tmp_path):
    at = Store(tmp_path)
    slept = at.claim(recipe())
    slept.file.unlink()  # as another host does after three missed beats
    later = at.claim(recipe())
    assert later.file == slept.file
    with pytest.raises(FileNotFoundError):
        slept._beat()
    slept.release()
    assert later.file.exists()
    assert later.folder.is_dir()


def test_clear_dead_passes_over_a_claim_released_while_it_looks(tmp_path, monkeypatch):
    at = Store(tmp_path)
    claim, read = at.claim(recipe()), claims.read_object

    def released(file):
        if file == claim.file:
            monkeypatch.setattr(claims, "read_object", read)
            file.unlink(missing_ok=True)
        return read(file)

    monkeypatch.setattr(claims, "read_object", released)
    assert at.clear_dead() == 0


def test_store_aside_sees_what_is_lent_and_gives_back_what_is_replaced(tmp_path):
    at = Store(tmp_path)
    make(at, recipe(), "old")
    make(at, recipe(seed=1), "lent")
    with at.aside([recipe(seed=1)]) as anew:
        assert not anew.has(recipe())
        assert (anew.path(recipe(seed=1)) / "prompts.jsonl").read_text() == "lent"
        assert anew.path(recipe(seed=1)) == at.path(recipe(seed=1))
        make(anew, recipe(), "new")
        assert (at.path(recipe()) / "prompts.jsonl").read_text() == "old"
        at.replace(recipe(), anew)
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "new"
    assert at.verify(recipe(seed=1)) == []
    assert list((tmp_path / "making").iterdir()) == []


def test_store_aside_that_a_dead_process_left_is_cleared(tmp_path):
    at = Store(tmp_path)
    make(at, recipe())
    left = tmp_path / "making" / "aside.left"
    with at.aside([recipe()]):
        assert at.clear_dead() == 0
        assert len(list((tmp_path / "making").iterdir())) == 1
        shutil.copytree(next((tmp_path / "making").iterdir()), left, symlinks=True)
    (left / "process.json").write_text(json.dumps({**processes.this_process(), "started": -1}))
    at.clear_dead()
    assert not left.exists()
    assert at.verify(recipe()) == []


def test_what_was_made_of_an_artefact_is_discarded_and_nothing_else(tmp_path):
    at = Store(tmp_path)
    greedy = Sampling(max_new_tokens=1, temperature=0.0, top_p=1.0, seed=0)
    answers = [Completions(source=Hub(model="m", revision=None), prompts=recipe(seed), sampling=greedy) for seed in (0, 1)]
    verdicts = Verdicts(candidate=answers[0], baseline=answers[1], judge=GoldJudge(world=0))
    for each in (recipe(0), recipe(1), *answers, verdicts):
        make(at, each)
    assert at.discard_above([answers[0]]) == 1
    assert not at.has(verdicts)
    assert at.discard_above([recipe(1)]) == 1
    assert not at.has(answers[1])
    assert all(at.has(each) for each in (recipe(0), recipe(1), answers[0]))


def test_discard_removes_the_artefact_whole(tmp_path):
    at = Store(tmp_path)
    make(at, recipe())
    at.discard(recipe())
    assert not at.has(recipe())
    assert list((tmp_path / "torn").iterdir()) == []


def test_has_opens_the_manifest_and_no_other_file(tmp_path, monkeypatch):
    """It is asked for every artefact of every cell, before anything is made: models and tables must not be read for it."""
    at = Store(tmp_path)
    make(at, recipe(0))
    opened, plain = [], open

    def counted(file, *arguments, **options):
        opened.append(Path(file).name)
        return plain(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counted)
    assert [at.has(recipe(seed)) for seed in range(2)] == [True, False]
    assert opened in ([store.MANIFEST], [store.MANIFEST] * 2)
