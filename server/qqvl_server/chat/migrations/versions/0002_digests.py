"""A message id no longer names a message by itself: a digest of who said what stands beside it.

Lines and answers of the last week get one without time and account, which they do not know; older ones get none and
are nobody's resend.
"""

import time
from collections.abc import Iterable

import sqlalchemy as sa
from alembic import op

from qqvl_server.chat.identity import undated_digest

revision = "0002"
down_revision = "0001"

_WEEK_S = 7 * 86400


def upgrade() -> None:
    for table in ("messages", "answers"):
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("digest", sa.String(64)))
            batch.drop_constraint(f"uq_{table}_message_id", type_="unique")
            batch.create_unique_constraint(f"uq_{table}_message_id", ["chat_id", "message_id", "digest"])
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    messages = sa.table(
        "messages",
        *(sa.column(name) for name in ("chat_id", "message_id", "speaker_id", "digest", "created_at")),
        sa.column("parts", sa.JSON),
    )
    answers = sa.table("answers", *(sa.column(name) for name in ("chat_id", "message_id", "digest")))
    lines = connection.execute(
        sa.select(messages).where(messages.c.message_id.is_not(None), messages.c.created_at >= time.time() - _WEEK_S)
    ).all()
    for line in lines:
        digest = undated_digest(line.speaker_id, *_words_and_pictures(line.parts))
        for table in (messages, answers):
            connection.execute(
                sa.update(table)
                .where(table.c.chat_id == line.chat_id, table.c.message_id == line.message_id)
                .values(digest=digest)
            )


def _words_and_pictures(parts: Iterable[dict[str, str]]) -> tuple[str, list[str]]:
    parts = list(parts)
    words = "".join(part["text"] for part in parts if part["type"] == "text")
    return words, [part["sha256"] for part in parts if part["type"] == "image"]


def downgrade() -> None:
    for table in ("messages", "answers"):
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(f"uq_{table}_message_id", type_="unique")
            batch.drop_column("digest")
