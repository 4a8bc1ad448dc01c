"""The client against the real server, run by "local:" targets; and the examples, run as their readers would."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy
import pandas
import pytest

import asktell
from asktell import (
    Categorical,
    Discrete,
    FinishedTrial,
    Float,
    Gp,
    Int,
    NormalPrior,
    Skopt,
    Space,
    StopCause,
    StudyState,
    TransferSource,
    TrialPruned,
    TrialState,
    _local,
    aio,
    when,
)

from ..support import ServerProcess

ROOT = Path(__file__).parents[2]
SPACE: Space = {
    "optimizer": Categorical(["sgd", "adam"], default="sgd"),
    "lr": Float(1e-5, 1e-1, log=True, default=1e-3),
    "momentum": Float(0.0, 0.99, default=0.0, when=when("optimizer", "sgd")),
    "batch": Discrete([16, 32, 64], default=32),
    "layers": Int(1, 4, default=1),
    "bias": Categorical([True, False], default=False),
}


@pytest.fixture(scope="module")
def client() -> Iterator[asktell.Client]:
    """A client of a server in memory."""
    with asktell.connect("local:", timeout=60) as client:
        yield client


def score(trial: asktell.TrialRecord) -> float:
    """A smooth function of the point."""
    return float(trial.params["lr"]) * 10 + float(trial.params.get("momentum", 0.5)) - int(trial.params["layers"]) / 10


def test_the_journey_of_a_trial(client: asktell.Client) -> None:
    """The default point comes first, typed as Python expects, and reports and results come back as given."""
    study = client.create_study("journey", SPACE, maximize="accuracy", algorithm="sobol", seed=1, lease=30)
    trial = study.ask(worker="w")
    advice = trial.report(1, accuracy=0.5)
    trial.report(2, {"accuracy": 0.6, "val/loss": 0.1}, standard_errors={"accuracy": 0.01})
    trial.tell(accuracy=0.75, step=2)
    best = study.best_trial

    assert repr(trial.params) == (
        "{'optimizer': 'sgd', 'lr': 0.001, 'momentum': 0.0, 'batch': 32, 'layers': 1, 'bias': False}"
    )
    assert not advice
    assert best is not None
    assert [m.step for m in best.intermediate] == [1, 2]
    assert best.measurement == asktell.Measurement({"accuracy": 0.75}, step=2)
    assert (best.worker, best.attempt, best.state) == ("w", 1, TrialState.SUCCEEDED)
    with pytest.raises(asktell.ResultConflict):
        best.tell(accuracy=0.1)


def test_a_spec_comes_back_as_it_went(client: asktell.Client) -> None:
    """The server keeps everything that was said, fills in what was left open, and takes the same spec again as equal."""
    settings = Skopt(base_estimator="RF", acquisition_function="LCB", initial_points=3, kappa=1.0)

    study = client.create_study("spec", SPACE, maximize="accuracy", algorithm=settings, seed=7, target=0.0, lease=5.5)
    again = client.create_study("spec", SPACE, maximize="accuracy", algorithm=settings, lease=5.5, target=0.0)

    assert study.spec.space == SPACE
    assert isinstance(study.spec.algorithm, Skopt)
    assert (study.spec.algorithm.base_estimator, study.spec.algorithm.kappa) == ("RF", 1.0)
    assert (study.spec.seed, study.spec.target) == (7, 0.0)
    assert again.spec == study.spec
    with pytest.raises(asktell.StudySpecMismatch) as caught:
        client.create_study("spec", {"x": Float(0, 1)}, maximize="accuracy")
    assert caught.value.fields


def test_beliefs_and_sources_come_back_as_they_went(client: asktell.Client) -> None:
    """The server adds up to which revision a source counts, and takes the same settings again as equal, also once it has more."""
    earlier = client.create_study("sources/earlier", SPACE, maximize="accuracy", algorithm="random")
    earlier.ask().tell(accuracy=0.5)
    settings = Gp(
        initial_points=5,
        cost_metric="seconds",
        priors={"lr": NormalPrior(1e-3, width=0.2), "optimizer": {"adam": 3, "sgd": 1}, "batch": {64: 2}},
        learn_from=["earlier"],
    )

    study = client.create_study("sources/later", SPACE, maximize="accuracy", algorithm=settings)
    earlier.ask().tell(accuracy=0.6)
    again = client.create_study("sources/later", SPACE, maximize="accuracy", algorithm=settings)

    algorithm = study.spec.algorithm
    assert isinstance(algorithm, Gp)
    assert algorithm.priors == settings.priors
    assert (algorithm.initial_points, algorithm.cost_metric) == (5, "seconds")
    assert algorithm.learn_from == (TransferSource("projects/sources/studies/earlier", revision=3),)
    assert again.spec == study.spec
    copy = client.create_study("sources/copy", SPACE, maximize="accuracy", algorithm=algorithm)
    assert copy.spec.algorithm == algorithm


def test_only_feasible_trials_are_best(client: asktell.Client) -> None:
    """A study with a constraint has no best trial until one keeps it."""
    study = client.create_study(
        "feasible", SPACE, maximize="accuracy", constraints={"latency": ("<=", 5)}, algorithm="random"
    )
    study.ask().tell(accuracy=0.9, latency=5.5)
    before = study.best_trial
    study.ask().tell(accuracy=0.5, latency=5)

    best = study.best_trial
    assert before is None
    assert best is not None
    assert best.number == 2
    assert study.spec.constraints == {"latency": ("<=", 5.0)}
    with pytest.raises(asktell.InvalidArgument, match="latency"):
        study.ask().tell(accuracy=1)


def test_everything_that_is_wrong_is_said_at_once(client: asktell.Client) -> None:
    """Violations of a bad space arrive as a list, and nothing is created."""
    space: Space = {"lr": Float(0.0, -1.0), "n": Int(1, 9, step=20), "act": Categorical([])}

    with pytest.raises(asktell.InvalidArgument) as caught:
        client.create_study("bad", space, maximize="accuracy")

    assert len(caught.value.violations) >= 3
    assert all(violation.field in str(caught.value) for violation in caught.value.violations)
    with pytest.raises(asktell.StudyNotFound):
        client.get_study("bad")


def test_optimize_goes_on_and_stops(client: asktell.Client) -> None:
    """Threads share a study, a second run adds what is missing, and the study's own limit ends it."""
    study = client.create_study("threads", SPACE, maximize="accuracy", algorithm="random", max_trials=12)

    study.optimize(score, n_trials=6, n_workers=3)
    counted = study.trial_counts.succeeded, len(list(study.trials()))
    study.optimize(score, n_workers=3)
    study.reload()

    assert counted[1] == 6
    assert study.trial_counts.succeeded == 12
    assert study.state is StudyState.COMPLETED


