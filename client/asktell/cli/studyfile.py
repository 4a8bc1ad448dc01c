"""A study as a short document, and its spec again: what `asktell study create` reads and exports hold.

docs/study-file.md describes the form. It is the contract's own, shortened: parameters are keyed by name, with their type
as a field and `default` and `when` for `default_value` and `condition`; objectives read `maximize: accuracy`; the
stopping criteria are `stopping`, the trial policy's `lease` (seconds) and `max_retries` stand on their own; priors are
keyed by parameter, and studies to learn from go by their ids. Here only the form is checked, all problems at once; whether
the study makes sense is for the server to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from asktell.cli.problems import BadInput
from asktell.cli.records import Record, message_record, value_of
from asktell.names import InvalidName, StudyName
from asktell.v1.search_space_pb2 import Condition, Parameter, ParameterValue
from asktell.v1.study_pb2 import (
    Algorithm,
    GpOptimizer,
    Objective,
    Study,
    StudySpec,
)

_TYPES = ("float", "int", "discrete", "categorical")
_ALGORITHMS = tuple(field.name for field in Algorithm.DESCRIPTOR.fields)
_PRIORS = "{mean: NUMBER, width: NUMBER} or a list of {value: VALUE, weight: NUMBER}"
_DIRECTIONS = {"maximize": Objective.MAXIMIZE, "minimize": Objective.MINIMIZE}
_KEYS = (
    "name",
    "description",
    "labels",
    "parameters",
    "objectives",
    "outcome_constraints",
    "algorithm",
    "early_stopping",
    "stopping",
    "lease",
    "max_retries",
    "seed",
)


def study_record(study: Study) -> Record:
    """A study with its state: `name`, `project` and `state` first, `spec` in the form of a study file."""
    name = StudyName.parse(study.name)
    record = message_record(study) | {"spec": spec_document(study.spec)}
    del record["name"]
    return {"name": name.study, "project": name.project, "state": record.pop("state"), **record}


def study_document(study: Study) -> Record:
    """The document that describes the study, without its state."""
    document: Record = {"name": StudyName.parse(study.name).study}
    if study.description:
        document["description"] = study.description
    if study.labels:
        document["labels"] = {key: study.labels[key] for key in sorted(study.labels)}
    return document | spec_document(study.spec)


def spec_document(spec: StudySpec) -> Record:
    """The document's part that is the spec."""
    document: Record = {
        "parameters": {parameter.name: _parameter_document(parameter) for parameter in spec.parameters},
        "objectives": _objectives_document(spec),
    }
    if spec.outcome_constraints:
        document["outcome_constraints"] = [message_record(constraint) for constraint in spec.outcome_constraints]
    if spec.HasField("algorithm"):
        document["algorithm"] = _algorithm_document(spec.algorithm)
    if spec.HasField("early_stopping"):
        document["early_stopping"] = message_record(spec.early_stopping)
    if spec.HasField("stopping_criteria"):
        document["stopping"] = message_record(spec.stopping_criteria)
    policy = spec.trial_policy
    if policy.HasField("lease"):
        seconds, nanos = policy.lease.seconds, policy.lease.nanos
        document["lease"] = seconds + nanos / 1e9 if nanos else seconds
    if policy.HasField("max_retries"):
        document["max_retries"] = policy.max_retries
    if spec.HasField("seed"):
        document["seed"] = spec.seed
    return document


def _algorithm_document(algorithm: Algorithm) -> Record:
    document = message_record(algorithm)
    gp = document.get("gp", {})
    if "priors" in gp:
        gp["priors"] = {prior.parameter: _prior_document(prior) for prior in algorithm.gp.priors}
    if "transfer_sources" in gp:
        gp["transfer_sources"] = [_source_document(source) for source in algorithm.gp.transfer_sources]
    return document


def _prior_document(prior: GpOptimizer.OptimumPrior) -> Record | list[Record]:
    if prior.HasField("normal"):
        return {"mean": prior.normal.mean, "width": prior.normal.width}
    return [{"value": value_of(each.value), "weight": each.weight} for each in prior.weighted.weights]


def _source_document(source: GpOptimizer.TransferSource) -> Record | str:
    """A study to learn from, by its id: it is of the same project."""
    try:
        study = StudyName.parse(source.study).study
    except InvalidName:  # of a message that no server has checked
        study = source.study
    return {"study": study, "revision": source.revision} if source.revision else study


def _parameter_document(parameter: Parameter) -> Record:
    kind = parameter.WhichOneof("type")
    if kind is None:  # a newer server's type
        return {"type": "unknown"}
    fields = message_record(getattr(parameter, kind))
    if "default_value" in fields:
        fields["default"] = fields.pop("default_value")
    if parameter.HasField("condition"):
        values = message_record(parameter.condition)["values"]
        fields["when"] = {parameter.condition.parent: values[0] if len(values) == 1 else values}
    return {"type": kind, **fields}


