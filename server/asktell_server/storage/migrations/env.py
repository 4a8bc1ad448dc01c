"""Run by Alembic: applies migrations on the connection that the caller put into the configuration's attributes.

The transaction is the caller's: a migration that fails half-way leaves nothing.
"""

from alembic import context

from asktell_server.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter columns: migrations rebuild the table instead.
    render_as_batch=True,
)
context.run_migrations()