@pytest.mark.parametrize("result", [{"los": 1.0}, {}, {"loss": 1.0, "a b": 1.0}], ids=["typo", "nothing", "bad name"])
async def test_a_result_that_is_refused_ends_its_trial(client: asktell.Client, result: dict[str, float]) -> None:
    """As FAILED, and raised unless it is one of `catch`; no trial is left running."""
    for name, n_trials in (("refused", 1), ("caught", 3)):
        study = client.create_study(f"{name}-{len(result)}-{'los' in result}", {"x": Float(0, 1)}, minimize="loss")
        if name == "caught":
            study.optimize(lambda _: result, 3, catch=asktell.InvalidArgument)
        else:
            with pytest.raises(asktell.InvalidArgument):
                study.optimize(lambda _: result, 3)
        assert [trial.state for trial in study.trials()] == [TrialState.FAILED] * n_trials
    async with await aio.connect(client.target) as there:
        again = await there.get_study(study.name.rpartition("/")[2])

        async def objective(_: aio.AsyncTrial) -> dict[str, float]:
            return result

        with pytest.raises(asktell.InvalidArgument):
            await again.optimize(objective, 5)
        assert {trial.state async for trial in again.trials()} == {TrialState.FAILED}


async def test_a_wild_report_ends_its_trial_alone(client: asktell.Client) -> None:
    """NaN or infinity given to `report` makes that trial FAILED, with the reason; the search goes on."""
    study = client.create_study("wild-reports", {"x": Float(0, 1)}, minimize="loss")

    def objective(trial: asktell.Trial) -> float:
        trial.report(1, loss=math.nan if trial.number == 1 else 1.0, standard_errors={"loss": 0.1})
        return 1.0

    async def there(trial: aio.AsyncTrial) -> float:
        await trial.report(1, loss=math.inf)
        return 1.0

    study.optimize(objective, 2)
    async with await aio.connect(client.target) as other:
        await (await other.get_study(study.id)).optimize(there, 4)

    ends = [(trial.state, trial.state_reason) for trial in study.trials()]
    lost = (TrialState.FAILED, "loss is inf")
    assert ends == [(TrialState.FAILED, "loss is nan"), (TrialState.SUCCEEDED, ""), lost, lost]


