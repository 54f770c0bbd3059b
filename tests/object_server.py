"""A real S3 server on loopback, a proxy before it that can be made to fail, and machines with caches of their own."""

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from refstudy import objects

ROOT = Path(__file__).parents[1]
KEY, SECRET = "refstudy-test-user", "never-seen-anywhere"


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a moto server on a free port, ended with the block."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    objects._client.cache_clear()  # of another server, in the same process
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def settings(endpoint: str, cache: Path) -> dict[str, str]:
    """The environment of a machine: what reaches the server, and a cache of its own."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "REFSTUDY_CACHE": str(cache),
    }


def bucket(endpoint: str) -> str:
    """The name of a new bucket."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    client(endpoint).create_bucket(Bucket=name)
    return name


def client(endpoint: str):
    """boto3 itself, to look at what was written and to damage it."""
    import boto3

    return boto3.session.Session().client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )


def keys(endpoint: str, of: str) -> dict[str, bytes]:
    """All objects of a bucket with their bytes."""
    asked, found = client(endpoint), {}
    for page in asked.get_paginator("list_objects_v2").paginate(Bucket=of):
        for each in page.get("Contents", []):
            with contextlib.suppress(asked.exceptions.NoSuchKey):  # removed since it was listed
                found[each["Key"]] = asked.get_object(Bucket=of, Key=each["Key"])["Body"].read()
    return found


def started(code: str, *arguments: str, endpoint: str, cache: Path) -> subprocess.Popen[str]:
    """A process on a machine of its own: another cache folder."""
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | settings(endpoint, cache)
    piped = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, **piped, text=True, cwd=ROOT, env=environment)


class Proxy:
    """Stands before a server; `faults` answers are errors of `status`, and each comes `late_s` later."""

    def __init__(self, endpoint: str) -> None:
        self.faults, self.status, self.late_s, self.requests = 0, 503, 0.0, 0
        self.fails_on = ""
        """Only requests whose path holds this word are refused."""
        self.heeds = True
        """Whether conditions are passed on; some servers do not know them."""
        self.every = 0
        """One of so many requests is refused; 0: none."""
        self.lose_answers = 0
        """So many writes reach the server, and their answer is lost."""
        self._behind = endpoint.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # boto3 asks before it sends a body, and waits a second for servers that do not answer

            def _pass(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.is_gone = False
        """Whether it breaks off all connections, new ones and those that clients keep."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        time.sleep(self.late_s)
        if self.is_gone:
            handler.close_connection = True
            return
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if (self.faults and self.fails_on in handler.path) or (self.every and self.requests % self.every == 0):
            self.faults = max(0, self.faults - 1)
            self._answer(handler, self.status, [], b"")
            return
        behind = http.client.HTTPConnection(self._behind, timeout=30)
        told = {name: value for name, value in handler.headers.items() if self.heeds or not name.lower().startswith("if-")}
        behind.request(handler.command, handler.path, body, told)
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        if self.lose_answers and handler.command == "PUT":
            self.lose_answers -= 1
            self._answer(handler, 500, [], b"")
            return
        kept = [
            each for each in answer.getheaders() if each[0].lower() not in ("connection", "transfer-encoding", "server", "date")
        ]
        self._answer(handler, answer.status, kept, content, answer.getheader("Content-Length"))

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        length: str | None = None,
    ) -> None:
        handler.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length":
                handler.send_header(name, value)
        handler.send_header("Content-Length", length if handler.command == "HEAD" and length else str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
