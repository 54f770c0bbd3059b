"""Saved states of trainings at an s3:// address: a moto server on loopback, machines as cache folders."""

import json
import math
import multiprocessing
import os
import signal
import time
import warnings
from contextlib import contextmanager

import pytest
import torch

from refstudy import copies, far_states, store
from refstudy.far_states import FarStates
from refstudy.objects import Objects
from refstudy.recipes import MiniaturePrompts
from refstudy.store import Store
from refstudy.training import state as states
from refstudy.training.saves import Saving, far_interval_s
from refstudy.training.state import Kept
from tests import object_server
from tests.object_server import Proxy, client, keys, started
from tests.training import cut_off
from tests.training.cut_off import ALWAYS, STEPS, Case, numbers, weights

TERMS = "these terms"
RECIPE = MiniaturePrompts(world=0, part="evaluation", count=3, seed=0)
"""Stands for a model that is trained."""


@pytest.fixture
def url(bucket_url):
    """The address of a store in a new bucket."""
    return f"{bucket_url}/a/store"


@contextmanager
def hurried(endpoint, monkeypatch):
    """A proxy before the server, whose refusals are not waited out."""
    import boto3
    from botocore.config import Config

    proxy = Proxy(endpoint)
    once = boto3.session.Session().client("s3", endpoint_url=proxy.endpoint, config=Config(retries={"total_max_attempts": 1}))
    monkeypatch.setattr("refstudy.objects._client", lambda process, hasty: once)
    try:
        yield proxy
    finally:
        proxy.close()


def far(url):
    return FarStates(Objects(url), "partial/x.training")


def write(folder, step):
    parts = {"weights": Kept({}, {"w": torch.full((50,), float(step))}), "loop": Kept({"at": step})}
    return states.write(folder, step, TERMS, parts, {"trainer_state.json": "{}"})


def send(there, saved):
    there.send(saved.folder, TERMS)
    settle(there)
    return saved.folder.name


def settle(there):
    """Waits until nothing is under way."""
    thread = there._thread
    if thread is not None:
        thread.join()


def bring(there, folder, above=-1):
    """(the step that was brought, what was passed over)."""
    found, faults = there.bring(folder, TERMS, above, lambda each: states.fault(each, TERMS))
    if found is None:
        return None, faults
    again, local = states.newest(folder, TERMS)
    assert (again.folder, again.step, local) == (*found, [])
    assert again.part("weights").tensors["w"].tolist() == [float(again.step)] * 50
    return found[1], faults


def test_newest_state_is_found_on_another_machine_and_an_older_one_is_not_fetched(url, endpoint, tmp_path):
    here = far(url)
    for step in (1, 2, 3):
        send(here, write(tmp_path / "one", step))
    there = {key.split("/")[4].removesuffix(".json") for key in keys(endpoint, url.split("/")[2])}
    assert sorted(each[:14] for each in there) == ["step-000000002", "step-000000003"]
    assert bring(far(url), tmp_path / "two") == (3, [])
    assert bring(far(url), tmp_path / "three", above=3) == (None, [])
    assert not (tmp_path / "three").exists()
    here.clear()
    assert keys(endpoint, url.split("/")[2]) == {}
    assert bring(far(url), tmp_path / "four") == (None, [])


def of_manifest(change):
    def damaged(s3, bucket, prefix):
        content = json.loads(s3.get_object(Bucket=bucket, Key=f"{prefix}.json")["Body"].read())
        s3.put_object(Bucket=bucket, Key=f"{prefix}.json", Body=json.dumps(change(content)).encode())

    return damaged


def names(*strange):
    return of_manifest(lambda said: said | {"files": said["files"] | dict.fromkeys(strange, 3)})


def put(name, body):
    return lambda s3, bucket, prefix: s3.put_object(Bucket=bucket, Key=f"{prefix}{name}", Body=body)


def remove(name):
    return lambda s3, bucket, prefix: s3.delete_object(Bucket=bucket, Key=f"{prefix}{name}")


