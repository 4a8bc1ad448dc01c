"""Studies and trials by hand: what each call sends, and what Python sees of the answer."""

from __future__ import annotations

import builtins
import pickle
from collections.abc import Generator
from datetime import UTC, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

import asktell
from asktell import FinishedTrial, Float, Measurement, Source, StopCause, StudyState, TrialState

from .conftest import SPACE
from .fake import FakeServer, FakeService, Fault


def test_the_journey_of_a_trial(study: asktell.Study) -> None:
    """Ask, report, tell, look at the best."""
    trial = study.ask(worker="w1")
    advice = trial.report(1, accuracy=0.5)
    trial.tell(accuracy=0.75)
    best = study.best_trial

    assert list(trial.params) == ["lr", "width", "act"]
    assert trial.params == {"lr": pytest.approx(0.55), "width": 17, "act": "gelu"}
    assert not advice
    assert trial.state is TrialState.SUCCEEDED
    assert best is not None
    assert (best.number, best.worker, best.metrics) == (1, "w1", {"accuracy": 0.75})
    assert best.suggestion.source is Source.SAMPLER
    assert best.intermediate == [Measurement({"accuracy": 0.5}, step=1)]
    assert best.start_time is not None
    assert best.start_time.tzinfo is UTC
    assert best.duration is not None
    assert best.duration >= timedelta(0)


def test_metrics_and_errors_in_any_form(study: asktell.Study, fake: FakeService) -> None:
    """A mapping for names that are no keywords, keywords for the rest, standard errors and a step."""
    trial = study.ask()

    trial.report(0, {"val/loss": 2}, accuracy=0.0)
    trial.tell({"accuracy": 1}, standard_errors={"accuracy": 0.1}, step=0)

    reported = fake.of("Report")[0].measurement
    assert dict(reported.metrics) == {"val/loss": 2.0, "accuracy": 0.0}
    assert reported.HasField("step")
    assert trial.measurement == Measurement({"accuracy": 1.0}, standard_errors={"accuracy": 0.1}, step=0)


def test_a_metric_that_is_no_number_is_refused(study: asktell.Study, fake: FakeService) -> None:
    """A string cannot be a metric, and nothing is sent."""
    trial = study.ask()

    with pytest.raises(TypeError, match="metric 'accuracy' is a number"):
        trial.tell({"accuracy": "high"})  # type: ignore[dict-item]
    assert fake.of("Tell") == []


def test_the_other_ends_of_a_trial(study: asktell.Study, fake: FakeService) -> None:
    """Infeasible, failed and pruned, each with its reason."""
    infeasible, failed, pruned = study.ask(3)

    infeasible.tell_infeasible("out of memory")
    failed.tell_failed("x" * 2000)
    pruned.tell_pruned("hopeless", accuracy=0.1, step=3)

    assert fake.states(study.name) == ["INFEASIBLE", "FAILED", "PRUNED"]
    assert infeasible.state_reason == "out of memory"
    assert len(failed.state_reason) == 1024
    assert pruned.measurement == Measurement({"accuracy": 0.1}, step=3)


def test_pruned_without_metrics_leaves_them_to_the_server(study: asktell.Study, fake: FakeService) -> None:
    """The last report is then the measurement."""
    study.ask().tell_pruned()

    assert not fake.of("Tell")[0].pruned.HasField("measurement")


def test_advice_to_stop_is_true_and_remembered(study: asktell.Study, fake: FakeService) -> None:
    """A report answers whether to stop, and why."""
    trial = study.ask()
    fake.should_stop = True

    advice = trial.report(1, accuracy=0.1)

    assert advice
    assert advice.cause is StopCause.STUDY_STOPPED
    assert advice.detail == "stopped by a test"
    assert trial.should_stop


def test_a_trial_is_told_from_elsewhere_by_its_number(study: asktell.Study, client: asktell.Client) -> None:
    """Names and numbers travel; handles do not, and say so."""
    number = study.ask().number

    client.get_study("digits").trial(number).tell(accuracy=0.5)

    assert study.trial(number).state is TrialState.SUCCEEDED
    with pytest.raises(TypeError, match="send its number"):
        pickle.dumps(study.trial(number))
    with pytest.raises(TypeError, match="send its name"):
        pickle.dumps(study)


