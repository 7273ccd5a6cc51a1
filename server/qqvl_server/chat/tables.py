"""The database's shape, shared by the store and its migrations."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

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
    Column("created_at", Float, nullable=False),
    UniqueConstraint("chat_id", "seq", name="uq_messages_seq"),
    UniqueConstraint("chat_id", "message_id", name="uq_messages_message_id"),
)

# What was answered to a message id, so that a repeated request gets the first answer. Outlives /reset.
ANSWERS = Table(
    "answers",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("message_id", String(128), nullable=False),
    Column("should_reply", Boolean, nullable=False),
    Column("reply", Text, nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    UniqueConstraint("chat_id", "message_id", name="uq_answers_message_id"),
)
