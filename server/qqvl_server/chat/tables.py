"""The database's shape, shared by the store and its migrations."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
    and_,
    or_,
)

from qqvl_server.chat.columns import JSON, String, Text
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
    Column("reason", String(16), nullable=False, server_default=""),
    Column("merged_into", String(128)),
    # The line that was answered, and the line that answers it and what was merged with it.
    Column("seq", BigInteger),
    Column("reply_seq", BigInteger),
    UniqueConstraint("chat_id", "message_id", "digest", name="uq_answers_message_id"),
    Index("ix_answers_reply_seq", "chat_id", "reply_seq"),
)

# QQ's ids of our own messages, as the client reports them.
SENT = Table(
    "sent",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("sent_id", String(128), nullable=False),
    Column("reply_seq", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    UniqueConstraint("chat_id", "sent_id", "reply_seq", name="uq_sent_sent_id"),
    Index("ix_sent_reply_seq", "chat_id", "reply_seq"),
)

# Recalled messages. ``seq`` is the chat's last line then: what is newer under the same id is another message. Without
# it the recall came first and waits for its message. ``digest`` is the message's, where it was known.
RECALLS = Table(
    "recalls",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("message_id", String(128), nullable=False),
    Column("digest", String(64)),
    Column("seq", BigInteger),
    Column("reply_seq", BigInteger),
    Column("withdraw", JSON, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    Index("ix_recalls_message_id", "chat_id", "message_id"),
)

# Why the bot spoke or not, without a word of what was said.
DECISIONS = Table(
    "decisions",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("message_id", String(128)),
    Column("speak", Boolean, nullable=False),
    Column("reason", String(16), nullable=False),
    Column("score", Float),
    Column("cost_ms", Float, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    # What the answer took, where there was one.
    Column("window_lines", Integer),
    Column("prompt_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("seconds", Float),
    Column("model", Text),
    Index("ix_decisions_seq", "chat_id", "seq"),
    Index("ix_decisions_chat_time", "chat_id", "created_at"),
)

# What one chat has otherwise than the settings file says.
CHAT_SETTINGS = Table(
    "chat_settings",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("value", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("chat_id", "name", name="uq_chat_settings_name"),
)

# What a person and a group had of the bot in a day: ``kind`` is ``user`` or ``group``, ``day`` is written 2026-11-29.
LEDGER = Table(
    "ledger",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("day", String(10), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("external_id", String(64), nullable=False),
    Column("messages", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    UniqueConstraint("day", "kind", "external_id", name="uq_ledger_day"),
)

# Talks with the model in the browser: whose they are, and what holds in them. ``head`` is the message shown last.
CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("public_id", String(32), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("title", Text, nullable=False),
    Column("titled", Boolean, nullable=False),
    Column("system_prompt", Text, nullable=False),
    Column("sampling", JSON, nullable=False),
    Column("tools", JSON, nullable=False, server_default="{}"),
    Column("head", String(32)),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("public_id", name="uq_conversations_public_id"),
    Index("ix_conversations_owner", "owner", "updated_at"),
)

# A tree: those that share a ``parent`` are versions of one another.
CONVERSATION_MESSAGES = Table(
    "conversation_messages",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("conversation_id", ForeignKey("conversations.id"), nullable=False),
    Column("public_id", String(32), nullable=False),
    Column("parent", String(32)),
    Column("role", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("images", JSON, nullable=False),
    Column("reasoning", Text, nullable=False),
    Column("tool_calls", JSON, nullable=False),
    # What calls of the parent's gave.
    Column("tool_results", JSON, nullable=False, server_default="[]"),
    Column("status", String(16), nullable=False),
    Column("finish_reason", String(16)),
    Column("error", Text),
    Column("model", Text, nullable=False),
    Column("usage", JSON),
    Column("first_token_s", Float),
    Column("seconds", Float),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("public_id", name="uq_conversation_messages_public_id"),
    Index("ix_conversation_messages_conversation", "conversation_id"),
)

# Groups that were played in the browser and may be played again, as the file that ``qqvl try`` reads.
PLAYS = Table(
    "plays",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("public_id", String(32), nullable=False),
    Column("name", String(80), nullable=False),
    Column("lines", Integer, nullable=False),
    Column("script", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("public_id", name="uq_plays_public_id"),
)

# What an owner changed by a door: ``before`` and ``after`` as JSON has them.
AUDIT = Table(
    "audit",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("who", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("what", Text, nullable=False),
    Column("before", JSON),
    Column("after", JSON),
    Column("created_at", Float, nullable=False, index=True),
)

# Settings of the whole server that were changed in the browser: ``section.name``, and the value as JSON has it.
PAGE_SETTINGS = Table(
    "page_settings",
    METADATA,
    Column("id", _ROW_ID, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("value", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("name", name="uq_page_settings_name"),
)

# How far the clocks of QQ and of this machine may be apart.
_SKEW_S = 120


def is_of(table: Table, identity: Identity) -> ColumnElement[bool]:
    """The rows of one message. Of rows that know no time, those written after it was sent."""
    old = table.c.digest == identity.undated
    if identity.sent_at is not None:
        old = and_(old, table.c.created_at > identity.sent_at - _SKEW_S)
    return and_(table.c.message_id == identity.message_id, or_(table.c.digest == identity.digest, old))