@pytest.mark.parametrize("timeout", [math.nan, 0, -1.5, timedelta(0)])
async def test_a_timeout_that_is_no_time_is_refused(client: asktell.Client, timeout: float | timedelta) -> None:
    """By name, wherever one is given; a local server is not even started for it."""
    study = client.create_study("timeless", {"x": Float(0, 1)}, minimize="loss")
    calls: list[Callable[[], object]] = [
        lambda: asktell.connect("local:", timeout=timeout),
        lambda: study.ask(timeout=timeout),
        lambda: study.explain(timeout=timeout),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="timeout is more than 0 seconds"):
            call()
    if timeout not in (0, timedelta(0)):
        with pytest.raises(ValueError, match="timeout is at least 0 seconds"):
            study.optimize(lambda _: 1.0, 1, timeout=timeout)
    with pytest.raises(ValueError, match="timeout is more than 0 seconds"):
        await aio.connect("local:", timeout=timeout)
    async with await aio.connect(client.target) as other:
        there = await other.get_study("timeless")
        with pytest.raises(ValueError, match="timeout is more than 0 seconds"):
            await there.ask(timeout=timeout)


def test_a_limit_of_nothing_is_refused(client: asktell.Client) -> None:
    """0 is not taken for no limit; all such limits are named at once, and no study is made."""
    with pytest.raises(ValueError, match=r"max_trials is at least 1, not 0; max_failed_trials is at least 1, not -2"):
        client.create_study("nothing", {"x": Float(0, 1)}, minimize="loss", max_trials=0, max_failed_trials=-2)
    with pytest.raises(ValueError, match="max_trials_without_improvement is at least 1, not 0"):
        client.create_study("nothing", {"x": Float(0, 1)}, minimize="loss", max_trials_without_improvement=0)
    with pytest.raises(asktell.StudyNotFound):
        client.get_study("nothing")


def test_a_step_is_a_whole_number(client: asktell.Client) -> None:
    """Fractions are refused rather than cut, and change nothing; NumPy's integers are taken."""
    trial = client.create_study("steps", {"x": Float(0, 1)}, minimize="loss").ask()

    for step in (1.5, 2.0, "3"):
        with pytest.raises(TypeError, match="step is a whole number"):
            trial.report(step, loss=1.0)  # type: ignore[arg-type]
    trial.report(numpy.int64(4), loss=1.0)  # type: ignore[arg-type]

    trial.reload()
    assert [measured.step for measured in trial.intermediate] == [4]


