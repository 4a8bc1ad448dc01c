"""The happy path of every call, over real gRPC. Watching, leases and bad input have modules of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..support import float_parameter, spec
from .calls import (
    Stub,
    ask,
    ask_one,
    enqueue,
    every_trial,
    finished,
    floats,
    loss,
    new_study,
    number,
    point,
    report,
    study_of,
    tell,
    trial_of,
)
from .refusals import refused

Gp = study_pb2.GpOptimizer
Trial = trial_pb2.Trial
Study = study_pb2.Study
Value = search_space_pb2.ParameterValue


def _rich_spec() -> study_pb2.StudySpec:
    """A spec that uses every field that this release acts on, at odd values."""
    made = study_pb2.StudySpec(
        objectives=[study_pb2.Objective(metric="val/accuracy", direction=study_pb2.Objective.MAXIMIZE)], seed=2**63 - 1
    )
    made.parameters.add(name="tiny", float=search_space_pb2.FloatParameter(min=5e-324, max=1e-300, log=True))
    made.parameters.add(name="zero", float=search_space_pb2.FloatParameter(min=0.0, max=0.0, default_value=0.0))
    made.parameters.add(name="step", float=search_space_pb2.FloatParameter(min=-0.3, max=0.3, step=0.1))
    made.parameters.add(name="all", int=search_space_pb2.IntParameter(min=-(2**63), max=2**63 - 1))
    made.parameters.add(
        name="log", int=search_space_pb2.IntParameter(min=1, max=2**62, log=True, default_value=2**53 + 1)
    )
    made.parameters.add(
        name="batch", discrete=search_space_pb2.DiscreteParameter(values=[1e300, 0.1, -5], default_value=0.1)
    )
    choices = [
        Value(string_value="a\n\u00e4\U0001f600"),
        Value(float_value=2.0),
        Value(bool_value=True),
        Value(int_value=-7),
    ]
    made.parameters.add(
        name="kind", categorical=search_space_pb2.CategoricalParameter(choices=choices, default_value=choices[2])
    )
    child = made.parameters.add(name="_child.of-kind/1", float=search_space_pb2.FloatParameter(min=0.0, max=1.0))
    child.condition.parent = "kind"
    child.condition.values.extend(choices[1:3])
    made.outcome_constraints.add(metric="latency", max=0.1)
    made.outcome_constraints.add(metric="recall", min=0.0)
    gp = made.algorithm.gp
    gp.initial_points, gp.cost_metric = 3, "seconds"
    gp.priors.add(parameter="tiny").normal.CopyFrom(Gp.OptimumPrior.Normal(mean=1e-310, width=10.0))
    gp.priors.add(parameter="all").normal.CopyFrom(Gp.OptimumPrior.Normal(mean=-(2.0**62), width=0.1))
    weighted = gp.priors.add(parameter="kind").weighted
    for choice in choices:
        weighted.weights.add(value=choice, weight=0.5)
    gp.priors.add(parameter="batch").weighted.weights.add(value=Value(float_value=-5.0), weight=1e300)
    made.stopping_criteria.CopyFrom(
        study_pb2.StoppingCriteria(max_trials=9, target=0.0, max_trials_without_improvement=4)
    )
    made.trial_policy.lease.FromMilliseconds(90_500)
    made.trial_policy.max_retries = 0
    return made


# --- studies ----------------------------------------------------------------------------------------------------------


def test_a_study_comes_back_as_it_was_given(service: Stub) -> None:
    """CreateStudy and GetStudy return the whole spec, exactly, and what the server sets."""
    given = Study(spec=_rich_spec(), description="d\u00e9j\u00e0\nvu", labels={"team": "a b", "k": ""})

    made = service.CreateStudy(pb.CreateStudyRequest(parent="projects/p.1", study_id="rich", study=given))

    assert made == study_of(service, "projects/p.1/studies/rich")
    assert made.spec == given.spec
    assert (made.description, made.labels, made.state, made.revision) == (
        given.description,
        given.labels,
        Study.ACTIVE,
        1,
    )
    assert made.trial_counts == Study.TrialCounts()
    assert made.create_time == made.update_time
    assert made.create_time.seconds > 0


def test_the_settings_of_skopt_come_back(service: Stub) -> None:
    """So do those of the algorithm that the rich spec does not use."""
    given = spec("skopt")
    given.algorithm.skopt.CopyFrom(
        study_pb2.SkoptOptimizer(
            base_estimator=study_pb2.SkoptOptimizer.ET,
            acquisition_function=study_pb2.SkoptOptimizer.LCB,
            initial_points=3,
            xi=0.0,
            kappa=2.5,
            max_observations=50,
        )
    )

    assert study_of(service, new_study(service, "skopt", given)).spec.algorithm == given.algorithm


def test_what_is_left_open_is_chosen_and_shown(service: Stub) -> None:
    """A study without algorithm and seed gets both from the server, and says which."""
    made = spec()
    made.ClearField("algorithm")
    made.ClearField("seed")

    first = study_of(service, new_study(service, "open-1", made)).spec
    second = study_of(service, new_study(service, "open-2", made)).spec

    assert first.algorithm.WhichOneof("kind") == "gp"
    assert first.HasField("seed")
    assert first.seed != second.seed
    assert first.trial_policy.max_retries == 2


def test_an_existing_study_is_used_if_its_spec_is_equal(service: Stub) -> None:
    """USE_EXISTING returns the study as it is, whatever was left open."""
    name = new_study(service, "existing", _rich_spec())
    before = study_of(service, name)
    left_open = _rich_spec()
    left_open.ClearField("seed")
    left_open.ClearField("algorithm")

    for made in (_rich_spec(), left_open):
        request = pb.CreateStudyRequest(
            parent="projects/default", study_id="existing", study=Study(spec=made, description="other")
        )
        request.conflict_policy = pb.CreateStudyRequest.USE_EXISTING
        assert service.CreateStudy(request) == before


def test_studies_are_listed_by_name_page_by_page(service: Stub) -> None:
    """ListStudies walks a project in order of names; a page bound to its filter; '-' lists all projects."""
    names = [new_study(service, f"s{i}", project="listed") for i in (3, 1, 10, 2)]
    service.StopStudy(pb.StopStudyRequest(name=names[0]))
    new_study(service, "s0", project="listed-too")

    def listed(parent: str, page_size: int) -> Iterator[str]:
        request = pb.ListStudiesRequest(parent=parent, page_size=page_size)
        while True:
            page = service.ListStudies(request)
            yield from (study.name for study in page.studies)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    seen = [name.rpartition("/")[2] for name in listed("projects/listed", 1)]
    everything = set(listed("projects/-", 10_000))
    stopped = service.ListStudies(pb.ListStudiesRequest(parent="projects/listed", states=[Study.STOPPED]))

    assert seen == ["s1", "s10", "s2", "s3"]
    assert {"projects/listed/studies/s1", "projects/listed-too/studies/s0"} <= everything
    assert [study.name for study in stopped.studies] == [names[0]]
    assert not service.ListStudies(pb.ListStudiesRequest(parent="projects/empty")).studies


def test_update_study_changes_what_the_mask_names(service: Stub) -> None:
    """Labels are replaced as a whole; what the mask does not name stays; the etag guards."""
    name = new_study(service, "updated")
    first = service.UpdateStudy(
        pb.UpdateStudyRequest(
            study=Study(name=name, labels={"a": "1", "b": "2"}, description="ignored"),
            update_mask=FieldMask(paths=["labels"]),
        )
    )

    second = service.UpdateStudy(
        pb.UpdateStudyRequest(
            study=Study(name=name, labels={"c": "3"}, description="said", etag=first.etag),
            update_mask=FieldMask(paths=["description", "labels"]),
        )
    )

    assert (first.labels, first.description, first.revision) == ({"a": "1", "b": "2"}, "", 2)
    assert (second.labels, second.description, second.revision) == ({"c": "3"}, "said", 3)
    assert first.etag != second.etag
    assert study_of(service, name) == second


def test_stop_and_resume(service: Stub) -> None:
    """A stopped study says why, takes results, tells running trials to stop, and can be resumed; repeats change nothing."""
    name = new_study(service, "stopped")
    told, running = ask(service, name, 2)

    stopped = service.StopStudy(pb.StopStudyRequest(name=name, reason="lunch"))
    again = service.StopStudy(pb.StopStudyRequest(name=name, reason="other"))
    tell(service, told.name, 1.0)
    advice = report(service, running.name, 1.0, 1)
    beat = service.Heartbeat(pb.HeartbeatRequest(name=running.name))
    resumed = service.ResumeStudy(pb.ResumeStudyRequest(name=name))
    resumed_again = service.ResumeStudy(pb.ResumeStudyRequest(name=name))

    assert (stopped.state, stopped.state_reason) == (Study.STOPPED, "lunch")
    assert again == stopped
    assert advice.should_stop
    assert (advice.advice.cause, advice.advice.detail) == (pb.StopAdvice.STUDY_STOPPED, "lunch")
    assert (beat.should_stop, beat.advice) == (True, advice.advice)
    assert (resumed.state, resumed.state_reason) == (Study.ACTIVE, "")
    assert resumed_again == resumed
    assert not report(service, running.name, 1.0, 2).should_stop
    assert ask_one(service, name)


def test_delete_study(service: Stub) -> None:
    """A deleted study is gone with its trials and request ids; its name can be used anew."""
    name = new_study(service, "deleted")
    ask_one(service, name, request_id="once")
    etag = study_of(service, name).etag

    service.DeleteStudy(pb.DeleteStudyRequest(name=name, etag=etag))

    assert refused(lambda: study_of(service, name)).reason == "STUDY_NOT_FOUND"
    assert refused(lambda: ask(service, name)).reason == "STUDY_NOT_FOUND"
    assert new_study(service, "deleted") == name
    assert not every_trial(service, name)
    assert number(ask_one(service, name, request_id="once")) == 1


def test_a_repeated_delete_deletes_once(service: Stub) -> None:
    """Under its request_id it succeeds again, and leaves alone the study that was given the name since."""
    name = new_study(service, "deleted-once")
    request = pb.DeleteStudyRequest(name=name, request_id="delete")
    service.DeleteStudy(request)

    service.DeleteStudy(request)
    assert new_study(service, "deleted-once") == name
    service.DeleteStudy(request)

    assert study_of(service, name).state == Study.ACTIVE
    other = refused(lambda: service.DeleteStudy(pb.DeleteStudyRequest(name=name, request_id="delete", etag="x")))
    assert other.reason == "REQUEST_ID_REUSED"


def test_a_repeated_delete_of_nothing_deletes_nothing(service: Stub) -> None:
    """What succeeded where there was no study leaves alone the one that was given the name since."""
    name = "projects/default/studies/made-later"
    request = pb.DeleteStudyRequest(name=name, allow_missing=True, request_id="delete")
    service.DeleteStudy(request)
    assert new_study(service, "made-later") == name
    tell(service, ask_one(service, name).name, 1.0)

    service.DeleteStudy(request)

    assert study_of(service, name).trial_counts.succeeded == 1
    service.DeleteStudy(pb.DeleteStudyRequest(name=name, allow_missing=True, request_id="another"))
    assert refused(lambda: study_of(service, name)).reason == "STUDY_NOT_FOUND"


def test_a_study_that_was_deleted_is_not_created_by_a_repeat(service: Stub) -> None:
    """The repeat of the call that made it finds nothing, also when its name is another's."""
    request = pb.CreateStudyRequest(
        parent="projects/default", study_id="made-once", study=Study(spec=spec()), request_id="create"
    )
    name = service.CreateStudy(request).name
    assert service.CreateStudy(request).name == name
    service.DeleteStudy(pb.DeleteStudyRequest(name=name))

    assert refused(lambda: service.CreateStudy(request)).reason == "STUDY_NOT_FOUND"
    new_study(service, "made-once")
    assert refused(lambda: service.CreateStudy(request)).reason == "STUDY_NOT_FOUND"