def _objectives_document(spec: StudySpec) -> Record | list[Record]:
    """A mapping for one objective, a list for several (their order is part of the spec)."""
    names = {number: name for name, number in _DIRECTIONS.items()}
    each = [{names[objective.direction]: objective.metric} for objective in spec.objectives]
    return each[0] if len(each) == 1 else each


def parse_study(document: object, where: str) -> tuple[str, Study]:
    """The study's id (empty when the document gives none) and the study of a document. Raises BadInput.

    `where` names the document in the error.
    """
    reader = _Reader()
    study = reader.study(document)
    if reader.problems:
        raise BadInput(where, reader.problems)
    assert isinstance(document, Mapping)
    return str(document.get("name", "")), study


class _Reader:
    """Reads a document and collects what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def study(self, document: object) -> Study:
        study = Study()
        if not isinstance(document, Mapping):
            self.problems.append("a study is a mapping that begins with its name, parameters and objectives")
            return study
        for key in document:
            if key not in _KEYS:
                self.problems.append(f"{key}: unknown; a study has {', '.join(_KEYS)}")
        if "name" in document and not isinstance(document["name"], str):
            self.problems.append(f"name: {document['name']!r} is not text; put it in quotes")
        self._fill({key: document[key] for key in ("description", "labels") if key in document}, study, "")
        spec = study.spec
        self._parameters(document.get("parameters"), spec)
        self._objectives(document.get("objectives"), spec)
        for index, constraint in enumerate(self._list(document, "outcome_constraints")):
            self._fill(constraint, spec.outcome_constraints.add(), f"outcome_constraints[{index}]")
        algorithm = document.get("algorithm")
        if algorithm is not None:
            self._algorithm(algorithm, spec.algorithm)
        if "early_stopping" in document:
            self._fill(document["early_stopping"], spec.early_stopping, "early_stopping")
        if "stopping" in document:
            self._stopping(document["stopping"], spec)
        if "lease" in document:
            self._lease(document["lease"], spec)
        if "max_retries" in document:
            self._fill({"max_retries": document["max_retries"]}, spec.trial_policy, "")
        if "seed" in document:
            self._fill({"seed": document["seed"]}, spec, "")
        return study

    def _stopping(self, criteria: object, spec: StudySpec) -> None:
        if isinstance(criteria, Mapping):
            for key, limit in criteria.items():
                if str(key).startswith("max_") and limit == 0:
                    self.problems.append(f"stopping.{key}: at least 1, not {limit!r}; leave it out for no limit")
        self._fill(criteria, spec.stopping_criteria, "stopping")

    def _parameters(self, parameters: object, spec: StudySpec) -> None:
        if not isinstance(parameters, Mapping) or not parameters:
            self.problems.append("parameters: required, a mapping from each parameter's name to its type and range")
            return
        for name, fields in parameters.items():
            path = f"parameters.{name}"
            if not isinstance(name, str):
                self.problems.append(f"{path}: a name is text; put it in quotes")
            elif not isinstance(fields, Mapping) or fields.get("type") not in _TYPES:
                self.problems.append(f"{path}.type: required, one of {', '.join(_TYPES)}")
            else:
                self._parameter(path, dict(fields), spec.parameters.add(name=name))

    def _parameter(self, path: str, fields: dict[str, Any], parameter: Parameter) -> None:
        kind = getattr(parameter, fields.pop("type"))
        kind.SetInParent()
        if "when" in fields:
            self._condition(f"{path}.when", fields.pop("when"), parameter.condition)
        if "default" in fields:
            fields["default_value"] = fields.pop("default")
        if parameter.HasField("categorical"):
            choices = fields.pop("choices", None)
            if not isinstance(choices, list) or not choices:
                self.problems.append(f"{path}.choices: required, a list of text, numbers or true and false")
            else:
                kind.choices.extend(self._value(f"{path}.choices", choice) for choice in choices)
            if "default_value" in fields:
                kind.default_value.CopyFrom(self._value(f"{path}.default", fields.pop("default_value")))
        self._fill(fields, kind, path)

    def _condition(self, path: str, when: object, condition: Condition) -> None:
        if not isinstance(when, Mapping) or len(when) != 1:
            self.problems.append(f"{path}: one parent and its value, or list of values, such as {{optimizer: sgd}}")
            return
        ((parent, values),) = when.items()
        condition.parent = str(parent)
        values = values if isinstance(values, list) else [values]
        condition.values.extend(self._value(f"{path}.{parent}", value) for value in values)

    def _objectives(self, objectives: object, spec: StudySpec) -> None:
        each = objectives if isinstance(objectives, list) else [objectives]
        if objectives is None or not each:
            self.problems.append("objectives: required, such as {maximize: accuracy}")
            return
        for objective in each:
            if not isinstance(objective, Mapping) or not objective or not set(objective) <= set(_DIRECTIONS):
                self.problems.append(
                    f"objectives: {objective!r} is not of the form {{maximize: METRIC}} or {{minimize: METRIC}}"
                )
                continue
            for direction, metrics in objective.items():
                for metric in metrics if isinstance(metrics, list) else [metrics]:
                    if not isinstance(metric, str):
                        self.problems.append(f"objectives.{direction}: {metric!r} is not the name of a metric")
                        continue
                    spec.objectives.add(metric=metric, direction=_DIRECTIONS[direction])

    def _algorithm(self, algorithm: object, message: Algorithm) -> None:
        fields = {algorithm: {}} if isinstance(algorithm, str) else algorithm
        if not isinstance(fields, Mapping) or len(fields) != 1 or not set(fields) <= set(_ALGORITHMS):
            self.problems.append(f"algorithm: a name, or a name with its settings; there are {', '.join(_ALGORITHMS)}")
            return
        ((name, settings),) = fields.items()
        getattr(message, name).SetInParent()
        if name == "gp" and isinstance(settings, Mapping):
            settings = dict(settings)
            self._priors(settings.pop("priors", {}), message.gp)
            for index, source in enumerate(self._list(settings, "transfer_sources", "algorithm.gp.")):
                path = f"algorithm.gp.transfer_sources[{index}]"
                self._fill(
                    {"study": source} if isinstance(source, str) else source, message.gp.transfer_sources.add(), path
                )
            settings.pop("transfer_sources", None)
        self._fill(settings or {}, getattr(message, name), f"algorithm.{name}")

    def _priors(self, priors: object, gp: GpOptimizer) -> None:
        if not isinstance(priors, Mapping):
            self.problems.append(f"algorithm.gp.priors: {priors!r} is not a mapping from a parameter to {_PRIORS}")
            return
        for parameter, prior in priors.items():
            path = f"algorithm.gp.priors.{parameter}"
            message = gp.priors.add(parameter=str(parameter))
            if isinstance(prior, Mapping):
                message.normal.SetInParent()
                self._fill(prior, message.normal, path)
            elif isinstance(prior, list):
                message.weighted.SetInParent()
                for index, weight in enumerate(prior):
                    self._weight(f"{path}[{index}]", weight, message.weighted.weights.add())
            else:
                self.problems.append(f"{path}: {prior!r} is not {_PRIORS}")

    def _weight(self, path: str, fields: object, message: GpOptimizer.OptimumPrior.Weighted.Weight) -> None:
        if isinstance(fields, Mapping) and "value" in fields:
            message.value.CopyFrom(self._value(f"{path}.value", fields["value"]))
            fields = {key: value for key, value in fields.items() if key != "value"}
        self._fill(fields, message, path)

    def _lease(self, lease: object, spec: StudySpec) -> None:
        if isinstance(lease, bool) or not isinstance(lease, (int, float)):
            self.problems.append(f"lease: {lease!r} is not a number of seconds")
            return
        try:
            spec.trial_policy.lease.FromNanoseconds(round(lease * 10**9))
        except (ValueError, OverflowError):
            self.problems.append(f"lease: {lease!r} is not a finite number of seconds")

    def _value(self, path: str, value: object) -> ParameterValue:
        if isinstance(value, bool):
            return ParameterValue(bool_value=value)
        if isinstance(value, float):
            return ParameterValue(float_value=value)
        if isinstance(value, str):
            return ParameterValue(string_value=value)
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return ParameterValue(int_value=value)
        self.problems.append(f"{path}: {value!r} is not text, a number, true or false")
        return ParameterValue()

    def _list(self, document: Mapping[Any, Any], key: str, under: str = "") -> list[object]:
        value = document.get(key, [])
        if isinstance(value, list):
            return value
        self.problems.append(f"{under}{key}: {value!r} is not a list")
        return []

    def _fill(self, fields: object, message: Message, path: str) -> None:
        """Sets the fields of a message; each is tried on its own first, so that every bad one is told."""
        if not isinstance(fields, Mapping):
            self.problems.append(f"{path}: {fields!r} is not a mapping")
            return
        known = [field.name for field in message.DESCRIPTOR.fields]
        good: dict[str, Any] = {}
        for key, value in fields.items():
            at = f"{path}.{key}" if path else str(key)
            if key not in known:
                words = ", ".join("default" if name == "default_value" else name for name in known) or "no settings"
                self.problems.append(f"{at}: unknown; there are {words}")
                continue
            try:
                ParseDict({key: value}, type(message)())
            except ParseError as error:
                self.problems.append(f"{at}: {error}")
            else:
                good[key] = value
        try:
            ParseDict(good, message)
        except ParseError as error:  # two fields of which only one may be set
            self.problems.append(f"{path}: {error}")
