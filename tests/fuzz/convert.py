"""`make fuzz-convert`: coverage-guided bytes through the bridge between wire and domain, in one process, with atheris.

What can be read must convert without an error but InvalidName, be judged without one, and, if nothing is wrong with it, come back
from the wire's form and from the database's form as it was.

Atheris has wheels for some releases of Python only, so that the make target installs it when it is called.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["asktell_server.rpc.convert", "asktell_server.domain", "asktell_server.storage.codec"]
):
    from asktell_server.rpc import convert
    from asktell_server.service import requests, trials
    from asktell_server.service.limits import Limits
    from asktell_server.storage import codec

from google.protobuf.message import DecodeError

from asktell.v1 import study_pb2, study_service_pb2, trial_pb2
from asktell_server.domain.errors import Violation

from .messages import SERVICE, Known, Maker

LIMITS = Limits()


def one(data: bytes) -> None:
    """One input: the first byte says what the rest is to be."""
    if not data:
        return
    kind, payload = data[0] % 5, data[1:]
    try:
        _CHECKS[kind](payload)
    except DecodeError:
        return


def _spec(payload: bytes) -> None:
    found: list[Violation] = []
    spec, _ = convert.read_spec(study_pb2.StudySpec.FromString(payload), "p", found, "spec")
    found += spec.violations()
    found += LIMITS.spec_violations(spec)
    requests.fingerprint(spec)
    if found:
        return
    again: list[Violation] = []
    assert convert.read_spec(convert.spec_to_proto(spec, "p"), "p", again, "spec")[0] == spec
    assert not again
    assert codec.spec_from_text(codec.spec_to_text(spec)) == spec


def _measurement(payload: bytes) -> None:
    measurement = convert.read_measurement(trial_pb2.Measurement.FromString(payload))
    if not list(measurement.violations()):
        assert codec.measurement_from_text(codec.measurement_to_text(measurement)) == measurement
        convert.measurement_to_proto(measurement)
    trials.report_violations(measurement)


def _trial(payload: bytes) -> None:
    found: list[Violation] = []
    pb = trial_pb2.Trial.FromString(payload)
    convert.read_parameters(pb.parameters, found, "parameters")
    for measured in pb.intermediate_measurements:
        trials.report_violations(convert.read_measurement(measured))


def _explain(payload: bytes) -> None:
    convert.read_explain_request(study_service_pb2.ExplainStudyRequest.FromString(payload)).violations(None)


def _tell(payload: bytes) -> None:
    request = study_service_pb2.TellRequest.FromString(payload)
    if request.HasField("measurement"):
        list(convert.read_measurement(request.measurement).violations())


_CHECKS = (_spec, _measurement, _trial, _explain, _tell)


def seed(corpus: Path) -> None:
    """Puts messages that the requests' generator makes into an empty corpus, to begin with something that can be read."""
    if any(corpus.iterdir()):
        return
    for i in range(300):
        maker = Maker(random.Random(i), Known())
        made = (maker.spec(), maker.measurement(), maker.new_trial(), maker.plausible(_EXPLAIN), maker.plausible(_TELL))
        for kind, message in enumerate(made):
            (corpus / f"seed-{i}-{kind}").write_bytes(bytes([kind]) + message.SerializeToString())


_EXPLAIN, _TELL = (SERVICE.methods_by_name[name] for name in ("ExplainStudy", "Tell"))

if __name__ == "__main__":
    seed(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
