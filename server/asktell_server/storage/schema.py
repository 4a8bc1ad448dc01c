"""The tables: studies, their trials, the trials' intermediate measurements, what request ids did, and tokens.

Only what SQLite and PostgreSQL both have. Conventions:

    times      microseconds since 1970-01-01 UTC, exact, in a BigInteger
    enums      their names
    JSON       compact text, written and read by `codec` alone; no query looks inside
    numbers    floats that matter live in JSON text: SQLite would turn -0.0 in a REAL column into 0.0

Ids of studies come from an autoincrement that never goes back, so that a deleted study's id is not given out again.
Trial numbers come from `studies.next_number` and are as unique. `migrations/` holds the same schema as a history;
a test keeps the two equal.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

from asktell_server.domain.trial import TrialState

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite autoincrements nothing but an INTEGER primary key, which there has 64 bits too.
IdType = BigInteger().with_variant(Integer(), "sqlite")
# Names are ordered by code point on every database, whatever its locale.
NameType = Text().with_variant(Text(collation="C"), "postgresql")


def count_column(state: TrialState) -> str:
    """The column of `studies` that counts the trials in a state."""
    return f"{state.name.lower()}_count"


studies = Table(
    "studies",
    metadata,
    Column("id", IdType, primary_key=True, autoincrement=True),
    Column("project", NameType, nullable=False),
    Column("name", NameType, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("next_number", BigInteger, nullable=False),
    *(Column(count_column(state), BigInteger, nullable=False) for state in TrialState),
    Column("best_number", BigInteger),
    Column("best_value", Text),  # a JSON number
    Column("successes_at_best", BigInteger, nullable=False),
    # What seldom changes and may be long comes last: SQLite then leaves its pages alone in an update.
    Column("labels", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("spec", Text, nullable=False),
    UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

trials = Table(
    "trials",
    metadata,
    Column("study_id", BigInteger, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("finish_revision", BigInteger),
    Column("create_time", BigInteger, nullable=False),
    Column("start_time", BigInteger),
    Column("end_time", BigInteger),
    Column("lease_expire_time", BigInteger),
    Column("worker", Text, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("retry_of", BigInteger),
    Column("parameters", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("predictions", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("measurement", Text),
    Column("labels", Text, nullable=False),
    Column("notes", Text, nullable=False),
    PrimaryKeyConstraint("study_id", "number"),
)
Index(None, trials.c.study_id, trials.c.revision)
Index(None, trials.c.study_id, trials.c.state, trials.c.number)
# A literal, not a bound value: a partial index serves only queries whose text implies its condition.
IS_RUNNING = trials.c.state == literal_column("'RUNNING'")
Index(
    None,
    trials.c.lease_expire_time,
    sqlite_where=IS_RUNNING & trials.c.lease_expire_time.is_not(None),
    postgresql_where=IS_RUNNING & trials.c.lease_expire_time.is_not(None),
)

measurements = Table(
    "measurements",
    metadata,
    Column("study_id", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("measurement", Text, nullable=False),
    PrimaryKeyConstraint("study_id", "number", "step"),
    ForeignKeyConstraint(["study_id", "number"], ["trials.study_id", "trials.number"], ondelete="CASCADE"),
)
Index(None, measurements.c.study_id, measurements.c.revision)

requests = Table(
    "requests",
    metadata,
    Column("scope", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("study_id", BigInteger, ForeignKey("studies.id", ondelete="CASCADE")),
    Column("time", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("response", Text, nullable=False),
    PrimaryKeyConstraint("scope", "request_id"),
)
Index(None, requests.c.time)
Index(None, requests.c.study_id)  # so that deleting a study need not search

tokens = Table(
    "tokens",
    metadata,
    Column("id", NameType, nullable=False),
    Column("digest", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("grants", Text, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger),
    Column("revoke_time", BigInteger),
    PrimaryKeyConstraint("id"),
)
