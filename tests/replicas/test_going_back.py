"""A database that goes back, as by a restore or to a standby that had not everything, takes the servers' memory with it."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import psycopg
import pytest

from asktell.v1 import study_service_pb2 as pb
from asktell.v1 import trial_pb2
from asktell_server.testing.postgresql import PostgresServer

from ..support import create_study, serving, spec, stub
from .conftest import Stub
from .test_replicas import PATIENCE_S, ask, point

INITIAL = 3


def told(service: Stub, trial: trial_pb2.Trial, loss: float) -> None:
    """Tells a loss, as soon as the database is there."""
    deadline = time.monotonic() + PATIENCE_S
    request = pb.TellRequest(name=trial.name, measurement=trial_pb2.Measurement(metrics={"loss": loss}))
    while True:
        try:
            service.Tell(request, timeout=10)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("lost_more", [False, True], ids=["tells", "tells and trials"])
def test_what_the_database_lost_is_not_remembered(tmp_path: Path, lost_more: bool) -> None:
    """After a restore under a running server its model knows what the database knows: other results, as many as were lost or more, lead to
    the suggestion that a server makes which never knew of them; and a watch that has seen more is told so.
    """
    copy = tmp_path / "copy"
    with PostgresServer() as database:
        url = database.new_database()
        with serving(tmp_path, "--workers", "1", database=url) as server, stub(server.target) as service:
            made = spec("gp", seed=7)
            made.algorithm.gp.initial_points = INITIAL
            name = create_study(service, "restored", made).name
            trials = [ask(service, name) for _ in range(INITIAL + 2)]
            for i in range(INITIAL):
                told(service, trials[i], float(i))
            database.save(copy)
            for trial in trials[INITIAL:]:
                told(service, trial, -50.0)
            for _ in range(2 * lost_more):
                told(service, ask(service, name), -40.0)
            seen = service.GetStudy(pb.GetStudyRequest(name=name)).revision
            watch = service.WatchStudy(pb.WatchStudyRequest(name=name, after_revision=seen), timeout=PATIENCE_S)
            ask(service, name)
            next(watch)

            database.restore(copy)
            for trial in trials[INITIAL:]:
                told(service, trial, 3.0)
            after = [ask(service, name), ask(service, name)]
            with pytest.raises(grpc.RpcError) as ended:
                for _ in watch:
                    pass

        database.restore(copy)
        with serving(tmp_path, "--workers", "1", database=url) as server, stub(server.target) as service:
            for trial in trials[INITIAL:]:
                told(service, trial, 3.0)
            fresh = [ask(service, name), ask(service, name)]

    assert [t.name for t in after] == [t.name for t in fresh]
    assert [point(t) for t in after] == [point(t) for t in fresh]
    assert ended.value.code() in {grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNAVAILABLE}


def test_deployments_in_two_schemas_do_not_disturb_each_other(postgres_url: str, tmp_path: Path) -> None:
    """Servers of one database whose tables are in schemas of their own hear nothing of each other, and ask on."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for schema in ("one", "two"):
            connection.execute(f"CREATE SCHEMA {schema}")
    first, second = (f"{postgres_url}?options=-csearch_path%3D{schema}" for schema in ("one", "two"))
    folders = [tmp_path / schema for schema in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with (
        serving(folders[0], database=first) as one,
        serving(folders[1], database=second) as two,
        stub(one.target) as here,
        stub(two.target) as there,
    ):
        names = [create_study(service, "same").name for service in (here, there)]
        trials = [ask(here, names[0])]
        for _ in range(50):
            ask(there, names[1])
        # Both studies have the same id, and the second a revision that the first has not reached.
        trials += [ask(here, names[0]) for _ in range(2)]
        listed = [
            len(service.ListStudies(pb.ListStudiesRequest(parent="projects/-")).studies) for service in (here, there)
        ]
        logs = one.log.read_text()

    assert [trial.name.rpartition("/")[2] for trial in trials] == ["1", "2", "3"]
    assert listed == [1, 1]
    assert "went back" not in logs