async def test_what_belongs_to_no_metrics_is_refused(client: asktell.Client) -> None:
    """A step or standard errors without metrics are not dropped in silence; the trial runs on, nothing is imported."""
    study = client.create_study("pruned", {"x": Float(0, 1)}, minimize="loss")
    trial = study.ask()

    with pytest.raises(ValueError, match="standard_errors and step without metrics"):
        trial.tell_pruned("late", standard_errors={"loss": 0.1}, step=0)
    failed = FinishedTrial({"x": 0.5}, state=TrialState.FAILED, step=3)
    with pytest.raises(ValueError, match="step without metrics"):
        study.import_trials([failed])
    async with await aio.connect(client.target) as other:
        there = await (await other.get_study("pruned")).trial(1)
        with pytest.raises(ValueError, match="step without metrics"):
            await there.tell_pruned(step=3)

    assert [trial.state for trial in study.trials()] == [TrialState.RUNNING]


async def test_a_beat_for_an_expired_trial_says_so(client: asktell.Client) -> None:
    """A worker that was held up too long learns from its next heartbeat that the lease ran out."""
    study = client.create_study("held-up", {"x": Float(0, 1)}, minimize="loss", lease=1)
    trial = study.ask()
    client.heartbeats.remove(trial)
    deadline = time.monotonic() + 30
    while study.trial(trial.number).state is not TrialState.EXPIRED and time.monotonic() < deadline:
        time.sleep(0.1)

    assert not trial.beat(5)
    assert trial.advice.cause is StopCause.TRIAL_EXPIRED
    async with await aio.connect(client.target) as other:
        there = await (await other.get_study("held-up")).trial(trial.number)
        assert not await there.beat(5)
        assert there.advice.cause is StopCause.TRIAL_EXPIRED


async def test_a_local_server_that_was_killed_is_reported_dead(tmp_path: Path) -> None:
    """At once, with the signal and the log, and not as unavailable when the budget is spent; a new client starts another."""
    target = f"local:{tmp_path / 'killed.db'}"
    async with await aio.connect(target) as there:
        with asktell.connect(target) as client:
            study = client.create_study("killed", {"x": Float(0, 1)}, minimize="loss")
            other = await there.get_study("killed")
            (server,) = [s for s in _local._servers._running.values() if s.target == client.target]
            assert server._process is not None
            os.kill(server._process.pid, signal.SIGKILL)
            start_s = time.monotonic()
            with pytest.raises(asktell.LocalServerError, match=r"ended by SIGKILL.*server.log"):
                study.ask()
            with pytest.raises(asktell.LocalServerError, match="ended by SIGKILL"):
                await other.ask()
            with pytest.raises(asktell.LocalServerError, match="ended by SIGKILL"):
                list(study.watch())
            assert time.monotonic() - start_s < 30
            with asktell.connect(target) as again:
                assert again.get_study("killed").ask().number == 1


async def test_a_data_frame_comes_back(client: asktell.Client, tmp_path: Path) -> None:
    """What pandas makes of inactive parameters and missing metrics is read as what it was, also by way of CSV."""
    space: Space = {
        "kind": Categorical(["tree", "net", "none"]),
        "depth": Int(1, 9, when=when("kind", "tree")),
        "width": Categorical([16, 32], when=when("kind", "net")),
        "rate": Float(0, 1, when=when("kind", "net")),
        "bias": Categorical([True, False], when=when("kind", "net")),
    }
    study = client.create_study("framed", space, minimize="loss")
    study.import_trials(
        [
            FinishedTrial({"kind": "tree", "depth": 3}, {"loss": 1.0}, step=4),
            FinishedTrial({"kind": "net", "width": 32, "rate": 1.0, "bias": True}, {"loss": 2.0}, notes="wide"),
            FinishedTrial({"kind": "none"}, state=TrialState.FAILED, reason="broke"),
        ]
    )
    frame = study.to_dataframe()
    frame.to_csv(tmp_path / "trials.csv", index=False)

    def told(trials: Iterable[asktell.TrialRecord]) -> list[object]:
        return [(t.params, t.state, t.measurement, t.state_reason, t.notes) for t in trials]

    back = client.create_study("framed-back", space, minimize="loss")
    back.import_trials(frame.to_dict("records"))
    by_csv = client.create_study("framed-csv", space, minimize="loss")
    async with await aio.connect(client.target) as other:
        there = await other.get_study("framed-csv")
        await there.import_trials(pandas.read_csv(tmp_path / "trials.csv").to_dict("records"))

    assert told(back.trials()) == told(by_csv.trials()) == told(study.trials())


