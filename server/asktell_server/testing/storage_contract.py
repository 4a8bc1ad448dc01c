"""What every storage must do, as one class of tests.

A storage's own tests subclass `StorageContract` and provide a fixture `storage`: a started, empty storage. Objects are compared
by `repr`, which tells 1 from 1.0 from True and 0.0 from -0.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import cycle

import pytest

from asktell_server.domain.access import Role, Token, grants
from asktell_server.domain.algorithms import Algorithm
from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable, StudyNotFound
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import StudyState
from asktell_server.domain.trial import SUPERSEDED, Trial, TrialState
from asktell_server.storage.base import Snapshot, Storage, StoredRequest, Transaction
from asktell_server.testing.samples import (
    ALGORITHMS,
    INT64_MAX,
    NOW,
    TEXT,
    a_study,
    a_trial,
    add_study,
    ask,
    full_spec,
    full_trial,
    numbers,
)


class StorageContract:
    """Tests that a storage passes."""

    # Studies

    @pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: type(algorithm).__name__)
    async def test_a_study_comes_back_as_it_was(self, storage: Storage, algorithm: Algorithm) -> None:
        """Every field of a study survives, by name, by id and locked."""
        study = replace(
            a_study(name="a.b-c_d/e", project="p"),
            spec=full_spec(algorithm),
            update_time=NOW + timedelta(microseconds=1),
            state_reason=TEXT,
            description=TEXT,
            labels={"z": "1", "a": TEXT},
            revision=INT64_MAX,
            next_number=2**40,
            counts={TrialState.RUNNING: 2, TrialState.EXPIRED: 2**40},
            best_number=12,
            best_value=-0.0,
            successes_at_best=3,
        )

        stored = await add_study(storage, study)
        views = [
            await storage.read(lambda tx: tx.study("p", study.name)),
            await storage.read(lambda tx: tx.study_by_id(stored.id)),
            await storage.write(lambda tx: tx.lock_study("p", study.name)),
            await storage.write(lambda tx: tx.lock_study_by_id(stored.id)),
        ]

        assert repr(stored) == repr(replace(study, id=stored.id))
        assert [repr(view) for view in views] == [repr(stored)] * 4

    async def test_a_study_that_is_not_there_is_none(self, storage: Storage) -> None:
        """Looking for an unknown study finds None, in each project apart."""
        stored = await add_study(storage, a_study())

        assert await storage.read(lambda tx: tx.study("other", "digits")) is None
        assert await storage.read(lambda tx: tx.study_by_id(stored.id + 1)) is None
        assert await storage.write(lambda tx: tx.lock_study("default", "Digits")) is None
        assert await storage.write(lambda tx: tx.lock_study_by_id(-1)) is None

    async def test_update_study_writes_what_can_change(self, storage: Storage) -> None:
        """All but id, project, name, spec and creation time are written; another study stays as it is."""
        stored = await add_study(storage, a_study())
        other = await add_study(storage, a_study("other"))
        changed = replace(
            stored,
            state=StudyState.COMPLETED,
            update_time=NOW + timedelta(days=1),
            state_reason="target reached",
            description="new",
            labels={"a": "b"},
            revision=9,
            next_number=8,
            counts={state: i for i, state in enumerate(TrialState, start=1)},
            best_number=3,
            best_value=0.1,
            successes_at_best=2,
        )
        given = replace(changed, project="p", name="n", spec=full_spec(), create_time=NOW + timedelta(days=2))

        await storage.write(lambda tx: tx.update_study(given))
        after = await storage.read(lambda tx: tx.studies(None, [], None, 10))

        assert [repr(study) for study in after] == [repr(changed), repr(other)]

    async def test_writing_to_what_is_not_there_is_an_error(self, storage: Storage) -> None:
        """Updating an unknown study or trial raises LookupError, adding a trial to one raises ConcurrentUpdate."""
        stored = await add_study(storage, a_study())

        with pytest.raises(LookupError):
            await storage.write(lambda tx: tx.update_study(replace(stored, id=stored.id + 1)))
        with pytest.raises(LookupError):
            await storage.write(lambda tx: tx.update_trial(stored.id, a_trial(1)))
        with pytest.raises(ConcurrentUpdate):
            await storage.write(lambda tx: tx.insert_trials(stored.id + 1, [a_trial(1)]))

    async def test_studies_are_listed_by_project_and_name(self, storage: Storage) -> None:
        """The order is by code point; project, states, position and limit each narrow the list."""
        for project, name, state in [
            ("b", "x", StudyState.ACTIVE),
            ("a", "y", StudyState.STOPPED),
            ("a", "Z", StudyState.ACTIVE),
            ("B", "y", StudyState.COMPLETED),
            ("a", "a/b", StudyState.ACTIVE),
        ]:
            await add_study(storage, a_study(name, project, state))

        async def listed(
            project: str | None, states: Sequence[StudyState], after: tuple[str, str] | None, limit: int
        ) -> list[str]:
            found = await storage.read(lambda tx: tx.studies(project, states, after, limit))
            return [f"{study.project} {study.name}" for study in found]

        assert await listed(None, [], None, 10) == ["B y", "a Z", "a a/b", "a y", "b x"]
        assert await listed("a", [], None, 2) == ["a Z", "a a/b"]
        assert await listed("a", [], ("a", "a/b"), 10) == ["a y"]
        assert await listed(None, [], ("a", "a/b"), 10) == ["a y", "b x"]
        assert await listed(None, [], ("a", "a"), 1) == ["a a/b"]
        assert await listed(None, [StudyState.STOPPED, StudyState.COMPLETED], None, 10) == ["B y", "a y"]
        assert await listed("a", [StudyState.ACTIVE], ("a", "Z"), 10) == ["a a/b"]
        assert await listed("none", [], None, 10) == []

    async def test_a_name_is_taken_once(self, storage: Storage) -> None:
        """A second study of one name is refused with all that its transaction wrote."""
        await add_study(storage, a_study())

        def work(tx: Transaction) -> None:
            tx.insert_study(a_study("other"))
            tx.insert_study(a_study())

        with pytest.raises(ConcurrentUpdate):
            await storage.write(work)

        found = await storage.read(lambda tx: tx.studies(None, [], None, 10))
        assert [study.name for study in found] == ["digits"]

    async def test_deleting_a_study_takes_all_that_is_its_own(self, storage: Storage) -> None:
        """Trials, measurements and requests go with their study; those of another stay."""
        gone = await add_study(storage, a_study(), full_trial(1), a_trial(2))
        kept = await add_study(storage, a_study("other"), full_trial(1))
        request = StoredRequest("f", {})

        def remember(tx: Transaction) -> None:
            tx.insert_request(gone.id, "ask", "gone", request, NOW)
            tx.insert_request(kept.id, "ask", "kept", request, NOW)
            tx.insert_request(None, "ask", "free", request, NOW)

        await storage.write(remember)

        await storage.write(lambda tx: tx.delete_study(gone.id))

        assert await storage.read(lambda tx: tx.study_by_id(gone.id)) is None
        assert await storage.read(lambda tx: tx.trials(gone.id, limit=10)) == []
        assert await storage.read(lambda tx: tx.last_measurement(gone.id, 1)) is None
        assert await storage.read(lambda tx: tx.request("ask", "gone")) is None
        assert await storage.read(lambda tx: tx.trial(kept.id, 1)) == full_trial(1)
        assert await storage.read(lambda tx: tx.request("ask", "kept")) == request
        assert await storage.read(lambda tx: tx.request("ask", "free")) == request

    async def test_an_id_is_never_given_twice(self, storage: Storage) -> None:
        """A study made after the newest one was deleted gets an id of its own, and starts empty."""
        first = await add_study(storage, a_study(), a_trial(1))
        await storage.write(lambda tx: tx.delete_study(first.id))

        second = await add_study(storage, a_study())

        assert second.id > first.id
        assert await storage.read(lambda tx: tx.trials(second.id, limit=10)) == []

    # Trials

    async def test_a_trial_comes_back_as_it_was(self, storage: Storage) -> None:
        """Every field of a trial survives exactly, the full one and the plainest."""
        stored = await add_study(storage, a_study(), full_trial(1), a_trial(2, TrialState.WAITING))

        full = await storage.read(lambda tx: tx.trial(stored.id, 1))
        short = await storage.read(lambda tx: tx.trial(stored.id, 1, full=False))
        plain = await storage.read(lambda tx: tx.trial(stored.id, 2))

        assert repr(full) == repr(full_trial(1))
        assert repr(short) == repr(replace(full_trial(1), intermediate=()))
        assert repr(plain) == repr(a_trial(2, TrialState.WAITING))
        assert await storage.read(lambda tx: tx.trial(stored.id, 3)) is None
        assert await storage.read(lambda tx: tx.trial(stored.id + 1, 1)) is None

    async def test_update_trial_writes_what_can_change(self, storage: Storage) -> None:
        """All but number, suggestion, creation time, attempt, origin and steps are written, also back to nothing."""
        full = full_trial(1)
        stored = await add_study(storage, a_study(), full, a_trial(2))
        plain = replace(
            a_trial(1, TrialState.WAITING),
            suggestion=full.suggestion,
            create_time=full.create_time,
            attempt=full.attempt,
            retry_of=full.retry_of,
            intermediate=full.intermediate,
        )
        given = replace(
            plain,
            suggestion=a_trial(5).suggestion,
            create_time=NOW + timedelta(1),
            attempt=1,
            retry_of=None,
            intermediate=(),
        )

        await storage.write(lambda tx: tx.update_trial(stored.id, given))
        emptied = await storage.read(lambda tx: tx.trial(stored.id, 1))
        await storage.write(lambda tx: tx.update_trial(stored.id, full))
        filled = await storage.read(lambda tx: tx.trial(stored.id, 1))

        assert repr(emptied) == repr(plain)
        assert repr(filled) == repr(full)
        assert await storage.read(lambda tx: tx.trial(stored.id, 2)) == a_trial(2)

    async def test_trials_are_listed_by_number(self, storage: Storage) -> None:
        """States, position and limit each narrow the list; steps come only if asked for."""
        states = [TrialState.RUNNING, TrialState.WAITING, TrialState.FAILED, TrialState.WAITING, TrialState.RUNNING]
        stored = await add_study(storage, a_study(), *(a_trial(n, s) for n, s in enumerate(states, start=1)))
        await add_study(storage, a_study("other"), a_trial(1))
        step = Measurement({"loss": 1.0}, step=3)
        await storage.write(lambda tx: tx.insert_measurement(stored.id, 4, step, 2))

        async def listed(states: Sequence[TrialState] = (), after: int = 0, limit: int = 10) -> list[int]:
            found = await storage.read(lambda tx: tx.trials(stored.id, states=states, after_number=after, limit=limit))
            assert all(trial.intermediate == () for trial in found)
            return numbers(found)

        full = await storage.read(lambda tx: tx.trials(stored.id, after_number=3, limit=10, full=True))

        assert await listed() == [1, 2, 3, 4, 5]
        assert await listed(after=2, limit=2) == [3, 4]
        assert await listed([TrialState.WAITING]) == [2, 4]
        assert await listed([TrialState.WAITING, TrialState.RUNNING], after=1, limit=2) == [2, 4]
        assert await listed([TrialState.PRUNED]) == []
        assert await listed(limit=0) == []
        assert [(trial.number, trial.intermediate) for trial in full] == [(4, (step,)), (5, ())]

    async def test_trials_are_found_by_number(self, storage: Storage) -> None:
        """Any collection of numbers is answered in order, once each, with steps and without the unknown."""
        stored = await add_study(storage, a_study(), full_trial(1), *(a_trial(n) for n in range(2, 601)))

        few = await storage.read(lambda tx: tx.trials_by_number(stored.id, [700, 3, 1, 3]))
        many = await storage.read(lambda tx: tx.trials_by_number(stored.id, range(600, 0, -1)))
        none = await storage.read(lambda tx: tx.trials_by_number(stored.id, []))
        brief = await storage.read(lambda tx: tx.trials_by_number(stored.id, [1], full=False))

        assert brief == [replace(full_trial(1), intermediate=())]
        assert few == [full_trial(1), a_trial(3)]
        assert numbers(many) == list(range(1, 601))
        assert none == []

    async def test_changes_after_a_revision(self, storage: Storage) -> None:
        """changed_trials gives what changed with the steps that are new, history the same without steps."""
        first = replace(a_trial(1, revision=1), intermediate=(Measurement({"loss": 9.0}, step=1),))
        stored = await add_study(storage, a_study(), first, a_trial(2, revision=2), a_trial(3, revision=4))
        new = Measurement({"loss": 3.0}, step=2)
        changed = replace(a_trial(1, revision=5), notes="new")

        def work(tx: Transaction) -> None:
            tx.update_trial(stored.id, changed)
            tx.insert_measurement(stored.id, 1, new, 5)

        await storage.write(work)
        all_changed = await storage.read(lambda tx: tx.changed_trials(stored.id, 0))
        late_changed = await storage.read(lambda tx: tx.changed_trials(stored.id, 2))
        all_history = await storage.read(lambda tx: tx.history(stored.id, 0))
        late_history = await storage.read(lambda tx: tx.history(stored.id, 2))

        second, third = a_trial(2, revision=2), a_trial(3, revision=4)
        assert all_changed == [replace(changed, intermediate=(*first.intermediate, new)), second, third]
        assert late_changed == [replace(changed, intermediate=(new,)), third]
        assert all_history == [changed, second, third]
        assert late_history == [changed, third]
        assert await storage.read(lambda tx: tx.changed_trials(stored.id, 5)) == []
        assert await storage.read(lambda tx: tx.history(stored.id, 5)) == []

    async def test_pages_of_what_changed_after_a_revision(self, storage: Storage) -> None:
        """Trials may be listed by revision, too, and weighed: about what their points and notes have."""
        trials = [replace(a_trial(n, revision=n % 3 + 1), notes="n" * 1000 * n) for n in range(1, 8)]
        stored = await add_study(storage, a_study(), *trials)

        page = await storage.read(lambda tx: tx.trials(stored.id, after_number=2, after_revision=1, limit=2))
        rest = await storage.read(lambda tx: tx.trials(stored.id, after_number=5, after_revision=1, limit=9))
        heavy = await storage.read(lambda tx: tx.weigh_changes(stored.id, 2))
        nothing = await storage.read(lambda tx: tx.weigh_changes(stored.id, 3))

        assert numbers(page) == [4, 5]
        assert numbers(rest) == [7]
        assert 7000 < heavy < 8000  # of the trials 2 and 5
        assert nothing == 0

    async def test_a_new_step_is_a_change_of_its_trial(self, storage: Storage) -> None:
        """A trial whose row kept its revision is among the changed when a step was added to it."""
        stored = await add_study(storage, a_study(), a_trial(1), a_trial(2, revision=3), a_trial(3))
        step = Measurement({"loss": 1.0}, step=0)

        await storage.write(lambda tx: tx.insert_measurement(stored.id, 1, step, 2))
        changed = await storage.read(lambda tx: tx.changed_trials(stored.id, 1))
        history = await storage.read(lambda tx: tx.history(stored.id, 1))

        assert changed == [replace(a_trial(1), intermediate=(step,)), a_trial(2, revision=3)]
        assert history == [a_trial(2, revision=3)]

    async def test_steps_are_kept_in_order(self, storage: Storage) -> None:
        """Measurements come by step however they were reported; one step is reported once."""
        stored = await add_study(storage, a_study(), a_trial(1), a_trial(2))
        steps = {step: Measurement({"loss": float(step)}, step=step, elapsed_s=0.5) for step in (10, 2, 7)}

        def report(tx: Transaction) -> None:
            for measurement in steps.values():
                tx.insert_measurement(stored.id, 1, measurement, 2)

        await storage.write(report)

        with pytest.raises(ConcurrentUpdate):
            await storage.write(lambda tx: tx.insert_measurement(stored.id, 1, steps[7], 3))

        trial = await storage.read(lambda tx: tx.trial(stored.id, 1))
        assert trial is not None
        assert trial.intermediate == (steps[2], steps[7], steps[10])
        assert await storage.read(lambda tx: tx.last_measurement(stored.id, 1)) == steps[10]
        assert await storage.read(lambda tx: tx.last_measurement(stored.id, 2)) is None
        assert await storage.read(lambda tx: tx.measurement_at(stored.id, 1, 7)) == steps[7]
        assert await storage.read(lambda tx: tx.measurement_at(stored.id, 1, 8)) is None

    async def test_expired_leases_come_longest_first(self, storage: Storage) -> None:
        """Only running trials whose lease ended strictly before the time, over all studies."""

        def leased(number: int, seconds: float, state: TrialState = TrialState.RUNNING) -> Trial:
            return replace(a_trial(number, state), lease_expire_time=NOW + timedelta(seconds=seconds))

        one = await add_study(
            storage, a_study(), leased(1, -1), leased(2, 0), leased(3, -5, TrialState.FAILED), leased(4, -9), a_trial(5)
        )
        two = await add_study(storage, a_study("other"), leased(1, -3), leased(2, 1))

        due = await storage.read(lambda tx: tx.expired_leases(NOW, 10))
        first = await storage.read(lambda tx: tx.expired_leases(NOW, 1))
        second = await storage.read(lambda tx: tx.expired_leases(NOW, 1, 1))

        assert due == [(one.id, 4), (two.id, 1), (one.id, 1)]
        assert (first, second) == ([(one.id, 4)], [(two.id, 1)])

    async def test_what_was_given_up_is_counted(self, storage: Storage) -> None:
        """EXPIRED trials after their last retry, but for those that are superseded and the one that is left out; of one study."""
        expired = replace(a_trial(1, TrialState.EXPIRED), attempt=3)
        stored = await add_study(
            storage,
            a_study(),
            expired,
            replace(expired, number=2),
            replace(expired, number=3, attempt=2),
            replace(expired, number=4, state_reason=f"{SUPERSEDED}trial 1 got its result after all"),
            replace(expired, number=5, state=TrialState.FAILED),
        )
        await add_study(storage, a_study("other"), expired)

        counts = await storage.read(lambda tx: [tx.count_given_up(stored.id, 2, but) for but in (0, 2, 4)])

        assert counts == [2, 1, 2]
        assert sum(trial.is_given_up(2) for trial in await storage.read(lambda tx: tx.history(stored.id, 0))) == 2

    async def test_retries_say_what_they_repeat(self, storage: Storage) -> None:
        """Those that wait or were lost, after a number, of one study."""
        stored = await add_study(
            storage,
            a_study(),
            a_trial(1, TrialState.EXPIRED),
            replace(a_trial(2, TrialState.EXPIRED), retry_of=1),
            replace(a_trial(3, TrialState.WAITING), retry_of=2),
            replace(a_trial(4), retry_of=2),
            a_trial(5, TrialState.WAITING),
        )
        await add_study(storage, a_study("other"), replace(a_trial(7, TrialState.WAITING), retry_of=6))

        assert await storage.read(lambda tx: tx.retries(stored.id, 0)) == {2: 1, 3: 2}
        assert await storage.read(lambda tx: tx.retries(stored.id, 2)) == {3: 2}

    async def test_trial_counts_add_up_over_studies(self, storage: Storage) -> None:
        """The counts of all studies are summed, states without a trial are 0, in an empty database too."""
        empty = await storage.read(lambda tx: tx.trial_counts())
        await add_study(storage, replace(a_study(), counts={TrialState.RUNNING: 2, TrialState.FAILED: 1}))
        await add_study(storage, replace(a_study("other"), counts={TrialState.RUNNING: 3}))

        counts = await storage.read(lambda tx: tx.trial_counts())

        assert empty == dict.fromkeys(TrialState, 0)
        assert counts == {**empty, TrialState.RUNNING: 5, TrialState.FAILED: 1}

    # Requests

    async def test_a_request_is_remembered_in_its_scope(self, storage: Storage) -> None:
        """What a request did comes back by scope and id, and its id cannot be used again there."""
        stored = StoredRequest("sha256:0", {"numbers": [1, 2], "text": TEXT, "none": None, "nested": {"x": 0.1}})
        await storage.write(lambda tx: tx.insert_request(None, "ask default/digits", TEXT, stored, NOW))

        with pytest.raises(ConcurrentUpdate):
            await storage.write(lambda tx: tx.insert_request(None, "ask default/digits", TEXT, stored, NOW))

        assert await storage.read(lambda tx: tx.request("ask default/digits", TEXT)) == stored
        assert await storage.read(lambda tx: tx.request("tell default/digits", TEXT)) is None

    async def test_old_requests_are_purged_oldest_first(self, storage: Storage) -> None:
        """A purge forgets at most so many, only from before the time, and says how many."""

        def remember(tx: Transaction) -> None:
            for seconds in (3, 1, 2, 4):
                tx.insert_request(None, "ask", str(seconds), StoredRequest("", {}), NOW + timedelta(seconds=seconds))

        def remembered(tx: Snapshot) -> list[str]:
            return [name for name in "1234" if tx.request("ask", name) is not None]

        await storage.write(remember)
        before = NOW + timedelta(seconds=4)
        first = await storage.write(lambda tx: tx.purge_requests(before, 2))
        left = await storage.read(remembered)
        second = await storage.write(lambda tx: tx.purge_requests(before, 2))

        assert (first, left, second) == (2, ["3", "4"], 1)
        assert await storage.read(remembered) == ["4"]

    # Transactions

    async def test_a_work_that_raises_leaves_nothing(self, storage: Storage) -> None:
        """The error is passed on as it is, and all that the work wrote is undone."""
        stored = await add_study(storage, a_study())

        def work(tx: Transaction) -> None:
            tx.insert_trials(stored.id, [full_trial(1)])
            tx.update_study(replace(stored, revision=2))
            assert tx.trial(stored.id, 1) == full_trial(1)
            raise StudyNotFound("on purpose")

        with pytest.raises(StudyNotFound, match="on purpose"):
            await storage.write(work)

        assert await storage.read(lambda tx: tx.study_by_id(stored.id)) == stored
        assert await storage.read(lambda tx: tx.trials(stored.id, limit=1)) == []

    @pytest.mark.parametrize(
        "brief", [(False,), (True,), (True, True, False), (True, True, True, False, False, True, True)]
    )
    async def test_failing_works_do_not_disturb_their_neighbours(
        self, storage: Storage, brief: tuple[bool, ...]
    ) -> None:
        """Of works submitted at once, brief or not, each that raises leaves nothing and each other does what it does alone."""
        stored = await add_study(storage, a_study())

        def fail(tx: Transaction) -> int:
            study = tx.lock_study_by_id(stored.id)
            assert study is not None
            raise StudyNotFound(f"at {study.next_number}")

        def write_and_fail(tx: Transaction) -> int:
            study = tx.lock_study_by_id(stored.id)
            assert study is not None
            tx.insert_trials(study.id, [a_trial(1000 + study.next_number)])
            tx.update_study(replace(study, next_number=study.next_number + 500))
            raise StudyNotFound(f"at {study.next_number}")

        good = ask("default", "digits")
        works = (good, good, fail, good, good, write_and_fail) * 5
        futures = [storage.submit(work, brief=b) for work, b in zip(works, cycle(brief), strict=False)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)

        given = [outcome for outcome in outcomes if isinstance(outcome, int)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, StudyNotFound)]
        assert given == list(range(1, 21))
        assert [error.name for error in errors] == [f"at {n}" for n in range(3, 22, 2)]
        assert numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=100))) == given

    async def test_no_number_is_given_twice(self, storage: Storage) -> None:
        """Many concurrent submitters to two studies get numbers without repeats or gaps, in order for each of them."""
        for name in ("one", "two"):
            await add_study(storage, a_study(name))

        async def submitter(name: str) -> list[int]:
            return [await storage.write(ask("default", name)) for _ in range(10)]

        given = await asyncio.gather(*(submitter(name) for name in ["one", "two"] * 8))

        for mine in (given[::2], given[1::2]):
            assert sorted(number for numbers in mine for number in numbers) == list(range(1, 81))
            assert all(numbers == sorted(numbers) for numbers in mine)

    async def test_works_are_committed_in_the_order_of_submission(self, storage: Storage) -> None:
        """Works that one task submits without waiting, brief or not, run and are answered in that order."""
        await add_study(storage, a_study())
        answered: list[int] = []

        def note(i: int, _: asyncio.Future[int]) -> None:
            answered.append(i)

        futures = [storage.submit(ask("default", "digits"), brief=i % 7 < 4) for i in range(100)]
        for i, future in enumerate(futures):
            future.add_done_callback(partial(note, i))

        given = await asyncio.gather(*futures)

        assert given == list(range(1, 101))
        assert answered == list(range(100))

    async def test_a_read_sees_what_was_acknowledged(self, storage: Storage) -> None:
        """Each read after a write's answer sees that write, beside a load of others."""
        stored = await add_study(storage, a_study())

        async def submitter() -> None:
            for _ in range(10):
                number = await storage.write(ask("default", "digits"))
                study = await storage.read(lambda tx: tx.study_by_id(stored.id))
                assert study is not None
                assert study.next_number > number

        await asyncio.gather(*(submitter() for _ in range(8)))
        study = await storage.read(lambda tx: tx.study_by_id(stored.id))

        assert study is not None
        assert study.next_number == 81

    async def test_giving_up_waiting_does_not_stop_a_work(self, storage: Storage) -> None:
        """A submitted work is committed also when the task that waits for it is cancelled."""
        stored = await add_study(storage, a_study())
        task = asyncio.ensure_future(storage.write(ask("default", "digits")))
        await asyncio.sleep(0)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        future = storage.submit(ask("default", "digits"))
        future.cancel()
        number = await storage.write(ask("default", "digits"))

        assert number == 3
        assert numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=9))) == [1, 2, 3]

    async def test_an_error_of_any_kind_reaches_the_submitter(self, storage: Storage) -> None:
        """A work may raise what it likes; the storage goes on afterwards."""

        def stop_iteration(_: Transaction) -> None:
            next(iter(()))

        with pytest.raises(ZeroDivisionError):
            await storage.write(lambda _: 1 // 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await storage.write(stop_iteration)
        with pytest.raises(ZeroDivisionError):
            await storage.read(lambda _: 1 // 0)

        assert await storage.read(lambda tx: tx.study("default", "digits")) is None

    async def test_nothing_can_be_asked_after_stop(self, storage: Storage) -> None:
        """What was submitted before stop is finished, what comes after is refused; a second stop does nothing."""
        await add_study(storage, a_study())
        task = asyncio.ensure_future(storage.write(ask("default", "digits")))
        await asyncio.sleep(0)

        await storage.stop()
        await storage.stop()

        assert await task == 1
        with pytest.raises(StorageUnavailable):
            await storage.submit(lambda tx: tx.trial_counts())
        with pytest.raises(StorageUnavailable):
            await storage.write(lambda tx: tx.trial_counts())
        with pytest.raises(StorageUnavailable):
            await storage.read(lambda tx: tx.trial_counts())

    # Tokens

    async def test_tokens_come_back_as_they_were(self, storage: Storage) -> None:
        """By id and in a list by time of creation, with every field."""
        tokens = [
            Token("b", "0f", TEXT, grants(Role.WORKER, ["p", "q"]), NOW, NOW + timedelta(days=1)),
            Token("a", "1f", "x", grants(Role.ADMIN, ["*"]), NOW + timedelta(seconds=1)),
        ]
        for token in tokens:
            await storage.write(partial(_insert_token, token=token))

        assert await storage.read(lambda tx: tx.tokens()) == tokens
        assert await storage.read(lambda tx: tx.token("b")) == tokens[0]
        assert await storage.read(lambda tx: tx.token("c")) is None

    async def test_a_token_is_revoked_once(self, storage: Storage) -> None:
        """The first revocation stands; one of a token that is not there changes nothing."""
        token = Token("a", "1f", "x", grants(Role.ADMIN, ["*"]), NOW)
        await storage.write(partial(_insert_token, token=token))

        assert await storage.write(lambda tx: tx.revoke_token("a", NOW + timedelta(seconds=5)))
        assert not await storage.write(lambda tx: tx.revoke_token("a", NOW + timedelta(seconds=9)))
        assert not await storage.write(lambda tx: tx.revoke_token("b", NOW))

        assert await storage.read(lambda tx: tx.tokens()) == [replace(token, revoke_time=NOW + timedelta(seconds=5))]


def _insert_token(tx: Transaction, token: Token) -> None:
    tx.insert_token(token)
