"""Limits of the server, over a real one with small limits: each is named with its flag, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.rpc import convert

from ..rpc.calls import Stub, ask, loss, new_study, point, report, study_of, tell, until
from ..rpc.refusals import read
from ..support import ServerProcess, float_parameter, serving, spec, stub

FLAGS = {
    "parameters-per-study": 3,
    "choices-per-parameter": 4,
    "entries-per-study": 12,
    "spec-bytes": 2000,
    "trials-per-study": 5,
    "pending-per-study": 2,
    "measurements-per-trial": 3,
    "studies-per-project": 2,
    "studies": 8,
    "watches": 3,
    "watches-per-project": 2,
    "watches-per-study": 1,
}
QUOTA = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that holds little."""
    flags = [word for name, value in FLAGS.items() for word in (f"--max-{name}", str(value))]
    with serving(tmp_path_factory.mktemp("small"), *flags) as server:
        yield server


@pytest.fixture
def service(small: ServerProcess) -> Iterator[Stub]:
    """The stub of that server."""
    with stub(small.target) as made:
        yield made


def _quota(error: grpc.RpcError, limit: str) -> None:
    refusal = read(error)
    setting = f"--max-{limit.replace('_', '-')}"
    assert (refusal.code, refusal.reason) == (QUOTA, "QUOTA_EXCEEDED")
    assert refusal.metadata == {"limit": limit, "value": str(FLAGS[setting[6:]]), "setting": setting}
    assert setting in refusal.message
    assert refusal.retry_delay_s is None