# --- stopping criteria ------------------------------------------------------------------------------------------------


def test_max_trials(service: Stub) -> None:
    """A study hands out so many trials, fewer than asked for at the end, and is COMPLETED when the last one ends."""
    made = spec()
    made.stopping_criteria.max_trials = 3
    name = new_study(service, "max-trials", made)
    first, second = ask(service, name, 2)
    (third,) = ask(service, name, 5)

    states = [tell(service, trial.name, 1.0).study_state for trial in (first, second)]
    beyond = refused(lambda: ask(service, name))
    states.append(service.Tell(pb.TellRequest(name=third.name, failed=pb.TellRequest.Failed())).study_state)

    assert beyond.reason == "TRIAL_LIMIT_REACHED"
    assert states == [Study.ACTIVE, Study.ACTIVE, Study.COMPLETED]
    assert "3 trials" in study_of(service, name).state_reason
    assert refused(lambda: ask(service, name)).reason == "STUDY_COMPLETED"


@pytest.mark.parametrize(("direction", "values"), [("MINIMIZE", [0.5, 0.2]), ("MAXIMIZE", [0.1, 0.2])])
def test_target(service: Stub, direction: str, values: list[float]) -> None:
    """A study is COMPLETED once a result is at least as good as the target; running trials are told, results still taken."""
    made = spec()
    made.objectives[0].direction = study_pb2.Objective.Direction.Value(direction)
    made.stopping_criteria.target = 0.2
    name = new_study(service, f"target-{direction}", made)
    trials = ask(service, name, 3)

    states = [tell(service, trial.name, value).study_state for trial, value in zip(trials, values, strict=False)]
    advice = report(service, trials[2].name, 1.0, 0)
    last = tell(service, trials[2].name, 0.2)

    assert states == [Study.ACTIVE, Study.COMPLETED]
    assert "trial 2" in study_of(service, name).state_reason
    assert advice.advice.cause == pb.StopAdvice.STUDY_COMPLETED
    assert (last.trial.state, last.study_state) == (Trial.SUCCEEDED, Study.COMPLETED)


