"""Arguments of wrong types are refused by their names, all that a call can see at once, and nothing is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asktell

SPACE = {"x": asktell.Float(0.0, 1.0)}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[asktell.Client]:
    """A client of a real server of its own."""
    path = Path(tmp_path_factory.mktemp("misuse")) / "studies.db"
    with asktell.connect(f"local:{path}", timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": "1"}, ["seed is a whole number, not str: '1'"]),
        ({"seed": 2**80}, ["seed is below 2**63"]),
        ({"max_trials": 2.5, "max_retries": True}, ["max_trials is", "max_retries is"]),
        ({"target": "best"}, ["target: "]),
        ({"lease": "5"}, ["a duration is", "'5'"]),
        ({"space": {"x": asktell.Float("a", 1)}}, ["parameter 'x': "]),  # type: ignore[arg-type]  # the wrong type is what is tested
        ({"space": {"n": asktell.Int(1.5, 3)}}, ["parameter 'n': "]),  # type: ignore[arg-type]  # the same
        ({"space": {"x": 3}}, ["parameter 'x' is a Float"]),
        ({"space": [1]}, ["space is a mapping"]),
        ({"space": {3: asktell.Float(0, 1)}}, ["space is a mapping"]),
        ({"labels": {"a": 1}, "description": 2}, ["labels: ", "description is text"]),
    ],
)
def test_a_study_of_wrong_types_is_refused(client: asktell.Client, options: dict[str, Any], named: list[str]) -> None:
    """What is wrong is named, and there is no study."""
    with pytest.raises((TypeError, ValueError)) as caught:
        client.create_study("wrong", **{"space": SPACE, "minimize": "loss", **options})

    assert all(words in str(caught.value) for words in named)
    assert not any(study.name.endswith("/wrong") for study in client.list_studies())


def test_text_is_no_list_of_choices() -> None:
    """Its letters would be the choices."""
    with pytest.raises(TypeError, match="not the text 'adam'"):
        asktell.Categorical("adam")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda study: study.ask(worker=3), "worker is text"),
        (lambda study: study.ask("3"), "count is a whole number"),
        (lambda study: study.ask(0), "count is at least 1"),
        (lambda study: study.stop(3), "reason is text"),
        (lambda study: study.trial("1"), "number is a whole number"),
        (lambda study: study.enqueue("x"), "a point is a mapping"),
        (lambda study: study.ask().tell("0.3"), "metrics is a mapping"),
        (lambda study: study.ask().report("1", loss=1.0), "step is a whole number"),
    ],
)
def test_a_call_with_wrong_types_is_refused(client: asktell.Client, call: Callable[[Any], object], named: str) -> None:
    """The argument is named, and the study is as it was."""
    study = client.create_study("calls", SPACE, minimize="loss", max_trials=1000)

    with pytest.raises((TypeError, ValueError), match=named):
        call(study)

    assert client.get_study("calls").state == asktell.StudyState.ACTIVE
    assert all(trial.state == asktell.TrialState.RUNNING for trial in study.trials())