def test_a_study_that_is_too_large_is_named_field_by_field(service: Stub) -> None:
    """Both limits at once, in one INVALID_ARGUMENT."""
    choices = [search_space_pb2.ParameterValue(int_value=i) for i in range(5)]
    parameters = [float_parameter(f"x{i}") for i in range(4)]
    parameters[1] = search_space_pb2.Parameter(
        name="c", categorical=search_space_pb2.CategoricalParameter(choices=choices)
    )
    made = study_pb2.StudySpec(
        parameters=parameters, objectives=[study_pb2.Objective(metric="loss", direction=study_pb2.Objective.MINIMIZE)]
    )

    with pytest.raises(grpc.RpcError) as caught:
        new_study(service, "large", made, "large")

    refusal = read(caught.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.named == {"study.spec.parameters", "study.spec.parameters[1].categorical.choices"}
    assert "--max-parameters-per-study" in refusal.message
    assert "--max-choices-per-parameter" in refusal.message


def _categorical(name: str, values: Sequence[int | str]) -> search_space_pb2.Parameter:
    choices = [
        search_space_pb2.ParameterValue(string_value=v)
        if isinstance(v, str)
        else search_space_pb2.ParameterValue(int_value=v)
        for v in values
    ]
    return search_space_pb2.Parameter(name=name, categorical=search_space_pb2.CategoricalParameter(choices=choices))


@pytest.mark.parametrize(
    ("parameters", "flag"),
    [
        ([_categorical(f"c{i}", range(4)) for i in range(3)], "--max-entries-per-study"),
        ([_categorical("c", ["a" * 1000, "b" * 1000])], "--max-spec-bytes"),
    ],
    ids=["entries", "bytes"],
)
def test_a_spec_that_is_too_large_in_all_is_not_read(
    service: Stub, parameters: list[search_space_pb2.Parameter], flag: str
) -> None:
    """It is named with its flag, and so is what is wrong beside it; nothing is said of what it holds, and nothing is made."""
    spec_ = study_pb2.StudySpec(parameters=[*parameters], seed=-1)
    request = pb.CreateStudyRequest(
        parent="projects/large",
        study_id="not an id",
        study=study_pb2.Study(spec=spec_, labels={"": ""}),
        request_id="x" * 1000,
    )

    with pytest.raises(grpc.RpcError) as caught:
        service.CreateStudy(request)

    refusal = read(caught.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.named == {"study.spec", "study_id", "study.labels['']", "request_id"}
    assert f"{FLAGS[flag.removeprefix('--max-')]}" in refusal.message
    assert flag in refusal.message
    assert not service.ListStudies(pb.ListStudiesRequest(parent="projects/large")).studies


def test_all_lists_of_a_spec_count() -> None:
    """Parameters, choices, values, those of conditions, objectives, constraints, beliefs and their weights, sources."""
    two = [search_space_pb2.ParameterValue(int_value=i) for i in range(2)]
    weight = study_pb2.GpOptimizer.OptimumPrior.Weighted.Weight(weight=1)
    prior = study_pb2.GpOptimizer.OptimumPrior(
        weighted=study_pb2.GpOptimizer.OptimumPrior.Weighted(weights=[weight, weight, weight])
    )
    sent = study_pb2.StudySpec(
        parameters=[
            _categorical("c", range(4)),
            search_space_pb2.Parameter(
                discrete=search_space_pb2.DiscreteParameter(values=[1, 2]),
                condition=search_space_pb2.Condition(values=two),
            ),
        ],
        objectives=[study_pb2.Objective()],
        outcome_constraints=[study_pb2.OutcomeConstraint()],
        algorithm=study_pb2.Algorithm(
            gp=study_pb2.GpOptimizer(priors=[prior], transfer_sources=[study_pb2.GpOptimizer.TransferSource()])
        ),
    )

    assert list(convert.entries(sent)) == [2 + 1 + 1 + 1 + 1, 4, 2 + 2, 3]


def test_a_study_that_is_larger_than_a_new_one_may_be_goes_on(tmp_path: Path) -> None:
    """Limits that were lowered, or did not exist when it was made, leave it as it is."""
    large = spec()
    large.parameters.append(_categorical("c", [f"{i:0100d}" for i in range(50)]))
    server = ServerProcess(tmp_path).start()
    with stub(server.target) as service:
        study = new_study(service, "s", large)
    server.stop()

    flags = ("--max-spec-bytes", "1000", "--max-entries-per-study", "10")
    with serving(tmp_path, *flags) as again, stub(again.target) as service:
        found = study_of(service, study)
        (trial,) = ask(service, study)

    assert len(found.spec.parameters[-1].categorical.choices) == 50
    assert "c" in trial.parameters


def test_studies_of_a_project(service: Stub) -> None:
    """The third is refused, an existing one is still found, and deleting one makes room."""
    first = new_study(service, "s0", project="few")
    new_study(service, "s1", project="few")

    with pytest.raises(grpc.RpcError) as caught:
        new_study(service, "s2", project="few")
    again = pb.CreateStudyRequest(
        parent="projects/few", study_id="s1", study=study_pb2.Study(spec=spec()), conflict_policy="USE_EXISTING"
    )
    service.CreateStudy(again)
    service.DeleteStudy(pb.DeleteStudyRequest(name=first))
    new_study(service, "s2", project="few")

    _quota(caught.value, "studies_per_project")


def test_trials_that_wait_or_run(service: Stub) -> None:
    """An ask gets what there is room for, then is refused until one ends; points to try are refused too."""
    study = new_study(service, "s", project="pending")
    trials = ask(service, study, count=3)
    before = study_of(service, study)

    with pytest.raises(grpc.RpcError) as asked:
        ask(service, study)
    enqueue = pb.CreateTrialsRequest(parent=study, trials=[trial_pb2.Trial(parameters=point(x0=0.5, x1=0.5))])
    with pytest.raises(grpc.RpcError) as enqueued:
        service.CreateTrials(enqueue)
    after = study_of(service, study)
    tell(service, trials[0].name, 1.0)
    (next_one,) = ask(service, study)

    assert len(trials) == 2
    assert before == after
    _quota(asked.value, "pending_per_study")
    _quota(enqueued.value, "pending_per_study")
    assert next_one.name.endswith("/3")


def test_trials_of_a_study(service: Stub) -> None:
    """The sixth is refused by ask and by import; results of the others are still taken."""
    study = new_study(service, "s", project="full")
    last = ""
    for _ in range(5):
        (trial,) = ask(service, study)
        if last:
            tell(service, last, 1.0)
        last = trial.name

    with pytest.raises(grpc.RpcError) as asked:
        ask(service, study)
    done = trial_pb2.Trial(parameters=point(x0=0.5, x1=0.5), state="SUCCEEDED", measurement=loss(1.0))
    with pytest.raises(grpc.RpcError) as imported:
        service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=[done]))
    tell(service, last, 2.0)

    _quota(asked.value, "trials_per_study")
    _quota(imported.value, "trials_per_study")


