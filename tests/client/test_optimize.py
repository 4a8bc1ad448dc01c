"""`Study.optimize`: how each end of an objective is told, how many trials run, and what an interrupt leaves behind."""

from __future__ import annotations

import _thread
import io
import signal
import sys
import threading
from typing import Any

import pytest

import asktell
from asktell import TrialState
from asktell._calls import Call
from asktell._progress import LineProgress, NoProgress, RichProgress, make_progress

from .conftest import SPACE
from .fake import FakeService, Fault


def accuracy(trial: asktell.Trial) -> float:
    """An objective that always succeeds."""
    return float(trial.params["lr"])


@pytest.mark.parametrize("n_workers", [1, 4])
def test_it_runs_as_many_trials_as_wanted(study: asktell.Study, fake: FakeService, n_workers: int) -> None:
    """Several workers do not overshoot."""
    study.optimize(accuracy, n_trials=10, n_workers=n_workers)

    assert fake.states(study.name) == ["SUCCEEDED"] * 10
    assert study.best_trial is not None


def test_running_again_goes_on(study: asktell.Study, fake: FakeService) -> None:
    """n_trials counts what runs and what has ended; what waits or expired does not count."""
    study.ask()
    study.ask().tell_failed()
    study.optimize(accuracy, n_trials=5)
    study.optimize(accuracy, n_trials=5)
    study.enqueue({"lr": 0.7})

    study.optimize(accuracy, n_trials=6)

    assert fake.states(study.name) == ["RUNNING", "FAILED", *["SUCCEEDED"] * 4]


def test_each_way_to_end_is_told(study: asktell.Study, fake: FakeService) -> None:
    """A value, a dict, an own tell, pruned, infeasible, NaN."""

    def objective(trial: asktell.Trial) -> float | dict[str, float] | None:
        match trial.number:
            case 1:
                return 0.5
            case 2:
                return {"accuracy": 0.6, "loss": 1.0}
            case 3:
                trial.tell(accuracy=0.7)
                return None
            case 4:
                trial.study.trial(4).tell(accuracy=0.8)
                return None
            case 5:
                raise asktell.TrialPruned("hopeless")
            case 6:
                raise asktell.TrialInfeasible("out of memory")
        return float("nan")

    study.optimize(objective, n_trials=7)

    assert fake.states(study.name) == [*["SUCCEEDED"] * 4, "PRUNED", "INFEASIBLE", "FAILED"]
    assert [trial.state_reason for trial in study.trials()][4:] == ["hopeless", "out of memory", "accuracy is nan"]
    assert study.trial(2).metrics == {"accuracy": 0.6, "loss": 1.0}


@pytest.mark.parametrize("n_workers", [1, 3])
def test_an_error_is_told_and_raised(study: asktell.Study, fake: FakeService, n_workers: int) -> None:
    """The trial is FAILED with the error's words, no further one begins, and the error arrives."""

    def objective(trial: asktell.Trial) -> float:
        if trial.number == 3:
            raise ZeroDivisionError("by zero")
        return 0.5

    with pytest.raises(ZeroDivisionError):
        study.optimize(objective, n_trials=50, n_workers=n_workers)

    assert study.trial(3).state_reason == "ZeroDivisionError: by zero"
    assert len(fake.states(study.name)) <= 3 + 2 * n_workers
    assert "RUNNING" not in fake.states(study.name)


def test_a_caught_error_does_not_end_the_search(study: asktell.Study, fake: FakeService) -> None:
    """What is named in `catch` costs one trial."""

    def objective(trial: asktell.Trial) -> float:
        return 1 / (trial.number - 2)

    study.optimize(objective, n_trials=3, catch=ZeroDivisionError)

    assert fake.states(study.name) == ["SUCCEEDED", "FAILED", "SUCCEEDED"]


