"""Artefacts at an s3:// address: a moto server on loopback, two machines as two cache folders."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from refstudy import copies, depot, processes
from refstudy.errors import StoreError
from refstudy.identity import fingerprint
from refstudy.objects import Objects
from refstudy.recipes import MiniaturePrompts
from refstudy.store import Store
from tests import object_server
from tests.object_server import Proxy, keys


def recipe(seed: int = 0) -> MiniaturePrompts:
    return MiniaturePrompts(world=0, part="evaluation", count=3, seed=seed)


NAME = f"miniature_prompts-{fingerprint(recipe())}"


@pytest.fixture
def url(bucket_url):
    """The address of a store in a new bucket."""
    return f"{bucket_url}/a/store"


def make(at: Store, what: MiniaturePrompts, text: str = "hello") -> None:
    claim = at.claim(what)
    assert claim is not None
    with claim:
        (claim.folder / "prompts.jsonl").write_text(text)
        at.publish(claim)


def opened(url: str) -> Store:
    return Store(copies.store_root(url))


@pytest.fixture
def elsewhere(url, tmp_path, monkeypatch):
    """The same store on another machine: another cache."""
    here = opened(url)
    monkeypatch.setenv("REFSTUDY_CACHE", str(tmp_path / "elsewhere"))
    there = Store(copies.store_root(url))
    assert there.root != here.root
    return here, there


def test_artefact_made_on_one_machine_is_fetched_on_another_by_its_recipe(elsewhere, endpoint, url):
    here, there = elsewhere
    assert not there.has(recipe())
    make(here, recipe())
    assert there.has(recipe())
    assert (there.path(recipe()) / "prompts.jsonl").read_text() == "hello"
    assert there.path(recipe()).is_relative_to(there.root)
    assert there.verify(recipe()) == []
    assert here.claim(recipe()) is None
    assert there.claim(recipe()) is None
    with pytest.raises(StoreError, match="is not in the store"):
        there.path(recipe(seed=1))
    left = {key.split("/")[2] for key in keys(endpoint, url.split("/")[2])}
    assert left == {"artefacts", "manifests"}


RACE = """
import sys, time
from tests.test_depot import Store, copies, recipe
at = Store(copies.store_root(sys.argv[1]))
claim = at.claim(recipe())
print("claimed" if claim else "not", flush=True)
sys.stdin.readline()
if claim:
    with claim:
        (claim.folder / "prompts.jsonl").write_text("raced")
        at.publish(claim)
    sys.exit()
assert at.wait(recipe(), timeout_s=30)
assert (at.path(recipe()) / "prompts.jsonl").read_text() == "raced"
"""


def test_of_processes_on_several_machines_one_gets_the_claim_and_the_others_its_work(url, endpoint, tmp_path):
    command = [sys.executable, "-c", RACE, url]
    racers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=object_server.ROOT,
            env=os.environ | object_server.settings(endpoint, tmp_path / f"machine-{number}"),
        )
        for number in range(3)
    ]
    assert sorted(each.stdout.readline() for each in racers) == ["claimed\n", "not\n", "not\n"]
    for each in racers:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in racers:
        each.communicate(timeout=60)
    assert [each.returncode for each in racers] == [0] * 3


KILLED = """
import os, sys, time
from refstudy import processes
processes.host = lambda: "another machine"
from tests.test_depot import Store, copies, depot, recipe
at = Store(copies.store_root(sys.argv[1]))
claim = at.claim(recipe())
(claim.folder / "prompts.jsonl").write_text("half")
at.partial(recipe()).parent.mkdir(parents=True)
at.partial(recipe()).write_text("worth keeping\\n")
at.keep_partial(recipe())
if sys.argv[2] == "uploads":
    create = depot.Objects.create
    depot.Objects.create = lambda *arguments: os.kill(os.getpid(), 9)
    at.publish(claim)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moment", ["makes", "uploads"])
def test_claim_of_a_maker_killed_elsewhere_is_taken_over_after_three_beats_and_its_litter_goes(
    url, endpoint, tmp_path, monkeypatch, moment
):
    """Killed while it makes the artefact, or with its files uploaded and no manifest. Beats of 2 s: a server's times are whole
    seconds."""
    monkeypatch.setattr(processes, "BEAT_S", 2.0)
    killed = object_server.started(KILLED, url, moment, endpoint=endpoint, cache=tmp_path / "there")
    assert killed.communicate(timeout=60)[1] == ""
    assert killed.returncode == -signal.SIGKILL
    at, begun = opened(url), time.monotonic()
    litter = [key for key in keys(endpoint, url.split("/")[2]) if "/artefacts/" in key]
    assert bool(litter) == (moment == "uploads")
    assert not at.has(recipe())
    assert at.holder(recipe())["host"] == "another machine"
    assert at.claim(recipe()) is None
    while (claim := at.claim(recipe())) is None and time.monotonic() < begun + 25:
        time.sleep(0.2)
    waited_s = time.monotonic() - begun
    assert 2 < waited_s < 25
    assert at.partial(recipe()).read_text() == "worth keeping\n"
    with claim:
        (claim.folder / "prompts.jsonl").write_text("whole")
        at.publish(claim)
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "whole"
    after = keys(endpoint, url.split("/")[2])
    assert not set(litter) & set(after)
    assert {key.split("/")[2] for key in after} == {"artefacts", "manifests"}


