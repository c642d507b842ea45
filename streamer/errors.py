"""Every error of the engine, grouped by what the engine does about it.

Reject    one record cannot be answered: it becomes a dead letter with a reason, the next record is served
Wait      a dependency does not answer now: nothing is lost, the engine tries again
  Aborted   the transaction was rolled back cleanly: the same outcomes are written again
    Refused the same, and the broker refuses again until a person grants a right or makes a topic
  Unclear   nobody knows whether the transaction happened: a new producer asks the broker, then decides
Exit      the process cannot go on: it says why and what to do, and ends with the code of its class
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record became a dead letter; the value of the metric label and of `streamer replay --where`."""

    TOMBSTONE = "tombstone"
    NO_KEY = "no-key"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    TOO_MANY_KEYS = "too-many-keys"
    NOT_JSON = "not-json"
    INVALID = "invalid"
    NOT_DECRYPTED = "not-decrypted"
    MODEL_ERROR = "model-error"
    NOT_FINITE = "not-finite"
    WRONG_SHAPE = "wrong-shape"
    OUT_OF_MEMORY = "out-of-memory"
    ANSWER_TOO_LARGE = "answer-too-large"
    CRASH = "crash"


class StreamerError(Exception):
    """The root of every error that this package raises on purpose."""


class Reject(StreamerError):
    """One record cannot be answered."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Wait(StreamerError):
    """A dependency does not answer now; the same call may go through later."""


class Aborted(Wait):
    """The transaction was rolled back cleanly; nothing of it is visible."""


class Refused(Aborted):
    """The broker refuses a message for a reason that time alone does not cure: a missing topic or right."""


class Unclear(Wait):
    """The transaction may or may not have happened; `Source.committed()` decides after `Sink.recover()`."""


class Exit(StreamerError):
    """The process cannot go on. `code` is its exit status, after sysexits.h."""

    code = 1


class Usage(Exit):
    """The command line names something that is not there."""

    code = 2


class BadData(Exit):
    """Input is so broken that going on would do harm."""

    code = 65


class Unreachable(Exit):
    """A broker, a cache or a topic is not there."""

    code = 69


class Internal(Exit):
    """An invariant does not hold: a bug of streamer."""

    code = 70


class Temporary(Exit):
    """Start the process again: it will go on where it stopped."""

    code = 75


class DeviceFailed(Temporary):
    """The model or its device failed under a batch, so one of its records may be why."""


class BadConfig(Exit):
    """A setting, a model or a worker file is wrong."""

    code = 78
