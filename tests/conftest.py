"""What tests of several files begin from."""

import pytest

from tests import object_server


@pytest.fixture(scope="module")
def endpoint():
    """The address of an object store's server."""
    with object_server.serving() as address:
        yield address


@pytest.fixture
def bucket_url(endpoint, tmp_path, monkeypatch):
    """A new bucket's address; this process is a machine with a cache of its own."""
    for name, value in object_server.settings(endpoint, tmp_path / "here").items():
        monkeypatch.setenv(name, value)
    return f"s3://{object_server.bucket(endpoint)}"
