"""Alembic's entry: runs on the connection that ``chat/store.py`` hands over, inside its transaction."""

from alembic import context

from qqvl_server.chat.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