def test_no_improvement(service: Stub) -> None:
    """Succeeded trials in a row without a new best one complete a study; failures and equals are no improvement."""
    made = spec()
    made.stopping_criteria.max_trials_without_improvement = 2
    name = new_study(service, "patience", made)
    trials = ask(service, name, 6)

    states = [tell(service, trials[0].name, 1.0).study_state, tell(service, trials[1].name, 1.0).study_state]
    states.append(tell(service, trials[2].name, 0.5).study_state)
    states.append(service.Tell(pb.TellRequest(name=trials[3].name, failed=pb.TellRequest.Failed())).study_state)
    states.append(tell(service, trials[4].name, 0.5).study_state)
    states.append(tell(service, trials[5].name, 0.6).study_state)

    assert states == [Study.ACTIVE] * 5 + [Study.COMPLETED]


def test_an_import_shows_no_improvement_as_single_results_do(service: Stub) -> None:
    """Of four that come together the first is the best: three without improvement."""
    made = spec()
    made.stopping_criteria.max_trials_without_improvement = 3
    name = new_study(service, "impatient", made)
    given = [
        Trial(parameters=point(x0=i / 8, x1=0.5), state=Trial.SUCCEEDED, measurement=loss(1.0 + i)) for i in range(4)
    ]

    enqueue(service, name, given)

    assert study_of(service, name).state == Study.COMPLETED


