"""ExplainStudy over real gRPC: what a study's model has learned, and when there is none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from asktell.v1 import search_space_pb2, study_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.explanation import (
    MAX_IMPORTANCES,
    Calibration,
    ExplainRequest,
    Explanation,
    Importance,
    MetricExplanation,
    Slice,
    metrics_of,
)
from asktell_server.domain.objectives import MAX_CONSTRAINTS, MAX_OBJECTIVES, Direction, Objective, OutcomeConstraint
from asktell_server.domain.space import IntParameter, SearchSpace
from asktell_server.domain.study import StudySpec
from asktell_server.rpc.convert import explanation_to_proto

from ..support import ServerProcess, serving, spec, stub
from .calls import Stub, ask_one, enqueue, finished, new_study, number, study_of, tell
from .refusals import nothing_changes, refused

Value = search_space_pb2.ParameterValue
PATIENCE_S = 120.0


def explain(service: Stub, study: str, timeout_s: float = PATIENCE_S, **fields: object) -> pb.ExplainStudyResponse:
    """The call."""
    return service.ExplainStudy(pb.ExplainStudyRequest(name=study, **fields), timeout=timeout_s)  # type: ignore[arg-type]


def learned(service: Stub, study_id: str, results: int = 20, **more: float) -> str:
    """A study of loss = (x0 - 0.25)^2, in which x1 is idle, with so many results."""
    study = new_study(service, study_id, spec("gp"))
    grid = [(i / results, (7 * i % results) / results) for i in range(results)]
    enqueue(service, study, [finished((x0 - 0.25) ** 2, x0=x0, x1=x1) for x0, x1 in grid])
    return study


@pytest.mark.parametrize(
    ("metrics", "pairs"), [(1, 10), (1, 0), (10, 0), (MAX_OBJECTIVES + MAX_CONSTRAINTS, 0), (32, 10)]
)
def test_an_answer_that_is_allowed_fits_a_message(metrics: int, pairs: int) -> None:
    """Clients of most languages take 4 MiB: the longest names and values, and as many slices and points as are not refused."""
    space = SearchSpace(tuple(IntParameter(f"x{i:0127}", -(2**62), 2**62) for i in range(1000)))
    objectives = tuple(Objective(f"m{i:0127}", Direction.MINIMIZE) for i in range(min(metrics, MAX_OBJECTIVES)))
    constraints = tuple(OutcomeConstraint(f"c{i:0127}", max=0.0) for i in range(metrics - len(objectives)))
    spec = StudySpec(space, objectives, constraints=constraints)
    names = [parameter.name for parameter in space.parameters]

    def request(points: int) -> ExplainRequest:
        return ExplainRequest(tuple(names[:100]), tuple((names[i], names[i + 1]) for i in range(pairs)), points)

    points = max(p for p in range(2, 50 if pairs else 100) if not request(p).violations(spec))
    axis = tuple(range(-points, 0))
    slices = [Slice((name,), axis, (), (0.5,) * points, (0.5,) * points) for name in names[:100]]
    slices += [Slice(pair, axis, axis, (0.5,) * points**2, (0.5,) * points**2) for pair in request(points).pairs]
    importances = tuple(Importance(name, 0.5, 0.25, 0.75) for name in names[: MAX_IMPORTANCES // metrics])
    learned = tuple(
        MetricExplanation(metric, Calibration(10**6, 0.9, -1.42, 0.5, 1.5, 0.8), importances, tuple(slices))
        for metric in metrics_of(spec)
    )

    message = explanation_to_proto(2**62, Explanation(2**62, learned))

    assert message.ByteSize() < 4 * 2**20
    assert message.metrics[0].calibration.deviation_factor == 1.5
    assert message.metrics[0].calibration.raw_coverage_90 == 0.8
    assert points in (49, 99) or message.ByteSize() > 3 * 2**20


def test_what_a_model_has_learned(service: Stub) -> None:
    """Which parameter matters, how well the model predicts, and slices through the best trial."""
    study = learned(service, "explained")

    response = explain(service, study)

    assert response.revision == study_of(service, study).revision
    assert response.reference_trial == 6
    (metric,) = response.metrics
    assert metric.metric == "loss"
    assert metric.calibration.observations == 20
    assert metric.calibration.r_squared > 0.9
    assert 0.5 <= metric.calibration.coverage_90 <= 1.0
    assert [importance.parameter for importance in metric.importances] == ["x0", "x1"]
    assert metric.importances[0].lower > 0.8
    assert metric.importances[1].total_effect < 0.2
    assert [list(shown.parameters) for shown in metric.slices] == [["x0"], ["x1"]]
    valley = metric.slices[0]
    assert len(valley.first_values) == len(valley.means) == len(valley.standard_deviations) == 25
    assert valley.first_values[list(valley.means).index(min(valley.means))].float_value == pytest.approx(0.25, abs=0.05)


def test_the_slices_that_are_asked_for(service: Stub) -> None:
    """In the order of the request; a pair has both axes, and the second runs fastest."""
    study = learned(service, "explained-slices")
    pairs = [pb.ExplainStudyRequest.Pair(first="x1", second="x0")]

    (metric,) = explain(service, study, slices=["x1"], pair_slices=pairs, points=5).metrics

    one, two = metric.slices
    assert [list(shown.parameters) for shown in metric.slices] == [["x1"], ["x1", "x0"]]
    assert (len(one.first_values), len(one.second_values)) == (5, 0)
    assert [value.float_value for value in two.second_values] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert len(two.means) == 25
    for start in range(0, 25, 5):
        row = list(two.means[start : start + 5])
        assert row.index(min(row)) == 1


def test_constraints_are_explained_after_objectives(service: Stub) -> None:
    """Each metric with its own importances; the reference is the best feasible trial."""
    made = spec("gp")
    made.outcome_constraints.append(study_pb2.OutcomeConstraint(metric="memory", max=0.5))
    study = new_study(service, "explained-constraints", made)
    trials = []
    for i in range(20):
        x0, x1 = i / 20, (7 * i % 20) / 20
        trial = finished((x0 - 0.25) ** 2, x0=x0, x1=x1)
        trial.measurement.metrics["memory"] = x1
        trials.append(trial)
    enqueue(service, study, trials)

    response = explain(service, study)

    assert [metric.metric for metric in response.metrics] == ["loss", "memory"]
    assert [metric.importances[0].parameter for metric in response.metrics] == ["x0", "x1"]
    reference = trials[response.reference_trial - 1]
    assert reference.measurement.metrics["memory"] <= 0.5


def test_an_explanation_changes_nothing(service: Stub) -> None:
    """Neither the study nor the next suggestion."""
    explained, silent = learned(service, "explained-first"), learned(service, "explained-not")

    with nothing_changes(service, "projects/default"):
        explain(service, explained)

    one, other = (ask_one(service, study) for study in (explained, silent))
    assert dict(one.parameters) == dict(other.parameters)


@pytest.mark.parametrize("algorithm", ["random", "grid", "sobol", "skopt"])
def test_other_algorithms_have_no_model_to_explain(service: Stub, algorithm: str) -> None:
    """The error names the algorithm."""
    study = new_study(service, f"unexplained-{algorithm}", spec(algorithm))

    refusal = refused(lambda: explain(service, study))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_MODEL")
    assert refusal.subject == study
    assert f"the algorithm {algorithm} has no model" in refusal.message
    assert refusal.metadata == {"algorithm": algorithm}


def test_too_few_results_are_no_model(service: Stub) -> None:
    """The error says how many it takes; results then make it go away."""
    study = new_study(service, "unexplained-yet", spec("gp"))
    tell(service, ask_one(service, study).name, 0.5)

    refusal = refused(lambda: explain(service, study))
    enqueue(service, study, [finished(i / 9, x0=i / 9, x1=0.5) for i in range(9)])

    assert (refusal.code, refusal.reason, refusal.subject) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_MODEL",
        study,
    )
    assert "1 have ended" in refusal.message
    assert explain(service, study).reference_trial == 2


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with one compute process, which may be harmed."""
    with serving(tmp_path_factory.mktemp("harmed"), "--workers", "1", "--no-look-ahead") as running:
        yield running


