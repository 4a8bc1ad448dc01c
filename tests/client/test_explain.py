"""Explanations as Python reads them."""

from __future__ import annotations

import asyncio
import pickle

import pytest

import asktell
from asktell import Calibration, Discrete, Float, Importance, Slice, aio

from .fake import FakeServer, FakeService, Fault


def test_what_the_model_has_learned(study: asktell.Study, fake: FakeService) -> None:
    """Importances, calibration and slices, typed as the space has it."""
    study.ask()

    explanation = study.explain()

    assert (explanation.revision, explanation.reference_trial) == (2, 1)
    metric = explanation["accuracy"]
    assert list(explanation.metrics) == ["accuracy"]
    assert metric.metric == "accuracy"
    assert metric.calibration == Calibration(7, 0.875, -1.25, 0.5, 1.5, 0.75)
    assert metric.importances[1] == Importance("width", 0.5, 0.25, 1.0)
    assert metric.importance("width") is metric.importances[1]
    assert metric.slices[2] == Slice(("act",), ("relu", "gelu"), (), (0.0, 1.0), (0.5, 0.5))
    assert metric.slices[1].first_values == (16, 512)
    with pytest.raises(KeyError):
        metric.importance("nobody")
    (sent,) = fake.of("ExplainStudy")
    assert (list(sent.slices), list(sent.pair_slices), sent.points) == ([], [], 0)


def test_the_slices_that_are_asked_for(study: asktell.Study, fake: FakeService) -> None:
    """Names and pairs in any iterable, a single name by itself, and the number of points."""
    study.ask()

    explanation = study.explain(iter(["lr"]), [("lr", "act")], points=7)
    study.explain("width")

    assert [shown.parameters for shown in explanation["accuracy"].slices] == [("lr",), ("lr", "act")]
    pair = explanation["accuracy"].slices[1]
    assert (pair.first_values, pair.second_values) == ((0.1, 1.0), ("relu", "gelu"))
    assert pair.means == (0.0, 1.0, 2.0, 3.0)
    sent, single = fake.of("ExplainStudy")
    assert [(p.first, p.second) for p in sent.pair_slices] == [("lr", "act")]
    assert sent.points == 7
    assert list(single.slices) == ["width"]


def test_whole_discrete_values_are_ints(client: asktell.Client) -> None:
    """As everywhere in the client."""
    space: asktell.Space = {"batch": Discrete([32, 64]), "rate": Discrete([0.5, 1.0]), "lr": Float(0.0, 1.0)}
    study = client.create_study("typed", space, minimize="loss")
    study.ask()

    (batch, rate, _) = study.explain()["loss"].slices

    assert [type(value) for value in batch.first_values] == [int, int]
    assert [type(value) for value in rate.first_values] == [float, float]


def test_an_explanation_travels(study: asktell.Study) -> None:
    """It holds no connection: it can be pickled and compared."""
    study.ask()
    explanation = study.explain()

    assert pickle.loads(pickle.dumps(explanation)) == explanation


def test_without_a_model(study: asktell.Study) -> None:
    """The error is one of its own, and final."""
    with pytest.raises(asktell.NoModel):
        study.explain()


def test_a_lost_compute_process_is_tried_again(study: asktell.Study, fake: FakeService) -> None:
    """UNAVAILABLE and a missed attempt are repeated within the budget."""
    study.ask()
    fake.faults["ExplainStudy"] += [
        Fault(reason="COMPUTE_UNAVAILABLE"),
        Fault(code="RESOURCE_EXHAUSTED", reason="SERVER_BUSY", retry_delay_s=0.01),
    ]

    explanation = study.explain(timeout=30)

    assert explanation.reference_trial == 1
    assert len(fake.of("ExplainStudy")) == 3


def test_the_asyncio_client_explains_as_well(server: FakeServer, study: asktell.Study) -> None:
    """The same records."""
    study.ask()

    async def explained() -> asktell.Explanation:
        async with await aio.connect(server.target, timeout=10) as client:
            return await (await client.get_study("digits")).explain(["lr"], [("lr", "act")], points=3, timeout=5)

    assert asyncio.run(explained()) == study.explain(["lr"], [("lr", "act")], points=3)
