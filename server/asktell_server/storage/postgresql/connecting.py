"""What a PostgreSQL URL means, and connections with the settings that the storage relies on.

A password is never part of a message: libpq's own errors name host, port and user, but its complaint about a URL that it
cannot read quotes the URL, so it is not passed on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakSet

import psycopg
from psycopg import conninfo
from psycopg.types.numeric import Int8Dumper

from asktell_server.domain.errors import StorageUnavailable

_log = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[object, ...]]

OLDEST = 150_000  # 15, as the server reports it
CONNECT_TIMEOUT_S = 5
# A server that stops in the middle of a transaction (a paused machine, say) loses the locks that others wait for after:
IDLE_IN_TRANSACTION_S = 15
# How long a transaction waits for a study that another server holds before others get their turn:
LOCK_TIMEOUT_MS = 100
# What a URL may override: a dead connection is noticed within half a minute, and of several hosts only one that can write will do.
_DEFAULTS: Mapping[str, str] = {
    "application_name": "asktell",
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "target_session_attrs": "read-write",
}
# Where the database is, and as whom the server connects, is not for callers.
_AWAY = "the database cannot be reached"
# Acknowledged is durable, whatever the default of the server, the database or the role.
_SETTINGS = (
    "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
    "WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION_S}s', false), "
    f"set_config('lock_timeout', '{LOCK_TIMEOUT_MS}ms', false), "
    # Also for transactions that no BEGIN begins.
    "set_config('default_transaction_isolation', 'read committed', false), "
    "set_config('default_transaction_read_only', 'off', false), "
    # The locks of a server whose machine is gone go with its session.
    "set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false), "
    "set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30000', false), "
    "current_setting('server_version_num')::int, current_setting('server_encoding'), current_setting('fsync')"
)


class Target:
    """A database to connect to."""

    def __init__(self, url: str) -> None:
        """`url`: as libpq reads it, with several hosts if there are. Raises StorageUnavailable if it cannot be read."""
        scheme, _, rest = url.partition("://")
        try:
            given = conninfo.conninfo_to_dict(f"{scheme.partition('+')[0]}://{rest}")
        except psycopg.Error:
            raise StorageUnavailable(
                "the database URL cannot be read; write postgresql://user:password@host:port/database, with what is not "
                "a letter or digit in the password percent-encoded"
            ) from None
        self._conninfo = conninfo.make_conninfo("", **{**_DEFAULTS, **given})
        self._connections: WeakSet[Connection] = WeakSet()
        self._adding = threading.Lock()
        self._is_cut = False
        user = f"{given['user']}@" if given.get("user") else ""
        port = f":{given['port']}" if given.get("port") else ""
        self.location = f"postgresql://{user}{given.get('host') or 'localhost'}{port}/{given.get('dbname') or ''}"

    def connect(self) -> Connection:
        """A connection in autocommit mode. Raises StorageUnavailable."""
        if self._is_cut:
            raise StorageUnavailable("the server is stopping and waits for the database no longer", _AWAY)
        try:
            connection = psycopg.connect(self._conninfo, autocommit=True)
        except psycopg.Error as error:
            raise StorageUnavailable(
                f"cannot connect to the database {self.location}: {one_line(error)}", _AWAY
            ) from None
        try:
            *_, version, encoding, fsync = connection.execute(_SETTINGS).fetchone() or ()
        except psycopg.Error as error:
            connection.close()
            raise StorageUnavailable(f"cannot use the database {self.location}: {one_line(error)}", _AWAY) from None
        if not isinstance(version, int) or version < OLDEST or encoding != "UTF8":
            major = connection.info.server_version // 10_000
            connection.close()
            raise StorageUnavailable(
                f"the database {self.location} is of version {major} with encoding {encoding}; "
                f"PostgreSQL {OLDEST // 10_000} or newer and UTF8 are needed",
                _AWAY,
            )
        if fsync != "on":
            _log.warning("the database %s runs with fsync=%s: it may lose what was acknowledged", self.location, fsync)
        # All integers as one type: each mixture of types would be prepared as a statement of its own.
        connection.adapters.register_dumper(int, Int8Dumper)
        with self._adding:
            self._connections.add(connection)
        return connection

    def cut(self) -> None:
        """Cuts every connection, so that nobody waits for a database that does not answer, and makes no more. From any thread."""
        self._is_cut = True
        with self._adding:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(psycopg.Error, OSError):  # it is closed
                # Not closed: another thread may be at work on it, and finds its end.
                with socket.socket(fileno=os.dup(connection.fileno())) as ours:
                    ours.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Identity:
    """What a connection has led to. A database can only have gone back if one of the two is another: `started`, when PostgreSQL was,
    after a failover or a restore of its files, `tables` after its tables were made anew.
    """

    started: str
    tables: int


def tables(connection: Connection) -> int:
    """The object id of the table of studies that the connection finds, 0 if there is none."""
    found = connection.execute("SELECT coalesce(to_regclass('studies')::oid::bigint, 0)").fetchone()
    return int(str(found[0])) if found else 0


def identity(connection: Connection) -> Identity:
    """Of the database at the end of a connection. Raises psycopg.Error."""
    found = connection.execute("SELECT pg_postmaster_start_time()::text").fetchone() or ("",)
    return Identity(str(found[0]), tables(connection))


def one_line(error: psycopg.Error) -> str:
    """What an error says, without its further lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
