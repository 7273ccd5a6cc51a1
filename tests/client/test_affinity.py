"""What the client tells a front, so that it brings a chat always to the same copy of the server."""

from __future__ import annotations

import hashlib

import pytest
from onebot.chat import error
from onebot.events import SELF_ID, group_message, private_message, recall
from onebot.web import Response
from onebot.world import Stack

from qqvl_client.affinity import session_of
from qqvl_client.message import Chat

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def test_all_about_a_chat_bears_its_name_and_no_other_chats(stack: Stack, chat_id: int, other_id: int) -> None:
    said = await stack.onebot.event(group_message("一", chat_id))
    await stack.chat.reported("sent", chat_id)
    await stack.onebot.event(recall(said))
    await stack.chat.reported("recall", chat_id)
    await stack.onebot.event(private_message("二", chat_id))
    await stack.onebot.event(group_message("三", other_id))
    await stack.chat.asked(chat_id, 2)
    await stack.chat.asked(other_id)
    names: dict[bytes, set[str]] = {b"group_id": set(), b"user_id": set(), b"other": set()}
    for request in [*stack.chat.requests, *stack.chat.report_requests]:
        if b'"' + str(other_id).encode() in request.body:
            names[b"other"].add(request.headers["x-session-id"])
        elif b'"' + str(chat_id).encode() in request.body:
            kind = b"group_id" if b'"group_id"' in request.body else b"user_id"
            names[kind].add(request.headers["x-session-id"])
    ((group,), (private,), (other,)) = names.values()
    assert len({group, private, other}) == 3
    assert not any(str(chat_id) in name for name in (group, private))


def test_nobody_without_the_key_finds_the_number_by_trying_all() -> None:
    name = session_of(Chat("group", "123456", str(SELF_ID)), "the key of this server")
    assert name != session_of(Chat("group", "123456", str(SELF_ID)), "another")
    # Another account in the same group belongs to the same chat.
    assert name == session_of(Chat("group", "123456", "20002"), "the key of this server")
    tried = {hashlib.sha256(f"{kind}:123456".encode()).hexdigest()[:32] for kind in ("group", "private")}
    assert name not in tried | {hashlib.blake2b(b"group\x00123456", digest_size=16).hexdigest()}


@pytest.mark.parametrize("status", [502, 504])
async def test_what_a_front_cannot_tell_is_asked_again_by_id_only(stack: Stack, chat_id: int, status: int) -> None:
    """A server that died with the message in hand may have answered it: without an id it would answer twice."""
    left = 1

    def once(body: dict[str, object]) -> Response | dict[str, object]:
        nonlocal left
        left -= 1
        return error(status) if left >= 0 else {"status": "success", "reply": "好"}

    stack.chat.scripts[str(chat_id)] = once
    await stack.onebot.event(private_message("有号", chat_id))
    assert (await stack.onebot.replied(chat_id))[0].text == "好"
    assert len(stack.chat.of(chat_id)) == 2
    left = 1
    await stack.onebot.event(private_message("没有号", chat_id, message_id=0))
    notice = (await stack.onebot.replied(chat_id, 2))[1].text
    assert notice.startswith("（")
    assert len(stack.chat.of(chat_id)) == 3
