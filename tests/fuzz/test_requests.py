"""Requests from the descriptors to a real server: no reply is a bug, no refusal changes anything, and memory does not grow.

The long form is `make fuzz`.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asktell.v1 import study_service_pb2 as pb

from ..rpc.calls import Stub, new_study
from ..rpc.refusals import read
from ..support import ServerProcess, serving, stub
from .driving import MIB, Fuzzer, log_problems, metadata, resident_bytes, send
from .messages import PROJECT, SERVICE, Known, Maker

FLAGS = (
    "--live-studies",
    "10",
    "--studies-per-worker",
    "4",
    "--workers",
    "1",
    "--no-look-ahead",
    "--log-level",
    "warning",
)
REQUESTS = 1500


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own."""
    with serving(tmp_path_factory.mktemp("fuzzed"), *FLAGS) as server:
        yield server


class Watched:
    """The database of a server, seen from outside: whether anything was written."""

    def __init__(self, database: str) -> None:
        self._connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)

    def version(self) -> tuple[int, int]:
        """Changes with every commit; and the leases that ran out, which no request did."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        (expired,) = self._connection.execute("SELECT coalesce(sum(expired_count), 0) FROM studies").fetchone()
        return version, expired

    def close(self) -> None:
        """Closes it."""
        self._connection.close()


def test_no_reply_is_a_bug_and_no_refusal_changes_anything(fuzzed: ServerProcess) -> None:
    """One request after the other, so that what a refused one wrote could not be anybody else's."""
    codes = Counter[str]()
    # Of Hypothesis's requests replies must decide nothing: they are about these, whether they exist or not.
    fixed = Known()
    fixed.studies = [f"{PROJECT}/studies/s{i}" for i in range(4)]
    fixed.trials = [f"{study}/trials/{number}" for study in fixed.studies for number in (1, 2)]

    async def run(draws: list[random.Random], known: Known, learned: Known) -> None:
        async with grpc.aio.insecure_channel(fuzzed.target) as channel:
            for draw in draws:
                method, payload = Maker(draw, known).request()
                before = watched.version()
                code = await send(channel, method.name, payload, learned, codes)
                after = watched.version()
                if code not in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED) and after[1] == before[1]:
                    assert after == before, f"{method.name} {payload!r} was refused ({code.name}) and wrote something"

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.randoms(use_true_random=False), min_size=1, max_size=8))
    def search(draws: list[random.Random]) -> None:
        asyncio.run(run(draws, fixed, Known()))

    with closing(Watched(fuzzed.database)) as watched:
        search()
        growing = Known()
        asyncio.run(run([random.Random(seed) for seed in range(400)], growing, growing))

    assert {code.split()[0] for code in codes} == {method.name for method in SERVICE.methods}
    assert sum(count for code, count in codes.items() if code.endswith(" OK")) > 30
    assert not log_problems(fuzzed.log)


def test_many_at_once_leave_no_traceback_and_no_memory(fuzzed: ServerProcess) -> None:
    """With odd headers and hopeless deadlines among them; what the first requests took is enough for all later ones."""
    asyncio.run(Fuzzer(fuzzed, 1).run(REQUESTS))
    before = resident_bytes(fuzzed)
    for seed in (2, 3):
        asyncio.run(Fuzzer(fuzzed, seed).run(REQUESTS))

    assert resident_bytes(fuzzed) - before < 100 * MIB
    assert not log_problems(fuzzed.log)


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_bytes_that_are_no_message_are_the_callers_fault(fuzzed: ServerProcess, method: str) -> None:
    """Every method says so; gRPC alone would answer UNKNOWN and log a traceback."""
    kind = "unary_stream" if SERVICE.methods_by_name[method].server_streaming else "unary_unary"
    with grpc.insecure_channel(fuzzed.target) as channel:
        call = getattr(channel, kind)(f"/{SERVICE.full_name}/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(b"\x0a\xff"))

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "not a valid protobuf message" in refusal.message


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/grpc.health.v1.Health/Check", "unary_unary"),
        ("/grpc.health.v1.Health/Watch", "unary_stream"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
)
def test_so_do_the_services_that_are_not_ours(fuzzed: ServerProcess, path: str, kind: str) -> None:
    """Health and reflection, too, and they go on working."""
    sent = iter([b"\x0a\xff"]) if kind == "stream_stream" else b"\x0a\xff"
    with grpc.insecure_channel(fuzzed.target) as channel:
        call = getattr(channel, kind)(path)
        with pytest.raises(grpc.RpcError) as caught:
            list(call(sent))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not log_problems(fuzzed.log)


def test_headers_of_any_kind(fuzzed: ServerProcess) -> None:
    """Binary, long, malformed: the call is answered as without them, or refused by gRPC for the headers' size."""
    draw = random.Random(1)

    async def run() -> Counter[str]:
        codes: Counter[str] = Counter()
        async with grpc.aio.insecure_channel(fuzzed.target) as channel:
            for _ in range(200):
                request: Message = pb.ListStudiesRequest(parent="projects/fuzz")
                await send(channel, "ListStudies", request.SerializeToString(), Known(), codes, metadata(draw))
        return codes

    codes = asyncio.run(run())
    assert set(codes) <= {"ListStudies OK", "ListStudies RESOURCE_EXHAUSTED"}
    assert codes["ListStudies OK"] > 0


@pytest.mark.parametrize("timeout_s", [0.0, 1e-9, 1e-4, 1e9])
def test_deadlines_of_any_kind(fuzzed: ServerProcess, timeout_s: float) -> None:
    """Hopeless ones are DEADLINE_EXCEEDED, endless ones are answered; no traceback either way."""
    with stub(fuzzed.target) as service:
        request = pb.ListStudiesRequest(parent="projects/fuzz")
        try:
            service.ListStudies(request, timeout=timeout_s)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert timeout_s < 1

    assert not log_problems(fuzzed.log)


def test_a_caller_that_goes_away_leaves_no_traceback(tmp_path: Path) -> None:
    """A reply that finds nobody is no error of the server."""
    with serving(tmp_path, "--log-level", "warning") as server, stub(server.target) as service:
        study = new_study(service, "s")
        for i in range(300):
            call = _ask_later(service, study)
            if i % 2:
                call.cancel()
        service.GetStudy(pb.GetStudyRequest(name=study))

        assert not log_problems(server.log)


def _ask_later(service: Stub, study: str) -> grpc.Future[pb.AskResponse]:
    return service.Ask.future(pb.AskRequest(parent=study, count=-1))