@pytest.mark.parametrize("name", ["digits", "default/digits", "projects/default/studies/digits"])
def test_a_study_is_found_by_every_form_of_its_name(study: asktell.Study, client: asktell.Client, name: str) -> None:
    """Short, with project, and in full."""
    assert client.get_study(name).name == "projects/default/studies/digits"


def test_a_bad_name_is_a_value_error(client: asktell.Client) -> None:
    """Names are checked before anything is sent."""
    with pytest.raises(asktell.InvalidName, match="is not of the form"):
        client.get_study("no good")


def test_creating_again_uses_the_study(study: asktell.Study, client: asktell.Client) -> None:
    """An equal spec is the same study; another spec or if_exists="fail" is an error."""
    again = client.create_study("digits", SPACE, maximize="accuracy")

    assert again.name == study.name
    with pytest.raises(asktell.StudySpecMismatch):
        client.create_study("digits", {"lr": Float(0, 2)}, maximize="accuracy")
    with pytest.raises(asktell.StudyAlreadyExists):
        client.create_study("digits", SPACE, maximize="accuracy", if_exists="fail")


def test_an_unknown_conflict_policy_is_refused(client: asktell.Client) -> None:
    """A typo is not a policy."""
    with pytest.raises(ValueError, match="if_exists"):
        client.create_study("digits", SPACE, maximize="a", if_exists="maybe")  # type: ignore[arg-type]


def test_the_life_of_a_study(study: asktell.Study, client: asktell.Client) -> None:
    """Update, stop, resume and delete change the handle too."""
    study.update(description="hand-written digits", labels={"team": "a"})
    study.stop("enough")
    stopped = study.state, study.state_reason
    with pytest.raises(asktell.StudyNotActive):
        study.ask()
    study.resume()
    resumed = study.state
    study.delete()

    assert (study.description, study.labels) == ("hand-written digits", {"team": "a"})
    assert stopped == (StudyState.STOPPED, "enough")
    assert resumed is StudyState.ACTIVE
    with pytest.raises(asktell.StudyNotFound):
        study.reload()
    with pytest.raises(asktell.StudyNotFound):
        client.delete_study("digits")
    client.delete_study("digits", missing_ok=True)


def test_an_update_names_only_what_it_changes(study: asktell.Study, fake: FakeService) -> None:
    """An empty description is a change; a missing one is none."""
    study.update(description="")
    study.ask().update(labels={})

    assert list(fake.of("UpdateStudy")[0].update_mask.paths) == ["description"]
    assert list(fake.of("UpdateTrial")[0].update_mask.paths) == ["labels"]


def test_lists_go_through_all_pages(study: asktell.Study, client: asktell.Client, fake: FakeService) -> None:
    """Pages are the client's business, filters the server's."""
    client.create_study("other", SPACE, minimize="loss").stop()
    study.ask(5)
    study.trial(2).tell(accuracy=0.5)
    fake.page_size = 2

    assert [trial.number for trial in study.trials()] == [1, 2, 3, 4, 5]
    assert [trial.number for trial in study.trials(["RUNNING"])] == [1, 3, 4, 5]
    assert [study.id for study in client.list_studies()] == ["digits", "other"]
    assert [study.id for study in client.list_studies([StudyState.STOPPED], project="-")] == ["other"]
    with pytest.raises(ValueError, match="DONE"):
        list(study.trials(["DONE"]))


def test_there_is_no_best_trial_before_the_first_success(study: asktell.Study) -> None:
    """None and an empty list, not an error."""
    assert study.best_trial is None
    assert study.best_trials == []


def test_a_count_below_one_is_refused(study: asktell.Study) -> None:
    """On the wire 0 would mean 1."""
    with pytest.raises(ValueError, match="at least 1"):
        study.ask(0)


def test_enqueued_points_are_asked_first(study: asktell.Study) -> None:
    """Points go out in their order."""
    study.enqueue({"lr": 0.2, "act": "relu"}, {"lr": 0.3}, notes="by hand", labels={"by": "me"})

    first, second, third = study.ask(3)

    assert [trial.params.get("lr") for trial in (first, second)] == [0.2, 0.3]
    assert first.suggestion.source is Source.ENQUEUED
    assert (first.notes, first.labels) == ("by hand", {"by": "me"})
    assert third.suggestion.source is Source.SAMPLER


