"""CreateStudy with every kind of wrong specification: refused, every wrong field named, nothing changed."""

from __future__ import annotations

import math
from collections.abc import Callable

import grpc
import pytest

from asktell.v1 import search_space_pb2, study_pb2
from asktell.v1 import study_service_pb2 as pb

from ..support import ServerProcess, float_parameter, spec, stub
from .refusals import Refusal, Stub, nothing_changes, refused

PROJECT = "projects/bad-specs"
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
HUGE = "x" * 1_000_000  # about as much as a spec may have in all

Float = search_space_pb2.FloatParameter
Int = search_space_pb2.IntParameter
Discrete = search_space_pb2.DiscreteParameter
Categorical = search_space_pb2.CategoricalParameter
Value = search_space_pb2.ParameterValue
Condition = search_space_pb2.Condition
Spec = study_pb2.StudySpec
Skopt = study_pb2.SkoptOptimizer
Gp = study_pb2.GpOptimizer
Constraint = study_pb2.OutcomeConstraint
Change = Callable[[Spec], None]


@pytest.fixture(scope="module", autouse=True)
def _kept(server: ServerProcess) -> None:
    """A study whose fate shows whether something changed."""
    with stub(server.target) as service:
        service.CreateStudy(
            pb.CreateStudyRequest(parent=PROJECT, study_id="kept", study=study_pb2.Study(spec=spec(dimensions=1)))
        )


def _values(*given: object) -> list[Value]:
    made = []
    for each in given:
        value = Value()
        if isinstance(each, bool):
            value.bool_value = each
        elif isinstance(each, int):
            value.int_value = each
        elif isinstance(each, float):
            value.float_value = each
        elif isinstance(each, str):
            value.string_value = each
        made.append(value)
    return made


def _parameter(name: str = "p", *, condition: Condition | None = None, **kind: object) -> search_space_pb2.Parameter:
    return search_space_pb2.Parameter(name=name, condition=condition, **kind)  # type: ignore[arg-type]


def _with(**kind: object) -> Change:
    """Puts one more parameter, of this kind, into the spec: its path is parameters[1]."""
    return lambda made: made.parameters.append(_parameter(**kind))


def _below(parent: search_space_pb2.Parameter, *values: object) -> Change:
    """Puts a parent, parameters[1], and a child active under these values of it, parameters[2], into the spec."""

    def change(made: Spec) -> None:
        child = float_parameter("child")
        child.condition.CopyFrom(Condition(parent=parent.name, values=_values(*values)))
        made.parameters.extend([parent, child])

    return change


def _set(path: str, value: object) -> Change:
    """Sets a scalar field of the spec."""

    def change(made: Spec) -> None:
        *parents, last = path.split(".")
        message = made
        for parent in parents:
            message = getattr(message, parent)
        setattr(message, last, value)

    return change


def _chain(*names: str) -> Change:
    """Parameters 1, 2, ... each active under the next, the last under the first."""

    def change(made: Spec) -> None:
        for name, parent in zip(names, [*names[1:], names[0]], strict=True):
            made.parameters.append(
                _parameter(name, int=Int(min=0, max=3), condition=Condition(parent=parent, values=_values(1)))
            )

    return change


def _repeated(field: str, count: int, make: Callable[[int], object]) -> Change:
    return lambda made: getattr(made, field).extend(make(i) for i in range(count))


def _objective(metric: str = "loss", direction: int = study_pb2.Objective.MINIMIZE) -> study_pb2.Objective:
    return study_pb2.Objective(metric=metric, direction=direction)  # type: ignore[arg-type]


def _objectives(*objectives: study_pb2.Objective) -> Change:
    def change(made: Spec) -> None:
        del made.objectives[:]
        made.objectives.extend(objectives)

    return change


def _each(*changes: Change) -> Change:
    def change(made: Spec) -> None:
        for each in changes:
            each(made)

    return change


def _constraints(*constraints: Constraint) -> Change:
    return lambda made: made.outcome_constraints.extend(constraints)


def _gp(*parameters: search_space_pb2.Parameter, **settings: object) -> Change:
    """Has the gp with these settings search these parameters, too: parameters[1] and on."""

    def change(made: Spec) -> None:
        made.parameters.extend(parameters)
        made.algorithm.gp.CopyFrom(Gp(**settings))  # type: ignore[arg-type]

    return change


