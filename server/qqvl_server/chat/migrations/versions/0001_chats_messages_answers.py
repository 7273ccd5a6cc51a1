"""Chats, their messages, and the answers kept for repeated requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "chats",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("external_id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("next_seq", sa.BigInteger, nullable=False),
        sa.Column("window_start", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.UniqueConstraint("kind", "external_id", name="uq_chats_key"),
    )
    op.create_table(
        "messages",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("chat_id", row_id, sa.ForeignKey("chats.id"), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("speaker_id", sa.String(64), nullable=False),
        sa.Column("speaker_name", sa.Text, nullable=False),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("message_id", sa.String(128)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("chat_id", "seq", name="uq_messages_seq"),
        sa.UniqueConstraint("chat_id", "message_id", name="uq_messages_message_id"),
    )
    op.create_table(
        "answers",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("chat_id", row_id, sa.ForeignKey("chats.id"), nullable=False),
        sa.Column("message_id", sa.String(128), nullable=False),
        sa.Column("should_reply", sa.Boolean, nullable=False),
        sa.Column("reply", sa.Text, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
        sa.UniqueConstraint("chat_id", "message_id", name="uq_answers_message_id"),
    )


def downgrade() -> None:
    for table in ("answers", "messages", "chats"):
        op.drop_table(table)