def test_imported_trials_count_towards_the_criteria(service: Stub) -> None:
    """A finished trial that is brought in may complete the study."""
    made = spec()
    made.stopping_criteria.target = 0.0
    name = new_study(service, "imported-target", made)

    enqueue(service, name, [finished(1.0, x0=0.1, x1=0.1), finished(-1.0, x0=0.2, x1=0.2)])

    assert study_of(service, name).state == Study.COMPLETED


# --- trials -----------------------------------------------------------------------------------------------------------


def test_ask(service: Stub) -> None:
    """Ask gives out trials, RUNNING, numbered, with a point of the space and where it came from."""
    name = new_study(service, "asked")

    trials = [*ask(service, name, 0, worker="w1"), *ask(service, name, 3, worker="w\u00fc")]

    assert [number(trial) for trial in trials] == [1, 2, 3, 4]
    assert [trial.worker for trial in trials] == ["w1", "w\u00fc", "w\u00fc", "w\u00fc"]
    for trial in trials:
        assert trial.state == Trial.RUNNING
        assert trial.suggestion.source == trial_pb2.Suggestion.SAMPLER
        assert set(floats(trial)) == {"x0", "x1"}
        assert trial.attempt == 1
        assert trial.HasField("start_time")
        assert not trial.HasField("lease_expire_time")
        assert trial_of(service, trial.name) == trial


def test_a_thousand_at_once(service: Stub) -> None:
    """The largest ask is answered in full, by distinct points."""
    name = new_study(service, "thousand")

    trials = ask(service, name, 1000)

    assert [number(trial) for trial in trials] == list(range(1, 1001))
    assert len({tuple(sorted(floats(trial).items())) for trial in trials}) == 1000


def test_every_ending(service: Stub) -> None:
    """Tell ends a trial in each of the four ways; the same again succeeds and changes nothing."""
    name = new_study(service, "endings")
    one, two, three, four, five = (trial.name for trial in ask(service, name, 5))
    report(service, five, 3.0, 7)
    full = trial_pb2.Measurement(
        metrics={"loss": 0.0, "size": -1e300},
        standard_errors={"loss": 0.0},
        step=0,
        elapsed={"seconds": 3, "nanos": 5},  # type: ignore[arg-type]
    )
    requests = [
        pb.TellRequest(name=one, measurement=full, request_id="told"),
        pb.TellRequest(name=two, infeasible=pb.TellRequest.Infeasible(reason="memory")),
        pb.TellRequest(name=three, failed=pb.TellRequest.Failed()),
        pb.TellRequest(name=four, pruned=pb.TellRequest.Pruned(measurement=loss(2.0), reason="slow")),
        pb.TellRequest(name=five, pruned=pb.TellRequest.Pruned()),
    ]

    told = [service.Tell(request).trial for request in requests]
    revision = study_of(service, name).revision
    again = [service.Tell(request).trial for request in requests]

    assert [trial.state for trial in told] == [
        *(Trial.SUCCEEDED, Trial.INFEASIBLE, Trial.FAILED, Trial.PRUNED, Trial.PRUNED)
    ]
    assert told[0].measurement == full
    assert [trial.state_reason for trial in told] == ["", "memory", "", "slow", ""]
    assert [trial.HasField("measurement") for trial in told] == [True, False, False, True, True]
    assert told[4].measurement == loss(3.0, 7)
    assert all(trial.HasField("end_time") for trial in told)
    assert again == told
    counts = study_of(service, name)
    assert counts.revision == revision
    assert counts.trial_counts == Study.TrialCounts(succeeded=1, infeasible=1, failed=1, pruned=2)


def test_report(service: Stub) -> None:
    """Reports are kept by step, in any order; a repeat is accepted, also when the trial has ended."""
    name = ask_one(service, new_study(service, "reported")).name

    answers = [report(service, name, float(step), step) for step in (5, 0, 2**62, 3)]
    again = report(service, name, 5.0, 5)
    tell(service, name, 0.0)
    late = report(service, name, 5.0, 5)

    assert not any(answer.should_stop or answer.HasField("lease_expire_time") for answer in [*answers, again, late])
    assert [m.step for m in trial_of(service, name).intermediate_measurements] == [0, 3, 5, 2**62]


