"""Tools that a conversation offers the model and what they gave; plays that are kept for another time."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("conversations", sa.Column("tools", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("conversation_messages", sa.Column("tool_results", sa.JSON, nullable=False, server_default="[]"))
    op.create_table(
        "plays",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("public_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("lines", sa.Integer, nullable=False),
        sa.Column("script", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.UniqueConstraint("public_id", name="uq_plays_public_id"),
    )


def downgrade() -> None:
    op.drop_table("plays")
    op.drop_column("conversation_messages", "tool_results")
    op.drop_column("conversations", "tools")
