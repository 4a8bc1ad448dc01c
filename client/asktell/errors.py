"""Everything that can go wrong for a caller, as one tree.

    AskTellError
    ├── InvalidArgument            the request is wrong in itself: `violations` lists all that is wrong at once
    │   ├── RequestIdReused        the same request_id with another body
    │   └── NotFinite              a measurement that holds NaN or infinity; nothing was sent
    ├── NotFound
    │   ├── StudyNotFound
    │   └── TrialNotFound
    ├── AlreadyExists
    │   ├── StudyAlreadyExists     the name is taken, and if_exists="fail"
    │   └── StudySpecMismatch      the name is taken by a study with another spec: `fields` says what differs
    ├── FailedPrecondition         the state does not allow it; nothing changed
    │   ├── StudyNotActive
    │   ├── StudyCompleted
    │   ├── TrialLimitReached
    │   ├── SearchSpaceExhausted
    │   ├── TrialNotRunning
    │   ├── ResultConflict         told before, differently
    │   ├── MeasurementConflict    reported before, differently
    │   └── NoModel                the algorithm has no model to explain, or too few results for one
    ├── Aborted                    read again, then repeat
    │   ├── EtagMismatch
    │   └── ConcurrentUpdate
    ├── ResourceExhausted          too large a message, say
    │   ├── ServerBusy             repeat after `retry_delay`
    │   └── QuotaExceeded          a study, project or server may hold no more: `metadata` has the limit and its setting
    ├── OutOfRange
    │   └── RevisionInFuture
    ├── Unauthenticated            no token, or one that the server does not accept
    │   └── TokenExpired
    ├── PermissionDenied           the token does not allow it; the same whether the resource exists or not
    ├── Unimplemented              the study asks for something that this server cannot do: `violations` names it
    ├── Unavailable                the server could not be reached for as long as the deadline budget lasted
    │   └── TlsFailed              client and server do not agree on TLS, or do not trust each other; not tried again
    ├── DeadlineExceeded           the server did not answer within the deadline budget
    ├── Cancelled                  the client was closed while the call ran
    ├── ServerError                a bug or a misconfiguration on the other side; `metadata["log_id"]` finds it in its log
    ├── CredentialsError           files or a token that cannot be used, or must not be as things are: nothing was sent
    ├── LocalServerError           the server of a "local:" target could not be started, or has ended
    └── ForkedAfterUse             the process was forked from one that had used gRPC, which does not survive that

Each carries the canonical gRPC `code`, the server's `reason` (capitals, for programs to rely on) and `metadata`.
What wraps a call has been retried already: catching Unavailable and trying again adds nothing but a longer budget.

Not errors but words that an objective can say to `Study.optimize`: TrialPruned and TrialInfeasible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, such as `study.spec.parameters[2].float.max`."""
    description: str
    """What it should be instead."""

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


class AskTellError(Exception):
    """Root of the tree. `str()` gives the message and, line by line, every violation."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_delay: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        """Canonical gRPC code, such as `INVALID_ARGUMENT`."""
        self.reason = reason
        """The server's reason, such as `STUDY_NOT_FOUND`; empty when the server was not reached."""
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.retry_delay = retry_delay
        """How long the server asked to wait before a repeat, if it did."""

    def __str__(self) -> str:
        untold = [str(violation) for violation in self.violations if str(violation) not in self.message]
        return "\n  ".join([self.message, *untold])


class InvalidArgument(AskTellError):
    """The request is wrong in itself: `violations` lists all that is wrong at once."""


class RequestIdReused(InvalidArgument):
    """A request_id that was used before, with another body."""


class NotFinite(InvalidArgument):
    """A measurement that holds NaN or infinity: nothing was sent. An `optimize` ends the trial as FAILED and goes on."""


class NotFound(AskTellError):
    """There is no such resource."""


class StudyNotFound(NotFound):
    """There is no such study."""


class TrialNotFound(NotFound):
    """There is no such trial in the study."""


class AlreadyExists(AskTellError):
    """The name is taken."""


class StudyAlreadyExists(AlreadyExists):
    """The study's name is taken, and the caller did not ask to use the existing one."""


class StudySpecMismatch(AlreadyExists):
    """The study's name is taken by a study with another spec."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Paths of the spec's fields that differ."""
        return tuple(field.strip() for field in self.metadata.get("fields", "").split(",") if field.strip())


class FailedPrecondition(AskTellError):
    """The state of the study or trial does not allow it; nothing changed."""


class StudyNotActive(FailedPrecondition):
    """The study was stopped."""


class StudyCompleted(FailedPrecondition):
    """A stopping criterion of the study was met."""