@pytest.mark.parametrize(("result", "words"), [(None, "without telling"), ("high", "is a number, not str")])
def test_a_result_that_is_none_is_an_error(study: asktell.Study, result: object, words: str) -> None:
    """Returning nothing without telling, or no number, fails the trial and is raised."""
    with pytest.raises(TypeError, match=words):
        study.optimize(lambda trial: result, n_trials=3)  # type: ignore[arg-type,return-value]

    assert study.trial(1).state is TrialState.FAILED


def test_several_objectives_need_a_dict(client: asktell.Client) -> None:
    """One number cannot be two."""
    study = client.create_study("two", SPACE, maximize="accuracy", minimize="loss")

    with pytest.raises(TypeError, match="a dict of accuracy, loss"):
        study.optimize(lambda trial: 0.5, n_trials=1)


def test_constraints_need_a_dict(client: asktell.Client) -> None:
    """A result holds the constrained metrics, too."""
    study = client.create_study("bounded", SPACE, maximize="accuracy", constraints={"latency": ("<=", 5)})

    with pytest.raises(TypeError, match="a dict of accuracy, latency"):
        study.optimize(lambda trial: 0.5, n_trials=1)


@pytest.mark.parametrize(
    "reason", ["STUDY_COMPLETED", "TRIAL_LIMIT_REACHED", "SEARCH_SPACE_EXHAUSTED", "STUDY_NOT_ACTIVE"]
)
def test_the_study_can_end_it(study: asktell.Study, fake: FakeService, reason: str) -> None:
    """A server that has no more trials ends the loop without an error."""
    fake.faults["Ask"] += [Fault(fails=False), Fault(code="FAILED_PRECONDITION", reason=reason)]

    study.optimize(accuracy)

    assert fake.states(study.name) == ["SUCCEEDED"]


def test_a_limit_of_the_study_ends_all_workers(client: asktell.Client, fake: FakeService) -> None:
    """Each worker hears it for itself."""
    study = client.create_study("limited", SPACE, maximize="accuracy", max_trials=5)

    study.optimize(accuracy, n_workers=3)

    assert fake.states(study.name) == ["SUCCEEDED"] * 5


def test_no_trial_begins_after_the_timeout(study: asktell.Study, fake: FakeService) -> None:
    """A timeout of 0 runs nothing."""
    study.optimize(accuracy, n_trials=5, timeout=0)

    assert fake.states(study.name) == []


def test_an_error_of_the_server_is_raised(study: asktell.Study, fake: FakeService) -> None:
    """What retries could not heal ends the loop."""
    fake.faults["Ask"].append(Fault(code="INTERNAL"))

    with pytest.raises(asktell.ServerError):
        study.optimize(accuracy, n_trials=5, n_workers=2)


def test_callbacks_see_each_ended_trial(study: asktell.Study) -> None:
    """One at a time, with the study and the trial."""
    seen: list[tuple[str, int, TrialState]] = []

    study.optimize(
        accuracy, n_trials=3, callbacks=[lambda study, trial: seen.append((study.id, trial.number, trial.state))]
    )

    assert seen == [("digits", number, TrialState.SUCCEEDED) for number in (1, 2, 3)]


def test_workers_have_names(study: asktell.Study) -> None:
    """Who evaluated what can be read later."""
    study.optimize(accuracy, n_trials=1, worker="me")
    study.optimize(accuracy, n_trials=6, n_workers=2, worker="me")

    assert study.trial(1).worker == "me"
    assert {trial.worker for trial in study.trials()} <= {"me", "me/1", "me/2"}