def test_the_table_has_the_same_columns_in_every_row(study: asktell.Study) -> None:
    """Rows are flat, ordered like the space, and None where a trial has nothing."""
    first, _ = study.ask(2, worker="w")
    first.update(labels={"team": "a"})
    first.tell(accuracy=0.5, loss=1.0, standard_errors={"accuracy": 0.1})

    done, open_ = study.to_dicts()

    assert list(done) == list(open_)
    assert list(done)[:7] == [
        "number",
        "state",
        "params.lr",
        "params.width",
        "params.act",
        "metrics.accuracy",
        "metrics.loss",
    ]
    assert (done["state"], done["metrics.loss"], done["labels.team"], done["worker"]) == ("SUCCEEDED", 1.0, "a", "w")
    assert (open_["state"], open_["metrics.loss"], open_["end_time"]) == ("RUNNING", None, None)


def test_a_table_can_be_imported_again(study: asktell.Study, client: asktell.Client) -> None:
    """Rows of one study become finished trials of another; so does a FinishedTrial."""
    trial = study.ask()
    trial.tell(accuracy=0.5, standard_errors={"accuracy": 0.1})
    other = client.create_study("copy", SPACE, maximize="accuracy")

    other.import_trials([*study.to_dicts(), FinishedTrial({"lr": 0.1}, state=TrialState.FAILED, reason="broke")])

    copy, failed = other.trials()
    assert copy.params == trial.params
    assert copy.measurement == trial.measurement
    assert copy.suggestion.source is Source.IMPORTED
    assert (failed.state, failed.state_reason) == (TrialState.FAILED, "broke")


def test_a_data_frame_has_a_row_per_trial(study: asktell.Study) -> None:
    """With pandas the table is a data frame."""
    study.ask(2)

    frame = study.to_dataframe()

    assert list(frame["number"]) == [1, 2]


def test_without_pandas_a_data_frame_says_what_to_install(
    study: asktell.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the extra."""
    real = builtins.__import__

    def no_pandas(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pandas)

    with pytest.raises(ImportError, match=r"asktell\[dataframe\]"):
        study.to_dataframe()


def test_a_watch_reconnects_and_misses_nothing(study: asktell.Study, fake: FakeService, server: FakeServer) -> None:
    """A broken stream is taken up at the last revision seen."""
    changes = study.watch()
    seen = [next(changes)]
    fake.faults["WatchStudy"].append(Fault())
    trial = study.ask()
    seen.append(next(changes))
    trial.tell(accuracy=0.5)
    seen.append(next(changes))
    server.stop()
    server.start()
    study.ask()
    seen.append(next(changes))
    changes.close()  # type: ignore[attr-defined]

    assert [change.revision for change in seen] == [1, 2, 3, 4]
    assert [[trial.number for trial in change.trials] for change in seen] == [[], [1], [1], [2]]
    assert seen[2].trials[0].state is TrialState.SUCCEEDED
    assert [request.after_revision > 0 for request in fake.of("WatchStudy")] == [False, True, True]


def test_a_watch_ends_with_its_study(study: asktell.Study) -> None:
    """Deletion ends the stream with an error that says so."""
    changes = study.watch(study.revision)
    study.delete()

    with pytest.raises(asktell.StudyNotFound):
        next(changes)


class Canned:
    """A transport that knows one study and answers nothing else."""

    def __init__(self, study: Message) -> None:
        self.study = study
        self.calls: list[str] = []

    def unary(self, method: str, request: Message, timeout_s: float) -> Message:
        """The study, at the second attempt."""
        self.calls.append(method)
        if len(self.calls) == 1:
            raise asktell.CallFailed("UNAVAILABLE", "not yet")
        return self.study

    def stream(self, method: str, request: Message) -> Generator[Message, None, None]:
        """Never used."""
        raise NotImplementedError

    def close(self) -> None:
        """Is noted."""
        self.calls.append("close")


def test_a_transport_of_ones_own(study: asktell.Study) -> None:
    """Retries and conversion sit above the transport, whatever it is."""
    canned = Canned(study.proto)

    with asktell.Client(canned) as client:
        found = client.get_study("digits")

    assert found.spec == study.spec
    assert canned.calls == ["GetStudy", "GetStudy", "close"]
