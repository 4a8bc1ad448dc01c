"""AskTell itself: a real server on a SQLite file, spoken to over gRPC. The server lives as long as this child; each study is new.

The setting `algorithm` names the algorithm. Memory is that of the server and its compute processes. What is kept
besides: where suggestions came from, and, where the server can explain the study, how well its model predicts.
"""

from __future__ import annotations

import collections
import itertools
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, study_service_pb2_grpc, trial_pb2

from ...service import asktell_server
from .. import space as spaces
from ..memory import descendants
from ..protocol import Peer, StudyBrief, serve, version
from ..space import Parameter, Point, Value

ASK_LIMIT_S = 600.0


def parameter_value(value: Value) -> search_space_pb2.ParameterValue:
    """A value as the contract has it."""
    if isinstance(value, bool):
        return search_space_pb2.ParameterValue(bool_value=value)
    if isinstance(value, int):
        return search_space_pb2.ParameterValue(int_value=value)
    if isinstance(value, float):
        return search_space_pb2.ParameterValue(float_value=value)
    return search_space_pb2.ParameterValue(string_value=value)


def parameter(p: Parameter) -> search_space_pb2.Parameter:
    """A dimension as the contract has it."""
    made = search_space_pb2.Parameter(name=p.name)
    if p.kind == "float":
        made.float.MergeFrom(search_space_pb2.FloatParameter(min=p.low, max=p.high, log=p.log))
    elif p.kind == "int":
        made.int.MergeFrom(search_space_pb2.IntParameter(min=int(p.low), max=int(p.high), log=p.log))
    elif p.kind == "ordinal":
        made.discrete.MergeFrom(search_space_pb2.DiscreteParameter(values=[float(c) for c in p.choices], log=p.log))
    else:
        made.categorical.choices.extend(parameter_value(c) for c in p.choices)
    if p.condition is not None:
        made.condition.parent = p.condition.parent
        made.condition.values.extend(parameter_value(v) for v in p.condition.values)
    return made


def study_spec(brief: StudyBrief) -> study_pb2.StudySpec:
    """The study as the contract has it."""
    minimize = study_pb2.Objective.MINIMIZE
    spec = study_pb2.StudySpec(
        parameters=[parameter(p) for p in brief.space],
        objectives=[study_pb2.Objective(metric=name, direction=minimize) for name in brief.objectives],
        outcome_constraints=[study_pb2.OutcomeConstraint(metric=name, max=0.0) for name in brief.constraints],
        seed=brief.seed,
    )
    getattr(spec.algorithm, brief.settings["algorithm"]).SetInParent()
    return spec


class _Server:
    """The one server of this child, started with its first study."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.pids: list[int] = []
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="asktell-bench-")))
        flags = os.environ.get("ASKTELL_BENCH_SERVER_FLAGS", "").split()
        address = self._stack.enter_context(asktell_server(folder, "--log-level", "warning", *flags))
        channel = self._stack.enter_context(grpc.insecure_channel(address.grpc))
        self.stub: study_service_pb2_grpc.StudyServiceStub = study_service_pb2_grpc.StudyServiceStub(channel)
        self.numbers = itertools.count()

    def close(self) -> None:
        """Stops it."""
        self._stack.close()


_server: _Server | None = None


def _running() -> _Server:
    global _server
    if _server is None:
        _server = _Server()
    return _server


class AskTell(Peer):
    """One study of the server."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        server = _running()
        self._stub = server.stub
        self._names: dict[int, str] = {}
        self._sources: collections.Counter[str] = collections.Counter()
        self._fallbacks: list[str] = []
        study = study_pb2.Study(spec=study_spec(brief))
        self._study = self._stub.CreateStudy(
            study_service_pb2.CreateStudyRequest(
                parent="projects/bench", study_id=f"study-{next(server.numbers)}", study=study
            )
        ).name

    def ask(self, number: int) -> Point:
        """A trial of the study."""
        request = study_service_pb2.AskRequest(parent=self._study)
        trial = self._stub.Ask(request, timeout=ASK_LIMIT_S).trials[0]
        self._names[number] = trial.name
        self._sources[trial_pb2.Suggestion.Source.Name(trial.suggestion.source)] += 1
        if trial.suggestion.source == trial_pb2.Suggestion.FALLBACK:
            self._fallbacks.append(f"{number}: {trial.suggestion.detail}")
        point: Point = {}
        for name, value in trial.parameters.items():
            kind = value.WhichOneof("kind")
            assert kind is not None
            point[name] = getattr(value, kind)
        return point

    def _measurement(self, values: list[float], slack: list[float]) -> trial_pb2.Measurement:
        metrics = dict(zip(self.brief.objectives, values, strict=True))
        metrics |= dict(zip(self.brief.constraints, slack, strict=True))
        return trial_pb2.Measurement(metrics=metrics)

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Tells the trial."""
        self._stub.Tell(
            study_service_pb2.TellRequest(name=self._names.pop(number), measurement=self._measurement(values, slack))
        )

    def add(self, point: Point, values: list[float], slack: list[float]) -> None:
        """Imports a finished trial."""
        held = spaces.active(self.brief.space, point)
        trial = trial_pb2.Trial(
            parameters={name: parameter_value(value) for name, value in held.items()},
            state=trial_pb2.Trial.SUCCEEDED,
            measurement=self._measurement(values, slack),
        )
        self._stub.CreateTrials(study_service_pb2.CreateTrialsRequest(parent=self._study, trials=[trial]))

    def processes(self) -> list[int]:
        """The server and its compute processes; not this adapter."""
        return [pid for pid in descendants(os.getpid()) if pid != os.getpid()]

    def extra(self) -> dict[str, Any]:
        """Origins of suggestions, and calibration by metric where the server can explain the study."""
        found: dict[str, Any] = {"sources": dict(self._sources), "fallbacks": self._fallbacks[:5]}
        try:
            explained = self._stub.ExplainStudy(
                study_service_pb2.ExplainStudyRequest(name=self._study, points=2), timeout=ASK_LIMIT_S
            )
        except grpc.RpcError as error:
            found["explain"] = f"{error.code().name}: {error.details()}"
            return found
        found["calibration"] = {
            metric.metric: {
                "observations": metric.calibration.observations,
                "coverage_90": metric.calibration.coverage_90,
                "log_density": metric.calibration.log_density,
                "r_squared": metric.calibration.r_squared,
                "deviation_factor": metric.calibration.deviation_factor,
                "raw_coverage_90": metric.calibration.raw_coverage_90,
            }
            for metric in explained.metrics
        }
        return found

    def close(self) -> None:
        """Deletes the study, so that the server's caches are free for the next."""
        self._stub.DeleteStudy(study_service_pb2.DeleteStudyRequest(name=self._study))

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Ours and those of what we compute with."""
        return version("asktell", "torch", "scikit-optimize", "numpy", "scipy")


if __name__ == "__main__":
    try:
        serve(AskTell)
    finally:
        if _server is not None:
            _server.close()
