"""The floor to measure against: a bare grpc.aio server that returns what it gets. Prints its port, stops when its input ends."""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio

METHOD = "/bench.Echo/Call"


async def _echo(request: bytes, context: object) -> bytes:
    del context
    return request


async def main() -> None:
    """Serves until standard input ends."""
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
