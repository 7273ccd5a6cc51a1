"""What a front reads to bring a chat always to the same copy of the server, where there are several (``deploy/``)."""

from __future__ import annotations

import hashlib

from qqvl_client.message import Chat

HEADER = "X-Session-Id"
"""What vLLM's and SGLang's routers ask for as well."""


def session_of(chat: Chat, key: str) -> str:
    """A name of the chat that tells nobody its number, 32 hexadecimal digits.

    There are few enough QQ numbers to try them all. So the hash (BLAKE2b with a key, RFC 7693) is made with the
    server's `key`, which every client of that server has.

    The account is left out, as two accounts in one group share what the server knows of it.
    """
    secret = hashlib.sha256(b"qqvl session\0" + key.encode()).digest()
    return hashlib.blake2b(f"{chat.kind}\0{chat.id}".encode(), digest_size=16, key=secret).hexdigest()
