"""What the page in the browser keeps: conversations with the model, settings changed there, and who changed what."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "conversations",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("public_id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("titled", sa.Boolean, nullable=False),
        sa.Column("system_prompt", sa.Text, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("head", sa.String(32)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.UniqueConstraint("public_id", name="uq_conversations_public_id"),
    )
    op.create_index("ix_conversations_owner", "conversations", ["owner", "updated_at"])
    op.create_table(
        "conversation_messages",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("conversation_id", row_id, sa.ForeignKey("conversations.id"), nullable=False),
        sa.Column("public_id", sa.String(32), nullable=False),
        sa.Column("parent", sa.String(32)),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("images", sa.JSON, nullable=False),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("tool_calls", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("finish_reason", sa.String(16)),
        sa.Column("error", sa.Text),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("usage", sa.JSON),
        sa.Column("first_token_s", sa.Float),
        sa.Column("seconds", sa.Float),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("public_id", name="uq_conversation_messages_public_id"),
    )
    op.create_index("ix_conversation_messages_conversation", "conversation_messages", ["conversation_id"])
    op.create_table(
        "audit",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "page_settings",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("name", name="uq_page_settings_name"),
    )


def downgrade() -> None:
    for table in ("page_settings", "audit", "conversation_messages", "conversations"):
        op.drop_table(table)
