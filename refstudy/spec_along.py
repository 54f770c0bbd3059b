"""Entries of a sweep file that watch a training: evaluations along it, alarms, and whom they tell."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from refstudy.errors import SpecError
from refstudy.measures import limits
from refstudy.spec_values import Count, Entry, Natural, Positive, Source


def _limit(value: str) -> str:
    try:
        return str(limits.parse(value))
    except SpecError as error:
        raise ValueError(str(error)) from None


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("expected the name of an environment variable; the address itself is a secret and stands in no file")
    return value


class AlongEntry(Entry):
    """Short evaluations along training, against the start policy's answers to prompts that are not the evaluation's.

    They hold the start policy in memory beside the one that trains, for the KL divergence, and ask the sweep's judge each time.
    """

    every_steps: Natural = 0
    """Optimizer steps from one to the next; 0: a tenth of the run. The last step is always one."""
    prompts: Count | Source = 64
    """How many: of the miniature's evaluation questions that the evaluation leaves over, or of the validation pairs; or a source of
    prompts, from which those of the evaluation are left out."""


class AlarmEntry(Entry):
    """A limit that should not be passed."""

    limit: Annotated[str, AfterValidator(_limit)]
    """MEASURE OPERATOR NUMBER, such as "length_ratio > 2": of the evaluations along training and of the finished cell."""
    stop: bool = False
    """Ends training where an evaluation along it passes the limit; such an alarm stands in the policy's recipe."""


class WebhookEntry(Entry):
    """Where alarms are sent as JSON, {"text": ...}, as Slack's incoming webhooks take it; nowhere unless the variable is set."""

    variable: Annotated[str, AfterValidator(_variable)] = "REFSTUDY_WEBHOOK"
    """The environment variable that holds the address, on every machine that runs trials."""
    timeout_s: Annotated[Positive, Field(le=60)] = 5.0
    """Seconds after which an address that does not answer is given up."""
