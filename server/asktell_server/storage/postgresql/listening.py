"""What other servers did: a connection that listens, in a thread of its own.

After each commit a server notifies a `channel` with its own name (its origin) and the studies that changed, as "id:revision". A
notification can be lost with a connection or with a server that dies right after its commit. So every POLL_S, and whenever the
connection was made anew, who listens hears that anything may have changed.

The same connection holds a shared advisory lock for as long as the server lives: `serving` tells how many do. A server that has nobody
beside it need not notify; so each says when it begins to listen, and all count again at every poll.

Channel and lock are those of the tables, since a PostgreSQL database may hold several deployments, each in a schema of its own.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import psycopg

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.base import ForeignCommit, Heard
from asktell_server.storage.postgresql.connecting import Connection, Target, one_line, tables

_log = logging.getLogger(__name__)

POLL_S = 2.0
_RECONNECT_S = 1.0
_LOCK = 0x61736B74  # "askt" in ASCII
_STUDIES_PER_PAYLOAD = 150  # a payload has less than 8000 bytes


def channel(of: int) -> str:
    """On which servers of these tables (`connecting.tables`) tell each other what they did."""
    return f"asktell_{of}"


def payloads(origin: str, changed: Mapping[int, int]) -> Iterator[str]:
    """What to notify of studies that changed, with their revisions."""
    entries = [f"{study_id}:{revision}" for study_id, revision in changed.items()]
    for start in range(0, len(entries), _STUDIES_PER_PAYLOAD):
        yield " ".join([origin, *entries[start : start + _STUDIES_PER_PAYLOAD]])


def commits(payload: str) -> tuple[str, list[ForeignCommit]]:
    """The origin and the studies of a payload; of one that cannot be read, nothing."""
    origin, *entries = payload.split(" ")
    try:
        return origin, [ForeignCommit(*map(int, entry.split(":"))) for entry in entries]
    except (ValueError, TypeError):
        return "", []


def serving(connection: Connection) -> int:
    """How many servers listen on the tables that the connection finds."""
    found = connection.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock' AND objsubid = 2 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND (classid::bigint, objid::bigint) = (%s::bigint, %s::bigint)",
        (_LOCK, tables(connection)),
    ).fetchone()
    return int(str(found[0])) if found else 0


class Listener:
    """Calls `heard` in the event loop with what servers of another origin did, from now until `stop`."""

    def __init__(self, target: Target, origin: str, heard: Heard, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._origin = origin
        self._heard = heard
        self._loop = loop
        self.is_alone = False
        """Whether no other server listens, so that nobody misses notifications."""
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="asktell-listener", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread."""
        self._waker.close()
        await asyncio.to_thread(self._thread.join)
        self._woken.close()

    def _run(self) -> None:
        while True:
            try:
                connection = self._target.connect()
            except StorageUnavailable:
                if self._sleep(None, _RECONNECT_S):
                    return
                self._say([])
                continue
            try:
                with connection:
                    of = tables(connection)
                    # An object id has no sign, where the lock's number has one.
                    number = of - 2**32 if of >= 2**31 else of
                    connection.execute("SELECT pg_advisory_lock_shared(%s::int, %s::int)", (_LOCK, number))
                    connection.execute(f"LISTEN {channel(of)}")
                    connection.execute("SELECT pg_notify(%s, %s)", (channel(of), self._origin))
                    self._poll(connection)
                    if self._listen(connection):
                        return
            except psycopg.Error as error:
                self.is_alone = False
                _log.warning("listening to other servers was interrupted: %s", one_line(error))

    def _listen(self, connection: Connection) -> bool:
        """Passes on notifications; True if it was told to stop."""
        polled = time.monotonic()
        while not self._sleep(connection, max(0.0, polled + POLL_S - time.monotonic())):
            found: list[ForeignCommit] = []
            for notify in connection.notifies(timeout=0):
                origin, changed = commits(notify.payload)
                if origin != self._origin:
                    self.is_alone = False
                    found += changed
            if found:
                self._say(found)
            if time.monotonic() >= polled + POLL_S:
                polled = time.monotonic()
                self._poll(connection)
        return True

    def _poll(self, connection: Connection) -> None:
        """Looks who else is there, and says that anything may have changed."""
        self.is_alone = serving(connection) == 1
        self._say([])

    def _sleep(self, connection: Connection | None, seconds: float) -> bool:
        """Until there is something to read or the time is over; True if it was told to stop."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if connection is not None:
                selector.register(connection.fileno(), selectors.EVENT_READ)
            return any(key.fileobj is self._woken for key, _ in selector.select(seconds))

    def _say(self, changed: Sequence[ForeignCommit]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard, changed)
