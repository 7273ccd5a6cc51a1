"""The database's shape, shared by the store and its migrations."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    or_,
)

from qqvl_server.chat.identity import Identity

METADATA = MetaData()
# SQLite numbers rows by itself only in an INTEGER primary key.
_ROW_ID = BigInteger().with_variant(Integer, "sqlite")

CHATS = Table(
    "chats",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("external_id", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("next_seq", BigInteger, nullable=False),
    # First message the model is shown; moves in large steps.
    Column("window_start", BigInteger, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("kind", "external_id", name="uq_chats_key"),
)

MESSAGES = Table(
    "messages",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("role", String(16), nullable=False),
    Column("speaker_id", String(64), nullable=False),
    Column("speaker_name", Text, nullable=False),
    Column("parts", JSON, nullable=False),
    Column("message_id", String(128)),
    Column("digest", String(64)),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("chat_id", "seq", name="uq_messages_seq"),
    UniqueConstraint("chat_id", "message_id", "digest", name="uq_messages_message_id"),
)

# What was answered to a message, so that a repeated request gets the first answer. Outlives /reset, without its words.
ANSWERS = Table(
    "answers",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("message_id", String(128), nullable=False),
    Column("digest", String(64)),
    Column("should_reply", Boolean, nullable=False),
    Column("reply", Text, nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    UniqueConstraint("chat_id", "message_id", "digest", name="uq_answers_message_id"),
)

# How far the clocks of QQ and of this machine may be apart.
_SKEW_S = 120


def is_of(table: Table, identity: Identity) -> ColumnElement[bool]:
    """The rows of one message. Of rows that know no time, those written after it was sent."""
    old = table.c.digest == identity.undated
    if identity.sent_at is not None:
        old = and_(old, table.c.created_at > identity.sent_at - _SKEW_S)
    return and_(table.c.message_id == identity.message_id, or_(table.c.digest == identity.digest, old))
