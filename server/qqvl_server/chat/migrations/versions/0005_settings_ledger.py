"""Settings of single chats, the ledger of what was answered and computed, and what an answer took."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ADDED = {
    "window_lines": sa.Integer,
    "prompt_tokens": sa.Integer,
    "cached_tokens": sa.Integer,
    "seconds": sa.Float,
    "model": sa.Text,
}


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "chat_settings",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("chat_id", row_id, sa.ForeignKey("chats.id"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("chat_id", "name", name="uq_chat_settings_name"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("external_id", sa.String(64), nullable=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
        sa.UniqueConstraint("day", "kind", "external_id", name="uq_ledger_day"),
    )
    with op.batch_alter_table("decisions") as batch:
        for name, kind in _ADDED.items():
            batch.add_column(sa.Column(name, kind))


def downgrade() -> None:
    with op.batch_alter_table("decisions") as batch:
        for name in reversed(_ADDED):
            batch.drop_column(name)
    op.drop_table("ledger")
    op.drop_table("chat_settings")