@pytest.fixture(scope="module")
def mine(own: ServerProcess) -> Iterator[Stub]:
    """The stub of that server."""
    with stub(own.target) as made:
        yield made


def _worker(server: ServerProcess) -> int:
    """Process id of the server's one compute process."""
    children = [
        pid for task in Path(f"/proc/{server.pid}/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    (found,) = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    return int(found)


def test_at_the_callers_deadline_the_server_stops_waiting(own: ServerProcess, mine: Stub) -> None:
    """DEADLINE_EXCEEDED, as for every call; tells go through meanwhile, and a later call is answered."""
    study = learned(mine, "hung")
    explain(mine, study)
    trial = ask_one(mine, study)
    worker = _worker(own)

    os.kill(worker, signal.SIGSTOP)
    try:
        with pytest.raises(grpc.RpcError) as late:
            explain(mine, study, timeout_s=0.5)
        started = time.monotonic()
        tell(mine, trial.name, 0.5)
        told_s = time.monotonic() - started
    finally:
        os.kill(worker, signal.SIGCONT)
    after = explain(mine, study)

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert told_s < 10.0
    assert after.metrics[0].calibration.observations == 21
    assert own.metric("asktell_rpc_duration_seconds_count", method="ExplainStudy", code="DEADLINE_EXCEEDED") == 1


def test_a_compute_process_killed_meanwhile_is_unavailable(own: ServerProcess, mine: Stub) -> None:
    """The caller may try again, and then there is another process."""
    study = learned(mine, "killed")
    explain(mine, study)
    worker = _worker(own)

    os.kill(worker, signal.SIGSTOP)
    call = mine.ExplainStudy.future(pb.ExplainStudyRequest(name=study, points=7), timeout=60)
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    refusal = refused(call.result)
    again = explain(mine, study, points=7)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "COMPUTE_UNAVAILABLE")
    assert len(again.metrics[0].slices[0].means) == 7


def test_the_best_trial_may_have_any_value_type(service: Stub) -> None:
    """Slices come with values of the parameter's own type."""
    made = spec("gp", dimensions=1)
    made.parameters.add(name="n", int=search_space_pb2.IntParameter(min=1, max=4))
    choices = [Value(string_value="a"), Value(bool_value=True), Value(int_value=7), Value(float_value=0.5)]
    made.parameters.add(name="c", categorical=search_space_pb2.CategoricalParameter(choices=choices))
    made.parameters.add(name="d", discrete=search_space_pb2.DiscreteParameter(values=[32, 16]))
    study = new_study(service, "explained-types", made)
    for i in range(12):
        trial = ask_one(service, study)
        assert number(trial) == i + 1
        tell(service, trial.name, trial.parameters["x0"].float_value + trial.parameters["n"].int_value)

    (metric,) = explain(service, study, slices=["n", "c", "d"]).metrics

    n, c, d = (list(shown.first_values) for shown in metric.slices)
    assert [value.int_value for value in n] == [1, 2, 3, 4]
    assert c == choices
    assert [value.float_value for value in d] == [16.0, 32.0]
