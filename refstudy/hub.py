"""Whether the Hugging Face hub answers from here, asked once before anything else would wait for it.

Invariant: nothing is downloaded here, and this module is imported before any library that talks to the hub.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterable

from refstudy import recipes
from refstudy.recipes import Recipe

TIMEOUT_S = 5.0
OFFLINE = "HF_HUB_OFFLINE"


def settle(goals: Iterable[Recipe]) -> None:
    """Sets HF_HUB_OFFLINE for this process if something below `goals` lies on the hub and the hub does not answer.

    The libraries then look into their caches and fail at once; left alone they try for a minute for each model.
    """
    if is_offline() or not any(_is_on_hub(each) for each in recipes.closure(goals)):
        return
    if not _answers(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"):
        os.environ[OFFLINE] = "1"


def is_offline() -> bool:
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


def _is_on_hub(recipe: Recipe) -> bool:
    source = getattr(recipe, "source", None)
    return isinstance(recipe, recipes.Hub) or (isinstance(source, recipes.HubData) and not source.path)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True  # whatever it says, it speaks
    except (OSError, ValueError):
        return False
