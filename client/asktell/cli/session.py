"""One connection for one command, and the calls that the commands make, as messages of the contract.

The commands show and keep every field of a message, so they work on messages rather than on the client's handles;
deadlines, retries and errors are the client's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar

import click
from google.protobuf.message import Message

from asktell._calls import PAGE_SIZE, Call
from asktell._targets import resolve_study
from asktell.access import Tls
from asktell.client import Client, connect
from asktell.names import InvalidName, StudyName
from asktell.study import Study as StudyHandle
from asktell.v1 import study_service_pb2 as service
from asktell.v1.study_pb2 import Study
from asktell.v1.trial_pb2 import Trial

R = TypeVar("R", bound=Message)


class Session:
    """A client that connects when it is first needed."""

    def __init__(
        self,
        target: str | None,
        project: str,
        timeout_s: float,
        *,
        tls: Tls | bool | None,
        token: str | None,
        token_file: str | None,
        insecure: bool | None,
    ) -> None:
        """The global options of the command line."""
        self.project = project
        self._connect = partial(
            connect, target, project=project, timeout=timeout_s,
            tls=tls, token=token, token_file=token_file, insecure=insecure,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if "client" in self.__dict__:
            self.client.close()

    @cached_property
    def client(self) -> Client:
        """The connection."""
        return self._connect()

    def call(self, method: str, request: Message, response: type[R], *, patient: bool = False) -> R:
        """One call of the service. Raises an AskTellError."""
        return self.client.run(Call(method, request, response, patient=patient))

    def study_name(self, text: str) -> StudyName:
        """The study that an argument means. Raises click's usage error."""
        try:
            return resolve_study(text, self.project)
        except InvalidName as error:
            raise click.BadParameter(str(error), param_hint="STUDY") from error

    def get_study(self, name: StudyName) -> Study:
        """The study. Raises StudyNotFound."""
        return self.call("GetStudy", service.GetStudyRequest(name=str(name)), Study)

    def create_study(self, name: StudyName, study: Study, *, use_existing: bool) -> Study:
        """The new study, or with `use_existing` the one of that name if its spec is equal.

        Studies to learn from may be named by their ids: they are of the same project.
        """
        study = _with_full_names(study, name.project)
        policy = service.CreateStudyRequest.USE_EXISTING if use_existing else service.CreateStudyRequest.FAIL
        request = service.CreateStudyRequest(
            parent=str(name.parent),
            study_id=name.study,
            study=study,
            conflict_policy=policy,
            request_id=str(uuid.uuid4()),
        )
        return self.call("CreateStudy", request, Study)

    def list_studies(self, parent: str, states: Sequence[str]) -> Iterator[Study]:
        """The studies of a project, or of all (`projects/-`), by name; in one of the states if any are given."""
        wanted = [Study.State.Value(state) for state in states]
        return self._pages(
            lambda token: self.call(
                "ListStudies",
                service.ListStudiesRequest(parent=parent, page_size=PAGE_SIZE, page_token=token, states=wanted),
                service.ListStudiesResponse,
            ),
            "studies",
        )

    def list_trials(self, name: StudyName, states: Sequence[str] = (), *, full: bool) -> Iterator[Trial]:
        """The trials of a study by number; in one of the states if any are given; `full`: with intermediate measurements."""
        request = service.ListTrialsRequest(
            parent=str(name),
            page_size=PAGE_SIZE,
            states=[Trial.State.Value(state) for state in states],
            view=service.FULL if full else service.BASIC,
        )

        def page(token: str) -> service.ListTrialsResponse:
            request.page_token = token
            return self.call("ListTrials", request, service.ListTrialsResponse)

        return self._pages(page, "trials")

    def best_trials(self, name: StudyName) -> Iterator[Trial]:
        """The best trials of a study."""
        return self._pages(
            lambda token: self.call(
                "ListBestTrials",
                service.ListBestTrialsRequest(parent=str(name), page_size=PAGE_SIZE, page_token=token),
                service.ListBestTrialsResponse,
            ),
            "trials",
        )

    def watch(self, name: StudyName, after_revision: int) -> Iterator[service.WatchStudyResponse]:
        """The changes of a study after a revision, then every further one as it comes."""
        for change in StudyHandle(self.client, self.get_study(name)).watch(after_revision):
            yield service.WatchStudyResponse(
                revision=change.revision,
                study=change.study.proto,
                trials=[trial.proto for trial in change.trials],
            )

    @staticmethod
    def _pages(page: Callable[[str], Any], field: str) -> Iterator[Any]:
        token = ""
        while True:
            response = page(token)
            yield from getattr(response, field)
            token = response.next_page_token
            if not token:
                return


def _with_full_names(study: Study, project: str) -> Study:
    """The study with the full names of those that it learns from; what is no name is left for the server to refuse."""
    if not study.spec.algorithm.gp.transfer_sources:
        return study
    full = Study()
    full.CopyFrom(study)
    for source in full.spec.algorithm.gp.transfer_sources:
        with suppress(InvalidName):
            source.study = str(resolve_study(source.study, project))
    return full


pass_session = click.make_pass_decorator(Session)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