def test_heartbeat_without_lease(service: Stub) -> None:
    """Without a lease a heartbeat answers and changes nothing."""
    study = new_study(service, "no-lease")
    name = ask_one(service, study).name
    revision = study_of(service, study).revision

    answer = service.Heartbeat(pb.HeartbeatRequest(name=name))

    assert answer == pb.HeartbeatResponse()
    assert study_of(service, study).revision == revision


def test_enqueued_points_go_first_and_in_order(service: Stub) -> None:
    """Points to try are given to the next asks in the order of the requests; then come suggestions."""
    name = new_study(service, "queue")
    first = enqueue(service, name, [Trial(parameters=point(x0=0.1, x1=i / 10), notes=f"n{i}") for i in range(3)])
    second = enqueue(service, name, [Trial(parameters=point(x0=0.9, x1=0.9), labels={"k": "v"}, state=Trial.WAITING)])

    taken = [*ask(service, name), *ask(service, name, 2), *ask(service, name, 2)]

    assert [trial.state for trial in first] == [Trial.WAITING] * 3
    assert [trial.name for trial in taken[:4]] == [trial.name for trial in [*first, *second]]
    assert [floats(trial)["x1"] for trial in taken[:4]] == [0.0, 0.1, 0.2, 0.9]
    assert [trial.notes for trial in taken[:3]] == ["n0", "n1", "n2"]
    assert taken[3].labels == {"k": "v"}
    assert [t.suggestion.source for t in taken] == [trial_pb2.Suggestion.ENQUEUED] * 4 + [trial_pb2.Suggestion.SAMPLER]


def test_import(service: Stub) -> None:
    """Finished trials come in with all that belongs to them, and count."""
    name = new_study(service, "imported")
    given = [
        Trial(
            parameters=point(x0=0.5, x1=0.5),
            state=Trial.SUCCEEDED,
            measurement=loss(1.0, 9, size=2.0),
            intermediate_measurements=[loss(3.0, 3), loss(2.0, 1)],
            worker="w",
            notes="n",
            labels={"from": "elsewhere"},
            state_reason="done",
        ),
        Trial(parameters=point(x0=0.6, x1=0.5), state=Trial.FAILED, state_reason="broke"),
        Trial(
            parameters=point(x0=0.7, x1=0.5),
            state=Trial.PRUNED,
            intermediate_measurements=[loss(5.0, 2), loss(6.0, 1)],
        ),
        Trial(parameters=point(x0=0.8, x1=0.5), state=Trial.INFEASIBLE),
    ]

    made = enqueue(service, name, given)

    stored = trial_of(service, made[0].name)
    assert [m.step for m in stored.intermediate_measurements] == [1, 3]
    assert stored.measurement == given[0].measurement
    assert trial_of(service, made[2].name).measurement == loss(5.0, 2)
    assert (stored.worker, stored.notes, stored.labels, stored.state_reason) == (
        "w",
        "n",
        {"from": "elsewhere"},
        "done",
    )
    assert stored.suggestion.source == trial_pb2.Suggestion.IMPORTED
    assert study_of(service, name).trial_counts == Study.TrialCounts(succeeded=1, failed=1, pruned=1, infeasible=1)
    assert study_of(service, name).revision == 2


def test_what_is_created_is_what_is_read(service: Stub) -> None:
    """CreateTrials answers what GetTrial says, but for the intermediate measurements; so does a repeat under the same id."""
    name = new_study(service, "created")
    measurements = [loss(3.0, 3), loss(2.0, 1)]
    request = pb.CreateTrialsRequest(
        parent=name,
        trials=[
            Trial(
                parameters=point(x0=0.5, x1=0.5),
                state=Trial.SUCCEEDED,
                measurement=loss(1.0),
                intermediate_measurements=measurements,
            ),
            Trial(parameters=point(x0=0.1, x1=0.2)),
        ],
        request_id="create",
    )

    made = service.CreateTrials(request)
    again = service.CreateTrials(request)

    stored = [trial_of(service, trial.name) for trial in made.trials]
    assert [m.step for m in stored[0].intermediate_measurements] == [1, 3]
    for trial in stored:
        del trial.intermediate_measurements[:]
    assert stored == list(made.trials)
    assert again == made
    assert len(every_trial(service, name)) == 2


def test_missing_values_take_their_defaults(service: Stub) -> None:
    """A point to try may leave out parameters that have a default, also where the default activates others."""
    made = spec(dimensions=1)
    made.parameters.add(name="n", int=search_space_pb2.IntParameter(min=0, max=9, default_value=0))
    child = made.parameters.add(name="c", float=search_space_pb2.FloatParameter(min=0, max=1, default_value=0.0))
    child.condition.parent = "n"
    child.condition.values.add(int_value=0)
    name = new_study(service, "defaults", made)

    (trial,) = enqueue(service, name, [Trial(parameters=point(x0=0.5))])

    assert trial.parameters["n"].int_value == 0
    assert trial.parameters["n"].WhichOneof("kind") == "int_value"
    assert trial.parameters["c"].WhichOneof("kind") == "float_value"


