"""How alembic applies a migration: on the connection and in the transaction it is handed."""

from alembic import context

from ttmpref.study.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata
)
context.run_migrations()
