"""Decisions of one chat by time: with every line of a smart group it is asked what was said in the last day."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index("ix_decisions_chat_time", "decisions", ["chat_id", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_decisions_chat_time", "decisions")
