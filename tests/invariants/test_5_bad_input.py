"""Invariant 5: bad input gets INVALID_ARGUMENT that names each field, and changes nothing. The tables are in tests/rpc."""

from __future__ import annotations

import math

import grpc

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..rpc.calls import Stub, ask_one, new_study, point
from ..rpc.refusals import nothing_changes, refused
from ..support import spec


def test_bad_input_names_each_field_and_changes_nothing(service: Stub) -> None:
    """One wrong request to each call that writes: every wrong field is named, and the project stays as it was."""
    study = new_study(service, "kept", project="bad")
    trial = ask_one(service, study).name
    wrong = spec()
    wrong.parameters[0].float.max = math.nan
    wrong.objectives[0].metric = ""
    nan = trial_pb2.Measurement(metrics={"loss": math.nan}, step=-1)
    bad = [
        (
            lambda: service.CreateStudy(
                pb.CreateStudyRequest(parent="projects/bad", study_id="-", study=study_pb2.Study(spec=wrong))
            ),
            ["study_id", "study.spec.parameters[0].float.max", "study.spec.objectives[0].metric"],
        ),
        (lambda: service.Ask(pb.AskRequest(parent=study, count=-1, worker="\0")), ["worker", "count"]),
        (
            lambda: service.Tell(pb.TellRequest(name=trial, measurement=nan)),
            ["measurement.metrics['loss']", "measurement.step"],
        ),
        (
            lambda: service.Report(pb.ReportRequest(name=trial, measurement=nan)),
            ["measurement.metrics['loss']", "measurement.step"],
        ),
        (
            lambda: service.CreateTrials(
                pb.CreateTrialsRequest(parent=study, trials=[trial_pb2.Trial(parameters=point(x0=math.inf, y=0.0))])
            ),
            ["trials[0].parameters['y']", "trials[0].parameters['x0']", "trials[0].parameters['x1']"],
        ),
        (lambda: service.UpdateStudy(pb.UpdateStudyRequest(study=study_pb2.Study(name=study))), ["update_mask"]),
        (lambda: service.UpdateTrial(pb.UpdateTrialRequest(trial=trial_pb2.Trial(name=trial))), ["update_mask"]),
        (lambda: service.StopStudy(pb.StopStudyRequest(name=study, reason="x" * 1025)), ["reason"]),
        (lambda: service.DeleteStudy(pb.DeleteStudyRequest(name=trial)), ["name"]),
    ]

    with nothing_changes(service, "projects/bad"):
        refusals = [refused(call) for call, _ in bad]

    assert {refusal.code for refusal in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert [sorted(refusal.fields) for refusal in refusals] == [sorted(fields) for _, fields in bad]
