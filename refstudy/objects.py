"""Objects below one address of an S3-compatible store, such as s3://bucket/path: the only door to boto3.

Invariant: whatever goes wrong there ends in a StoreError in words, after a bounded number of tries; no message holds a credential,
for none quotes a server. Credentials come from where boto3 finds them, and are handed to nobody.
"""

import functools
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from refstudy.errors import StoreAway, StoreError

SCHEME = "s3://"
TRIES = 6
"""How often a request is sent at most, with growing pauses: a quarter to half a minute for a server that refuses at once."""

TAKEN = ("412", "409", "PreconditionFailed", "ConditionalRequestConflict")
GONE = ("404", "NoSuchKey")


@dataclass(frozen=True)
class Patience:
    """How long a request is waited for."""

    tries: int
    connect_s: float
    read_s: float


PATIENT = Patience(TRIES, 5.0, 60.0)
HASTY = Patience(1, 3.0, 3.0)
"""For what may be lost, such as progress."""
HURRIED = Patience(2, 1.5, 1.5)
"""For all requests of a process that has been told to end."""


class _Hurry:
    def __init__(self) -> None:
        self.is_on = threading.Event()
        self.found_away = False
        """Whether a request has failed since: the others are not even sent."""


_hurry = _Hurry()


def hurry() -> None:
    """From here on each request of this process gets two short tries, and after one failure none: for what is left to do before it
    ends."""
    _hurry.is_on.set()


@contextmanager
def hurried_by_errors() -> Iterator[None]:
    """Begins the hurry where an error or a signal ends the block."""
    try:
        yield
    except BaseException:
        hurry()
        raise


@contextmanager
def unhurried() -> Iterator[None]:
    """Ends the hurry after the block."""
    try:
        yield
    finally:
        _hurry.is_on.clear()
        _hurry.found_away = False


