"""Sends fuzzed requests to a real server over a real channel, and judges what comes back.

No reply may be INTERNAL or UNKNOWN, the log may hold no traceback, and the server's memory may not grow with the number of
requests. UNIMPLEMENTED, UNAVAILABLE and RESOURCE_EXHAUSTED are judged too: the first only for what the release cannot do, the
second never while the server runs, the third only with a reason of ours or for a request that is too large.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
import psutil
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from ..support import ServerProcess
from .messages import SERVICE, Known, Maker

MIB = 2**20
# Requests under way at once. Streams and asks for a model are cut off, so that they do not hold the rest up.
CONCURRENT = 32
_FORBIDDEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
_TRACE = re.compile(r"Traceback|\"level\": ?\"(?:error|critical)\"|\[error")
_TOO_LARGE = re.compile("Received message larger than max|metadata size exceeds")
_TIMEOUT_S = {"WatchStudy": 0.1, "ExplainStudy": 1.0, "Ask": 1.0}
# Replies that keep nobody from being told what they contain, but mean that the server did not get to it.
_DETAILS_KEY = "grpc-status-details-bin"


class Found(AssertionError):
    """The server did what it must not; the message has the method, the bytes and the reply."""


class Fuzzer:
    """One stream of requests to one server. `seed` decides them all, but for what replies teach."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self._server = server
        self._draw = random.Random(seed)
        self.known = Known()
        self.codes: Counter[str] = Counter()

    async def run(self, requests: int) -> None:
        """Sends so many. Raises Found."""
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(self._server.target, options=options) as channel:
            left = iter(range(requests))
            maker = Maker(self._draw, self.known)

            async def loop() -> None:
                for _ in left:
                    await send(channel, *self._made(maker), self.known, self.codes, self._metadata(), self._timeout())

            await asyncio.gather(*(loop() for _ in range(CONCURRENT)))

    def _made(self, maker: Maker) -> tuple[str, bytes]:
        method, payload = maker.request()
        return method.name, payload

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        return metadata(self._draw) if self._draw.randrange(20) == 0 else []

    def _timeout(self) -> float | None:
        return self._draw.choice((0.0, 1e-9, 1e-4, 0.003)) if self._draw.randrange(50) == 0 else None


def metadata(draw: random.Random) -> list[tuple[str, str | bytes]]:
    """Headers that a client may send, and should not."""
    kinds: list[tuple[str, str | bytes]] = [
        ("x-bin", draw.randbytes(draw.choice((0, 1, 30, 3000)))),
        ("authorization", draw.choice(("", "Bearer", "Bearer   x", "Basic Og==", "Bearer " + "x" * 2000))),
        ("grpc-status-details-bin", draw.randbytes(20)),
        ("traceparent", draw.choice(("00-0-0-00", "x" * 200))),
        ("x-study", "projects/fuzz/studies/s0"),
        ("x-long", "v" * draw.choice((1, 4000))),
    ]
    return draw.sample(kinds, draw.randrange(1, len(kinds)))


async def send(
    channel: grpc.aio.Channel,
    method: str,
    payload: bytes,
    known: Known,
    codes: Counter[str],
    headers: list[tuple[str, str | bytes]] | None = None,
    timeout_s: float | None = None,
) -> grpc.StatusCode:
    """Sends one request; returns the code of the reply. Raises Found."""
    descriptor = SERVICE.methods_by_name[method]
    path = f"/{SERVICE.full_name}/{method}"
    timeout = timeout_s if timeout_s is not None else _TIMEOUT_S.get(method, 60.0)
    reply = message_factory.GetMessageClass(descriptor.output_type)()
    try:
        if descriptor.server_streaming:
            async for message in channel.unary_stream(path)(payload, timeout=timeout, metadata=headers):
                reply.ParseFromString(message)
        else:
            reply.ParseFromString(await channel.unary_unary(path)(payload, timeout=timeout, metadata=headers))
        known.learn(method, payload, reply)
        code = grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        code = error.code()
        has_details = any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ())
        # gRPC itself refuses requests and headers that are too large.
        too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and bool(_TOO_LARGE.search(error.details() or ""))
        ours = has_details or too_large or code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        if code in _FORBIDDEN or not ours:
            raise Found(f"{method} {payload[:2000]!r} ({len(payload)} bytes): {code.name}: {error.details()}") from None
    except DecodeError as error:
        raise Found(f"{method} {payload[:2000]!r}: the reply cannot be read: {error}") from None
    codes[f"{method} {code.name}"] += 1
    return code


def log_problems(log: Path, offset: int = 0) -> str:
    """The first traceback or error that the log has from `offset` on, with what follows; empty if there is none."""
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    match = _TRACE.search(text)
    return text[max(0, match.start() - 500) : match.start() + 4000] if match else ""


def resident_bytes(server: ServerProcess) -> int:
    """Memory of the serving process, its compute processes not included."""
    return int(psutil.Process(server.pid).memory_info().rss)