def changed(name):
    """As many bytes, one of them another."""

    def damaged(s3, bucket, prefix):
        body = bytearray(s3.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read())
        body[-1] ^= 1
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=bytes(body))

    return damaged


def unsealed(s3, bucket, prefix):
    """A further file, named by the manifest and not by the seal."""
    put("/more.json", b"{} ")(s3, bucket, prefix)
    names("more.json")(s3, bucket, prefix)


OTHER_TERMS = "it is of a training under other settings or versions"
DAMAGES = {
    "upload that never ended": (remove(".json"), "it was not put there whole"),
    "torn manifest": (put(".json", b'{"files": {"sta'), "its manifest is torn"),
    "manifest of a list": (put(".json", b"[1]"), "its manifest is torn"),
    "deep manifest": (put(".json", b"[" * 100_000), "its manifest is torn"),
    "endless manifest": (put(".json", b" " * (far_states.MANIFEST_BYTES + 1)), "it was not put there whole"),
    "other terms": (of_manifest(lambda said: said | {"terms": "others"}), OTHER_TERMS),
    "name that leads out": (names("../../escaped.json"), "its manifest names '../../escaped.json', which is no file of a state"),
    "absolute name": (names("/etc/escaped.json"), "its manifest names '/etc/escaped.json', which is no file of a state"),
    "pickle": (names("optimizer.pt"), "its manifest names 'optimizer.pt', which is no file of a state"),
    "size that is no number": (
        of_manifest(lambda said: said | {"files": said["files"] | {"state.json": "9"}}),
        "its manifest names 'state.json', which is no file of a state",
    ),
    "truncated": (put("/state.json", b"{"), "state.json has 1 bytes instead of"),
    "lost": (remove("/state.json"), "state.json is lost"),
    "changed": (changed("weights.00000.safetensors"), "weights.00000.safetensors is torn"),
    "changed state": (changed("state.json"), "state.json is torn"),
    "no seal": (
        of_manifest(lambda said: said | {"files": {name: size for name, size in said["files"].items() if name != "seal.json"}}),
        "it is torn",
    ),
    "file beside the seal": (unsealed, "more.json is not under its seal"),
    "more than the disk holds": (of_manifest(lambda said: said | {"files": {"state.json": 2**62}}), "state.json has"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_or_hostile_state_is_named_and_the_one_before_it_is_fetched(url, endpoint, tmp_path, damage, why):
    here = far(url)
    send(here, write(tmp_path / "one", 1))
    last = send(here, write(tmp_path / "one", 2))
    damage(client(endpoint), url.split("/")[2], f"a/store/partial/x.training/{last}")
    step, faults = bring(far(url), tmp_path / "two")
    assert step == 1
    assert len(faults) == 1
    assert faults[0].startswith(f"{last}: {why}")
    assert len(list((tmp_path / "two").iterdir())) == 1
    assert not list(tmp_path.rglob("escaped*"))


def test_state_larger_than_the_disk_is_passed_over(url, tmp_path, monkeypatch):
    send(far(url), write(tmp_path / "one", 1))
    monkeypatch.setattr(far_states.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    step, (fault,) = bring(far(url), tmp_path / "two")
    assert step is None
    assert fault.endswith("bytes, for which the disk has no room")


def test_litter_of_an_upload_that_was_cut_off_goes_with_the_next_state(url, endpoint, tmp_path):
    last = send(far(url), write(tmp_path / "one", 7))
    remove(".json")(client(endpoint), url.split("/")[2], f"a/store/partial/x.training/{last}")
    own = send(far(url), write(tmp_path / "two", 3))
    assert {key.split("/")[4].removesuffix(".json") for key in keys(endpoint, url.split("/")[2])} == {own}


def test_store_that_is_away_is_told_once_and_the_next_state_is_there(url, endpoint, tmp_path, monkeypatch):
    with hurried(endpoint, monkeypatch) as proxy:
        here, proxy.faults = far(url), 1000
        for step in (1, 2):
            send(here, write(tmp_path / "one", step))
        told = here.fault()
        assert told.startswith(f"{url}/partial/x.training/step-000000001")
        assert "cannot be written: the server answered 503" in told
        assert object_server.SECRET not in told
        assert here.fault() is None
        proxy.faults = 0
        send(here, write(tmp_path / "one", 3))
        assert here.fault() is None
        assert bring(far(url), tmp_path / "two") == (3, [])
        proxy.faults = 1000
        send(here, write(tmp_path / "one", 4))
        assert here.fault() is not None


def test_state_on_its_way_is_kept_while_newer_ones_are_saved_and_stopping_ends_it(url, endpoint, tmp_path, monkeypatch):
    with hurried(endpoint, monkeypatch) as proxy:
        here, proxy.late_s, folder = far(url), 0.3, tmp_path / "one"
        saved = [write(folder, step) for step in range(1, 6)]
        here.send(saved[0].folder, TERMS)
        deadline = time.monotonic() + 10
        while not proxy.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        for each in saved[1:]:
            here.send(each.folder, TERMS)
        assert here.in_use() == {saved[0].folder, saved[-1].folder}
        states.remove_others(folder, saved[:3], here.in_use())
        assert sorted(each.name[:14] for each in folder.iterdir()) == [f"step-{step:09d}" for step in (1, 2, 3, 5)]
        here.stop()
        assert here.in_use() == set()
        requests = proxy.requests
        time.sleep(0.7)
        assert proxy.requests == requests
        assert bring(far(url), tmp_path / "two")[0] is None


LEAVING = """
import sys
from pathlib import Path
from refstudy.far_states import FarStates
from refstudy.objects import Objects
there = FarStates(Objects(sys.argv[1]), "partial/x.training")
there.send(Path(sys.argv[2]), "terms")
sys.stdin.readline()
"""


def test_process_that_ends_does_not_wait_for_a_state_on_its_way(url, endpoint, tmp_path):
    """A file of 20 MB goes in parts, each of which is ten seconds on its way."""
    (state := tmp_path / "step-000000001-00000000").mkdir()
    (state / "weights.00000.safetensors").write_bytes(bytes(20 * 2**20))
    proxy = Proxy(endpoint)
    proxy.late_s = 10.0
    leaving = started(LEAVING, url, str(state), endpoint=proxy.endpoint, cache=tmp_path)
    deadline = time.monotonic() + 60
    while not proxy.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.requests
    begun = time.monotonic()
    assert leaving.communicate(input="end\n", timeout=60) == ("", "")
    assert (leaving.returncode, time.monotonic() - begun < 5) == (0, True)
    proxy.close()
    assert keys(endpoint, url.split("/")[2]) == {}


# With trainings ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
    return cut_off.train(Case())


def slowly(url, environment):
    """A training that saves about every fifth step; in a process of its own."""
    warnings.simplefilter("ignore")
    os.environ |= environment
    step = cut_off.dpo.TableDPOTrainer.training_step

    def slow(*arguments, **named):
        time.sleep(0.2)
        return step(*arguments, **named)

    cut_off.dpo.TableDPOTrainer.training_step = slow
    cut_off.train(Case(), saving(opened(url), 2.0))


def opened(url):
    return Store(copies.store_root(url))


def saving(at, every_s):
    return Saving(at.training(RECIPE), every_s, "a curve", at.far_training(RECIPE))


def steps_there(url, endpoint):
    """The steps whose states are whole at the address."""
    listed = client(endpoint).list_objects_v2(Bucket=url.split("/")[2]).get("Contents", [])
    found = [each["Key"].split("/")[4] for each in listed if each["Key"].count("/") == 4]
    return sorted(int(name.split("-")[1]) for name in found)


def same(trained, plain):
    assert numbers(trained) == numbers(plain)
    ours, theirs = weights(trained), weights(plain)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_training_killed_on_one_machine_goes_on_on_another_to_the_same_bits(plain, url, endpoint, tmp_path):
    """Of the two states that the dead machine had, the other one goes on from the last, or from the one before if that was on its
    way."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([cut_off.__name__])
    killed = context.Process(target=slowly, args=(url, object_server.settings(endpoint, tmp_path / "there")))
    killed.start()
    while not steps_there(url, endpoint) and killed.is_alive():
        time.sleep(0.02)
    killed.kill()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    saved = sorted(int(each.name.split("-")[1]) for each in (tmp_path / "there").rglob("step-*"))
    there = max(steps_there(url, endpoint))
    assert there in saved[-2:]
    told: list[str] = []
    at = opened(url)
    trained = cut_off.train(Case(), saving(at, ALWAYS), lambda each: told.extend(each.alarms))
    assert trained.resumed_at == [there]
    assert 0 < there < STEPS
    assert [each for each in told if "was not put there whole" not in each] == []
    same(trained, plain)
    at.clear_partial(RECIPE)
    assert keys(endpoint, url.split("/")[2]) == {}
    assert not at.training(RECIPE).exists()


def test_training_goes_on_while_the_store_is_away_and_its_states_are_there_when_it_is_back(
    plain, url, endpoint, tmp_path, monkeypatch
):
    """It goes away after the fourth step, and comes back after the eighth."""
    told: list[str] = []
    with hurried(endpoint, monkeypatch) as proxy:
        at, write = opened(url), states.write
        there = at.far_training(RECIPE)

        def watched(folder, step, *arguments):
            settle(there)
            proxy.faults = 1000 if 4 <= step < 8 else 0
            return write(folder, step, *arguments)

        monkeypatch.setattr(states, "write", watched)
        trained = cut_off.train(Case(), saving(at, ALWAYS), lambda each: told.extend(each.alarms))
        settle(there)
    same(trained, plain)
    (words,) = told
    assert words.startswith(f"a saved state of training is on this machine alone ({url}/partial/")
    assert words.endswith("; training goes on, and tries the next")
    assert steps_there(url, endpoint) == [STEPS - 1, STEPS]


@pytest.mark.parametrize(("took_s", "interval_s"), [(math.inf, 450.0), (0.0, 900.0), (60.0, 840.0), (450.0, 450.0), (700.0, 450.0)])
def test_states_that_travel_are_saved_earlier_by_the_time_of_their_way(took_s, interval_s):
    """Of 15 minutes: saved after 14, one minute on its way, and the one before it is 15 minutes old when it is there."""
    assert far_interval_s(900.0, took_s) == interval_s


@pytest.mark.parametrize("why", ["done", "left", "published", "none of these", "somebody trains it"])
def test_states_that_nobody_goes_on_from_are_cleared_by_the_next_run(url, endpoint, tmp_path, monkeypatch, why):
    at = opened(url)
    send(at.far_training(RECIPE), write(at.training(RECIPE), 3))
    if why == "left":
        monkeypatch.setattr(store, "STATES_KEPT_S", -1.0)
    if why == "published":
        with at.claim(RECIPE) as claim:
            at.publish(claim)
        send(at.far_training(RECIPE), write(at.training(RECIPE), 3))  # as of a process that was killed between the two
    held = at.claim(RECIPE) if why == "somebody trains it" else None
    at.clear_states([RECIPE] if why in ("done", "somebody trains it") else [])
    stays = why in ("none of these", "somebody trains it")
    assert bool(steps_there(url, endpoint)) == at.training(RECIPE).exists() == stays
    if held is not None:
        held.release()


def test_states_on_a_path_that_nobody_goes_on_from_are_cleared_by_the_next_run(tmp_path, monkeypatch):
    at = Store(tmp_path)
    write(at.training(RECIPE), 3)
    at.clear_states([])
    assert at.training(RECIPE).exists()
    at.clear_states([RECIPE])
    assert not at.training(RECIPE).exists()
    at.clear_states(pytest.fail("gone through without need") for _ in range(1))
    write(at.training(RECIPE), 3)
    monkeypatch.setattr(store, "STATES_KEPT_S", -1.0)
    at.clear_states([])
    assert not at.training(RECIPE).exists()
