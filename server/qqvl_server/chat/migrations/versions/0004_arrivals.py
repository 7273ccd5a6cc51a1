"""What merging, recalls and reports of sent messages need, and the decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0002"


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    with op.batch_alter_table("answers") as batch:
        batch.add_column(sa.Column("reason", sa.String(16), nullable=False, server_default=""))
        batch.add_column(sa.Column("merged_into", sa.String(128)))
        batch.add_column(sa.Column("seq", sa.BigInteger))
        batch.add_column(sa.Column("reply_seq", sa.BigInteger))
    op.create_index("ix_answers_reply_seq", "answers", ["chat_id", "reply_seq"])
    op.create_table(
        "sent",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("chat_id", row_id, sa.ForeignKey("chats.id"), nullable=False),
        sa.Column("sent_id", sa.String(128), nullable=False),
        sa.Column("reply_seq", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
        sa.UniqueConstraint("chat_id", "sent_id", "reply_seq", name="uq_sent_sent_id"),
    )
    op.create_index("ix_sent_reply_seq", "sent", ["chat_id", "reply_seq"])
    op.create_table(
        "recalls",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("chat_id", row_id, sa.ForeignKey("chats.id"), nullable=False),
        sa.Column("message_id", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("reply_seq", sa.BigInteger),
        sa.Column("withdraw", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
    )
    op.create_index("ix_recalls_message_id", "recalls", ["chat_id", "message_id"])
    op.create_table(
        "decisions",
        sa.Column("id", row_id, primary_key=True),
        sa.Column("chat_id", row_id, sa.ForeignKey("chats.id"), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.String(128)),
        sa.Column("speak", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("cost_ms", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
    )
    op.create_index("ix_decisions_seq", "decisions", ["chat_id", "seq"])


def downgrade() -> None:
    for table in ("decisions", "recalls", "sent"):
        op.drop_table(table)
    op.drop_index("ix_answers_reply_seq", "answers")
    with op.batch_alter_table("answers") as batch:
        for column in ("reply_seq", "seq", "merged_into", "reason"):
            batch.drop_column(column)