def test_claim_of_a_living_maker_elsewhere_stands_through_its_beats(url, endpoint, monkeypatch):
    monkeypatch.setattr(processes, "BEAT_S", 2.0)
    monkeypatch.setattr(depot, "life", lambda process: "unknown")
    at = opened(url)
    claim = at.claim(recipe())
    beating = processes.Heartbeat(claim._beat, every_s=1.0)
    time.sleep(8)
    assert at.holder(recipe())["pid"] == os.getpid()
    beating.stop()
    with claim:
        (claim.folder / "prompts.jsonl").write_text("x")
        at.publish(claim)


def test_maker_that_slept_through_a_takeover_neither_beats_nor_publishes_nor_frees(elsewhere, endpoint, url):
    here, there = elsewhere
    slept = here.claim(recipe())
    (slept.folder / "prompts.jsonl").write_text("late")
    object_server.client(endpoint).delete_object(Bucket=url.split("/")[2], Key=f"a/store/claims/{NAME}.json")  # as a takeover does
    later = there.claim(recipe())
    with pytest.raises(FileNotFoundError):
        slept.far.beat()
    slept.far.remove()
    assert there.holder(recipe())
    (later.folder / "prompts.jsonl").write_text("first")
    there.publish(later)
    here.publish(slept)
    assert (here.path(recipe()) / "prompts.jsonl").read_text() == "first"
    assert (there.path(recipe()) / "prompts.jsonl").read_text() == "first"
    stored = keys(endpoint, url.split("/")[2])
    assert [body for key, body in stored.items() if key.endswith("prompts.jsonl")] == [b"first"]


@pytest.mark.parametrize("damage", ["truncated", "changed", "lost", "torn manifest", "manifest of a list"])
def test_damaged_artefact_is_refused_where_it_is_fetched_and_made_again(elsewhere, endpoint, url, damage):
    here, there = elsewhere
    make(here, recipe())
    bucket, s3 = url.split("/")[2], object_server.client(endpoint)
    file = next(key for key in keys(endpoint, bucket) if key.endswith("prompts.jsonl"))
    manifest = f"a/store/manifests/{NAME}.json"
    match damage:
        case "truncated":
            s3.put_object(Bucket=bucket, Key=file, Body=b"hel")
        case "changed":
            s3.put_object(Bucket=bucket, Key=file, Body=b"hallo")
        case "lost":
            s3.delete_object(Bucket=bucket, Key=file)
        case "torn manifest":
            s3.put_object(Bucket=bucket, Key=manifest, Body=b'{"files": {"pro')
        case "manifest of a list":
            s3.put_object(Bucket=bucket, Key=manifest, Body=b"[1]")
    with pytest.raises(StoreError, match=rf"{url}/artefacts/{NAME} is damaged: .*; it is given up: run the sweep again"):
        there.path(recipe())
    assert not there.has(recipe())
    make(there, recipe(), "again")
    assert (there.path(recipe()) / "prompts.jsonl").read_text() == "again"
    depot._depot.cache_clear()  # as in a later process of the first machine: its old copy is no longer the artefact
    assert (Store(here.root).path(recipe()) / "prompts.jsonl").read_text() == "again"


def test_manifest_that_leads_out_of_the_folder_is_refused(elsewhere, endpoint, url):
    here, there = elsewhere
    make(here, recipe())
    s3, bucket, key = object_server.client(endpoint), url.split("/")[2], f"a/store/manifests/{NAME}.json"
    said = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    said["files"]["../../../escaped"] = {"size": 5, "sha256": ""}
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(said).encode())
    with pytest.raises(StoreError, match="leads out of the artefact's folder"):
        there.path(recipe())
    assert not list(there.root.parent.rglob("escaped"))


def pieces(url, endpoint):
    """What is kept at the address of a half-made artefact, by the byte at which each piece begins."""
    found = keys(endpoint, url.split("/")[2])
    return {int(key.rpartition(".")[2]): body for key, body in found.items() if "/partial/" in key}


def test_half_made_artefact_travels_by_what_it_grew_and_whole_lines_alone(elsewhere, endpoint, url):
    here, there = elsewhere
    here.partial(recipe()).parent.mkdir(parents=True)
    for grown in ("one\n", "", "two\nthr", "ee\n", "fo"):
        with open(here.partial(recipe()), "a") as out:
            out.write(grown)
        here.keep_partial(recipe())
    assert pieces(url, endpoint) == {0: b"one\n", 4: b"two\n", 8: b"three\n"}
    with open(there.partial(recipe()), "a") as out:  # goes on, as another maker
        assert there.partial(recipe()).read_text() == "one\ntwo\nthree\n"
        out.write("five\n")
    there.keep_partial(recipe())
    assert pieces(url, endpoint)[14] == b"five\n"
    assert here.partial(recipe()).read_text() == "one\ntwo\nthree\nfive\n"


