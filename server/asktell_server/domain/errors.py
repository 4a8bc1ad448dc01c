"""Everything that can go wrong for a caller, as one tree.

    AskTellError
    ├── InvalidArgument            the request is wrong in itself: all violations at once
    │   └── RequestIdReused        the same request_id with another body
    ├── NotFound
    │   ├── StudyNotFound
    │   └── TrialNotFound
    ├── AlreadyExists
    │   ├── StudyAlreadyExists
    │   └── StudySpecMismatch      use-existing, but the specs differ
    ├── PreconditionFailed         the state does not allow it
    │   ├── StudyNotActive
    │   ├── StudyCompleted
    │   ├── TrialLimitReached
    │   ├── SearchSpaceExhausted
    │   ├── TrialNotRunning
    │   ├── ResultConflict         told before, differently
    │   ├── MeasurementConflict    reported before, differently
    │   └── NoModel                nothing has been learned that could be explained
    ├── Aborted
    │   ├── EtagMismatch
    │   └── ConcurrentUpdate       lost a race even after internal retries
    ├── Unauthenticated            no token, or one that is good for nothing
    │   └── TokenExpired
    ├── PermissionDenied           the role in the project does not allow it, or there is no such project for the caller
    ├── ServerBusy                 carries how long to wait
    ├── QuotaExceeded              names the limit, its value and the setting
    ├── FeatureNotImplemented      names what was asked for
    ├── Unavailable
    │   ├── Draining
    │   ├── StorageUnavailable
    │   ├── IdentityProviderUnavailable
    │   └── ComputeUnavailable     a compute process was lost while it worked on the call
    └── RevisionInFuture

Each leaf has a `reason` that programs may rely on, `metadata` (strings) and a message that says what to change.
Nothing has changed when one of these is raised. `rpc/status.py` maps them to wire status, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Whoever has found more than so many violations need not look for all: nobody reads them.
MOST_VIOLATIONS = 1000


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request: the path of the field, and what it should be instead."""

    field: str
    description: str

    def under(self, prefix: str) -> Violation:
        """The same violation of a field that lies below `prefix`."""
        if not self.field:
            return Violation(prefix, self.description)
        return Violation(f"{prefix}.{self.field}" if prefix else self.field, self.description)


class AskTellError(Exception):
    """Root of the tree."""

    reason = "INTERNAL"

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidArgument(AskTellError):
    """The request is wrong in itself. `violations` is never empty; if it is longer than MOST_VIOLATIONS there may be more."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations: Sequence[Violation] = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class RequestIdReused(InvalidArgument):
    """A request_id that was used before, with another body."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            [Violation("request_id", "was used before with another body; give each logical call an id of its own")]
        )
        self.metadata = {"request_id": request_id}


class NotFound(AskTellError):
    """There is no such resource."""

    kind = ""

    def __init__(self, name: str) -> None:
        super().__init__(f"{self.kind} {name!r} does not exist", {"name": name})
        self.name = name


class StudyNotFound(NotFound):
    """There is no such study."""

    reason = "STUDY_NOT_FOUND"
    kind = "study"


class TrialNotFound(NotFound):
    """There is no such trial in the study."""

    reason = "TRIAL_NOT_FOUND"
    kind = "trial"


class AlreadyExists(AskTellError):
    """The name is taken."""


class StudyAlreadyExists(AlreadyExists):
    """The study's name is taken and the caller did not ask to use the existing one."""

    reason = "STUDY_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"study {name!r} exists; choose another id or conflict_policy USE_EXISTING", {"name": name})


class StudySpecMismatch(AlreadyExists):
    """The study exists with another spec. `metadata["fields"]` names what differs."""

    reason = "STUDY_SPEC_MISMATCH"

    def __init__(self, name: str, fields: Sequence[str]) -> None:
        listed = ", ".join(fields)
        super().__init__(
            f"study {name!r} exists with another spec (differs in: {listed}); choose another id",
            {"name": name, "fields": listed},
        )


