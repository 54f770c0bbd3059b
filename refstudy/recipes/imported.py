"""Recipes of what was made elsewhere and came in as a file: answers to a sweep's prompts.

Invariant: a file stands here by its content; whose answers they are is a name for people and stands in records.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from refstudy.recipes.values import File

if TYPE_CHECKING:
    from refstudy.recipes import AnyPrompts, Model


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Answers from a file, joined to prompts by id or by the prompt's text."""

    RESULT_VERSION: ClassVar[int] = 1
    source: File
    prompts: "AnyPrompts"
    tokens_of: "Model"
    """Whose tokens lengths and repetition are counted in: the policy that the answers stand beside."""
