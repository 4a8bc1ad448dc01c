"""Invariant 3: a suggestion always lies in the space: bounds, step, condition, type exact, no duplicates while the space has room."""

from __future__ import annotations

import uuid

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asktell.v1 import study_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.algorithms import GridSearch, RandomSearch, SkoptOptimizer, SobolSearch
from asktell_server.domain.objectives import Direction, Objective
from asktell_server.domain.space import CategoricalParameter, IntParameter, SearchSpace, frozen_point
from asktell_server.domain.study import StudySpec
from asktell_server.rpc.convert import read_parameters, spec_to_proto

from ..rpc.calls import Stub, loss
from ..rpc.refusals import read
from ..strategies import spaces

ALGORITHMS = {
    "random": RandomSearch(),
    "sobol": SobolSearch(),
    "grid": GridSearch(points_per_parameter=3),
    "skopt": SkoptOptimizer(initial_points=2),
}
FEW = settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _tuned(service: Stub, space: SearchSpace, algorithm: str, data: st.DataObject, trials: int) -> bool:
    """Asks and tells; checks every suggestion. Returns whether the space was exhausted before so many trials."""
    spec = StudySpec(
        space,
        (Objective("loss", Direction.MINIMIZE),),
        ALGORITHMS[algorithm],
        seed=data.draw(st.integers(0, 2**63 - 1)),
    )
    assert not spec.violations()
    request = pb.CreateStudyRequest(
        parent="projects/valid", study_id=uuid.uuid4().hex, study=study_pb2.Study(spec=spec_to_proto(spec, "valid"))
    )
    study = service.CreateStudy(request).name
    seen = set()
    while len(seen) < trials:
        try:
            answer = service.Ask(pb.AskRequest(parent=study, count=data.draw(st.integers(1, 3))), timeout=60)
        except grpc.RpcError as error:
            assert read(error).reason == "SEARCH_SPACE_EXHAUSTED"
            return True
        for trial in answer.trials:
            point = read_parameters(trial.parameters, [], "")
            normalized, violations = space.checked(point)
            assert not violations
            assert {name: (type(value), value) for name, value in point.items()} == {
                name: (type(value), value) for name, value in normalized.items()
            }
            frozen = frozen_point(point)
            if space.cardinality is None or len(seen) < space.cardinality:
                assert frozen not in seen
            else:
                return True
            seen.add(frozen)
            match data.draw(st.sampled_from(["told", "told", "failed", "running"])):
                case "told":
                    value = data.draw(st.floats(-1e6, 1e6))
                    service.Tell(pb.TellRequest(name=trial.name, measurement=loss(value)))
                case "failed":
                    service.Tell(pb.TellRequest(name=trial.name, failed=pb.TellRequest.Failed()))
    return False


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@FEW
@given(data=st.data())
def test_suggestions_lie_in_the_space(service: Stub, algorithm: str, data: st.DataObject) -> None:
    """Whatever the space and the results, each suggestion is a point of the space, exact in its types, and a new one."""
    _tuned(service, data.draw(spaces(max_parameters=4)), algorithm, data, trials=7)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(FEW, max_examples=150)
@given(data=st.data())
def test_suggestions_lie_in_the_space_at_length(service: Stub, algorithm: str, data: st.DataObject) -> None:
    """The same for many more spaces and longer histories."""
    _tuned(service, data.draw(spaces()), algorithm, data, trials=25)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(FEW, max_examples=2)
@given(data=st.data())
def test_every_point_of_a_small_space_comes_once(service: Stub, algorithm: str, data: st.DataObject) -> None:
    """A small space is given out in full, each point once, before anything else happens."""
    space = SearchSpace((IntParameter("n", 0, 2), CategoricalParameter("c", ("a", "b", True))))

    exhausted = _tuned(service, space, algorithm, data, trials=100)

    assert exhausted


def test_the_extremes_of_a_space(service: Stub) -> None:
    """Ranges at the limits of their types are searched without leaving them, by every algorithm."""
    made = study_pb2.StudySpec(objectives=[study_pb2.Objective(metric="loss", direction=study_pb2.Objective.MINIMIZE)])
    made.parameters.add(name="all").int.min = -(2**63)
    made.parameters[0].int.max = 2**63 - 1
    made.parameters.add(name="log").int.min = 1
    made.parameters[1].int.max = 2**63 - 1
    made.parameters[1].int.log = True
    made.parameters.add(name="wide").float.min = -8e307
    made.parameters[2].float.max = 8e307
    made.parameters.add(name="tiny").float.min = 5e-324
    made.parameters[3].float.max = 1.7e308
    made.parameters[3].float.log = True

    for algorithm in ALGORITHMS:
        made.algorithm.Clear()
        getattr(made.algorithm, algorithm).SetInParent()
        request = pb.CreateStudyRequest(
            parent="projects/extremes", study_id=algorithm, study=study_pb2.Study(spec=made)
        )
        study = service.CreateStudy(request).name
        for i in range(9):
            (trial,) = service.Ask(pb.AskRequest(parent=study), timeout=60).trials
            values = trial.parameters
            assert 1 <= values["log"].int_value < 2**63
            assert abs(values["wide"].float_value) <= 8e307
            assert 5e-324 <= values["tiny"].float_value <= 1.7e308
            service.Tell(pb.TellRequest(name=trial.name, measurement=loss(float(i))))