def test_what_is_no_text_is_named(client: asktell.Client) -> None:
    """Before anything is sent, all that is wrong with the texts of a call at once."""
    space: Space = {"x": Float(0, 1)}
    with pytest.raises(TypeError, match="a study's name is text, not int: 3"):
        client.get_study(3)  # type: ignore[arg-type]
    wrong = r"description is text, not 5; labels: a key and its label are text, not 'gpus': 8"
    with pytest.raises(TypeError, match=wrong):
        client.create_study("texts", space, minimize="loss", description=5, labels={"gpus": 8})  # type: ignore[arg-type,dict-item]
    study = client.create_study("texts", space, minimize="loss")
    with pytest.raises(TypeError, match=r"notes is text, not 1; labels is a mapping, not \['a'\]"):
        study.enqueue({"x": 0.5}, notes=1, labels=["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="worker is text, not 7"):
        study.import_trials([FinishedTrial({"x": 0.5}, {"loss": 1.0}, worker=7)])  # type: ignore[arg-type]

    assert list(study.trials()) == []


def test_a_reason_that_no_utf_8_holds_is_spelt_out(client: asktell.Client) -> None:
    """As file names that are no text come out of Python: the error itself is told and raised."""
    study = client.create_study("surrogates", {"x": Float(0, 1)}, minimize="loss")

    def objective(trial: asktell.Trial) -> float:
        if trial.number == 1:
            raise TrialPruned("half a pair: \ud800")
        raise RuntimeError("bad file \udcff")

    with pytest.raises(RuntimeError, match="bad file"):
        study.optimize(objective, 2)

    reasons = [trial.state_reason for trial in study.trials()]
    assert reasons == ["half a pair: \\ud800", "RuntimeError: bad file \\udcff"]


@pytest.mark.parametrize("timeout", [math.inf, 1e12, timedelta.max])
def test_an_ask_may_have_all_the_time_in_the_world(client: asktell.Client, timeout: float | timedelta) -> None:
    """A deadline beyond what gRPC can count is answered like any other."""
    study = client.create_study(f"patient-{str(timeout)[:3]}", {"x": Float(0, 1)}, minimize="loss", if_exists="use")

    assert study.ask(timeout=timeout).number >= 1


def test_a_model_explains_itself(client: asktell.Client) -> None:
    """Skopt's suggestions carry a prediction after its initial points."""
    study = client.create_study("model", {"x": Float(0, 1)}, minimize="loss", algorithm=Skopt(initial_points=3), seed=3)

    study.optimize(lambda trial: (float(trial.params["x"]) - 0.3) ** 2, n_trials=5)

    suggestion = list(study.trials())[-1].suggestion
    assert suggestion.source is asktell.Source.MODEL
    assert suggestion.predictions["loss"].standard_deviation >= 0


def test_a_grid_ends(client: asktell.Client) -> None:
    """An exhausted space ends an optimize in good order."""
    study = client.create_study("grid", {"n": Int(1, 4)}, maximize="value", algorithm="grid")

    study.optimize(lambda trial: float(trial.params["n"]))

    assert sorted(int(trial.params["n"]) for trial in study.trials()) == [1, 2, 3, 4]
    with pytest.raises(asktell.SearchSpaceExhausted):
        study.ask()


def test_stopping_a_study_reaches_its_trials(client: asktell.Client) -> None:
    """Reports and heartbeats say so; results are still taken; resuming gives out trials again."""
    study = client.create_study("stopping", SPACE, maximize="accuracy", algorithm="random", lease=1)
    first, second = study.ask(2)

    study.stop("enough")
    advice = first.report(1, accuracy=0.5)
    deadline = time.monotonic() + 20
    while not second.should_stop and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(asktell.StudyNotActive):
        study.ask()
    first.tell_pruned("told to stop")
    second.tell(accuracy=0.5)
    study.resume()
    third = study.ask()
    third.tell_infeasible("no memory")

    assert advice.cause is StopCause.STUDY_STOPPED
    assert second.should_stop
    assert first.metrics == {"accuracy": 0.5}
    assert study.state is StudyState.ACTIVE


def test_a_lease_outlives_its_length_by_heartbeats(client: asktell.Client) -> None:
    """A held trial stays RUNNING past its lease; one whose handle is dropped expires and is tried again."""
    study = client.create_study("leases", SPACE, maximize="accuracy", algorithm="random", lease=1, max_retries=1)
    kept = study.ask()
    dropped = study.ask().number
    deadline = time.monotonic() + 30
    while study.trial(dropped).state is TrialState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.1)
    expired = study.trial(dropped)
    kept.reload()
    retry = study.ask()

    assert expired.state is TrialState.EXPIRED
    assert kept.state is TrialState.RUNNING
    assert (retry.retry_of, retry.attempt, retry.params) == (dropped, 2, expired.params)
    retry.tell(accuracy=0.5)
    kept.tell(accuracy=0.5)


def test_points_and_results_from_elsewhere(client: asktell.Client) -> None:
    """Enqueued points are asked first with defaults filled in; a table of one study goes into another."""
    study = client.create_study("source", SPACE, maximize="accuracy", algorithm="random")
    study.enqueue({"lr": 0.01, "optimizer": "adam"}, notes="by hand")
    trial = study.ask()
    trial.tell(accuracy=0.9, standard_errors={"accuracy": 0.05})
    trial.update(labels={"team": "a"})
    study.ask().tell_failed("broke")
    copy = client.create_study("copy", SPACE, maximize="accuracy", algorithm="random")

    copy.import_trials(study.to_dicts())
    copy.import_trials([FinishedTrial({"optimizer": "adam", "lr": 0.1}, {"accuracy": 0.1})])

    assert trial.params == {"optimizer": "adam", "lr": 0.01, "batch": 32, "layers": 1, "bias": False}
    best = copy.best_trial
    assert best is not None
    assert (best.params, best.measurement, best.labels) == (trial.params, study.trial(1).measurement, {"team": "a"})
    assert [trial.state for trial in copy.trials()] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]