@dataclass(frozen=True)
class Entry:
    """What a store says of an object."""

    key: str
    """Below the address."""
    etag: str
    age_s: float
    """Seconds since it was written, by the server's own clock: whole ones."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Found:
    """An object that was read."""

    body: bytes
    entry: Entry


class Objects:
    """The objects below an address. Objects are written whole or not at all, and seen by all at once."""

    def __init__(self, url: str, patience: Patience = PATIENT) -> None:
        self.url, self._patience = checked(url), patience
        self._bucket, _, self._prefix = self.url.removeprefix(SCHEME).partition("/")

    def hastily(self) -> "Objects":
        """The same objects, for what may be lost."""
        return Objects(self.url, HASTY)

    def read(self, key: str) -> Found | None:
        """The object; None if there is none."""
        with self._in_words("read", key) as client:
            try:
                return self._read(client, key)
            except client.exceptions.ClientError as error:
                if _code(error) in GONE:
                    return None
                raise

    def look(self, key: str) -> Entry | None:
        """What is known of the object without reading it; None if there is none."""
        with self._in_words("read", key) as client:
            try:
                answer = client.head_object(Bucket=self._bucket, Key=self._key(key))
                return _entry(key, answer, answer)
            except client.exceptions.ClientError as error:
                if _code(error) in GONE:
                    return None
                raise

    def write(self, key: str, body: bytes) -> str:
        """Writes the object and returns its etag."""
        with self._in_words("written", key) as client:
            return str(client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body)["ETag"])

    def create(self, key: str, body: bytes) -> str | None:
        """The etag of the object, created by this call; None if there is one already. Of several callers one succeeds."""
        return self._write_if(key, body, IfNoneMatch="*")

    def replace(self, key: str, body: bytes, etag: str) -> str | None:
        """The new etag, if the object was still the one with `etag`; None if it is another by now, or gone."""
        return self._write_if(key, body, IfMatch=etag)

    def remove(self, key: str, etag: str | None = None) -> None:
        """Removes the object, if there is one and, where an etag is given, if it is still that one."""
        condition = {"IfMatch": etag} if etag else {}
        with self._in_words("written", key) as client:
            try:
                client.delete_object(Bucket=self._bucket, Key=self._key(key), **condition)
            except client.exceptions.ClientError as error:
                if _code(error) not in (*TAKEN, *GONE):
                    raise

    def below(self, prefix: str, deep: bool = True) -> Iterator[Entry]:
        """The objects whose key begins with `prefix`, as they are now; without `deep` only those in no further folder.

        Keys that would lead out of a folder as a path are passed over.
        """
        asked = {"Bucket": self._bucket, "Prefix": self._key(prefix)} | ({} if deep else {"Delimiter": "/"})
        with self._in_words("listed", prefix) as client:
            for page in client.get_paginator("list_objects_v2").paginate(**asked):
                for each in page.get("Contents", []):
                    key = each["Key"].removeprefix(self._key(""))
                    if _is_plain(key):
                        yield _entry(key, each, page)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders in the folder `prefix`, which ends in a slash."""
        with self._in_words("listed", prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._key(prefix), Delimiter="/")
            found = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])]
        return [each.removeprefix(self._key(prefix)).rstrip("/") for each in found]

    def refuse_without_conditions(self) -> None:
        """StoreError if the server writes unconditionally what was asked on a condition: two makers would then both win a claim."""
        key, known = f"probe-{uuid.uuid4().hex}", b"first"
        try:
            etag = self.create(key, known)
            if etag is None or self.create(key, b"second") is not None or self.replace(key, b"third", '"other"') is not None:
                raise StoreError(
                    f"{self.url}: the server does not heed conditions (If-None-Match, If-Match), on which claims rest; expected "
                    "one that does, as AWS S3 and MinIO do, or --results on a path"
                )
        finally:
            self.remove(key)

    def upload(self, file: Path, key: str, alone: bool = False) -> None:
        """Writes a file of any size as an object; one above 8 MB in parts that appear together. `alone`: on this thread, without
        others that the end of the process would wait for."""
        with self._in_words("written", key) as client:
            from boto3.s3.transfer import TransferConfig

            client.upload_file(str(file), self._bucket, self._key(key), Config=TransferConfig(use_threads=not alone))

    def download(self, key: str, file: Path) -> bool:
        """Writes the object into a file; False if there is none."""
        with self._in_words("read", key) as client:
            try:
                client.download_file(self._bucket, self._key(key), str(file))
            except client.exceptions.ClientError as error:
                if _code(error) in GONE:
                    return False
                raise
        return True

    def _read(self, client: Any, key: str, tries: int = 3) -> Found:
        """The object; a connection that breaks off within it is tried again, which boto3 leaves to its users."""
        import botocore.exceptions

        answer = client.get_object(Bucket=self._bucket, Key=self._key(key))
        try:
            return Found(answer["Body"].read(), _entry(key, answer, answer))
        except botocore.exceptions.BotoCoreError:
            if tries == 1:
                raise
            return self._read(client, key, tries - 1)

    def _write_if(self, key: str, body: bytes, **condition: str) -> str | None:
        """A refusal may be the echo of a try whose answer was lost: then the object is ours, which its body says."""
        with self._in_words("written", key) as client:
            try:
                return str(client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body, **condition)["ETag"])
            except client.exceptions.ClientError as error:
                if _code(error) not in (*TAKEN, *GONE) or _code(error) == "NoSuchBucket":
                    raise
        found = self.read(key)
        return found.entry.etag if found is not None and found.body == body else None

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    @contextmanager
    def _in_words(self, verb: str, key: str) -> Iterator[Any]:
        """A client; what goes wrong with it in the block becomes a StoreError: StoreAway, if it may go well later."""
        if _hurry.is_on.is_set() and _hurry.found_away:
            raise StoreAway(f"{self.url}/{key} cannot be {verb}: the server was away a moment ago; run again when it is well")
        client = _client(os.getpid(), HURRIED if _hurry.is_on.is_set() else self._patience)
        import boto3.exceptions
        import botocore.exceptions

        try:
            yield client
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, boto3.exceptions.Boto3Error) as error:
            _hurry.found_away = _hurry.is_on.is_set()
            kind, why, do = _reason(error)
            raise kind(f"{self.url}/{key} cannot be {verb}: {why}; {do}") from None  # the cause could quote a server


def is_url(location: str | Path) -> bool:
    return str(location).startswith(SCHEME)