def test_an_int_is_taken_for_a_float(service: Stub) -> None:
    """On input an int_value does for a float or discrete parameter; it comes back as a float."""
    made = spec(dimensions=1)
    made.parameters.add(name="d", discrete=search_space_pb2.DiscreteParameter(values=[1, 2]))
    name = new_study(service, "ints", made)

    (trial,) = enqueue(service, name, [Trial(parameters={"x0": Value(int_value=1), "d": Value(int_value=2)})])

    assert trial.parameters["x0"] == Value(float_value=1.0)
    assert trial.parameters["d"] == Value(float_value=2.0)


def test_update_trial(service: Stub) -> None:
    """Notes and labels of a trial can be changed in any state."""
    study = new_study(service, "trial-updated")
    name = ask_one(service, study).name
    service.Report(pb.ReportRequest(name=name, measurement=loss(2.0, 1)))
    tell(service, name, 1.0)

    updated = service.UpdateTrial(
        pb.UpdateTrialRequest(
            trial=Trial(name=name, notes="good", labels={"k": "v"}, worker="ignored"),
            update_mask=FieldMask(paths=["notes", "labels"]),
        )
    )
    cleared = service.UpdateTrial(
        pb.UpdateTrialRequest(trial=Trial(name=name), update_mask=FieldMask(paths=["labels"]))
    )

    assert (updated.notes, updated.labels, updated.worker, updated.state) == ("good", {"k": "v"}, "", Trial.SUCCEEDED)
    assert (cleared.notes, cleared.labels) == ("good", {})
    assert trial_of(service, name) == cleared
    assert cleared.revision == study_of(service, study).revision


# --- lists of trials --------------------------------------------------------------------------------------------------


def test_trials_are_listed_by_number_page_by_page(service: Stub) -> None:
    """Pages of any size make up the whole list, without gaps or repeats, while trials are added."""
    name = new_study(service, "pages")
    ask(service, name, 25)
    seen: list[int] = []
    request = pb.ListTrialsRequest(parent=name, page_size=4)

    while True:
        page = service.ListTrials(request)
        seen += [number(trial) for trial in page.trials]
        if not page.next_page_token:
            break
        assert len(page.trials) == 4
        if len(seen) < 12:
            ask(service, name, 2)
        request.page_token = page.next_page_token
        request.page_size = 4

    assert seen == list(range(1, 30))


def test_page_sizes(service: Stub) -> None:
    """0 means 100, more than 1000 means 1000, and the size may change from page to page."""
    name = new_study(service, "sizes")
    enqueue(service, name, [finished(1.0, x0=i / 1000, x1=0.0) for i in range(1000)])
    enqueue(service, name, [finished(1.0, x0=i / 1000, x1=1.0) for i in range(5)])

    usual = service.ListTrials(pb.ListTrialsRequest(parent=name))
    most = service.ListTrials(pb.ListTrialsRequest(parent=name, page_size=2**31 - 1))
    rest = service.ListTrials(pb.ListTrialsRequest(parent=name, page_size=7, page_token=most.next_page_token))

    assert (len(usual.trials), len(most.trials), len(rest.trials)) == (100, 1000, 5)
    assert not rest.next_page_token


def test_pages_hold_at_most_two_mebibytes(service: Stub) -> None:
    """Large trials come in smaller pages, none lost; of one larger than a page comes what fits."""
    name = new_study(service, "large")
    notes = "n" * 16_000
    curve = [loss(0.0, step, **{f"{'m' * 100}{i}": 0.0 for i in range(255)}) for step in range(100)]
    for start in (0, 100, 200):
        small = [Trial(parameters=point(x0=i / 300, x1=0.0), notes=notes) for i in range(start, start + 100)]
        enqueue(service, name, small)
    huge = Trial(parameters=point(x0=0.0, x1=1.0), state=Trial.FAILED, intermediate_measurements=curve, notes=notes)
    enqueue(service, name, [huge])

    for view in (pb.BASIC, pb.FULL):
        seen, sizes = [], []
        request = pb.ListTrialsRequest(parent=name, page_size=1000, view=view)
        while True:
            page = service.ListTrials(request)
            seen += [number(trial) for trial in page.trials]
            sizes.append((len(page.trials), page.ByteSize()))
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token

        assert seen == list(range(1, 302))
        assert all(size <= 2 * 2**20 + 2**17 for count, size in sizes if count > 1)
        assert 3 <= len(sizes) <= 7
    assert sizes[-1][0] == 1
    assert page.trials[0].has_more_measurements