def _normal(parameter: str = "x0", mean: float = 0.5, width: float = 0.1) -> Gp.OptimumPrior:
    return Gp.OptimumPrior(parameter=parameter, normal=Gp.OptimumPrior.Normal(mean=mean, width=width))


def _weighted(parameter: str, *weights: tuple[object, float]) -> Gp.OptimumPrior:
    pairs = [Gp.OptimumPrior.Weighted.Weight(value=_values(value)[0], weight=weight) for value, weight in weights]
    return Gp.OptimumPrior(parameter=parameter, weighted=Gp.OptimumPrior.Weighted(weights=pairs))


def _sources(*studies: str | tuple[str, int]) -> Change:
    """Has the gp learn from these studies of the project, or of another if the full name is given."""
    made = []
    for each in studies:
        name, revision = (each, 0) if isinstance(each, str) else each
        full = name if "/" in name else f"{PROJECT}/studies/{name}"
        made.append(Gp.TransferSource(study=full, revision=revision))
    return _gp(transfer_sources=made)


def _no_parameters(made: Spec) -> None:
    del made.parameters[:]


OPTIMIZER = _parameter("optimizer", categorical=Categorical(choices=_values("sgd", "adam")))
WIDTH = _parameter("width", int=Int(min=4, max=16, step=4))
BATCH = _parameter("batch", discrete=Discrete(values=[16, 32]))

