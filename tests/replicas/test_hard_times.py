"""A database that is not as it should be: rights or tables are missing, or it hangs."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import grpc
import psycopg
import pytest

from asktell.v1 import study_service_pb2 as pb
from asktell_server.testing.postgresql import PostgresServer

from ..rpc.refusals import read
from ..support import create_study, serving, stub
from .test_replicas import PATIENCE_S, ask, tell


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        ("ALTER TABLE trials RENAME TO away", "ALTER TABLE away RENAME TO trials"),
        ("REVOKE ALL ON trials, studies FROM tuner", "GRANT ALL ON trials, studies TO tuner"),
    ],
    ids=["table", "rights"],
)
def test_what_is_missing_is_no_internal_error(postgres: PostgresServer, tmp_path: Path, harm: str, mend: str) -> None:
    """Without a table, or the right to use it, calls are answered UNAVAILABLE and the log says why; with it they go on."""
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS tuner")
        connection.execute("CREATE ROLE tuner LOGIN")
        with serving(tmp_path, database=url):
            pass  # makes the tables
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO tuner")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO tuner")
        with serving(tmp_path, database=url.replace("asktell@", "tuner@")) as server, stub(server.target) as service:
            study = create_study(service, "poor").name
            trial = ask(service, study)
            connection.execute(harm)
            refused = []
            for call in (
                lambda: service.GetTrial(pb.GetTrialRequest(name=trial.name)),
                lambda: service.ListTrials(pb.ListTrialsRequest(parent=study)),
                lambda: ask(service, study),
                lambda: tell(service, trial),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                refused.append((caught.value.code(), read(caught.value).reason))
            connection.execute(mend)
            told = tell(service, trial)
            log = server.log.read_text()
        connection.execute("DROP OWNED BY tuner")
        connection.execute("DROP ROLE tuner")

    assert set(refused) == {(grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")}
    assert told.trial.state == told.trial.SUCCEEDED
    assert "give the server's role its rights" in log


def test_a_server_stops_though_its_database_hangs(tmp_path: Path) -> None:
    """SIGTERM ends a server whose calls wait for a PostgreSQL that does not answer, with status 0; what was acknowledged is there after."""
    with PostgresServer() as database:
        url = database.new_database()
        with serving(tmp_path, "--drain-grace-s", "1", database=url) as server, stub(server.target) as service:
            study = create_study(service, "hanging").name
            trial = ask(service, study)
            database.signal(signal.SIGSTOP)
            try:
                calls = [
                    lambda: tell(service, trial),
                    lambda: service.ListTrials(pb.ListTrialsRequest(parent=study), timeout=PATIENCE_S),
                ]
                failed = []

                def fails(call: object) -> None:
                    try:
                        call()  # type: ignore[operator]
                    except grpc.RpcError as error:
                        failed.append(error.code())

                threads = [threading.Thread(target=fails, args=(call,)) for call in calls]
                for thread in threads:
                    thread.start()
                time.sleep(1)
                status = server.stop()
                for thread in threads:
                    thread.join()
            finally:
                database.signal(signal.SIGCONT)
        with serving(tmp_path, database=url) as server, stub(server.target) as service:
            found = service.GetTrial(pb.GetTrialRequest(name=trial.name))

    assert status == 0
    assert len(failed) == 2
    assert found.parameters == trial.parameters
