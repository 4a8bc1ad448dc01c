"""What every optimizer must do, as one test class: subclass it, name an algorithm, and pytest runs it all.

    class TestMine(OptimizerContract):
        algorithm = MyAlgorithm(initial_points=3)

The duties are those of `optimizers/base.py`. Set `asks` lower for an optimizer whose asks are slow, but above its number of
initial points, and `exhausts` for one that says when it has proposed every point instead of repeating one.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from asktell_server.domain.algorithms import Algorithm, RandomSearch
from asktell_server.domain.errors import NoModel, SearchSpaceExhausted
from asktell_server.domain.explanation import MAX_IMPORTANCES, ExplainRequest, Explanation
from asktell_server.domain.objectives import Direction, Measurement, Objective
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Point,
    SearchSpace,
    frozen_point,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource, TrialState
from asktell_server.optimizers.base import Observation, Optimizer, Proposal
from asktell_server.optimizers.registry import create_optimizer

METRIC = "loss"

NUMERIC = SearchSpace(
    (
        FloatParameter("float", -2.0, 3.0, default=0.25),
        FloatParameter("log float", 1e-6, 1e2, log=True, default=1e-3),
        FloatParameter("step", 0.0, 1.0, step=0.1, default=0.5),
        IntParameter("int", -3, 40, default=2),
        IntParameter("log_int", 1, 4096, log=True, default=32),
        IntParameter("int/step", 8, 64, step=8, default=16),
        DiscreteParameter("discrete", (64.0, 16.0, 32.0, 128.0), log=True, default=64.0),
    )
)
MIXED = SearchSpace(
    (
        CategoricalParameter("word", ("a", "b", "c")),
        CategoricalParameter("mixed", ("x", 2, 2.5, True)),
        FloatParameter("rate", 1e-4, 1.0, log=True),
        FloatParameter("fixed", 0.5, 0.5),
    )
)
NESTED = SearchSpace(
    (
        FloatParameter("momentum", 0.0, 1.0, condition=Condition("optimizer", ("sgd",)), default=0.9),
        CategoricalParameter("optimizer", ("sgd", "adam"), default="sgd"),
        IntParameter("layers", 1, 3, default=1),
        IntParameter("width_2", 8, 64, log=True, condition=Condition("layers", (2, 3))),
        CategoricalParameter("nesterov", (True, False), condition=Condition("optimizer", ("sgd",)), default=False),
        DiscreteParameter("damping", (0.0, 0.1), condition=Condition("nesterov", (False,)), default=0.0),
    )
)
CATEGORICAL = SearchSpace((CategoricalParameter("a", ("x", "y", "z")), CategoricalParameter("b", (False, True))))
ONE_POINT = SearchSpace((IntParameter("int", 3, 3), CategoricalParameter("choice", ("only",))))
# 2 * 3 points under "on", 1 under "off".
FINITE = SearchSpace(
    (
        CategoricalParameter("switch", ("on", "off")),
        IntParameter("level", 1, 3, condition=Condition("switch", ("on",))),
        CategoricalParameter("flag", (True, False), condition=Condition("switch", ("on",))),
    )
)
SPACES: Mapping[str, SearchSpace] = {
    "numeric": NUMERIC,
    "mixed": MIXED,
    "nested": NESTED,
    "categorical": CATEGORICAL,
    "one point": ONE_POINT,
}
HISTORIES: Mapping[str, Sequence[tuple[TrialState, float | None]]] = {
    "failed only": [(TrialState.FAILED, None)],
    "infeasible only": [(TrialState.INFEASIBLE, None)],
    "pruned without a measurement": [(TrialState.PRUNED, None)],
    "pruned with a measurement": [(TrialState.PRUNED, 0.5), (TrialState.PRUNED, 1.5)],
    "one success among failures": [(TrialState.SUCCEEDED, 0.5), *[(TrialState.FAILED, None)] * 20],
    "constant": [(TrialState.SUCCEEDED, 0.1)],
    "constant zero": [(TrialState.SUCCEEDED, 0.0)],
    "huge": [(TrialState.SUCCEEDED, 1e300), (TrialState.SUCCEEDED, -1e300), (TrialState.SUCCEEDED, 1.7e308)],
    "of very different size": [
        (TrialState.SUCCEEDED, 1e300),
        (TrialState.SUCCEEDED, 1.0),
        (TrialState.PRUNED, -1e-300),
    ],
    "tiny": [(TrialState.SUCCEEDED, 1e-300), (TrialState.SUCCEEDED, 3e-300), (TrialState.SUCCEEDED, 5e-324)],
    "almost constant": [(TrialState.SUCCEEDED, 1.0), (TrialState.SUCCEEDED, 1.0000000000000002)],
}


def observation(number: int, point: Point, state: TrialState, value: float | None) -> Observation:
    """A finished trial; without a value one without a measurement."""
    return Observation(number, point, state, None if value is None else Measurement({METRIC: value}))


def assert_lies_in(space: SearchSpace, point: Point) -> None:
    """Bounds, steps, conditions, exact types and the order of the parameters."""
    accepted, violations = space.checked(point)
    assert violations == []
    assert list(accepted.items()) == list(point.items())
    for name, value in point.items():
        parameter = space.by_name[name]
        if isinstance(parameter, CategoricalParameter):
            assert any(type(value) is type(choice) and value == choice for choice in parameter.choices)
        else:
            assert type(value) is (int if isinstance(parameter, IntParameter) else float)


def explanation_by(optimizer: Optimizer, request: ExplainRequest) -> Explanation | None:
    """What the optimizer explains; None if it has no model."""
    assert request.violations(optimizer.spec) == []
    try:
        return optimizer.explain(request)
    except NoModel as error:
        assert error.subject == "study"  # noqa: PT017 (both answers are allowed)
        return None


def assert_sound(explanation: Explanation, spec: StudySpec) -> None:
    """Finite numbers in their ranges, importances of what can vary, slices of the right size."""
    metric = explanation.metrics[0]
    calibration = metric.calibration
    assert 0.0 <= calibration.coverage_90 <= 1.0
    assert 0.0 <= calibration.raw_coverage_90 <= 1.0
    assert calibration.observations > 0
    assert np.isfinite([calibration.log_density, calibration.r_squared, calibration.deviation_factor]).all()
    assert calibration.deviation_factor > 0.0
    assert calibration.r_squared <= 1.0
    varying = {p.name for p in spec.space.parameters if p.cardinality != 1}
    assert len(metric.importances) == min(len(varying), MAX_IMPORTANCES // len(explanation.metrics))
    assert {i.parameter for i in metric.importances} <= varying
    effects = [importance.total_effect for importance in metric.importances]
    assert effects == sorted(effects, reverse=True)
    for importance in metric.importances:
        assert 0.0 <= importance.lower <= importance.total_effect <= importance.upper <= 1.0
    for shown in metric.slices:
        size = len(shown.first_values) * max(1, len(shown.second_values))
        assert len(shown.means) == len(shown.standard_deviations) == size
        assert np.isfinite([shown.means, shown.standard_deviations]).all()
        assert min(shown.standard_deviations) >= 0.0


class OptimizerContract:
    """The duties of an optimizer. `algorithm` is the one under test, `asks` the number of trials of a typical test study,
    `exhausts` whether it raises SearchSpaceExhausted when the space is used up.
    """

    algorithm: ClassVar[Algorithm]
    asks: ClassVar[int] = 40
    exhausts: ClassVar[bool] = False

    def spec(self, space: SearchSpace, direction: Direction = Direction.MINIMIZE, seed: int = 7) -> StudySpec:
        """A study of `space` with the algorithm under test."""
        return StudySpec(space, (Objective(METRIC, direction),), self.algorithm, seed=seed)

    def loss(self, optimizer: Optimizer, point: Point) -> float:
        """A smooth function of the point's parameters, whatever they are."""
        total = 0.0
        for i, parameter in enumerate(optimizer.spec.space.parameters):
            value = point.get(parameter.name, 0.0)
            total += (i + len(value) if isinstance(value, str) else float(value) - 0.3 * i) ** 2
        return total

    def history(self, optimizer: Optimizer, count: int) -> Iterator[tuple[Observation, Proposal]]:
        """A study of `count` trials, one after the other, every fourth without a success. Ends when the space is used up."""
        states = (TrialState.SUCCEEDED, TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.FAILED)
        for number in range(1, count + 1):
            try:
                proposal = optimizer.ask(number, [])
            except SearchSpaceExhausted:
                return
            point = proposal.suggestion.point
            state = states[number % 4]
            told = observation(
                number, point, state, None if state is TrialState.FAILED else self.loss(optimizer, point)
            )
            optimizer.tell([told])
            yield told, proposal

    @pytest.fixture
    def observed(self) -> list[Observation]:
        """The history of a study of NESTED, long enough for a model."""
        return [told for told, _ in self.history(create_optimizer(self.spec(NESTED)), self.asks)]

    @pytest.mark.parametrize("name", SPACES)
    def test_every_point_lies_in_the_space(self, name: str) -> None:
        """Bounds, steps, conditions and exact types hold for every suggestion of a whole study."""
        space = SPACES[name]
        optimizer = create_optimizer(self.spec(space))

        proposals = [proposal for _, proposal in self.history(optimizer, self.asks)]

        assert proposals
        for proposal in proposals:
            assert_lies_in(space, proposal.suggestion.point)

    @pytest.mark.parametrize("name", SPACES)
    def test_a_suggestion_says_where_it_came_from(self, name: str) -> None:
        """Only a model predicts, with finite numbers for the objective, and only the four sources of an optimizer occur."""
        optimizer = create_optimizer(self.spec(SPACES[name]))

        for _, proposal in self.history(optimizer, self.asks):
            suggestion = proposal.suggestion

            assert suggestion.source in (
                SuggestionSource.SAMPLER,
                SuggestionSource.INITIAL_DESIGN,
                SuggestionSource.MODEL,
            )
            assert list(suggestion.predictions) == [METRIC] * (suggestion.source is SuggestionSource.MODEL)
            for prediction in suggestion.predictions.values():
                assert type(prediction.mean) is float
                assert np.isfinite(prediction.mean)
                assert type(prediction.standard_deviation) is float
                assert 0 <= prediction.standard_deviation < np.inf
            assert all(phase in ("fit", "acquisition") and seconds >= 0 for phase, seconds in proposal.phases_s.items())

    @pytest.mark.parametrize("space", [FINITE, CATEGORICAL, ONE_POINT], ids=["conditional", "categorical", "one point"])
    def test_no_point_twice_until_the_space_is_used_up(self, space: SearchSpace) -> None:
        """With half of the points pending each is proposed once; then they repeat or the optimizer says that it is done."""
        optimizer = create_optimizer(self.spec(space))
        cardinality = space.cardinality
        assert cardinality is not None
        pending: list[Point] = []
        seen = set()

        for number in range(1, cardinality + 1):
            point = optimizer.ask(number, pending).suggestion.point
            seen.add(frozen_point(point))
            if number % 2:
                pending.append(point)
            else:
                optimizer.tell([observation(number, point, TrialState.SUCCEEDED, self.loss(optimizer, point))])

        assert len(seen) == cardinality
        try:
            assert_lies_in(space, optimizer.ask(cardinality + 1, pending).suggestion.point)
            assert not self.exhausts
        except SearchSpaceExhausted as error:
            assert error.subject == "study"  # noqa: PT017 (both answers are allowed)

    @pytest.mark.parametrize("space", [MIXED, NESTED], ids=["mixed", "nested"])
    def test_no_point_twice_while_there_is_room(self, space: SearchSpace) -> None:
        """In a space that is far from used up no suggestion repeats an observed or a pending point; three are pending."""
        optimizer = create_optimizer(self.spec(space))
        pending: list[Point] = []
        seen = set()

        for number in range(1, self.asks + 1):
            point = optimizer.ask(number, pending).suggestion.point
            seen.add(frozen_point(point))
            pending.append(point)
            if len(pending) > 3:
                done = pending.pop(0)
                optimizer.tell([observation(number, done, TrialState.SUCCEEDED, self.loss(optimizer, done))])

        assert len(seen) == self.asks

    def test_pending_points_are_not_proposed(self) -> None:
        """Asks of many workers at once get different points, before and after there is a model."""
        optimizer = create_optimizer(self.spec(NESTED))
        pending: list[Point] = []

        list(self.history(optimizer, self.asks))
        for number in range(self.asks + 1, self.asks + 5):
            pending.append(optimizer.ask(number, pending).suggestion.point)

        assert len({frozen_point(point) for point in pending}) == 4

    def test_same_arguments_same_suggestion(self, observed: list[Observation]) -> None:
        """Two instances agree in every bit, and asking does not change an instance."""
        one, other = create_optimizer(self.spec(NESTED)), create_optimizer(self.spec(NESTED))
        one.tell(observed)
        other.tell(observed)
        pending = [create_optimizer(self.spec(NESTED)).ask(99, []).suggestion.point]

        first = one.ask(500, pending)
        again = one.ask(500, pending)
        there = other.ask(500, pending)

        assert first.suggestion == again.suggestion == there.suggestion

    def test_the_order_of_asks_does_not_matter(self, observed: list[Observation]) -> None:
        """A suggestion depends on its number, not on which were asked for before."""
        forward, backward = create_optimizer(self.spec(NESTED)), create_optimizer(self.spec(NESTED))
        forward.tell(observed)
        backward.tell(observed)

        up = [forward.ask(number, []).suggestion for number in (200, 900)]
        down = [backward.ask(number, []).suggestion for number in (900, 200)]

        assert up == down[::-1]

    def test_telling_one_by_one_is_telling_all_at_once(self, observed: list[Observation]) -> None:
        """An instance that lived through the study agrees with one that replays it."""
        lived, replayed = create_optimizer(self.spec(NESTED)), create_optimizer(self.spec(NESTED))

        for told in observed:
            lived.ask(told.number, [])
            lived.tell([told])
        replayed.tell(observed)

        assert lived.needs_model() == replayed.needs_model()
        assert lived.ask(300, []).suggestion == replayed.ask(300, []).suggestion

    def test_the_process_has_no_say(self, observed: list[Observation]) -> None:
        """Global random state neither enters a suggestion nor is touched."""
        optimizer = create_optimizer(self.spec(NESTED))
        optimizer.tell(observed)
        found = []

        for seed in (1, 2):
            np.random.seed(seed)
            random.seed(seed)
            before = (pickle.dumps(np.random.get_state()), random.getstate())
            found.append(optimizer.ask(300, []).suggestion)
            after = (pickle.dumps(np.random.get_state()), random.getstate())
            assert before == after

        assert found[0] == found[1]

    def test_the_seed_matters(self) -> None:
        """Studies with different seeds search differently."""
        one, other = create_optimizer(self.spec(NUMERIC)), create_optimizer(self.spec(NUMERIC, seed=8))

        points = [[o.ask(n, [NUMERIC.default_point or {}]).suggestion.point for n in (2, 3, 4)] for o in (one, other)]

        assert points[0] != points[1]

    def test_the_spec_travels(self) -> None:
        """A pickled spec makes the same optimizer in another process."""
        spec = self.spec(NESTED)

        travelled = pickle.loads(pickle.dumps(spec))  # noqa: S301 (our own bytes)

        assert travelled == spec
        assert create_optimizer(travelled).ask(3, []).suggestion == create_optimizer(spec).ask(3, []).suggestion

    @pytest.mark.parametrize("name", HISTORIES)
    @pytest.mark.parametrize("space", [NUMERIC, CATEGORICAL], ids=["numeric", "categorical"])
    def test_any_history_is_survived(self, name: str, space: SearchSpace) -> None:
        """Failures only, constants, huge and tiny values: the answer is a valid point and never NaN."""
        optimizer = create_optimizer(self.spec(space))
        sampler = create_optimizer(replace(self.spec(space), algorithm=RandomSearch()))
        for number in range(1, 25):
            state, value = HISTORIES[name][(number - 1) % len(HISTORIES[name])]
            point = sampler.ask(number, []).suggestion.point
            optimizer.tell([observation(number, point, state, value)])

        try:
            suggestion = optimizer.ask(25, []).suggestion
        except SearchSpaceExhausted:
            return

        assert_lies_in(space, suggestion.point)
        assert suggestion.source is not SuggestionSource.FALLBACK, suggestion.detail
        for prediction in suggestion.predictions.values():
            assert np.isfinite(prediction.mean)
            assert 0 <= prediction.standard_deviation < np.inf

    def test_one_observation_is_survived(self) -> None:
        """A single success is history enough to go on."""
        optimizer = create_optimizer(self.spec(MIXED))
        first = optimizer.ask(1, []).suggestion.point
        optimizer.tell([observation(1, first, TrialState.SUCCEEDED, 0.5)])

        second = optimizer.ask(2, []).suggestion.point

        assert_lies_in(MIXED, second)
        assert frozen_point(second) != frozen_point(first)

    def test_maximising_mirrors_minimising(self, observed: list[Observation]) -> None:
        """The same study with negated values and the other direction gets the same points and negated predictions."""
        down = create_optimizer(self.spec(NESTED, Direction.MINIMIZE))
        up = create_optimizer(self.spec(NESTED, Direction.MAXIMIZE))
        down.tell(observed)
        up.tell(
            [
                observation(
                    o.number, o.point, o.state, None if o.measurement is None else -o.measurement.metrics[METRIC]
                )
                for o in observed
            ]
        )

        lowest, highest = down.ask(300, []).suggestion, up.ask(300, []).suggestion

        assert highest.point == lowest.point
        assert [-p.mean for p in highest.predictions.values()] == [p.mean for p in lowest.predictions.values()]

    def test_an_explanation_depends_on_spec_history_and_request_alone(self, observed: list[Observation]) -> None:
        """An instance that lived through the study explains it as one that replays it, and asks on as if nothing had been."""
        lived, replayed, silent = (create_optimizer(self.spec(NESTED)) for _ in range(3))
        request = ExplainRequest(slices=("damping", "momentum"), pairs=(("optimizer", "layers"),), points=4)
        for told in observed:
            lived.ask(told.number, [])
            lived.tell([told])
        replayed.tell(observed)
        silent.tell(observed)

        explanations = [explanation_by(o, request) for o in (lived, lived, replayed)]

        assert explanations[0] == explanations[1] == explanations[2]
        if explanations[0] is not None:
            assert_sound(explanations[0], lived.spec)
            assert [shown.parameters for shown in explanations[0].metrics[0].slices] == [
                ("damping",),
                ("momentum",),
                ("optimizer", "layers"),
            ]
        assert lived.ask(300, []).suggestion == silent.ask(300, []).suggestion

    @pytest.mark.parametrize("name", HISTORIES)
    def test_any_history_is_explained_or_too_little(self, name: str) -> None:
        """Failures only, constants, huge and tiny values: NoModel, or numbers that are finite."""
        optimizer = create_optimizer(self.spec(MIXED))
        sampler = create_optimizer(replace(self.spec(MIXED), algorithm=RandomSearch()))
        assert explanation_by(optimizer, ExplainRequest()) is None
        for number in range(1, 25):
            state, value = HISTORIES[name][(number - 1) % len(HISTORIES[name])]
            optimizer.tell([observation(number, sampler.ask(number, []).suggestion.point, state, value)])

        explanation = explanation_by(optimizer, ExplainRequest(points=3))

        if explanation is not None:
            assert_sound(explanation, optimizer.spec)

    @pytest.mark.parametrize("name", SPACES)
    def test_the_fallback_is_valid_and_says_its_cause(self, name: str) -> None:
        """A fallback lies in the space, repeats nothing while there is room, and is as deterministic as the rest."""
        space = SPACES[name]
        optimizer = create_optimizer(self.spec(space))
        pending: list[Point] = []

        for number in range(1, min(20, space.cardinality or 20) + 1):
            suggestion = optimizer.fallback(number, pending, "the worker died")

            assert_lies_in(space, suggestion.point)
            assert suggestion == Suggestion(suggestion.point, SuggestionSource.FALLBACK, {}, "the worker died")
            assert suggestion == create_optimizer(self.spec(space)).fallback(number, pending, "the worker died")
            assert suggestion.point not in pending
            pending.append(suggestion.point)

    @pytest.mark.parametrize("space", [FINITE, CATEGORICAL, ONE_POINT], ids=["conditional", "categorical", "one point"])
    def test_the_fallback_ends_where_asks_end(self, space: SearchSpace) -> None:
        """With every point observed or pending a fallback repeats one if an ask does; it raises what an ask raises otherwise."""
        optimizer = create_optimizer(self.spec(space))
        pending: list[Point] = []
        for number in range(1, (space.cardinality or 0) + 1):
            point = optimizer.fallback(number, pending, "the worker died").point
            if number % 2:
                pending.append(point)
            else:
                optimizer.tell([observation(number, point, TrialState.SUCCEEDED, self.loss(optimizer, point))])

        def ends(suggestion: Callable[[], object]) -> bool:
            try:
                suggestion()
            except SearchSpaceExhausted as error:
                assert error.subject == "study"  # noqa: PT017 (both answers are allowed)
                return True
            return False

        assert ends(lambda: optimizer.fallback(100, pending, "the worker died")) == ends(
            lambda: optimizer.ask(100, pending)
        )

    def test_a_new_study_needs_no_model(self) -> None:
        """Before there is a result nothing slow is called for."""
        optimizer = create_optimizer(self.spec(NESTED))

        assert not optimizer.needs_model()
