"""Brings a database to the newest schema, inside the caller's transaction.

The history of the schema is the Alembic revisions in `migrations/`; no alembic.ini is needed. To change the schema, change
`schema` and add a revision after the newest (Alembic's `command.revision(alembic_config(), message)` begins the file); a test
tells whether the two lead to the same tables.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, StaticPool, create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.schema import metadata


def alembic_config() -> Config:
    """The configuration of Alembic, without a file."""
    config = Config()
    config.set_main_option("script_location", "asktell_server.storage:migrations")
    return config


def known_revisions() -> set[str]:
    """Every schema that this release can read or upgrade."""
    return {revision.revision for revision in ScriptDirectory.from_config(alembic_config()).walk_revisions()}


def newest_revision() -> str | None:
    """The schema that this release writes."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def upgrade(connection: Connection) -> None:
    """Creates or upgrades the schema; the caller commits.

    Raises StorageUnavailable if a newer release made the database, or something else did.
    """
    config = alembic_config()
    known = known_revisions()
    current = set(MigrationContext.configure(connection).get_current_heads())
    tables = set(inspect(connection).get_table_names())
    if current - known and {"studies", "trials"} <= tables:
        raise StorageUnavailable(
            f"the database was made by a newer release (schema {', '.join(sorted(map(str, current - known)))}); "
            "use that release or a newer one"
        )
    foreign = tables & metadata.tables.keys() if not current else {"alembic_version"} if current - known else set()
    if foreign:
        raise StorageUnavailable(
            f"the database holds tables of another program ({', '.join(sorted(foreign))}); choose another database"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def upgrade_sqlite(connection: sqlite3.Connection) -> None:
    """`upgrade` in one transaction of a DBAPI connection in autocommit mode; raises StorageUnavailable also for damage."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.connect() as wrapped:
            connection.execute("BEGIN IMMEDIATE")
            upgrade(wrapped)
            connection.execute("COMMIT")
    except (SQLAlchemyError, CommandError) as error:
        reason = getattr(error, "orig", None) or error
        raise StorageUnavailable(f"the database's schema cannot be brought up to date: {reason}") from error


# The PostgreSQL schema in which the tables are, by that of the version; no row if there are none.
VERSIONED_SCHEMA = (
    "SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE pg_class.oid = to_regclass('alembic_version')"
)

# Of the advisory lock under which a schema is made or upgraded: "asktell" in ASCII.
_LOCK = 0x61736B74656C6C


def upgrade_postgresql(connection: Any) -> None:
    """`upgrade` in one transaction of a psycopg connection, which is closed in the end; raises StorageUnavailable also for
    several versions at once.

    Servers that start at once queue here: the first does it, the others find it done.
    """
    # Tables of a schema that came to be later and is searched first (one with the user's name, say) would not be where the others are.
    found = connection.execute(
        f"SELECT quote_ident(schema) FROM ({VERSIONED_SCHEMA}) AS versioned (schema)"  # noqa: S608 - our own query
    ).fetchone()
    if found is not None:
        connection.execute(f"SET search_path TO {found[0]}")
    connection.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.begin() as wrapped:
            wrapped.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            upgrade(wrapped)
    except CommandError as error:
        raise StorageUnavailable(f"the database's schema cannot be brought up to date: {error}") from error
    finally:
        engine.dispose()