SPECS: dict[str, tuple[Change, set[str]]] = {
    # the space as a whole
    "no parameters": (_no_parameters, {"parameters"}),
    "1001 parameters": (_repeated("parameters", 1000, lambda i: float_parameter(f"y{i}")), {"parameters"}),
    "empty name": (_with(name="", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name with a space": (_with(name="a b", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name with a newline": (_with(name="a\n", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name with a digit first": (_with(name="1a", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name with NUL": (_with(name="a\0", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name of 129": (_with(name="a" * 129, float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name of 1 MB": (_with(name=HUGE, float=Float(min=0, max=1)), {"parameters[1].name"}),
    "name not ASCII": (_with(name="größe", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "duplicate name": (_with(name="x0", float=Float(min=0, max=1)), {"parameters[1].name"}),
    "no type": (_with(), {"parameters[1].type"}),
    "no type nor name": (_with(name=""), {"parameters[1].type", "parameters[1].name"}),
    # float
    "float without range": (_with(float=Float()), {"parameters[1].float.min", "parameters[1].float.max"}),
    "float without min": (_with(float=Float(max=1)), {"parameters[1].float.min"}),
    "float without max": (_with(float=Float(min=1)), {"parameters[1].float.max"}),
    "float upside down": (_with(float=Float(min=2, max=1)), {"parameters[1].float.max"}),
    "float NaN": (_with(float=Float(min=math.nan, max=1)), {"parameters[1].float.min"}),
    "float inf": (
        _with(float=Float(min=-math.inf, max=math.inf)),
        {"parameters[1].float.min", "parameters[1].float.max"},
    ),
    "float range beyond a double": (_with(float=Float(min=-1.7e308, max=1.7e308)), {"parameters[1].float.max"}),
    "float log of 0": (_with(float=Float(min=0, max=1, log=True)), {"parameters[1].float.min"}),
    "float log of a negative": (_with(float=Float(min=-1, max=1, log=True)), {"parameters[1].float.min"}),
    "float log with step": (_with(float=Float(min=1, max=2, log=True, step=0.1)), {"parameters[1].float.step"}),
    "float step 0": (_with(float=Float(min=0, max=1, step=0)), {"parameters[1].float.step"}),
    "float step negative": (_with(float=Float(min=0, max=1, step=-0.1)), {"parameters[1].float.step"}),
    "float step NaN": (_with(float=Float(min=0, max=1, step=math.nan)), {"parameters[1].float.step"}),
    "float step inf": (_with(float=Float(min=0, max=1, step=math.inf)), {"parameters[1].float.step"}),
    "float step above range": (_with(float=Float(min=0, max=1, step=1.5)), {"parameters[1].float.step"}),
    "float step on a point": (_with(float=Float(min=1, max=1, step=1)), {"parameters[1].float.step"}),
    "float step lost in the range": (_with(float=Float(min=0, max=1e300, step=1e-9)), {"parameters[1].float.step"}),
    "float step below what a double holds": (
        _with(float=Float(min=1e16, max=1e16 + 100, step=0.5)),
        {"parameters[1].float.step"},
    ),
    "float default below": (
        _with(float=Float(min=1, max=2, default_value=0)),
        {"parameters[1].float.default_value"},
    ),
    "float default NaN": (
        _with(float=Float(min=1, max=2, default_value=math.nan)),
        {"parameters[1].float.default_value"},
    ),
    "float default inf": (
        _with(float=Float(min=1, max=2, default_value=math.inf)),
        {"parameters[1].float.default_value"},
    ),
    "float default off the grid": (
        _with(float=Float(min=0, max=1, step=0.25, default_value=0.3)),
        {"parameters[1].float.default_value"},
    ),
    "float all at once": (
        _with(name="", float=Float(min=0, max=-1, log=True, step=-1)),
        {"parameters[1].name", "parameters[1].float.min", "parameters[1].float.max", "parameters[1].float.step"},
    ),
    # int
    "int without range": (_with(int=Int()), {"parameters[1].int.min", "parameters[1].int.max"}),
    "int without max": (_with(int=Int(min=1)), {"parameters[1].int.max"}),
    "int upside down": (_with(int=Int(min=INT64_MAX, max=INT64_MIN)), {"parameters[1].int.max"}),
    "int log of 0": (_with(int=Int(min=0, max=4, log=True)), {"parameters[1].int.min"}),
    "int log with step": (_with(int=Int(min=1, max=4, log=True, step=2)), {"parameters[1].int.step"}),
    "int step 0": (_with(int=Int(min=1, max=4, step=0)), {"parameters[1].int.step"}),
    "int step negative": (_with(int=Int(min=1, max=4, step=INT64_MIN)), {"parameters[1].int.step"}),
    "int step above range": (_with(int=Int(min=1, max=4, step=4)), {"parameters[1].int.step"}),
    "int default outside": (_with(int=Int(min=1, max=4, default_value=5)), {"parameters[1].int.default_value"}),
    "int default off the grid": (
        _with(int=Int(min=1, max=5, step=2, default_value=2)),
        {"parameters[1].int.default_value"},
    ),
    # discrete
    "discrete without values": (_with(discrete=Discrete()), {"parameters[1].discrete.values"}),
    "discrete twice": (_with(discrete=Discrete(values=[1, 2, 1])), {"parameters[1].discrete.values[2]"}),
    "discrete 0 and -0": (_with(discrete=Discrete(values=[0.0, -0.0])), {"parameters[1].discrete.values[1]"}),
    "discrete not finite": (
        _with(discrete=Discrete(values=[math.nan, 1, math.inf])),
        {"parameters[1].discrete.values[0]", "parameters[1].discrete.values[2]"},
    ),
    "discrete log of 0": (_with(discrete=Discrete(values=[0, 1], log=True)), {"parameters[1].discrete.values[0]"}),
    "discrete 10001": (
        _with(discrete=Discrete(values=[float(i) for i in range(10_001)])),
        {"parameters[1].discrete.values"},
    ),
    "discrete default": (
        _with(discrete=Discrete(values=[1, 2], default_value=1.5)),
        {"parameters[1].discrete.default_value"},
    ),
    # categorical
    "categorical without choices": (_with(categorical=Categorical()), {"parameters[1].categorical.choices"}),
    "categorical twice": (
        _with(categorical=Categorical(choices=_values("a", "b", "a"))),
        {"parameters[1].categorical.choices[2]"},
    ),
    "categorical 1, 1.0 and true": (
        _with(categorical=Categorical(choices=_values(1, 1.0, *[True]))),
        {"parameters[1].categorical.choices[1]", "parameters[1].categorical.choices[2]"},
    ),
    "categorical 0 and false": (
        _with(categorical=Categorical(choices=_values(0, *[False]))),
        {"parameters[1].categorical.choices[1]"},
    ),
    "categorical unset": (
        _with(categorical=Categorical(choices=[*_values("a"), Value()])),
        {"parameters[1].categorical.choices[1]"},
    ),
    "categorical not finite": (
        _with(categorical=Categorical(choices=_values("a", math.nan, -math.inf))),
        {"parameters[1].categorical.choices[1]", "parameters[1].categorical.choices[2]"},
    ),
    "categorical unset, not finite and repeated": (
        _with(categorical=Categorical(choices=_values(*[1, True, math.nan, None, "", 0, None]))),
        {f"parameters[1].categorical.choices[{i}]" for i in (1, 2, 3, 6)},
    ),
    "categorical of 1 MB": (
        _with(categorical=Categorical(choices=_values("a", HUGE))),
        {"parameters[1].categorical.choices[1]"},
    ),
    "categorical default": (
        _with(categorical=Categorical(choices=_values("a", "b"), default_value=_values("c")[0])),
        {"parameters[1].categorical.default_value"},
    ),
    "categorical default of another kind": (
        _with(categorical=Categorical(choices=_values(1, "b"), default_value=_values(*[True])[0])),
        {"parameters[1].categorical.default_value"},
    ),
    "categorical default unset": (
        _with(categorical=Categorical(choices=_values(1, "b"), default_value=Value())),
        {"parameters[1].categorical.default_value"},
    ),
    "categorical 10001": (
        _with(categorical=Categorical(choices=_values(*range(10_001)))),
        {"parameters[1].categorical.choices"},
    ),
    # conditions
    "unknown parent": (
        _with(float=Float(min=0, max=1), condition=Condition(parent="nobody", values=_values(1))),
        {"parameters[1].condition.parent"},
    ),
    "parent of 1 MB": (
        _with(float=Float(min=0, max=1), condition=Condition(parent=HUGE, values=_values(1))),
        {"parameters[1].condition.parent"},
    ),
    "parent not given": (
        _with(float=Float(min=0, max=1), condition=Condition(values=_values(1))),
        {"parameters[1].condition.parent"},
    ),
    "float parent": (
        _with(float=Float(min=0, max=1), condition=Condition(parent="x0", values=_values(0.5))),
        {"parameters[1].condition.parent"},
    ),
    "condition without values": (_below(OPTIMIZER), {"parameters[2].condition.values"}),
    "condition on no choice": (_below(OPTIMIZER, "lion"), {"parameters[2].condition.values[0]"}),
    "condition on an unset value": (_below(WIDTH, None), {"parameters[2].condition.values[0]"}),
    "condition off the grid": (_below(WIDTH, 4, 6), {"parameters[2].condition.values[1]"}),
    "condition outside": (_below(WIDTH, 20), {"parameters[2].condition.values[0]"}),
    "condition of a float on an int": (_below(WIDTH, 4.0), {"parameters[2].condition.values[0]"}),
    "condition of true on an int": (_below(WIDTH, *[True]), {"parameters[2].condition.values[0]"}),
    "condition on no number of the list": (_below(BATCH, 16.0, 17.0), {"parameters[2].condition.values[1]"}),
    "condition NaN": (_below(BATCH, math.nan), {"parameters[2].condition.values[0]"}),
    "condition twice": (_below(BATCH, 16, 16.0), {"parameters[2].condition.values[1]"}),
    "own parent": (_chain("a"), {"parameters[1].condition.parent"}),
    "cycle of three": (_chain("a", "b", "c"), {f"parameters[{i}].condition.parent" for i in (1, 2, 3)}),
    # objectives
    "no objective": (_objectives(), {"objectives"}),
    "17 objectives": (_objectives(*(_objective(f"m{i}") for i in range(17))), {"objectives"}),
    "duplicate objective": (_objectives(_objective(), _objective()), {"objectives[1].metric"}),
    "objective without metric": (_objectives(_objective("")), {"objectives[0].metric"}),
    "objective of 1 MB": (_objectives(_objective(HUGE)), {"objectives[0].metric"}),
    "objective without direction": (_objectives(_objective(direction=0)), {"objectives[0].direction"}),
    "objective of unknown direction": (_objectives(_objective(direction=7)), {"objectives[0].direction"}),
    "objective with nothing": (
        _objectives(_objective("", direction=0)),
        {"objectives[0].metric", "objectives[0].direction"},
    ),
    # outcome constraints
    "17 constraints": (_constraints(*(Constraint(metric=f"m{i}", max=1) for i in range(17))), {"outcome_constraints"}),
    "constraint without bound": (_constraints(Constraint(metric="size")), {"outcome_constraints[0].bound"}),
    "constraint NaN": (_constraints(Constraint(metric="size", min=math.nan)), {"outcome_constraints[0].min"}),
    "constraint inf": (_constraints(Constraint(metric="size", max=math.inf)), {"outcome_constraints[0].max"}),
    "constraint without metric": (_constraints(Constraint(max=1)), {"outcome_constraints[0].metric"}),
    "constraint of 1 MB": (_constraints(Constraint(metric=HUGE, max=1)), {"outcome_constraints[0].metric"}),
    "constraint on the objective": (_constraints(Constraint(metric="loss", max=1)), {"outcome_constraints[0].metric"}),
    "constraint twice": (
        _constraints(Constraint(metric="size", max=1), Constraint(metric="size", min=0)),
        {"outcome_constraints[1].metric"},
    ),
    "constraint with nothing": (
        _constraints(Constraint()),
        {"outcome_constraints[0].metric", "outcome_constraints[0].bound"},
    ),
    # algorithm
    "grid points negative": (_set("algorithm.grid.points_per_parameter", -1), {"algorithm.grid.points_per_parameter"}),
    "grid points 10001": (_set("algorithm.grid.points_per_parameter", 10_001), {"algorithm.grid.points_per_parameter"}),
    "skopt unknown estimator": (_set("algorithm.skopt.base_estimator", 99), {"algorithm.skopt.base_estimator"}),
    "skopt unknown acquisition": (
        _set("algorithm.skopt.acquisition_function", -1),
        {"algorithm.skopt.acquisition_function"},
    ),
    "skopt initial points": (_set("algorithm.skopt.initial_points", -1), {"algorithm.skopt.initial_points"}),
    "skopt xi negative": (_set("algorithm.skopt.xi", -0.1), {"algorithm.skopt.xi"}),
    "skopt xi NaN": (_set("algorithm.skopt.xi", math.nan), {"algorithm.skopt.xi"}),
    "skopt kappa 0": (_set("algorithm.skopt.kappa", 0.0), {"algorithm.skopt.kappa"}),
    "skopt kappa inf": (_set("algorithm.skopt.kappa", math.inf), {"algorithm.skopt.kappa"}),
    "skopt observations": (_set("algorithm.skopt.max_observations", 9), {"algorithm.skopt.max_observations"}),
    "skopt all at once": (
        lambda made: made.algorithm.skopt.CopyFrom(
            Skopt(base_estimator=99, acquisition_function=99, xi=-1, kappa=-1, initial_points=-1, max_observations=-1)  # type: ignore[arg-type]
        ),
        {
            f"algorithm.skopt.{field}"
            for field in (
                *("base_estimator", "acquisition_function", "xi", "kappa"),
                *("initial_points", "max_observations"),
            )
        },
    ),
    "gp initial points": (_gp(initial_points=-1), {"algorithm.gp.initial_points"}),
    "gp initial points 10001": (_gp(initial_points=10_001), {"algorithm.gp.initial_points"}),
    "gp cost of an odd name": (_gp(cost_metric="a b"), {"algorithm.gp.cost_metric"}),
    "gp cost of 1 MB": (_gp(cost_metric=HUGE), {"algorithm.gp.cost_metric"}),
    "gp cost is the objective": (_gp(cost_metric="loss"), {"algorithm.gp.cost_metric"}),
    "gp cost is constrained": (
        _each(_gp(cost_metric="size"), _constraints(Constraint(metric="size", max=1))),
        {"algorithm.gp.cost_metric"},
    ),
    "gp cost and several objectives": (
        _each(_gp(cost_metric="s"), _objectives(_objective(), _objective("size"))),
        {"algorithm.gp.cost_metric"},
    ),
    "gp prior on nobody": (_gp(priors=[_normal("nobody")]), {"algorithm.gp.priors[0].parameter"}),
    "gp prior on 1 MB": (_gp(priors=[_normal(HUGE)]), {"algorithm.gp.priors[0].parameter"}),
    "gp prior twice": (_gp(priors=[_normal(), _normal()]), {"algorithm.gp.priors[1].parameter"}),
    "gp prior without belief": (
        _gp(priors=[Gp.OptimumPrior(parameter="x0")]),
        {"algorithm.gp.priors[0].belief"},
    ),
    "gp prior with nothing": (
        _gp(priors=[Gp.OptimumPrior()]),
        {"algorithm.gp.priors[0].belief", "algorithm.gp.priors[0].parameter"},
    ),
    "gp prior on what could not be read": (
        _gp(_parameter(), _parameter("q", float=Float(min=1)), priors=[_normal("p", math.nan), _normal("q", 0.5, 0)]),
        {"parameters[1].type", "parameters[2].float.max"},
    ),
    "gp normal outside": (_gp(priors=[_normal(mean=1.5)]), {"algorithm.gp.priors[0].normal.mean"}),
    "gp normal NaN": (_gp(priors=[_normal(mean=math.nan)]), {"algorithm.gp.priors[0].normal.mean"}),
    "gp normal off the grid": (_gp(WIDTH, priors=[_normal("width", 6)]), {"algorithm.gp.priors[0].normal.mean"}),
    "gp normal between ints": (_gp(WIDTH, priors=[_normal("width", 4.5)]), {"algorithm.gp.priors[0].normal.mean"}),
    "gp normal inf of an int": (
        _gp(WIDTH, priors=[_normal("width", math.inf)]),
        {"algorithm.gp.priors[0].normal.mean"},
    ),
    "gp normal of no number of the list": (
        _gp(BATCH, priors=[_normal("batch", 17)]),
        {"algorithm.gp.priors[0].normal.mean"},
    ),
    "gp normal of a categorical": (_gp(OPTIMIZER, priors=[_normal("optimizer")]), {"algorithm.gp.priors[0].normal"}),
    "gp width 0": (_gp(priors=[_normal(width=0)]), {"algorithm.gp.priors[0].normal.width"}),
    "gp width NaN": (_gp(priors=[_normal(width=math.nan)]), {"algorithm.gp.priors[0].normal.width"}),
    "gp width above 10": (_gp(priors=[_normal(width=10.01)]), {"algorithm.gp.priors[0].normal.width"}),
    "gp mean and width": (
        _gp(priors=[_normal(mean=-1, width=-1)]),
        {"algorithm.gp.priors[0].normal.mean", "algorithm.gp.priors[0].normal.width"},
    ),
    "gp no weights": (_gp(OPTIMIZER, priors=[_weighted("optimizer")]), {"algorithm.gp.priors[0].weighted.weights"}),
    "gp weights of a float": (_gp(priors=[_weighted("x0", (0.5, 1.0))]), {"algorithm.gp.priors[0].weighted"}),
    "gp weights of an int": (_gp(WIDTH, priors=[_weighted("width", (4, 1.0))]), {"algorithm.gp.priors[0].weighted"}),
    "gp weights 0, NaN and inf": (
        _gp(
            _parameter("c", categorical=Categorical(choices=_values("a", "b", "c"))),
            priors=[_weighted("c", ("a", 0.0), ("b", math.nan), ("c", math.inf))],
        ),
        {f"algorithm.gp.priors[0].weighted.weights[{i}].weight" for i in range(3)},
    ),
    "gp weight of no choice": (
        _gp(OPTIMIZER, priors=[_weighted("optimizer", ("sgd", 1.0), ("lion", 1.0))]),
        {"algorithm.gp.priors[0].weighted.weights[1].value"},
    ),
    "gp weight unset, and 0": (
        _gp(OPTIMIZER, priors=[_weighted("optimizer", (None, 1.0), ("sgd", 0.0))]),
        {"algorithm.gp.priors[0].weighted.weights[0].value", "algorithm.gp.priors[0].weighted.weights[1].weight"},
    ),
    "gp weight twice": (
        _gp(BATCH, priors=[_weighted("batch", (16.0, 1.0), (16, 2.0))]),
        {"algorithm.gp.priors[0].weighted.weights[1].value"},
    ),
    "gp source of no name": (_sources("projects/x"), {"algorithm.gp.transfer_sources[0].study"}),
    "gp source not given": (
        _gp(transfer_sources=[Gp.TransferSource()]),
        {"algorithm.gp.transfer_sources[0].study"},
    ),
    "gp source of 1 MB": (_sources(f"{PROJECT}/studies/{HUGE}"), {"algorithm.gp.transfer_sources[0].study"}),
    "gp source of another project": (
        _sources("projects/other/studies/kept"),
        {"algorithm.gp.transfer_sources[0].study"},
    ),
    "gp source of nobody": (_sources("kept", "nobody"), {"algorithm.gp.transfer_sources[1].study"}),
    "gp source is the study itself": (_sources("refused"), {"algorithm.gp.transfer_sources[0].study"}),
    "gp source twice": (_sources("kept", "kept"), {"algorithm.gp.transfer_sources[1].study"}),
    "gp source twice and of nobody": (
        _sources("kept", "kept", "nobody"),
        {"algorithm.gp.transfer_sources[1].study", "algorithm.gp.transfer_sources[2].study"},
    ),
    "gp 11 sources": (_sources(*(f"s{i}" for i in range(11))), {"algorithm.gp.transfer_sources"}),
    "gp revision negative": (_sources(("kept", -1)), {"algorithm.gp.transfer_sources[0].revision"}),
    "gp revision to come": (_sources(("kept", 1000)), {"algorithm.gp.transfer_sources[0].revision"}),
    "gp source of another metric": (
        _each(_sources("kept"), _objectives(_objective("size"), _objective("loss"))),
        {"algorithm.gp.transfer_sources[0].study"},
    ),
    "gp source with nothing in common": (
        _each(
            _sources("kept"),
            _no_parameters,
            _with(name="x0", int=Int(min=0, max=1)),
            _with(name="y", float=Float(min=0, max=1)),
        ),
        {"algorithm.gp.transfer_sources[0].study"},
    ),
    # stopping criteria, policy, seed
    "max_trials": (_set("stopping_criteria.max_trials", -1), {"stopping_criteria.max_trials"}),
    "target NaN": (_set("stopping_criteria.target", math.nan), {"stopping_criteria.target"}),
    "target inf": (_set("stopping_criteria.target", -math.inf), {"stopping_criteria.target"}),
    "patience": (
        _set("stopping_criteria.max_trials_without_improvement", INT64_MIN),
        {"stopping_criteria.max_trials_without_improvement"},
    ),
    "failures": (_set("stopping_criteria.max_failed_trials", -1), {"stopping_criteria.max_failed_trials"}),
    "lease 0": (lambda made: made.trial_policy.lease.SetInParent(), {"trial_policy.lease"}),
    "lease below a second": (_set("trial_policy.lease.nanos", 900_000_000), {"trial_policy.lease"}),
    "lease negative": (_set("trial_policy.lease.seconds", -5), {"trial_policy.lease"}),
    "lease for ever": (_set("trial_policy.lease.seconds", INT64_MAX), {"trial_policy.lease"}),
    "lease before time": (_set("trial_policy.lease.seconds", INT64_MIN), {"trial_policy.lease"}),
    "retries negative": (_set("trial_policy.max_retries", -1), {"trial_policy.max_retries"}),
    "retries 1001": (_set("trial_policy.max_retries", 1001), {"trial_policy.max_retries"}),
    "seed negative": (_set("seed", -1), {"seed"}),
}


@pytest.mark.parametrize("name", SPECS)
def test_wrong_spec(service: Stub, name: str) -> None:
    """A wrong spec is INVALID_ARGUMENT that names exactly the wrong fields, and creates nothing."""
    change, fields = SPECS[name]
    made = spec(dimensions=1)
    change(made)

    with nothing_changes(service, PROJECT):
        refusal = _create(service, made)

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_ARGUMENT"
    assert refusal.named == {f"study.spec.{field}" for field in fields}


@pytest.mark.parametrize("policy", ["FAIL", "USE_EXISTING"])
def test_no_spec(service: Stub, policy: str) -> None:
    """A study without a spec is refused under every conflict policy."""
    request = pb.CreateStudyRequest(parent=PROJECT, study_id="none", conflict_policy=policy)  # type: ignore[arg-type]

    refusal = refused(lambda: service.CreateStudy(request))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.named == {"study.spec.parameters", "study.spec.objectives"}


def test_criteria_that_need_one_objective(service: Stub) -> None:
    """A target and a patience are refused where there are several objectives."""
    made = spec()
    made.objectives.append(_objective("size"))
    made.stopping_criteria.target = 0.0
    made.stopping_criteria.max_trials_without_improvement = 3

    refusal = _create(service, made)

    assert refusal.named == {
        "study.spec.stopping_criteria.target",
        "study.spec.stopping_criteria.max_trials_without_improvement",
    }


def _several_objectives(made: Spec) -> None:
    made.objectives.append(_objective("size"))
    made.algorithm.skopt.SetInParent()


def _constrained_skopt(made: Spec) -> None:
    made.outcome_constraints.add(metric="size", max=1.0)
    made.algorithm.skopt.SetInParent()


def _everything_unsupported(made: Spec) -> None:
    _several_objectives(made)
    made.outcome_constraints.add(metric="latency", max=1.0)
    made.early_stopping.median.min_trials = 3


UNIMPLEMENTED: dict[str, tuple[Change, set[str]]] = {
    "outcome constraints in skopt": (_constrained_skopt, {"outcome_constraints"}),
    "early stopping": (_set("early_stopping.median.min_trials", 3), {"early_stopping"}),
    "early stopping by halving": (_set("early_stopping.successive_halving.min_step", 1), {"early_stopping"}),
    "several objectives in the model": (_several_objectives, {"objectives"}),
    "everything at once": (_everything_unsupported, {"outcome_constraints", "early_stopping", "objectives"}),
}


@pytest.mark.parametrize("name", UNIMPLEMENTED)
def test_unimplemented_features_are_named(service: Stub, name: str) -> None:
    """What this release cannot do is UNIMPLEMENTED by name, never ignored."""
    change, fields = UNIMPLEMENTED[name]
    made = spec()
    change(made)

    with nothing_changes(service, PROJECT):
        refusal = _create(service, made)

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert refusal.reason == "FEATURE_NOT_IMPLEMENTED"
    assert refusal.named == {f"study.spec.{field}" for field in fields}
    for field in fields:
        assert f"study.spec.{field}" in refusal.metadata["features"]


def test_a_wrong_spec_comes_before_an_unimplemented_feature(service: Stub) -> None:
    """What is wrong is said first: mending it is needed whatever the server can do."""
    made = spec()
    made.early_stopping.median.min_trials = 3
    made.seed = -1

    refusal = _create(service, made)
    made.seed = 0
    _sources("nobody")(made)
    with_source = _create(service, made)

    assert refusal.code is with_source.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.named == {"study.spec.seed"}
    assert with_source.named == {"study.spec.algorithm.gp.transfer_sources[0].study"}


@pytest.mark.parametrize("name", ["x", "ü", "😀", "%", "\x01"], ids=ascii)
def test_many_violations(service: Stub, name: str) -> None:
    """Of many violations the first 20 are named and the rest counted, and the trailers stay below 8 KiB in any script."""
    made = spec(dimensions=1)
    for i in range(500):
        made.parameters.append(float_parameter(f"{i}{name * 400}", 1.0, 0.0))

    with nothing_changes(service, PROJECT):
        refusal = _create(service, made)

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    expected = [f"study.spec.parameters[{i}].{field}" for i in range(1, 11) for field in ("name", "float.max")]
    assert refusal.fields == [*expected, ""]
    assert refusal.descriptions[-1] == "and 980 more violations"
    assert all(refusal.descriptions)


@pytest.mark.parametrize("count", [19, 20, 21])
def test_the_rest_is_counted_only_when_there_is_one(service: Stub, count: int) -> None:
    """20 violations are all named; the 21st is counted."""
    made = spec(dimensions=1)
    made.parameters.extend(float_parameter(f"{i}") for i in range(count))

    refusal = _create(service, made)

    assert refusal.fields[:20] == [f"study.spec.parameters[{i}].name" for i in range(1, min(count, 20) + 1)]
    assert refusal.descriptions[20:] == ([] if count <= 20 else ["and 1 more violations"])


def test_a_source_of_nobody_is_named_with_all_else(service: Stub) -> None:
    """What only the database can tell is named with what the request tells, but for what cannot be compared."""
    made = spec(dimensions=1)
    _sources("kept", "nobody", ("kept", 1000))(made)
    made.parameters[0].ClearField("float")
    made.seed = -1

    with nothing_changes(service, PROJECT):
        refusal = _create(service, made)

    assert refusal.named == {
        *("study.spec.parameters[0].type", "study.spec.seed"),
        *("study.spec.algorithm.gp.transfer_sources[1].study", "study.spec.algorithm.gp.transfer_sources[2].study"),
        "study.spec.algorithm.gp.transfer_sources[2].revision",
    }


def test_violations_in_all_parts_of_a_request(service: Stub) -> None:
    """Everything that is wrong with a request is named at once, whatever part reads it."""
    made = spec(dimensions=1)
    made.parameters[0].float.max = -1
    made.objectives[0].direction = study_pb2.Objective.DIRECTION_UNSPECIFIED
    request = pb.CreateStudyRequest(
        parent="projects/",
        study_id="a b",
        study=study_pb2.Study(spec=made, description="x" * 16_385, labels={"a b": "", "c": "x" * 256}),
        conflict_policy=9,  # type: ignore[arg-type]
        request_id="x" * 129,
    )

    with nothing_changes(service, PROJECT):
        refusal = refused(lambda: service.CreateStudy(request))

    assert refusal.named == {
        *("parent", "study_id", "conflict_policy", "request_id"),
        *("study.spec.parameters[0].float.max", "study.spec.objectives[0].direction"),
        *("study.description", "study.labels['a b']", "study.labels['c']"),
    }


def _create(service: Stub, made: Spec) -> Refusal:
    request = pb.CreateStudyRequest(parent=PROJECT, study_id="refused", study=study_pb2.Study(spec=made))
    return refused(lambda: service.CreateStudy(request))