class TrialLimitReached(FailedPrecondition):
    """All trials that the study may have are given out; some may not have ended."""


class SearchSpaceExhausted(FailedPrecondition):
    """Every point of a finite search space is taken."""


class TrialNotRunning(FailedPrecondition):
    """The trial is in another state than the call needs."""


class ResultConflict(FailedPrecondition):
    """The trial ended before, with another result."""


class MeasurementConflict(FailedPrecondition):
    """The step was reported before, with another measurement."""


class NoModel(FailedPrecondition):
    """The study's algorithm has no model to explain, or too few results for one."""


class Aborted(AskTellError):
    """Somebody else was faster: read again, then repeat."""


class EtagMismatch(Aborted):
    """The resource changed since the etag was read."""


class ConcurrentUpdate(Aborted):
    """The server's transaction lost a race, also after retries."""


class ResourceExhausted(AskTellError):
    """Some limit was reached, such as the size of a message (16 MiB)."""


class ServerBusy(ResourceExhausted):
    """The server has too much to do at once; `retry_delay` later the call may go through."""


class QuotaExceeded(ResourceExhausted):
    """A limit of the server on what a study, a project or itself may hold; `metadata["setting"]` is the flag that sets it."""


class OutOfRange(AskTellError):
    """A position that does not exist (yet)."""


class RevisionInFuture(OutOfRange):
    """A watch was asked to begin after a revision that the study has not reached."""


class Unauthenticated(AskTellError):
    """The server wants a token, or does not accept the one that was sent."""


class TokenExpired(Unauthenticated):
    """The token was good once."""


class PermissionDenied(AskTellError):
    """The token does not allow it. That is all that is said, whether the resource exists or not."""


class Unimplemented(AskTellError):
    """The study asks for something that this server cannot do; `violations` names each field."""


class Unavailable(AskTellError):
    """The server could not be reached, or was not ready, for as long as the deadline budget lasted."""


class TlsFailed(Unavailable):
    """Client and server do not agree on TLS, or do not trust each other's certificate: trying again would not help."""


class DeadlineExceeded(AskTellError):
    """The server did not answer within the deadline budget."""


class Cancelled(AskTellError):
    """The client was closed while the call ran."""


class ServerError(AskTellError):
    """A bug or a misconfiguration on the other side."""


class CredentialsError(AskTellError):
    """Files of TLS or a token that cannot be used, or a token that would go out unencrypted. Nothing was sent."""


class LocalServerError(AskTellError):
    """The server of a "local:" target could not be started; the message says why."""


class ForkedAfterUse(AskTellError):
    """The process was forked from one that had used gRPC, which does not survive that: spawn workers instead."""


class TrialPruned(Exception):
    """Raise it in an objective to end its trial as PRUNED. Its text becomes the reason."""


class TrialInfeasible(Exception):
    """Raise it in an objective to end its trial as INFEASIBLE: these parameters cannot be evaluated."""


_BY_REASON: dict[str, type[AskTellError]] = {
    "REQUEST_ID_REUSED": RequestIdReused,
    "STUDY_NOT_FOUND": StudyNotFound,
    "TRIAL_NOT_FOUND": TrialNotFound,
    "STUDY_ALREADY_EXISTS": StudyAlreadyExists,
    "STUDY_SPEC_MISMATCH": StudySpecMismatch,
    "STUDY_NOT_ACTIVE": StudyNotActive,
    "STUDY_COMPLETED": StudyCompleted,
    "TRIAL_LIMIT_REACHED": TrialLimitReached,
    "SEARCH_SPACE_EXHAUSTED": SearchSpaceExhausted,
    "TRIAL_NOT_RUNNING": TrialNotRunning,
    "RESULT_CONFLICT": ResultConflict,
    "MEASUREMENT_CONFLICT": MeasurementConflict,
    "NO_MODEL": NoModel,
    "ETAG_MISMATCH": EtagMismatch,
    "CONCURRENT_UPDATE": ConcurrentUpdate,
    "SERVER_BUSY": ServerBusy,
    "QUOTA_EXCEEDED": QuotaExceeded,
    "REVISION_IN_FUTURE": RevisionInFuture,
    "TOKEN_EXPIRED": TokenExpired,
}

_BY_CODE: dict[str, type[AskTellError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Aborted,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "OUT_OF_RANGE": OutOfRange,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "UNIMPLEMENTED": Unimplemented,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
}


def error_class(code: str, reason: str) -> type[AskTellError]:
    """The leaf for a reason, else the branch for a canonical code, else ServerError."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ServerError)