def test_filter_and_view(service: Stub) -> None:
    """Trials can be filtered by states; only a FULL view carries the intermediate measurements."""
    name = new_study(service, "filtered")
    one, two, three, _ = ask(service, name, 4)
    report(service, one.name, 1.0, 1)
    tell(service, one.name, 1.0)
    service.Tell(pb.TellRequest(name=two.name, failed=pb.TellRequest.Failed()))
    tell(service, three.name, 1.0)

    ended = service.ListTrials(pb.ListTrialsRequest(parent=name, states=[Trial.SUCCEEDED, Trial.FAILED], page_size=2))
    rest = service.ListTrials(
        pb.ListTrialsRequest(
            parent=name, states=[Trial.FAILED, Trial.SUCCEEDED], page_size=2, page_token=ended.next_page_token
        )
    )
    full = service.ListTrials(pb.ListTrialsRequest(parent=name, states=[Trial.SUCCEEDED], view=pb.FULL))
    basic = service.ListTrials(pb.ListTrialsRequest(parent=name, states=[Trial.SUCCEEDED], view=pb.BASIC))

    assert [number(trial) for trial in [*ended.trials, *rest.trials]] == [1, 2, 3]
    assert [len(trial.intermediate_measurements) for trial in full.trials] == [1, 0]
    assert [len(trial.intermediate_measurements) for trial in basic.trials] == [0, 0]
    assert not service.ListTrials(pb.ListTrialsRequest(parent=name, states=[Trial.EXPIRED])).trials


@pytest.mark.parametrize(("direction", "best"), [("MINIMIZE", 2), ("MAXIMIZE", 3)])
def test_best_trial(service: Stub, direction: str, best: int) -> None:
    """With one objective the best succeeded trial is listed, the earliest of equals, with its measurements."""
    made = spec()
    made.objectives[0].direction = study_pb2.Objective.Direction.Value(direction)
    name = new_study(service, f"best-{direction}", made)
    trials = ask(service, name, 6)
    nothing = service.ListBestTrials(pb.ListBestTrialsRequest(parent=name))
    for trial in trials[1:3]:
        report(service, trial.name, 1.0, 1)
    for trial, value in zip(trials, [0.5, 0.0, 1.0, 0.0, 1.0], strict=False):
        tell(service, trial.name, value)
    service.Tell(
        pb.TellRequest(
            name=trials[5].name, pruned=pb.TellRequest.Pruned(measurement=loss(math.copysign(9, best - 2.5)))
        )
    )

    found = service.ListBestTrials(pb.ListBestTrialsRequest(parent=name))

    assert not nothing.trials
    assert list(found.trials) == [trial_of(service, trials[best - 1].name)]
    assert not found.next_page_token


def test_pareto_front(service: Stub) -> None:
    """With several objectives the trials that none dominates are listed by number, page by page."""
    made = spec(dimensions=1)
    made.objectives.add(metric="accuracy", direction=study_pb2.Objective.MAXIMIZE)
    name = new_study(service, "pareto", made)
    values = [(3, 0.5), (1, 0.1), (2, 0.5), (2, 0.5), (5, 0.4), (4, 0.9), (1, 0.0)]
    enqueue(
        service,
        name,
        [
            Trial(parameters=point(x0=i / 10), state=Trial.SUCCEEDED, measurement=loss(float(a), accuracy=b))
            for i, (a, b) in enumerate(values)
        ],
    )

    seen = []
    request = pb.ListBestTrialsRequest(parent=name, page_size=3)
    while True:
        page = service.ListBestTrials(request)
        seen += [number(trial) for trial in page.trials]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    # 3 and 4 are equal: neither dominates the other.
    assert seen == [2, 3, 4, 6]


def test_several_objectives_in_a_result(service: Stub) -> None:
    """Every objective has to be told; other metrics are kept."""
    made = spec(dimensions=1)
    made.parameters[0].CopyFrom(float_parameter("x0"))
    made.objectives.add(metric="accuracy", direction=study_pb2.Objective.MAXIMIZE)
    name = ask_one(service, new_study(service, "objectives", made)).name

    refusal = refused(lambda: tell(service, name, 1.0))
    told = service.Tell(pb.TellRequest(name=name, measurement=loss(1.0, accuracy=0.5, extra=3.0)))

    assert refusal.fields == ["measurement.metrics['accuracy']"]
    assert told.trial.measurement.metrics == {"loss": 1.0, "accuracy": 0.5, "extra": 3.0}


# --- outcome constraints ----------------------------------------------------------------------------------------------


def _constrained(algorithm: str = "random") -> study_pb2.StudySpec:
    made = spec(algorithm, dimensions=1)
    made.outcome_constraints.add(metric="latency", max=5.0)
    made.outcome_constraints.add(metric="recall", min=0.5)
    return made


def _measured(value: float, latency: float, recall: float = 1.0, **more: float) -> trial_pb2.Measurement:
    return loss(value, latency=latency, recall=recall, **more)


