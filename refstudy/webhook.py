"""Messages to a webhook: JSON {"text": ...} in a POST, as Slack's incoming webhooks take it.

Invariant: a message fails nothing and holds nothing up; what goes wrong is one warning line. The address is a secret: it comes from
an environment variable and stands in no line, record or file.
"""

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any

log = logging.getLogger(__name__)


class Webhook:
    """Sends messages from threads of their own; without an address it sends none."""

    def __init__(self, variable: str, timeout_s: float) -> None:
        """`variable`: the environment variable that holds the address; `timeout_s`: for each message."""
        self._variable, self._timeout_s = variable, timeout_s
        self._threads: list[tuple[threading.Thread, float]] = []

    def send(self, text: str) -> None:
        """Begins to send the text; &, < and > are escaped, which mean something to Slack."""
        url = os.environ.get(self._variable, "").strip()
        if url:
            thread = threading.Thread(target=self._post, args=(url, json.dumps({"text": escaped(text)}).encode()), daemon=True)
            thread.start()
            self._threads.append((thread, time.monotonic() + self._timeout_s))

    def finish(self) -> None:
        """Waits for messages under way, each until its time is up."""
        for thread, end in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                self._warn(f"gave no answer within {self._timeout_s:g} s")
        self._threads.clear()

    def _post(self, url: str, body: bytes) -> None:
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            if request.type not in ("http", "https"):
                raise ValueError
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self._timeout_s):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            self._warn(f"answered {error.code}")
        except TimeoutError:
            self._warn(f"gave no answer within {self._timeout_s:g} s")
        except ValueError:  # whose own words would show the address
            self._warn("is no http or https address")
        except Exception as error:  # sockets, TLS and HTTP have exceptions of their own
            self._warn(f"cannot be reached ({type(error).__name__})")

    def _warn(self, what: str) -> None:
        log.warning("the webhook in %s %s; the alarm stands in the record all the same", self._variable, what)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message goes to the address that was given, not to another that this one names."""

    def redirect_request(self, *_: Any) -> None:
        return None


def escaped(text: str) -> str:
    """The text with the three characters escaped that Slack's form gives a meaning."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
