"""The bridge between the wire and the domain: `from_proto` reads and says what is wrong, `to_proto` writes."""

from asktell_server.rpc.convert.from_proto import (
    entries,
    read_explain_request,
    read_measurement,
    read_parameters,
    read_spec,
    read_states,
    unimplemented,
)
from asktell_server.rpc.convert.to_proto import (
    explanation_to_proto,
    measurement_to_proto,
    optional_timestamp,
    spec_to_proto,
    study_to_proto,
    trial_to_proto,
)

__all__ = [
    "entries",
    "explanation_to_proto",
    "measurement_to_proto",
    "optional_timestamp",
    "read_explain_request",
    "read_measurement",
    "read_parameters",
    "read_spec",
    "read_states",
    "spec_to_proto",
    "study_to_proto",
    "trial_to_proto",
    "unimplemented",
]
