"""Study files: the example in the documentation, the round trip, and what is wrong with a bad one."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell.cli.files import parse_json, parse_yaml, read_document
from asktell.cli.problems import BadInput
from asktell.cli.studyfile import parse_study, study_document
from asktell.v1 import search_space_pb2 as space
from asktell.v1 import study_pb2 as pb

DOCS = Path(__file__).parents[2] / "docs" / "study-file.md"
MINIMAL: dict[str, Any] = {"parameters": {"x": {"type": "float", "min": 0, "max": 1}}, "objectives": {"minimize": "y"}}

numbers = st.floats(allow_nan=False, allow_infinity=False)
int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
values = st.one_of(
    st.builds(space.ParameterValue, float_value=numbers),
    st.builds(space.ParameterValue, int_value=int64),
    st.builds(space.ParameterValue, string_value=st.text(max_size=5)),
    st.builds(space.ParameterValue, bool_value=st.booleans()),
)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _parameter(name: str) -> st.SearchStrategy[space.Parameter]:
    condition = _maybe(st.builds(space.Condition, parent=names, values=st.lists(values, min_size=1, max_size=3)))
    types: dict[str, st.SearchStrategy[Any]] = {
        "float": st.builds(
            space.FloatParameter,
            min=numbers,
            max=numbers,
            log=st.booleans(),
            step=_maybe(numbers),
            default_value=_maybe(numbers),
        ),
        "int": st.builds(
            space.IntParameter,
            min=int64,
            max=int64,
            log=st.booleans(),
            step=_maybe(int64),
            default_value=_maybe(int64),
        ),
        "discrete": st.builds(
            space.DiscreteParameter,
            values=st.lists(numbers, min_size=1, max_size=3),
            log=st.booleans(),
            default_value=_maybe(numbers),
        ),
        "categorical": st.builds(
            space.CategoricalParameter, choices=st.lists(values, min_size=1, max_size=3), default_value=_maybe(values)
        ),
    }
    kinds = [
        st.builds(space.Parameter, name=st.just(name), condition=condition, **{kind: of}) for kind, of in types.items()
    ]
    return st.one_of(kinds)


def _gp() -> st.SearchStrategy[pb.GpOptimizer]:
    of = pb.GpOptimizer
    normal = st.builds(of.OptimumPrior.Normal, mean=numbers, width=numbers)
    weight = st.builds(of.OptimumPrior.Weighted.Weight, value=values, weight=numbers)
    weighted = st.builds(of.OptimumPrior.Weighted, weights=st.lists(weight, max_size=2))
    prior = st.builds(of.OptimumPrior, parameter=names, normal=normal) | st.builds(
        of.OptimumPrior, parameter=names, weighted=weighted
    )
    source = st.builds(of.TransferSource, study=names, revision=st.integers(0, 2**63 - 1))
    return st.builds(
        of,
        initial_points=st.integers(0, 10),
        cost_metric=st.just("") | names,
        priors=st.lists(prior, max_size=3, unique_by=lambda each: each.parameter),
        transfer_sources=st.lists(source, max_size=2),
    )


@st.composite
def studies(draw: st.DrawFn) -> pb.Study:
    """Studies of every form that a file can hold, sensible or not."""
    study = pb.Study(name="projects/p/studies/digits", description=draw(st.text(max_size=5)))
    study.labels.update(draw(st.dictionaries(names, st.text(max_size=5), max_size=2)))
    spec = study.spec
    spec.parameters.extend(
        draw(_parameter(name)) for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    )
    ways = st.sampled_from([pb.Objective.MAXIMIZE, pb.Objective.MINIMIZE])
    for metric in draw(st.lists(names, min_size=1, max_size=3)):
        spec.objectives.add(metric=metric, direction=draw(ways))
    for metric in draw(st.lists(names, max_size=1)):
        spec.outcome_constraints.add(metric=metric, max=draw(numbers))
    kind = draw(st.sampled_from(["", "random", "sobol", "grid", "skopt", "gp"]))
    if kind:
        getattr(spec.algorithm, kind).SetInParent()
    if kind == "skopt":
        spec.algorithm.skopt.xi = draw(numbers)
        spec.algorithm.skopt.base_estimator = pb.SkoptOptimizer.RF
    if kind == "gp":
        spec.algorithm.gp.CopyFrom(draw(_gp()))
    if draw(st.booleans()):
        spec.early_stopping.median.min_trials = 3
    if draw(st.booleans()):
        spec.stopping_criteria.max_trials = draw(st.integers(1, 2**63 - 1))
        spec.stopping_criteria.target = draw(numbers)
    if draw(st.booleans()):
        spec.trial_policy.lease.FromMilliseconds(draw(st.integers(1, 10**9)))
    if draw(st.booleans()):
        spec.trial_policy.max_retries = draw(st.integers(0, 100))
    if draw(st.booleans()):
        spec.seed = draw(st.integers(0, 2**63 - 1))
    return study


@given(studies())
def test_a_study_survives_the_way_through_a_json_document(study: pb.Study) -> None:
    """Every field, type and order of a study comes back from its document."""
    text = json.dumps(study_document(study))

    study_id, again = parse_study(parse_json(text, "file"), "file")

    again.name = f"projects/p/studies/{study_id}"
    assert again == study


def test_the_example_in_the_documentation_uses_every_field_that_the_server_acts_on(tmp_path: Path) -> None:
    """The documented example is read, and leaves out only what servers refuse for now."""
    text = DOCS.read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(examples[0])

    document = read_document(path)
    name, study = parse_study(document, str(path))

    assert name == "digits"
    assert [p.WhichOneof("type") for p in study.spec.parameters] == [
        *("float", "float", "int", "int", "discrete", "categorical", "float", "categorical"),
    ]
    assert study.spec.parameters[6].condition.parent == "optimizer"
    assert study.spec.algorithm.gp.initial_points == 8
    assert [(bound.metric, bound.max) for bound in study.spec.outcome_constraints] == [("latency_ms", 5)]
    assert study.spec.trial_policy.lease.seconds == 120
    documented = set(re.findall(r"^\| `(\w+)` \|", text.partition("## Parameters")[0], re.MULTILINE))
    assert documented - set(document) == {"early_stopping"}


def test_the_example_with_beliefs_in_the_documentation_is_read() -> None:
    """Beliefs go by parameter, and a study to learn from by its id."""
    examples = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)

    _, study = parse_study(MINIMAL | parse_yaml(examples[1], "file"), "file")

    gp = study.spec.algorithm.gp
    assert [(prior.parameter, prior.WhichOneof("belief")) for prior in gp.priors] == [
        ("learning_rate", "normal"),
        ("optimizer", "weighted"),
    ]
    assert (gp.priors[0].normal.mean, gp.priors[0].normal.width) == (1e-3, 0.2)
    assert [(each.value.string_value, each.weight) for each in gp.priors[1].weighted.weights] == [
        ("adam", 3.0),
        ("sgd", 1.0),
    ]
    assert [source.study for source in gp.transfer_sources] == ["digits-small"]
    assert gp.cost_metric == "seconds"


def test_studies_to_learn_from_are_written_by_their_ids() -> None:
    """A study file can be taken to another project: it says nothing about its own."""
    study = pb.Study(name="projects/p/studies/digits")
    study.spec.objectives.add(metric="y", direction=pb.Objective.MINIMIZE)
    study.spec.algorithm.gp.transfer_sources.add(study="projects/p/studies/earlier", revision=7)
    study.spec.algorithm.gp.transfer_sources.add(study="projects/p/studies/other")

    document = study_document(study)

    assert document["algorithm"] == {"gp": {"transfer_sources": [{"study": "earlier", "revision": 7}, "other"]}}


def test_the_types_of_yaml_values_reach_the_study() -> None:
    """Choices keep their kind, `1e-5` is a number, `no` is a word, and zero is not absence."""
    text = """
