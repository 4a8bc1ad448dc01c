"""The history of the schema, as Alembic revisions; `asktell_server.storage.migrate` runs them."""