def test_a_watch_sees_what_happens(client: asktell.Client) -> None:
    """Changes come in order, with the trials that changed."""
    study = client.create_study("watched", SPACE, maximize="accuracy", algorithm="random")
    changes = study.watch(study.revision)
    trial = study.ask()
    first = next(changes)
    trial.tell(accuracy=0.5)
    second = next(changes)
    study.delete()

    assert [t.state for t in first.trials] == ["RUNNING"]
    assert [t.state for t in second.trials] == ["SUCCEEDED"]
    with pytest.raises(asktell.StudyNotFound):
        next(changes)


def test_several_objectives_have_a_front(client: asktell.Client) -> None:
    """With two directions the best trials are several."""
    study = client.create_study("front", {"x": Float(0, 1)}, maximize="good", minimize="bad", algorithm="random")

    study.optimize(lambda trial: {"good": float(trial.params["x"]), "bad": float(trial.params["x"])}, n_trials=3)

    assert len(study.best_trials) == 3


async def test_the_journey_in_asyncio(client: asktell.Client) -> None:
    """Tasks share a study through grpc.aio."""

    async def objective(trial: aio.AsyncTrial) -> float:
        await trial.report(1, accuracy=0.0)
        return score(trial)

    async with await aio.connect(client.target, timeout=60) as other:
        study = await other.create_study("async", SPACE, maximize="accuracy", algorithm="random", lease=30)
        await study.optimize(objective, n_trials=8, n_workers=4)
        best = await study.best_trial()
        changes = study.watch()
        change = await anext(changes)
        await changes.aclose()  # type: ignore[attr-defined]

    assert best is not None
    assert change.study.trial_counts.succeeded == 8