def test_ctrl_c_in_the_calling_thread(study: asktell.Study) -> None:
    """The trial is told that it was interrupted."""

    def objective(trial: asktell.Trial) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=5)

    assert [(trial.state, trial.state_reason) for trial in study.trials()] == [(TrialState.FAILED, "interrupted")]


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """An event loop of another test in this process may have left the signal to the system, and then nothing comes of it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_while_threads_run(study: asktell.Study) -> None:
    """All running trials are told, nobody waits for the objectives, and they can see that they should stop."""
    release, ended = threading.Event(), threading.Semaphore(0)
    barrier = threading.Barrier(3, action=_thread.interrupt_main, timeout=30)
    stopped: list[bool] = []

    def objective(trial: asktell.Trial) -> float:
        barrier.wait()
        release.wait(30)
        stopped.append(trial.should_stop)
        ended.release()
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=10, n_workers=3)
    states = [(trial.state, trial.state_reason) for trial in study.trials()]
    release.set()
    for _ in range(3):
        ended.acquire(timeout=30)

    assert states == [(TrialState.FAILED, "interrupted")] * 3
    assert stopped == [True] * 3
    assert len(list(study.trials())) == 3


def test_ctrl_c_during_an_ask(study: asktell.Study, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial whose reply was not waited for is fetched by its request_id, and told."""
    real, interrupts = study.client.run, [KeyboardInterrupt]

    def run(call: Call[Any], timeout_s: float | None = None) -> object:
        reply = real(call, timeout_s)
        if call.method == "Ask" and interrupts:
            raise interrupts.pop()
        return reply

    monkeypatch.setattr(study.client, "run", run)

    with pytest.raises(KeyboardInterrupt):
        study.optimize(accuracy, n_trials=5)

    assert fake.states(study.name) == ["FAILED"]


def test_ctrl_c_is_what_is_raised(study: asktell.Study, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the farewell after it is refused, or not answered."""
    real, interrupts = study.client.run, [KeyboardInterrupt]

    def run(call: Call[Any], timeout_s: float | None = None) -> object:
        if call.method == "Ask" and interrupts:
            fake.faults["Ask"].append(Fault(code="INTERNAL"))
            raise interrupts.pop()
        return real(call, timeout_s)

    monkeypatch.setattr(study.client, "run", run)

    with pytest.raises(KeyboardInterrupt):
        study.optimize(accuracy, n_trials=5)

    assert not fake.faults["Ask"]


def test_progress_is_quiet_off_a_terminal(capfd: pytest.CaptureFixture[str], study: asktell.Study) -> None:
    """Logs of a cluster are not for bars, unless somebody asks."""
    study.optimize(accuracy, n_trials=2)
    quiet = capfd.readouterr()
    study.optimize(accuracy, n_trials=4, progress=True)
    loud = capfd.readouterr()

    assert quiet == ("", "")
    assert "4/4" in loud.err
    assert "best accuracy" in loud.err
    assert loud.out == ""


def test_progress_shows_the_best_feasible_result(capfd: pytest.CaptureFixture[str], client: asktell.Client) -> None:
    """A better result that breaks a bound is not the best."""
    study = client.create_study("bounded", SPACE, maximize="accuracy", constraints={"latency": ("<=", 2)})

    study.optimize(lambda trial: {"accuracy": trial.number, "latency": trial.number}, n_trials=3, progress=True)

    assert "best accuracy 2 (trial 2)" in capfd.readouterr().err


def test_the_plain_line_is_rewritten() -> None:
    """A shorter line covers a longer one."""
    stream = io.StringIO()
    line = LineProgress("digits", 5, stream)

    line.update(1, "best accuracy 0.25 (trial 1)")
    line.update(2, "")
    line.close()

    first = "digits: 1/5 trials, best accuracy 0.25 (trial 1)"
    assert stream.getvalue() == f"\r{first}\r{'digits: 2/5 trials'.ljust(len(first))}\n"


def test_which_display_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich where it is installed, a line where it is not, nothing where nobody looks."""
    assert isinstance(make_progress(wanted=None, title="t", total=1), NoProgress)
    assert isinstance(make_progress(wanted=False, title="t", total=1), NoProgress)
    bar = make_progress(wanted=True, title="t", total=1)
    bar.close()
    assert isinstance(bar, RichProgress)

    monkeypatch.setitem(sys.modules, "rich.console", None)

    assert isinstance(make_progress(wanted=True, title="t", total=1), LineProgress)