parameters:
  a: {type: categorical, choices: [no, 1, 1.5, true, "2", 2024-01-01]}
  b: {type: float, min: 0, max: 1e-5, default: 0}
objectives: {maximize: y}
stopping: {target: 0}
max_retries: 0
seed: 0
"""

    _, study = parse_study(parse_yaml(text, "file"), "file")

    kinds = [choice.WhichOneof("kind") for choice in study.spec.parameters[0].categorical.choices]
    assert kinds == ["string_value", "int_value", "float_value", "bool_value", "string_value", "string_value"]
    of_b = study.spec.parameters[1].float
    assert (of_b.min, of_b.max, of_b.HasField("default_value")) == (0.0, 1e-5, True)
    assert study.spec.stopping_criteria.HasField("target")
    assert study.spec.trial_policy.HasField("max_retries")
    assert study.spec.HasField("seed")


def test_all_problems_of_a_file_are_told_at_once() -> None:
    """One reading names every bad field by its path."""
    document = {
        "nme": "x",
        "name": 3,
        "labels": {"a": 3},
        "parameters": {
            "lr": {"type": "flot"},
            "n": {"type": "int", "min": 1.5, "max": "high", "foo": 1},
            "c": {"type": "categorical", "default": [1]},
            "d": {"type": "discrete", "values": 3, "when": ["n"]},
        },
        "objectives": ["accuracy", {"maximize": 3}],
        "outcome_constraints": [{"metric": "a", "min": 1, "max": 2}],
        "algorithm": {"skopt": {"base_estimator": "XX", "q": 1}},
        "stopping": 3,
        "lease": "10s",
        "max_retries": "x",
        "seed": 1.5,
    }

    with pytest.raises(BadInput) as caught:
        parse_study(document, "file.yaml")

    paths = [problem.partition(":")[0] for problem in caught.value.problems]
    assert paths == [
        *("nme", "name", "labels"),
        *("parameters.lr.type", "parameters.n.min", "parameters.n.max", "parameters.n.foo"),
        *("parameters.c.choices", "parameters.c.default", "parameters.d.when", "parameters.d.values"),
        *("objectives", "objectives.maximize", "outcome_constraints[0]"),
        *("algorithm.skopt.base_estimator", "algorithm.skopt.q"),
        *("stopping", "lease", "max_retries", "seed"),
    ]


def test_all_problems_of_beliefs_and_sources_are_told_at_once() -> None:
    """Each bad field of the algorithm gp is named by its path in the file."""
    gp = {
        "initial_points": "few",
        "priors": {
            "lr": {"mean": "x", "width": 0.1, "w": 1},
            "n": 3,
            "act": [{"value": [1], "weight": 1}, {"value": "a", "weight": "b"}, 5],
        },
        "transfer_sources": ["earlier", {"study": 3}, {"name": "x"}],
    }

    with pytest.raises(BadInput) as caught:
        parse_study(MINIMAL | {"algorithm": {"gp": gp}}, "file")

    at = "algorithm.gp"
    paths = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert paths == [
        *(f"{at}.priors.lr.mean", f"{at}.priors.lr.w", f"{at}.priors.n"),
        *(f"{at}.priors.act[0].value", f"{at}.priors.act[1].weight", f"{at}.priors.act[2]"),
        *(f"{at}.transfer_sources[1].study", f"{at}.transfer_sources[2].name", f"{at}.initial_points"),
    ]


@pytest.mark.parametrize(
    ("gp", "path"),
    [
        ({"priors": []}, "algorithm.gp.priors"),
        ({"transfer_sources": "earlier"}, "algorithm.gp.transfer_sources"),
        (3, "algorithm.gp"),
    ],
)
def test_beliefs_and_sources_have_a_form(gp: object, path: str) -> None:
    """What is no mapping, or no list, is named."""
    with pytest.raises(BadInput) as caught:
        parse_study(MINIMAL | {"algorithm": {"gp": gp}}, "file")

    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [path]


@pytest.mark.parametrize("missing", ["parameters", "objectives"])
def test_a_study_needs_parameters_and_objectives(missing: str) -> None:
    """What is required is said to be."""
    document = {key: value for key, value in MINIMAL.items() if key != missing}

    with pytest.raises(BadInput, match=f"{missing}: required"):
        parse_study(document, "file")


@pytest.mark.parametrize("document", [None, [], "digits", 3])
def test_a_document_that_is_no_mapping_is_no_study(document: object) -> None:
    """An empty file or a list is refused in words."""
    with pytest.raises(BadInput, match="a study is a mapping"):
        parse_study(document, "file")


@pytest.mark.parametrize("algorithm", ["annealing", {"random": {}, "sobol": {}}, 3, []])
def test_an_unknown_algorithm_is_refused_with_the_known_ones(algorithm: object) -> None:
    """The error lists the algorithms that there are."""
    with pytest.raises(BadInput, match="there are random, grid, sobol, skopt, gp"):
        parse_study(MINIMAL | {"algorithm": algorithm}, "file")


@pytest.mark.parametrize("lease", [float("nan"), float("inf"), True, None])
def test_a_lease_is_a_finite_number_of_seconds(lease: object) -> None:
    """What is no duration is refused before anything is sent."""
    with pytest.raises(BadInput, match="lease: "):
        parse_study(MINIMAL | {"lease": lease}, "file")


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_yaml, "a: 1\na: 2"), (parse_json, '{"a": 1, "a": 2}'), (parse_yaml, "b: {a: 1, c: 2, a: 2}")],
)
def test_a_key_that_is_there_twice_is_an_error(parse: Any, text: str) -> None:
    """Neither form drops the first of two values in silence."""
    with pytest.raises(BadInput, match="'a' is given twice"):
        parse(text, "file")


def test_yaml_cannot_make_python_objects() -> None:
    """A file's tags are data, not code."""
    with pytest.raises(BadInput, match="could not determine a constructor"):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "file")


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    """The error says which file and why."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadInput, match="not UTF-8"):
        read_document(binary)
    with pytest.raises(BadInput, match=r"none\.yaml cannot be used"):
        read_document(tmp_path / "none.yaml")


def test_a_limit_of_nothing_is_no_limit_to_write() -> None:
    """Each criterion that is 0 is named; leaving it out is how to say that there is no limit."""
    document = {
        "parameters": {"x": {"type": "float", "min": 0, "max": 1}},
        "objectives": {"minimize": "loss"},
        "stopping": {"max_trials": 0, "max_failed_trials": 0, "target": 0.0},
    }

    with pytest.raises(BadInput) as caught:
        parse_study(document, "study.yaml")

    assert "stopping.max_trials: at least 1, not 0" in str(caught.value)
    assert "stopping.max_failed_trials: at least 1, not 0" in str(caught.value)
    assert "target" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: {{ study }}", "a key is text"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "not YAML"),
    ],
    ids=["template", "deep", "long"],
)
def test_what_yaml_allows_and_nobody_means(text: str, said: str, tmp_path: Path) -> None:
    """A template that was not filled in, thousands of brackets and digits: the file is named, and what is wrong."""
    (tmp_path / "study.yaml").write_text(text)

    with pytest.raises(BadInput, match=said):
        read_document(tmp_path / "study.yaml")


def test_json_may_be_too_deep() -> None:
    """As YAML may."""
    with pytest.raises(BadInput, match="nested too deeply"):
        parse_json("[" * 200_000, "study.json")