@pytest.mark.parametrize("steps", [(0, 1, 2), (5, 1_000_000, 7)])
def test_measurements_of_a_trial(service: Stub, steps: tuple[int, ...]) -> None:
    """The fourth is refused, whatever the steps are; one of the three again is not, and the trial can still end."""
    study = new_study(service, f"s{steps[0]}", project="measured")
    (trial,) = ask(service, study)
    for step in steps:
        report(service, trial.name, 0.5, step)

    with pytest.raises(grpc.RpcError) as caught:
        report(service, trial.name, 0.5, 3)
    report(service, trial.name, 0.5, steps[1])
    tell(service, trial.name, 1.0)

    _quota(caught.value, "measurements_per_trial")


def test_watches(service: Stub, small: ServerProcess) -> None:
    """One of a study; the second is told to come back later, and may once the first is gone."""
    study = new_study(service, "s", project="watched")
    watch = pb.WatchStudyRequest(name=study)
    first = service.WatchStudy(watch)
    next(first)

    with pytest.raises(grpc.RpcError) as caught:
        next(service.WatchStudy(watch))
    first.cancel()
    until(lambda: small.metric("asktell_queue_length", queue="watches") == 0, "the first watch to end")
    second = service.WatchStudy(watch)
    next(second)
    second.cancel()

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == (QUOTA, "SERVER_BUSY")
    assert refusal.metadata == {"queue": "watches", "scope": "study", "limit": "1"}
    assert refusal.retry_delay_s is not None
    assert refusal.retry_delay_s > 0


def test_what_was_refused_is_counted_by_cause(service: Stub, small: ServerProcess) -> None:
    """In one metric, by limit."""
    study = new_study(service, "s", project="counted")
    ask(service, study, count=2)
    before = small.metric("asktell_refused_total", cause="quota", scope="pending_per_study")

    with pytest.raises(grpc.RpcError):
        ask(service, study)

    assert small.metric("asktell_refused_total", cause="quota", scope="pending_per_study") == before + 1


def test_limits_come_from_the_environment_and_the_file_too(tmp_path: Path) -> None:
    """As all settings do; a wrong value names its place."""
    (tmp_path / "asktell.toml").write_text("max-trials-per-study = 1\n")
    with serving(tmp_path, "--config", str(tmp_path / "asktell.toml")) as server, stub(server.target) as service:
        study = new_study(service, "s")
        ask(service, study)

        with pytest.raises(grpc.RpcError) as caught:
            ask(service, study)

    assert read(caught.value).metadata["value"] == "1"


def test_replies_do_not_depend_on_the_largest_request(tmp_path: Path) -> None:
    """Where requests may have 1 MiB, pages, watches and asks still answer with as much as anywhere else."""
    with serving(tmp_path, "--max-message-mib", "1") as server, stub(server.target) as service:
        study = new_study(service, "s")
        waiting = trial_pb2.Trial(parameters=point(x0=0.5, x1=0.5), notes="n" * 16_000)
        for _ in range(3):
            service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=[waiting] * 40))
        with pytest.raises(grpc.RpcError, match="larger than max"):
            service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=[waiting] * 80))

        listed = service.ListTrials(pb.ListTrialsRequest(parent=study, page_size=1000))
        stream = service.WatchStudy(pb.WatchStudyRequest(name=study), timeout=60)
        watched = next(stream)
        stream.cancel()
        asked = service.Ask(pb.AskRequest(parent=study, count=120), timeout=60)

    for reply in (listed, watched, asked):
        assert len(reply.trials) == 120
        assert reply.ByteSize() > 2**20
