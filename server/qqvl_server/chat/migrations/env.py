"""Alembic's entry: runs on the connection that ``chat/store.py`` hands over, inside its transaction."""

from alembic import context

from qqvl_server.chat.tables import METADATA

connection = context.config.attributes["connection"]
if connection.dialect.name == "sqlite" and not connection.connection.driver_connection.in_transaction:
    # Python's sqlite3 begins no transaction for a CREATE TABLE: a kill in between would leave half a migration,
    # at which every later start fails.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