def test_a_constrained_metric_has_to_be_told(service: Stub) -> None:
    """A final measurement holds every objective and constrained metric, told or imported; others need not."""
    study = new_study(service, "constrained-metrics", _constrained())
    one, two, three = ask(service, study, 3)
    lacking = Trial(parameters=point(x0=0.5), state=Trial.SUCCEEDED, measurement=loss(1.0, latency=1.0))

    refusal = refused(lambda: tell(service, one.name, 1.0))
    imported = refused(lambda: enqueue(service, study, [lacking]))
    report(service, two.name, 1.0, 1)
    pruned = service.Tell(pb.TellRequest(name=two.name, pruned=pb.TellRequest.Pruned(measurement=loss(1.0)))).trial
    told = service.Tell(pb.TellRequest(name=three.name, measurement=_measured(1.0, 9.0))).trial

    assert refusal.fields == ["measurement.metrics['latency']", "measurement.metrics['recall']"]
    assert imported.fields == ["trials[0].measurement.metrics['recall']"]
    assert (pruned.state, told.state) == (Trial.PRUNED, Trial.SUCCEEDED)


def test_the_best_trial_keeps_every_bound(service: Stub) -> None:
    """While no trial does there is no best one; then the best of those that do, wherever a better one breaks a bound."""
    study = new_study(service, "constrained-best", _constrained())
    request = pb.ListBestTrialsRequest(parent=study)
    best = []
    for value, latency, recall in [
        (0.0, 5.5, 1.0),
        (0.0, 5.0, 0.25),
        (2.0, 5.0, 0.5),
        (1.0, 1.0, 0.4),
        (1.5, 4.0, 0.9),
    ]:
        service.Tell(pb.TellRequest(name=ask_one(service, study).name, measurement=_measured(value, latency, recall)))
        best.append([number(trial) for trial in service.ListBestTrials(request).trials])

    assert best == [[], [], [3], [3], [5]]


def test_the_front_keeps_every_bound(service: Stub) -> None:
    """With several objectives the front is that of the trials that keep every bound; it is empty while none does."""
    made = _constrained()
    made.objectives.add(metric="size", direction=study_pb2.Objective.MINIMIZE)
    study = new_study(service, "constrained-front", made)
    request = pb.ListBestTrialsRequest(parent=study)
    results = [(0.0, 0.0, 9.0), (1.0, 3.0, 5.0), (2.0, 2.0, 6.0), (3.0, 1.0, 1.0), (4.0, 4.0, 1.0)]
    trials = [
        Trial(parameters=point(x0=i / 10), state=Trial.SUCCEEDED, measurement=_measured(a, latency, size=b))
        for i, (a, b, latency) in enumerate(results)
    ]

    enqueue(service, study, trials[:1])
    nothing = service.ListBestTrials(request)
    enqueue(service, study, trials[1:])

    assert not nothing.trials
    assert [number(trial) for trial in service.ListBestTrials(request).trials] == [2, 4]


def test_criteria_count_what_keeps_every_bound(service: Stub) -> None:
    """Neither target nor patience is met by a value that breaks a bound."""
    made = _constrained()
    made.stopping_criteria.target = 0.0
    study = new_study(service, "constrained-target", made)

    def state(value: float, latency: float) -> int:
        measured = _measured(value, latency)
        return service.Tell(pb.TellRequest(name=ask_one(service, study).name, measurement=measured)).study_state

    assert [state(-1.0, 9.0), state(0.5, 1.0), state(0.0, 5.0)] == [Study.ACTIVE, Study.ACTIVE, Study.COMPLETED]


@pytest.mark.parametrize("algorithm", ["grid", "sobol"])
def test_algorithms_without_a_model_take_constraints(service: Stub, algorithm: str) -> None:
    """They suggest as ever, and what is best is judged as ever."""
    study = new_study(service, f"constrained-{algorithm}", _constrained(algorithm))
    trial = ask_one(service, study)

    service.Tell(pb.TellRequest(name=trial.name, measurement=_measured(0.0, 9.0)))

    assert not service.ListBestTrials(pb.ListBestTrialsRequest(parent=study)).trials


def test_a_model_learns_from_another_study(service: Stub) -> None:
    """With sources, constraints, beliefs and a cost, the model answers, and foresees objective and constrained metric."""
    earlier = new_study(service, "learned-from", spec(dimensions=1))
    enqueue(service, earlier, [finished((i / 10 - 0.3) ** 2, x0=i / 10) for i in range(10)])
    made = spec("gp", dimensions=1)
    made.outcome_constraints.add(metric="latency", max=5.0)
    gp = made.algorithm.gp
    gp.initial_points, gp.cost_metric = 2, "seconds"
    gp.priors.add(parameter="x0").normal.CopyFrom(Gp.OptimumPrior.Normal(mean=0.3, width=0.2))
    gp.transfer_sources.add(study=earlier)
    study = new_study(service, "learning", made)

    for _ in range(3):
        trial = ask_one(service, study)
        x = floats(trial)["x0"]
        measured = loss((x - 0.3) ** 2, latency=10 * x, seconds=1.0 + x)
        service.Tell(pb.TellRequest(name=trial.name, measurement=measured))
    trial = ask_one(service, study)

    assert study_of(service, study).spec.algorithm.gp.transfer_sources[0].revision == 2
    assert trial.suggestion.source == trial_pb2.Suggestion.MODEL, trial.suggestion
    assert set(trial.suggestion.predictions) == {"loss", "latency"}
