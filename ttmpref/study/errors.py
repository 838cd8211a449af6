"""What a study's server refuses, each with the HTTP status and the code that clients act on.

Messages are one line, name what was wrong and what is accepted, and never say which system, pair
or file stands behind a trial.
"""

from __future__ import annotations

from ttmpref.types import TtmprefError


class StudyError(TtmprefError):
    """Something about a study that was refused.

    Attributes:
        status: HTTP status of the refusal.
        code: a word for programs; stable, unlike the message.
    """

    status = 400
    code = "refused"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class BuildError(StudyError):
    """Clips cannot become stimuli, or a build does not belong to its definition."""

    code = "build"


class Unauthorised(StudyError):
    """No session token, or one that nobody holds."""

    status = 401
    code = "unauthorised"


class Forbidden(StudyError):
    """A known person asks for what is not theirs."""

    status = 403
    code = "forbidden"


class NotFound(StudyError):
    """No such study, trial, stimulus or export."""

    status = 404
    code = "not_found"


class Conflict(StudyError):
    """It cannot happen in the present state: answered twice, not presented, already taken part."""

    status = 409
    code = "conflict"


class Gone(StudyError):
    """It could have happened earlier: the lease, the study or the participation has ended."""

    status = 410
    code = "gone"


class TooLarge(StudyError):
    """The body of a request is longer than any honest one."""

    status = 413
    code = "too_large"


class Unprocessable(StudyError):
    """The request is well formed, but what it says is not enough or not possible."""

    status = 422
    code = "unprocessable"


class TooMany(StudyError):
    """A rate limit is reached.

    Attributes:
        retry_after: seconds until the limit is fresh.
    """

    status = 429
    code = "too_many"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(StudyError):
    """The database cannot take the request now: disk full, read-only, locked, gone."""

    status = 503
    code = "unavailable"