def test_graceful_restarts_are_not_noticed(tmp_path: Path) -> None:
    """Workers that ask and tell without a pause while their server is stopped and started four times: no call of theirs fails."""
    server = ServerProcess(tmp_path, "--workers", "1").start()
    ended, failures = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            with asktell.connect(server.target) as client:
                study = client.get_study("restarts")
                while not ended.is_set():
                    study.ask().tell(loss=0.5)
        except BaseException as failure:
            failures.append(failure)

    try:
        with asktell.connect(server.target) as client:
            study = client.create_study("restarts", {"x": Float(0, 1)}, minimize="loss", algorithm="random")
            workers = [threading.Thread(target=work) for _ in range(12)]
            for worker in workers:
                worker.start()
            for _ in range(4):
                time.sleep(0.5)
                server.terminate()
                assert server.wait() == 0
                server.start()
            ended.set()
            for worker in workers:
                worker.join()

            assert failures == []
            trials = list(study.trials())
            assert [trial.number for trial in trials] == list(range(1, len(trials) + 1))
            assert {trial.state for trial in trials} == {TrialState.SUCCEEDED}
    finally:
        ended.set()
        server.kill()


def test_two_clients_of_one_file_share_a_server(tmp_path: Path) -> None:
    """The server is up as long as one of them is, and what was told is there when it comes again."""
    target = f"local:{tmp_path}/study.db"
    with asktell.connect(target) as first:
        with asktell.connect(target) as second:
            first.create_study("shared", SPACE, maximize="accuracy", algorithm="random").ask().tell(accuracy=0.5)
            seen = second.get_study("shared").trial_counts.succeeded
            same = first.target == second.target
        still = first.get_study("shared").id
    with asktell.connect(target) as third:
        again = third.get_study("shared").trial_counts.succeeded

    assert (seen, same, still, again) == (1, True, "shared", 1)
    assert _local._servers._running.keys().isdisjoint({str(tmp_path / "study.db")})


def test_a_local_server_goes_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Even SIGKILL of the parent leaves no server behind, for its pipe is closed."""
    script = (
        "import asktell, time\n"
        f"client = asktell.connect('local:{tmp_path}/study.db')\n"
        "from asktell import _local\n"
        "print(next(iter(_local._servers._running.values()))._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed process cannot tidy up
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{server}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{server}/cmdline").read_bytes():
            break  # gone, and waiting for its new parent to notice
        time.sleep(0.05)

    gone = not Path(f"/proc/{server}/cmdline").exists() or not Path(f"/proc/{server}/cmdline").read_bytes()
    assert gone


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("quickstart.py", "best of quickstart"),
        ("async_workers.py", "best: trial"),
        ("many_processes.py", "COMPLETED: 12 trials"),
    ],
)
def test_an_example_runs(tmp_path: Path, example: str, said: str) -> None:
    """As its head says, from an empty folder, without a word on stderr."""
    environment = {key: value for key, value in os.environ.items() if key != "ASKTELL_TARGET"}

    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), "12"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_the_quickstart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Run again with the same number it only adds the trial that it makes by hand."""
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "5"]
    environment = {key: value for key, value in os.environ.items() if key != "ASKTELL_TARGET"}

    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=True)

    with asktell.connect(f"local:{tmp_path}/quickstart.db") as client:
        assert client.get_study("quickstart").trial_counts.ended == 7
