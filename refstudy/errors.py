"""One exception tree: whatever a user can cause ends in one of these, with one message that says what, got, expected, do.

Every error takes exactly one string, so that it survives pickling between processes.
"""


class RefstudyError(Exception):
    """A failure that a user can understand and mend; the command line prints it without a traceback and exits 2."""


class SpecError(RefstudyError):
    """The sweep file, or an override of it, is wrong; the message lists every fault with its YAML path."""


class IdentityError(RefstudyError):
    """A value stands in a recipe that cannot name a result (its type has no canonical JSON)."""


class StoreError(RefstudyError):
    """The store cannot be read or written: a full disk, an unwritable folder, a damaged artefact."""


class StoreAway(StoreError):
    """An object store gave no answer, or none that can be used, for longer than it is waited for."""


class DataError(RefstudyError):
    """A data file is empty or malformed; the message names file and line."""


class LengthError(DataError):
    """A prompt leaves no room for an answer within the tokens that training allows."""


class ModelError(RefstudyError):
    """A checkpoint cannot serve: no tokenizer, no chat template, a template that rewrites the answer."""


class RequestError(ModelError):
    """A server refuses one request for what stands in it, such as a text that is too long for its context."""


class ServerAway(ModelError):
    """A server gave no answer, or none that can be used, for longer than its entry's retries."""


class TableError(RefstudyError):
    """A reference table is incomplete or does not describe the text that the policy trains on."""


class TrainingError(RefstudyError):
    """Training cannot go on, for example because the loss is not a number."""


class JudgeError(RefstudyError):
    """A judge cannot give verdicts on these completions."""


class JudgeAway(JudgeError):
    """A judge's server gave no answer, or none that can be used, for longer than its entry's retries."""


PASSING = tuple(each.__name__ for each in (StoreAway, ServerAway, JudgeAway))
"""Failures by something that may be back later: a cell that ended in one of them is run again by the same command."""
