"""Studies and trials as handles: a snapshot of what the server told, plus the calls that change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

from asktell import _calls
from asktell._optimize import Objective, optimize
from asktell._retry import Attempts
from asktell._status import CallFailed
from asktell._targets import default_worker
from asktell.errors import AskTellError, NotFound, TrialNotRunning, Unauthenticated, Unavailable
from asktell.explanation import Explanation, explanation_from_proto
from asktell.records import (
    FinishedTrial,
    StopAdvice,
    StudyRecord,
    TrialRecord,
    TrialState,
    advice_from_error,
    advice_from_proto,
    rows,
)
from asktell.space import ParameterValue
from asktell.spec import Seconds, to_budget, to_limit
from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as service

if TYPE_CHECKING:
    from asktell.client import Client


class Trial(TrialRecord):
    """One evaluation of one point of the search space. To tell it from another process send its `number` there and
    use `Study.trial(number)`.
    """

    def __init__(self, study: Study, proto: trial_pb2.Trial) -> None:
        super().__init__(proto, study.spec.space)
        self._study = study
        self._client = study.client
        self._advice = StopAdvice()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a trial holds a connection; send its number and use study.trial(number) there")

    @property
    def study(self) -> Study:
        """The trial's study."""
        return self._study

    @property
    def should_stop(self) -> bool:
        """Whether the last report or heartbeat, automatic ones included, said to stop; asks nobody."""
        return bool(self._advice)

    @property
    def advice(self) -> StopAdvice:
        """What the last report or heartbeat said, with its cause."""
        return self._advice

    def report(
        self,
        step: int,
        metrics: Mapping[str, float] | None = None,
        *,
        standard_errors: Mapping[str, float] | None = None,
        **more: float,
    ) -> StopAdvice:
        """Records an intermediate measurement: `trial.report(epoch, accuracy=0.91)`, or a mapping for metrics whose
        names are no keywords. Renews the lease. The answer is true when the trial should stop; raise TrialPruned or
        call `tell_pruned` then. Raises InvalidArgument, TrialNotRunning, MeasurementConflict.
        """
        measurement = _calls.measurement(metrics, more, standard_errors, step)
        answer = self._client.run(_calls.report(self.name, measurement))
        self._advice = advice_from_proto(answer.should_stop, answer.advice)
        return self._advice

    def heartbeat(self) -> StopAdvice:
        """Renews the lease. A trial that was asked for here is renewed by itself. Raises TrialNotRunning."""
        return self._heartbeat(None)

    def tell(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        standard_errors: Mapping[str, float] | None = None,
        step: int | None = None,
        **more: float,
    ) -> None:
        """Ends the trial with its result: `trial.tell(accuracy=0.93)`, or a mapping for metrics whose names are no
        keywords; every objective has to be there. On disk when it returns. The same result again succeeds. Raises
        InvalidArgument, TrialNotRunning, ResultConflict.
        """
        self.end(_calls.tell_succeeded(self.name, _calls.measurement(metrics, more, standard_errors, step)))

    def tell_infeasible(self, reason: str = "") -> None:
        """Ends the trial: its parameters cannot be evaluated, and trying again would not help."""
        self.end(_calls.tell_infeasible(self.name, reason))

    def tell_failed(self, reason: str = "") -> None:
        """Ends the trial: its evaluation broke."""
        self.end(_calls.tell_failed(self.name, reason))

    def tell_pruned(
        self,
        reason: str = "",
        metrics: Mapping[str, float] | None = None,
        *,
        standard_errors: Mapping[str, float] | None = None,
        step: int | None = None,
        **more: float,
    ) -> None:
        """Ends the trial early; without metrics the last ones reported are its measurement."""
        measurement = _calls.last_measurement(metrics, more, standard_errors, step)
        self.end(_calls.tell_pruned(self.name, reason, measurement))

    def update(self, *, notes: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Changes the notes or the labels (replaced as a whole), in any state."""
        self._proto = self._client.run(_calls.update_trial(self.name, notes=notes, labels=labels))

    def reload(self) -> None:
        """Reads the trial anew, with all its measurements."""
        self._proto = self._client.run(_calls.get_trial(self.name))

    def end(self, call: _calls.Call[service.TellResponse], timeout_s: float | None = None) -> None:
        """Ends the trial by one of the calls above."""
        self._proto = self._client.run(call, timeout_s).trial
        self._client.heartbeats.remove(self)

    def advise(self, advice: StopAdvice) -> None:
        """Makes `should_stop` say so."""
        self._advice = advice

    def beat(self, budget_s: float) -> bool:
        """An automatic heartbeat: returns whether to send another one later."""
        try:
            self._heartbeat(budget_s)
        except (TrialNotRunning, NotFound) as error:
            self._advice = advice_from_error(error)
            return False
        except AskTellError:
            return True  # not reached this time; the next beat comes before the lease ends
        return True

    def _heartbeat(self, budget_s: float | None) -> StopAdvice:
        answer = self._client.run(_calls.heartbeat(self.name), budget_s)
        self._advice = advice_from_proto(answer.should_stop, answer.advice)
        return self._advice


@dataclass(frozen=True, slots=True)
class StudyChange:
    """What changed in a study up to a revision; see `Study.watch`."""

    revision: int
    study: StudyRecord
    trials: list[TrialRecord]


class Study(StudyRecord):
    """One search for the best parameters of one task. May be used from any number of threads."""

    def __init__(self, client: Client, proto: study_pb2.Study) -> None:
        super().__init__(proto)
        self._client = client

    def __reduce__(self) -> NoReturn:
        raise TypeError("a study holds a connection; send its name and use asktell.get_study(name) there")

    @property
    def client(self) -> Client:
        """The connection."""
        return self._client

    def reload(self) -> None:
        """Reads the study anew. Raises StudyNotFound."""
        self._proto = self._client.run(_calls.get_study(self.name))

    def update(self, *, description: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Changes the description or the labels (replaced as a whole)."""
        self._proto = self._client.run(_calls.update_study(self.name, description=description, labels=labels))

    def stop(self, reason: str = "") -> None:
        """No more trials are given out, and running ones are told to stop; results are still taken."""
        self._proto = self._client.run(_calls.stop_study(self.name, reason))

    def resume(self) -> None:
        """Undoes `stop`. Raises StudyCompleted."""
        self._proto = self._client.run(_calls.resume_study(self.name))

    def delete(self) -> None:
        """Deletes the study with all its trials, for good."""
        self._client.run(_calls.delete_study(self.name, missing_ok=False))

    @overload
    def ask(self, count: None = None, *, worker: str | None = None, timeout: Seconds | None = None) -> Trial: ...
    @overload
    def ask(self, count: int, *, worker: str | None = None, timeout: Seconds | None = None) -> list[Trial]: ...
    def ask(
        self, count: int | None = None, *, worker: str | None = None, timeout: Seconds | None = None
    ) -> Trial | list[Trial]:
        """A trial to evaluate or, given a `count`, a list of so many (fewer near the end of the study).

        worker: who will evaluate it, for people; None: this host and process.
        timeout: deadline budget instead of the client's. A model that is not done by half of it is passed over for a
            quasi-random point, and `trial.suggestion.source` says FALLBACK.

        The leases of the trials are renewed until they are told or no longer referred to. Raises StudyNotActive,
        StudyCompleted, TrialLimitReached, SearchSpaceExhausted, ServerBusy.
        """
        call = _calls.ask(self.name, count, worker or default_worker())
        trials = self.take(call, None if timeout is None else to_budget(timeout))
        return trials[0] if count is None else trials

    def take(self, call: _calls.Call[service.AskResponse], timeout_s: float | None = None) -> list[Trial]:
        """The trials that an Ask gives out, their leases being renewed from now on."""
        trials = [Trial(self, proto) for proto in self._client.run(call, timeout_s).trials]
        lease = self.spec.lease
        if lease is not None:
            for trial in trials:
                self._client.heartbeats.add(trial, lease.total_seconds())
        return trials

    def trial(self, number: int) -> Trial:
        """The trial of that number, with all its measurements. Raises TrialNotFound."""
        return Trial(self, self._client.run(_calls.get_trial(_calls.trial_name(self.name, number))))

    def trials(self, states: Iterable[TrialState | str] | None = None, *, full: bool = False) -> Iterator[Trial]:
        """The trials by number, in one of the states if given; with all their measurements if `full`."""
        wanted, token = list(states or ()), ""
        while True:
            page = self._client.run(_calls.list_trials(self.name, wanted, full, token))
            yield from (Trial(self, proto) for proto in page.trials)
            token = page.next_page_token
            if not token:
                return

    @property
    def best_trial(self) -> Trial | None:
        """The feasible trial with the best objective (of several objectives: the first of the Pareto front), asked of the
        server each time; None while no trial has succeeded and kept the study's constraints.
        """
        return next(iter(self._best()), None)

    @property
    def best_trials(self) -> list[Trial]:
        """The best feasible trial or, with several objectives, the Pareto front of the feasible; empty before the first."""
        return list(self._best())

    def _best(self) -> Iterator[Trial]:
        token = ""
        while True:
            page = self._client.run(_calls.list_best_trials(self.name, token))
            yield from (Trial(self, proto) for proto in page.trials)
            token = page.next_page_token
            if not token:
                return

    def enqueue(
        self, *points: Mapping[str, ParameterValue], notes: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Trial]:
        """Adds points to try; the next asks get them in this order. An active parameter that is missing takes its
        default. All or none. Raises InvalidArgument.
        """
        answer = self._client.run(_calls.enqueue(self.name, points, notes, labels))
        return [Trial(self, proto) for proto in answer.trials]

    def import_trials(self, finished: Iterable[FinishedTrial | Mapping[str, Any]]) -> list[Trial]:
        """Adds trials that were evaluated elsewhere: `FinishedTrial`s, or rows as `to_dicts` gives them,
        by way of a data frame or not. At most 1000 at once, all or none. Raises InvalidArgument.
        """
        space = self.spec.space
        trials = [
            trial if isinstance(trial, FinishedTrial) else FinishedTrial.from_dict(trial, space) for trial in finished
        ]
        answer = self._client.run(_calls.import_trials(self.name, trials))
        return [Trial(self, proto) for proto in answer.trials]

    def to_dicts(self, states: Iterable[TrialState | str] | None = None) -> list[dict[str, Any]]:
        """The trials as flat rows: number, state, params.*, metrics.*, standard_errors.*, step, source, worker, attempt,
        reason, notes, labels.*, create_time, start_time, end_time. All rows have the same columns, in this order; what
        a trial lacks is None.
        """
        return rows(self.spec, self.trials(states))

    def to_dataframe(self, states: Iterable[TrialState | str] | None = None) -> Any:
        """`to_dicts` as a pandas DataFrame. Raises ImportError where pandas is not installed."""
        return dataframe(self.to_dicts(states))

    def explain(
        self,
        slices: Iterable[str] = (),
        pairs: Iterable[tuple[str, str]] = (),
        *,
        points: int = 0,
        timeout: Seconds | None = None,
    ) -> Explanation:
        """What the study's model has learned: how well it predicts, which parameters matter, and slices of it. Only with
        the algorithm `gp`; may take seconds.

        slices: parameters to show one by one; by default the 10 most important.
        pairs: pairs of parameters to show together.
        points: number of values along each numeric axis; 0 means 25.
        timeout: deadline budget instead of the client's.

        Raises InvalidArgument, NoModel, ServerBusy.
        """
        call = _calls.explain(self.name, slices, pairs, points)
        answer = self._client.run(call, None if timeout is None else to_budget(timeout))
        return explanation_from_proto(answer, self.spec.space)

    def watch(self, after_revision: int = 0) -> Iterator[StudyChange]:
        """The changes after a revision, then every further change as it comes, for ever; connects again by itself.

        Several changes of one trial may arrive as one; of its intermediate measurements only new ones come. Raises
        StudyNotFound when the study is deleted, RevisionInFuture, Unavailable after the client's timeout, Unauthenticated when the
        token's time is over and its file does not hold a new one.
        """
        attempts: Attempts | None = None
        while True:
            admitted = False
            stream = self._client.transport.stream("WatchStudy", _calls.watch_study(self.name, after_revision))
            try:
                for message in stream:
                    response = cast(service.WatchStudyResponse, message)
                    attempts, admitted = None, True
                    after_revision = response.revision
                    if response.HasField("study"):
                        yield change_from_proto(response)
                error: AskTellError = Unavailable("the server ended the stream", code="UNAVAILABLE")
            except CallFailed as failure:
                error = self._client.to_error(failure)
            finally:
                stream.close()
            if admitted and isinstance(error, Unauthenticated):
                continue  # the token's time was over; its file may hold a new one
            attempts = attempts or self._client.attempts("WatchStudy")
            pause_s = attempts.pause_s(error, time.monotonic())
            if pause_s is None:
                raise error
            time.sleep(pause_s)

    def optimize(
        self,
        objective: Objective,
        n_trials: int | None = None,
        *,
        n_workers: int = 1,
        timeout: Seconds | None = None,
        catch: type[Exception] | tuple[type[Exception], ...] = (),
        progress: bool | None = None,
        worker: str | None = None,
        callbacks: Sequence[Callable[[Study, Trial], object]] = (),
    ) -> None:
        """Asks, evaluates and tells until the study has `n_trials` trials that run or have ended, is done or stopped.

        objective: gets a `Trial`; returns the objective's value, a dict of metrics, or None if it told the trial itself.
            Raising TrialPruned or TrialInfeasible ends the trial so. Any other exception ends it as FAILED and is raised
            again once the other workers are done with theirs, unless it is one of `catch`. A value that is NaN or
            infinite, returned or reported, makes the trial FAILED, and the search goes on.
        n_trials: counts the trials of the whole study, those of other processes and earlier runs included: a script
            that is run again goes on where it stopped. Processes that run side by side may overshoot by their number;
            the study's `max_trials` is exact. None: until the study is done.
        n_workers: evaluations at once, in threads; 1 evaluates in the calling thread.
        timeout: no new trial begins after it; the running ones are finished.
        progress: None shows progress on stderr if that is a terminal, True always, False never.
        worker: who evaluates, for people.
        callbacks: called as `callback(study, trial)` after each trial, one at a time.

        Ctrl-C: the trials that run are told FAILED with the reason "interrupted", then KeyboardInterrupt is raised.
        Their threads are left behind (Python cannot end them); `trial.should_stop` is true for them from then on.
        """
        optimize(
            self,
            objective,
            n_trials=n_trials,
            n_workers=n_workers,
            timeout_s=to_limit(timeout),
            catch=catch,
            progress=progress,
            worker=worker or default_worker(),
            callbacks=callbacks,
        )


def change_from_proto(response: service.WatchStudyResponse) -> StudyChange:
    """A change as Python reads it."""
    study = StudyRecord(response.study)
    space = study.spec.space
    return StudyChange(response.revision, study, [TrialRecord(proto, space) for proto in response.trials])


def dataframe(table: list[dict[str, Any]]) -> Any:
    """Rows as a pandas DataFrame. Raises ImportError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise ImportError("a data frame needs pandas: pip install 'asktell[dataframe]'") from None
    return pandas.DataFrame(table)
