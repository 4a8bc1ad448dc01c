"""AskTell: ask a server which parameters to try, tell it what came out.

    import asktell
    from asktell import Categorical, Float, Int

    study = asktell.create_study(
        "digits",
        {"lr": Float(1e-5, 1e-1, log=True), "width": Int(16, 512, log=True), "act": Categorical(["relu", "gelu"])},
        maximize="accuracy",
    )
    study.optimize(objective, n_trials=50, n_workers=4)

    trial = study.ask()                     # or by hand
    trial.report(epoch, accuracy=0.91)
    trial.tell(accuracy=0.93)
    study.best_trial

The server is that of `asktell.connect("host:port")`, else of the environment variable ASKTELL_TARGET, else
localhost:50051; "local:study.db" runs one in this process's care. `asktell.aio` is the same for asyncio. Errors are a
tree, drawn in `asktell.errors`.
"""

from asktell import aio
from asktell._status import CallFailed
from asktell.algorithms import (
    Algorithm,
    Gp,
    GridSearch,
    NormalPrior,
    Prior,
    RandomSearch,
    Skopt,
    SobolSearch,
    TransferSource,
)
from asktell.client import Client, connect, create_study, get_study
from asktell.errors import (
    Aborted,
    AlreadyExists,
    AskTellError,
    Cancelled,
    ConcurrentUpdate,
    DeadlineExceeded,
    EtagMismatch,
    FailedPrecondition,
    FieldViolation,
    ForkedAfterUse,
    InvalidArgument,
    LocalServerError,
    MeasurementConflict,
    NoModel,
    NotFound,
    OutOfRange,
    QuotaExceeded,
    RequestIdReused,
    ResourceExhausted,
    ResultConflict,
    RevisionInFuture,
    SearchSpaceExhausted,
    ServerBusy,
    ServerError,
    StudyAlreadyExists,
    StudyCompleted,
    StudyNotActive,
    StudyNotFound,
    StudySpecMismatch,
    TrialInfeasible,
    TrialLimitReached,
    TrialNotFound,
    TrialNotRunning,
    TrialPruned,
    Unavailable,
    Unimplemented,
)
from asktell.explanation import Calibration, Explanation, Importance, MetricExplanation, Slice
from asktell.names import InvalidName
from asktell.records import (
    FinishedTrial,
    Measurement,
    Prediction,
    Source,
    StopAdvice,
    StopCause,
    StudyRecord,
    StudyState,
    Suggestion,
    TrialCounts,
    TrialRecord,
    TrialState,
)
from asktell.space import Categorical, Condition, Discrete, Float, Int, Parameter, ParameterValue, Space, when
from asktell.spec import Constraint, StudyOptions, StudySpec
from asktell.study import Study, StudyChange, Trial
from asktell.transport import AsyncTransport, Transport

__all__ = [
    "Aborted",
    "Algorithm",
    "AlreadyExists",
    "AskTellError",
    "AsyncTransport",
    "Calibration",
    "CallFailed",
    "Cancelled",
    "Categorical",
    "Client",
    "ConcurrentUpdate",
    "Condition",
    "Constraint",
    "DeadlineExceeded",
    "Discrete",
    "EtagMismatch",
    "Explanation",
    "FailedPrecondition",
    "FieldViolation",
    "FinishedTrial",
    "Float",
    "ForkedAfterUse",
    "Gp",
    "GridSearch",
    "Importance",
    "Int",
    "InvalidArgument",
    "InvalidName",
    "LocalServerError",
    "Measurement",
    "MeasurementConflict",
    "MetricExplanation",
    "NoModel",
    "NormalPrior",
    "NotFound",
    "OutOfRange",
    "Parameter",
    "ParameterValue",
    "Prediction",
    "Prior",
    "QuotaExceeded",
    "RandomSearch",
    "RequestIdReused",
    "ResourceExhausted",
    "ResultConflict",
    "RevisionInFuture",
    "SearchSpaceExhausted",
    "ServerBusy",
    "ServerError",
    "Skopt",
    "Slice",
    "SobolSearch",
    "Source",
    "Space",
    "StopAdvice",
    "StopCause",
    "Study",
    "StudyAlreadyExists",
    "StudyChange",
    "StudyCompleted",
    "StudyNotActive",
    "StudyNotFound",
    "StudyOptions",
    "StudyRecord",
    "StudySpec",
    "StudySpecMismatch",
    "StudyState",
    "Suggestion",
    "TransferSource",
    "Transport",
    "Trial",
    "TrialCounts",
    "TrialInfeasible",
    "TrialLimitReached",
    "TrialNotFound",
    "TrialNotRunning",
    "TrialPruned",
    "TrialRecord",
    "TrialState",
    "Unavailable",
    "Unimplemented",
    "aio",
    "connect",
    "create_study",
    "get_study",
    "when",
]