def checked(url: str) -> str:
    """The address without a slash at its end; StoreError if it names no place in a bucket, or holds a credential."""
    bucket, _, path = url.removeprefix(SCHEME).rstrip("/").partition("/")
    if "@" in bucket or ":" in bucket:
        raise StoreError(
            "an s3:// address with a user or key in it is refused, since addresses are written down; expected s3://BUCKET/PATH: "
            "give credentials in the environment, in ~/.aws, or as the machine's role"
        )
    if not is_url(url) or not bucket or not _is_plain(path):
        raise StoreError(f"got {url!r}; expected s3://BUCKET/PATH/NAME")
    return f"{SCHEME}{bucket}/{path}"


def _is_plain(key: str) -> bool:
    """Whether the key names a file below a folder, as a path."""
    return not any(part in ("", ".", "..") or "\0" in part for part in key.split("/"))


@functools.cache
def _client(process: int, patience: Patience) -> Any:
    """A client of this process: one that was made before a fork is not taken over it."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise StoreError("s3:// addresses need boto3, which is not installed; run: pip install 'refstudy[s3]'") from None
    config = Config(
        retries={"mode": "standard", "total_max_attempts": patience.tries},
        connect_timeout=patience.connect_s,
        read_timeout=patience.read_s,
        max_pool_connections=32,
        request_checksum_calculation="when_required",  # by default asks servers for checksums that not all of them know
        response_checksum_validation="when_required",
    )
    try:
        client = boto3.session.Session().client("s3", config=config)
        client.meta.events.register_first("needs-retry.s3", functools.partial(_pause, patience.tries))
        return client
    except (BotoCoreError, ValueError) as error:
        _, why, do = _reason(error)
        raise StoreError(f"no object store can be reached: {why}; {do}") from None


def _pause(tries: int, attempts: int, response: Any, caught_exception: Exception | None, **_: Any) -> None:
    """Waits before a further try. boto3 itself waits for 1.6 s at most in all, and a server that starts again needs longer."""
    status = None if response is None else response[0].status_code
    is_refused = caught_exception is not None or (status is not None and (status >= 500 or status == 429))
    if is_refused and attempts < tries:
        _hurry.is_on.wait(2 ** (attempts - 1) * random.uniform(0.5, 1.0))


def _entry(key: str, about: dict[str, Any], answer: dict[str, Any]) -> Entry:
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    now = parsedate_to_datetime(said).timestamp() if said else time.time()
    size = int(about["Size"] if "Size" in about else about["ContentLength"])
    return Entry(key, str(about["ETag"]), max(0.0, now - about["LastModified"].timestamp()), size)


def _code(error: Any) -> str:
    """What a server said: the name of the error, else the status."""
    return str(error.response.get("Error", {}).get("Code") or error.response["ResponseMetadata"].get("HTTPStatusCode"))


def _reason(error: Exception) -> tuple[type[StoreError], str, str]:
    """(the kind of error, what went wrong, what to do), in words that quote neither the server nor a setting."""
    at_fault = error if hasattr(error, "response") else error.__context__  # of an upload: what it rests on
    response = getattr(at_fault, "response", None)
    if not isinstance(response, dict):
        name = type(error).__name__
        if "Credential" in name:
            do = "set AWS_ACCESS_KEY_ID and its secret, or give the machine a role"
            return StoreError, f"no credentials were found ({name})", do
        do = f"after {TRIES} tries at most; check the network and AWS_ENDPOINT_URL, and run again"
        return StoreAway, f"no answer that can be used ({name})", do
    code, status = _code(at_fault), response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return StoreError, "there is no such bucket", "make it, or check the address"
    if status in (401, 403) or "Access" in code:
        do = "check the credentials, and that they allow to read, write, list and delete there"
        return StoreError, f"access was denied ({code})", do
    if status == 501 or code == "NotImplemented":
        do = "use one that has them (If-None-Match, If-Match), as AWS and MinIO do"
        return StoreError, "the server lacks conditional writes", do
    kind = StoreAway if status is None or status >= 500 or status == 429 else StoreError
    return kind, f"the server answered {status} ({code})", f"after {TRIES} tries at most; run again when it is well"
