"""Requests that no client should send, made from the descriptors: every field of every message, at and beyond its bounds.

`Maker` draws everything from one `random.Random`, so that a request is a function of a seed in a long run, and of Hypothesis's
choices in a test. A request comes about in three ways:

- *random*: each field of the message set to something of its type, nested messages likewise;
- *plausible*: a request that would do, on studies and trials that exist, with some fields drawn anew;
- *broken*: the bytes of either cut, flipped, repeated, or with fields in them that are unknown, of another type, or no UTF-8.

A page token is made from one that a reply held, for the query that it belongs to: whole, or with another position in it.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, trial_pb2

T = TypeVar("T")
SERVICE: ServiceDescriptor = study_service_pb2.DESCRIPTOR.services_by_name["StudyService"]
PROJECT = "projects/fuzz"

_DOUBLES = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, 5e-324, 2.2e-308, 1e300, 1.8e308, -1.8e308),
    *(float("inf"), float("-inf"), float("nan")),
)
_INT32 = (0, 1, -1, 2, 3, 100, 1000, 1001, 2**31 - 1, -(2**31))
_INT64 = (*_INT32, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_TEXTS = (
    *("", "a", "x0", "x1", "loss", "act", "b", "relu", "labels", "notes", "description", "spec", "*", "study.name"),
    *(
        "_",
        "-",
        ".",
        "..",
        "/",
        "%00",
        "\x00",
        "\x1f",
        "\n",
        "\u202e",
        "\ufeff",
        "é",
        "☃",
        "😀",
        "\ud7ff",
        "\ue000",
        "\U0010ffff",
    ),
    *("a" * 63, "a" * 64, "a" * 128, "a" * 129, "a" * 255, "a" * 256, "x" * 1024, "x" * 1025),
    *("'; DROP TABLE trials; --", "{}", "[[1],2]", "nan", "1e999", "0x10", "true", "null"),
)
_NAMES = (
    *("", "/", "projects", "projects/", "projects//studies/a", "projects/-", "projects/-/studies/-"),
    *(
        "projects/fuzz",
        "projects/fuzz/",
        "projects/fuzz/studies",
        "projects/fuzz/studies/",
        "projects/fuzz/studies/none",
    ),
    *("projects/fuzz/studies/none/trials/1", "projects/fuzz/studies/s0/trials/0", "projects/fuzz/studies/s0/trials/-1"),
    *("projects/fuzz/studies/s0/trials/01", "projects/fuzz/studies/s0/trials/99999999999999999999"),
    *("projects/fuzz/studies/s0/trials/9223372036854775807", "projects/fuzz/studies/s0/trials/٣"),
    *("projects/fuzz/studies/s0/trials/1/", "projects/fuzz/studies/s0/trials/1e3", "projects/é/studies/s"),
    *("//projects/fuzz", "projects/fuzz\x00", "projects/fuzz/studies/s0\n", "PROJECTS/fuzz/studies/s0"),
    *("projects/.hidden/studies/a", "projects/" + "a" * 128 + "/studies/" + "b" * 128, "projects/" + "a" * 129),
    "projects/fuzz/studies/s0/trials/1/measurements/1",
)
# What the position in a page token may be replaced by; JSON can say what the text of a message cannot.
_KEYS: tuple[Any, ...] = (
    *_TEXTS,
    *_INT64,
    *("fuzz", "s0", "\ud800", "\udfff", "s\ud800", 2**63, -(2**63) - 1, 10**100),
    *(0.5, 1e300, float("inf"), float("nan"), True, None, [], [["s0"]], {}, {"s0": 1}),
)
_NAMING_FIELDS = frozenset({"name", "parent", "study"})
# How deep random messages nest; broken bytes nest deeper.
_DEPTH = 6


class Known:
    """Names that exist (or did), and requests for next pages, for requests to be about; bounded, the oldest are forgotten."""

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self.studies: list[str] = []
        self.trials: list[str] = []
        self.pages: dict[str, list[bytes]] = {}
        """By method."""

    def learn(self, method: str, request: bytes, reply: Message) -> None:
        """Notes the studies and trials that a reply names, and how to ask for the page after it."""
        token = getattr(reply, "next_page_token", "")
        if token:
            kind = SERVICE.methods_by_name[method].input_type
            following: Any = message_factory.GetMessageClass(kind).FromString(request)
            following.page_token = token
            self._add(self.pages.setdefault(method, []), following.SerializeToString())
        if isinstance(reply, study_pb2.Study):
            self._add(self.studies, reply.name)
        for trial in getattr(reply, "trials", ()):
            self._add(self.trials, trial.name)

    def _add(self, found: list[T], new: T) -> None:
        if new not in found:
            found.append(new)
            del found[: -self._size]


class Maker:
    """Makes requests; everything is drawn from `draw`."""

    def __init__(self, draw: random.Random, known: Known) -> None:
        self._draw = draw
        self._known = known

    def request(self) -> tuple[MethodDescriptor, bytes]:
        """A method and the bytes to send to it."""
        method = self._draw.choice(SERVICE.methods)
        if method.name == "DeleteStudy" and not self._one_in(8):  # else there is soon nothing left to talk about
            method = SERVICE.methods_by_name["Ask"]
        message = self.random(method.input_type) if self._one_in(6) else self.plausible(method)
        payload = message.SerializeToString()
        return method, self.broken(payload) if self._one_in(6) else payload

    def random(self, kind: Descriptor, depth: int = 0) -> Message:
        """A message with some of its fields set to anything of their types."""
        message: Message = message_factory.GetMessageClass(kind)()
        for field in kind.fields:
            if self._one_in(2 + depth):
                self._set(message, field, depth)
        return message

    def plausible(self, method: MethodDescriptor) -> Message:
        """A request that would do, but for up to three fields drawn anew, often none."""
        pages = self._known.pages.get(method.name)
        if pages and self._draw.randrange(2):
            return self._next_page(method, self._draw.choice(pages))
        request = _PLAUSIBLE[method.name](self)
        for _ in range(self._draw.choice((0, 0, 0, 1, 1, 2, 3))):
            self._disturb(request)
        return request

    def _next_page(self, method: MethodDescriptor, payload: bytes) -> Message:
        """The request for a page after one that was sent, or after a position that no page ends with."""
        request: Any = message_factory.GetMessageClass(method.input_type).FromString(payload)
        position, query = json.loads(base64.urlsafe_b64decode(request.page_token))
        match self._draw.randrange(8):
            case 0:
                return request  # as it was given out
            case 1:
                position = self._draw.choice((None, {}, "", [], [position], [*position, *position]))
            case 2:
                query = self._draw.choice(_KEYS)
            case _:
                position[self._draw.randrange(len(position))] = self._draw.choice(_KEYS)
        request.page_token = base64.urlsafe_b64encode(json.dumps([position, query]).encode()).decode()
        return request

    def broken(self, payload: bytes) -> bytes:
        """Bytes that are no longer quite the message."""
        draw = self._draw
        at = draw.randrange(len(payload) + 1)
        match draw.randrange(9):
            case 0:
                return payload[:at]
            case 1 if payload:
                flipped = bytearray(payload)
                for _ in range(draw.choice((1, 1, 2, 8))):
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
                return bytes(flipped)
            case 2:  # unknown fields, or known ones of another wire type
                return payload + self._stray_field()
            case 3:
                return self._stray_field() + payload
            case 4:
                return payload.replace(b"a", b"\xff").replace(b"s", b"\xc0\x80")  # no UTF-8
            case 5:
                return payload + payload  # scalars again, messages merged
            case 6:  # nested deeper than any parser should follow
                nested = b""
                for _ in range(draw.choice((10, 120, 500))):
                    nested = self._tag(draw.randrange(1, 12), 2) + _varint(len(nested)) + nested
                return payload + nested
            case 7:
                return payload + self._tag(draw.randrange(1, 12), 3) * draw.choice(
                    (1, 50, 5000)
                )  # groups that never end
            case _:
                return draw.randbytes(draw.choice((1, 5, 50, 500)))

    def _stray_field(self) -> bytes:
        number = self._draw.choice((*range(1, 20), 1000, 19_000, 2**29 - 1))
        wire = self._draw.choice((0, 1, 2, 5))
        if wire == 0:
            return self._tag(number, 0) + _varint(self._draw.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
        if wire == 2:
            body = self._draw.randbytes(self._draw.choice((0, 3, 40)))
            return self._tag(number, 2) + _varint(self._draw.choice((len(body), len(body), 2**31 - 1))) + body
        return self._tag(number, wire) + self._draw.randbytes(8 if wire == 1 else 4)

    @staticmethod
    def _tag(number: int, wire: int) -> bytes:
        return _varint(number << 3 | wire)

    def _disturb(self, message: Message, depth: int = 0) -> None:
        """Draws one field anew, here or in a message below."""
        if not message.DESCRIPTOR.fields:
            return
        field = self._draw.choice(message.DESCRIPTOR.fields)
        below: list[Message] = []
        if field.message_type is not None and not _is_map(field):
            here = getattr(message, field.name)
            below = list(here) if field.is_repeated else [here] if message.HasField(field.name) else []
        if below and not self._one_in(4):
            self._disturb(self._draw.choice(below), depth + 1)
            return
        if self._one_in(3):
            message.ClearField(field.name)
        else:
            self._set(message, field, depth)

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if depth > _DEPTH and field.message_type is not None:
            return
        if _is_map(field):
            self._fill_map(message, field, depth)
        elif field.is_repeated:
            for _ in range(self._count()):
                if field.message_type is not None:
                    getattr(message, field.name).add().CopyFrom(self.random(field.message_type, depth + 1))
                else:
                    getattr(message, field.name).append(self._scalar(field))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(self.random(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field))

    def _fill_map(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        target = getattr(message, field.name)
        assert field.message_type is not None
        value_field = field.message_type.fields_by_name["value"]
        for i in range(self._count()):
            key = self._text() if i < 3 else f"k{i}"
            if value_field.message_type is not None:
                target[key].CopyFrom(self.random(value_field.message_type, depth + 1))
            else:
                target[key] = self._scalar(value_field)

    def _scalar(self, field: FieldDescriptor) -> Any:
        draw = self._draw
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return draw.choice(_DOUBLES) if draw.randrange(2) else draw.uniform(-10, 10)
            case FieldDescriptor.CPPTYPE_INT32:
                return draw.choice(_INT32)
            case FieldDescriptor.CPPTYPE_INT64:
                return draw.choice(_INT64)
            case FieldDescriptor.CPPTYPE_BOOL:
                return bool(draw.randrange(2))
            case FieldDescriptor.CPPTYPE_ENUM:
                assert field.enum_type is not None
                return draw.choice((*(value.number for value in field.enum_type.values), 99, -1, 2**31 - 1))
            case FieldDescriptor.CPPTYPE_STRING:
                return self._name() if field.name in _NAMING_FIELDS else self._text()
        raise AssertionError(f"the contract has a field of a new type: {field.full_name}")

    def _name(self) -> str:
        draw = self._draw
        match draw.randrange(4):
            case 0:
                return draw.choice(_NAMES)
            case 1:
                return self._text()
            case 2:
                return self.study()
            case _:
                return self.trial()

    def _text(self) -> str:
        if self._one_in(200):
            return self._draw.choice(("x", "é", "\x01")) * self._draw.choice((5000, 16_385, 300_000))
        return self._draw.choice(_TEXTS)

    def _count(self) -> int:
        if self._one_in(100):
            return self._draw.choice((65, 257, 1001, 3000))
        return self._draw.choice((0, 1, 1, 2, 3, 8))

    def _one_in(self, n: int) -> bool:
        return self._draw.randrange(n) == 0

    # What plausible requests are made of

    def study(self) -> str:
        """The name of a study, mostly of one that exists."""
        return self._draw.choice(self._known.studies or [f"{PROJECT}/studies/s0"])

    def trial(self) -> str:
        """The name of a trial, mostly of one that exists."""
        return self._draw.choice(self._known.trials or [f"{PROJECT}/studies/s0/trials/1"])

    def new_id(self) -> str:
        """An id for a study: one of few, so that they are taken and freed again."""
        return f"s{self._draw.randrange(40)}"

    def request_id(self) -> str:
        """None, or one of few, so that they are used again."""
        return self._draw.choice(("", "", "", f"r{self._draw.randrange(1000)}"))

    def spec(self) -> study_pb2.StudySpec:
        """A small study of any algorithm, over every kind of parameter."""
        draw = self._draw
        pb = search_space_pb2
        parameters = [
            pb.Parameter(name="x0", float=pb.FloatParameter(min=0.0, max=1.0)),
            pb.Parameter(name="x1", int=pb.IntParameter(min=1, max=100, log=bool(draw.randrange(2)))),
            pb.Parameter(name="d", discrete=pb.DiscreteParameter(values=[0.1, 0.5, 2.0])),
            pb.Parameter(
                name="act",
                categorical=pb.CategoricalParameter(choices=[pb.ParameterValue(string_value=c) for c in ("relu", "b")]),
            ),
        ]
        made = study_pb2.StudySpec(
            parameters=draw.sample(parameters, draw.randrange(1, 5)),
            objectives=[
                study_pb2.Objective(metric=metric, direction=study_pb2.Objective.MINIMIZE)
                for metric in ("loss", "a")[: draw.choice((1, 1, 2))]
            ],
            seed=draw.randrange(5),
        )
        algorithm = draw.choice(("random", "random", "grid", "sobol", "gp", "skopt"))
        getattr(made.algorithm, algorithm).SetInParent()
        return made

    def measurement(self) -> trial_pb2.Measurement:
        """Something for each objective that a study here may have."""
        return trial_pb2.Measurement(
            metrics={"loss": self._draw.uniform(-1, 1), "a": self._draw.uniform(0, 1)}, step=self._draw.randrange(50)
        )

    def new_trial(self) -> trial_pb2.Trial:
        """A point to try or a finished trial."""
        draw = self._draw
        value = search_space_pb2.ParameterValue
        trial = trial_pb2.Trial(
            parameters={
                name: made
                for name, made in (
                    ("x0", value(float_value=draw.random())),
                    ("x1", value(int_value=draw.randrange(1, 100))),
                    ("d", value(float_value=0.5)),
                    ("act", value(string_value="relu")),
                )
                if draw.randrange(8)
            }
        )
        if draw.randrange(2):
            trial.state = trial_pb2.Trial.SUCCEEDED
            trial.measurement.CopyFrom(self.measurement())
        return trial

    def mask(self, *paths: str) -> dict[str, Sequence[str]]:
        """An update mask."""
        return {"paths": [path for path in paths if self._draw.randrange(3)]}

    def page(self) -> dict[str, Any]:
        """A page of a size."""
        return {"page_size": self._draw.choice((0, 1, 5, 1000))}

    def draws(self, *of: Any) -> Any:
        """One of these."""
        return self._draw.choice(of)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


_pb = study_service_pb2
_PLAUSIBLE: dict[str, Callable[[Maker], Message]] = {
    "CreateStudy": lambda m: _pb.CreateStudyRequest(
        parent=PROJECT,
        study_id=m.new_id(),
        study=study_pb2.Study(spec=m.spec(), labels={"team": "a"}),
        conflict_policy=m.draws(0, 1, 2),
        request_id=m.request_id(),
    ),
    "GetStudy": lambda m: _pb.GetStudyRequest(name=m.study()),
    "ListStudies": lambda m: _pb.ListStudiesRequest(parent=m.draws(PROJECT, "projects/-"), **m.page()),
    "UpdateStudy": lambda m: _pb.UpdateStudyRequest(
        study=study_pb2.Study(name=m.study(), labels={"team": "b"}, description="d"),
        update_mask=m.mask("labels", "description"),
    ),
    "StopStudy": lambda m: _pb.StopStudyRequest(name=m.study(), reason="enough"),
    "ResumeStudy": lambda m: _pb.ResumeStudyRequest(name=m.study()),
    "DeleteStudy": lambda m: _pb.DeleteStudyRequest(name=m.study(), allow_missing=m.draws(0, 1)),
    "WatchStudy": lambda m: _pb.WatchStudyRequest(name=m.study(), after_revision=m.draws(0, 1, 5)),
    "ExplainStudy": lambda m: _pb.ExplainStudyRequest(name=m.study(), points=m.draws(0, 2)),
    "Ask": lambda m: _pb.AskRequest(parent=m.study(), count=m.draws(0, 1, 3), worker="w", request_id=m.request_id()),
    "Tell": lambda m: _pb.TellRequest(
        name=m.trial(),
        request_id=m.request_id(),
        **m.draws(
            {"measurement": m.measurement()},
            {"measurement": m.measurement()},
            {"infeasible": _pb.TellRequest.Infeasible(reason="why")},
            {"failed": _pb.TellRequest.Failed(reason="why")},
            {"pruned": _pb.TellRequest.Pruned(measurement=m.measurement())},
        ),
    ),
    "Report": lambda m: _pb.ReportRequest(name=m.trial(), measurement=m.measurement()),
    "Heartbeat": lambda m: _pb.HeartbeatRequest(name=m.trial()),
    "CreateTrials": lambda m: _pb.CreateTrialsRequest(
        parent=m.study(), trials=[m.new_trial() for _ in range(m.draws(1, 1, 2, 5))], request_id=m.request_id()
    ),
    "GetTrial": lambda m: _pb.GetTrialRequest(name=m.trial()),
    "ListTrials": lambda m: _pb.ListTrialsRequest(parent=m.study(), view=m.draws(0, 1, 2), **m.page()),
    "ListBestTrials": lambda m: _pb.ListBestTrialsRequest(parent=m.study(), **m.page()),
    "UpdateTrial": lambda m: _pb.UpdateTrialRequest(
        trial=trial_pb2.Trial(name=m.trial(), notes="n", labels={"k": "v"}), update_mask=m.mask("labels", "notes")
    ),
}
assert {method.name for method in SERVICE.methods} == set(_PLAUSIBLE), (
    "a method of the contract has no plausible request"
)
