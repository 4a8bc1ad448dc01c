"""The version of the schema that this release writes, known without Alembic.

A server that starts on a current database, which is nearly always, need not load what upgrades one: that would take longer than
opening it.
"""

from __future__ import annotations

import sqlite3

# The newest revision in `migrations/`; a test holds the two together.
NEWEST = "r0002"


def is_newest(connection: sqlite3.Connection) -> bool:
    """Whether the database has exactly the schema that this release writes."""
    try:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError:  # no such table
        return False
    return found == [(NEWEST,)]