class PreconditionFailed(AskTellError):
    """The state of the study or trial does not allow it."""

    def __init__(self, subject: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata)
        self.subject = subject


class StudyNotActive(PreconditionFailed):
    """The study was stopped."""

    reason = "STUDY_NOT_ACTIVE"


class StudyCompleted(PreconditionFailed):
    """A stopping criterion of the study was met."""

    reason = "STUDY_COMPLETED"


class TrialLimitReached(PreconditionFailed):
    """All trials that the study may have are given out; some have not ended."""

    reason = "TRIAL_LIMIT_REACHED"


class SearchSpaceExhausted(PreconditionFailed):
    """Every point of a finite search space is taken."""

    reason = "SEARCH_SPACE_EXHAUSTED"


class TrialNotRunning(PreconditionFailed):
    """The trial is in another state than the call needs."""

    reason = "TRIAL_NOT_RUNNING"


class ResultConflict(PreconditionFailed):
    """The trial ended before, with another result."""

    reason = "RESULT_CONFLICT"


class MeasurementConflict(PreconditionFailed):
    """The step was reported before, with another measurement."""

    reason = "MEASUREMENT_CONFLICT"


class NoModel(PreconditionFailed):
    """The study's algorithm has no model, or too few results for one."""

    reason = "NO_MODEL"


class Aborted(AskTellError):
    """Somebody else was faster: read again, then repeat."""


class EtagMismatch(Aborted):
    """The resource changed since the etag was read."""

    reason = "ETAG_MISMATCH"


class ConcurrentUpdate(Aborted):
    """The transaction lost a race, also after internal retries."""

    reason = "CONCURRENT_UPDATE"


class Unauthenticated(AskTellError):
    """Nobody knows who calls."""

    reason = "UNAUTHENTICATED"


class TokenExpired(Unauthenticated):
    """The token was good once."""

    reason = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("the token has expired; get a new one")


class PermissionDenied(AskTellError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class ServerBusy(AskTellError):
    """Too much at once; `retry_delay_s` seconds later it may go through."""

    reason = "SERVER_BUSY"

    def __init__(self, message: str, retry_delay_s: float, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata)
        self.retry_delay_s = retry_delay_s


class QuotaExceeded(AskTellError):
    """Something may not grow beyond a limit of this server. Waiting does not help; the operator may raise `setting`."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, message: str, *, limit: str, value: int, setting: str) -> None:
        super().__init__(f"{message}; the server's operator can raise {setting}")
        self.metadata = {"limit": limit, "value": str(value), "setting": setting}


class FeatureNotImplemented(AskTellError):
    """The study asks for something that this server cannot do. `violations` names each field."""

    reason = "FEATURE_NOT_IMPLEMENTED"

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations: Sequence[Violation] = tuple(violations)
        super().__init__(
            "; ".join(f"{v.field}: {v.description}" for v in self.violations),
            {"features": ", ".join(v.field for v in self.violations)},
        )


class Unavailable(AskTellError):
    """Not now; the same call may be sent again at once."""


class Draining(Unavailable):
    """The server is stopping."""

    reason = "DRAINING"


class StorageUnavailable(Unavailable):
    """The database cannot be reached or cannot be written. `public`: what callers are told, if the message is for operators only."""

    reason = "STORAGE_UNAVAILABLE"

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        self.public = message if public is None else public


class IdentityProviderUnavailable(Unavailable):
    """The keys that a token could be signed with cannot be fetched."""

    reason = "IDENTITY_PROVIDER_UNAVAILABLE"


class ComputeUnavailable(Unavailable):
    """A compute process was lost while it worked on the call."""

    reason = "COMPUTE_UNAVAILABLE"


class RevisionInFuture(AskTellError):
    """A watch was asked to begin after a revision that the study has not reached."""

    reason = "REVISION_IN_FUTURE"