def test_pieces_of_a_half_made_artefact_count_as_far_as_they_follow_on_each_other(elsewhere, endpoint, url):
    here, there = elsewhere
    for at, body in {0: b"one\ntwo\n", 4: b"two\n", 8: b"three\n", 20: b"lost before\n"}.items():
        key = f"a/store/partial/{NAME}.x.jsonl.{at:015d}"
        object_server.client(endpoint).put_object(Bucket=url.split("/")[2], Key=key, Body=body)
    assert (there.partial(recipe()).with_name(f"{NAME}.x.jsonl")).read_text() == "one\ntwo\nthree\n"
    make(here, recipe())
    assert pieces(url, endpoint) == {}


def test_piece_that_is_removed_while_others_are_fetched_ends_the_file(elsewhere, endpoint, url, monkeypatch):
    _, there = elsewhere
    for at, body in {0: b"one\n", 4: b"two\n", 8: b"three\n"}.items():
        key = f"a/store/partial/{NAME}.x.jsonl.{at:015d}"
        object_server.client(endpoint).put_object(Bucket=url.split("/")[2], Key=key, Body=body)
    read = Objects.read
    monkeypatch.setattr(Objects, "read", lambda objects, key: None if key.endswith(f"{4:015d}") else read(objects, key))
    file = there.partial(recipe()).with_name(f"{NAME}.x.jsonl")
    assert file.read_text() == "one\n"
    with open(file, "a") as more:
        more.write("another\n")
    there.keep_partial(recipe())
    assert pieces(url, endpoint)[4] == b"another\n"


def test_plan_of_a_thousand_artefacts_reads_one_list(url, endpoint, monkeypatch):
    at = opened(url)
    make(at, recipe())
    proxy = Proxy(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr("refstudy.objects._client", object_client(proxy.endpoint))
    fresh = depot.Depot(at.root, copies.of(at.root)[0])
    found = [fresh.has(f"miniature_prompts-{fingerprint(recipe(seed))}") for seed in range(1000)]
    assert found == [True] + [False] * 999
    assert proxy.requests < 2 * depot.FEW
    proxy.close()


def object_client(endpoint):
    """What stands for boto3's own client of the process: one that goes to `endpoint`."""
    made = object_server.client(endpoint)
    return lambda process, hasty: made


def test_upload_that_is_refused_half_way_leaves_nothing_and_is_told_in_words(url, endpoint, monkeypatch):
    """The server takes the files and refuses the manifest; then it is well again."""
    proxy = Proxy(endpoint)
    monkeypatch.setattr("refstudy.objects._client", object_client(proxy.endpoint))
    at = opened(url)
    claim = at.claim(recipe())
    (claim.folder / "prompts.jsonl").write_text("x")
    proxy.fails_on, proxy.faults = "/manifests/", 1000
    with pytest.raises(StoreError, match=rf"{url}/manifests/{NAME}.json cannot be written: the server answered 503") as told, claim:
        at.publish(claim)
    assert object_server.SECRET not in str(told.value)
    proxy.faults = 0
    assert keys(endpoint, url.split("/")[2]) == {}
    make(at, recipe())
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "hello"
    proxy.close()


def test_server_that_is_slow_and_refuses_now_and_then_changes_nothing(url, endpoint, monkeypatch):
    proxy = Proxy(endpoint)
    monkeypatch.setattr("refstudy.objects._client", object_client(proxy.endpoint))
    proxy.late_s, proxy.faults, proxy.status = 0.05, 2, 500
    at = opened(url)
    make(at, recipe())
    assert at.has(recipe())
    assert proxy.faults == 0
    proxy.close()


def test_write_whose_answer_was_lost_is_known_as_ours(url, endpoint, monkeypatch):
    """The claim is created and the answer is an error: the next try finds it taken, by itself."""
    proxy = Proxy(endpoint)
    monkeypatch.setattr("refstudy.objects._client", object_client(proxy.endpoint))
    proxy.lose_answers = 1
    at = opened(url)
    make(at, recipe())
    assert (at.path(recipe()) / "prompts.jsonl").read_text() == "hello"
    assert proxy.lose_answers == 0
    proxy.close()


def test_finished_is_never_made_anew_at_an_address(url):
    at = opened(url)
    make(at, recipe())
    with pytest.raises(StoreError, match="cannot be made anew in a store on s3://"), at.aside([]):
        pass


def test_makers_on_threads_of_one_machine_fetch_and_read_at_once(elsewhere):
    here, there = elsewhere
    make(here, recipe(), "x" * 100_000)
    read: list[int] = []
    threads = [
        threading.Thread(target=lambda: read.append(len((there.path(recipe()) / "prompts.jsonl").read_text()))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert read == [100_000] * 8
