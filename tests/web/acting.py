"""What a person does on the page."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

_PASTE = """async ({ data, name }) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], name, { type: "image/png" }));
  const pasted = new ClipboardEvent("paste", { clipboardData: held, bubbles: true, cancelable: true });
  document.activeElement.dispatchEvent(pasted);
}"""


def field(page: Page) -> Locator:
    return page.get_by_role("textbox", name=re.compile("^(消息|Message)$"))


def say(page: Page, words: str) -> None:
    field(page).fill(words)
    field(page).press("Enter")


def paste(page: Page, picture: str, name: str = "picture.png") -> None:
    """A picture, as base64, from the clipboard into the field."""
    field(page).focus()
    page.evaluate(_PASTE, {"data": picture, "name": name})
    expect(page.locator(".drafts img")).to_have_count(1)


def replies(page: Page) -> Locator:
    return page.locator("article.assistant")


def answered(page: Page, count: int) -> Locator:
    """The last of ``count`` replies, once it is whole."""
    expect(replies(page)).to_have_count(count)
    last = replies(page).last
    expect(last).to_have_attribute("aria-busy", "false")
    return last


def talk(page: Page, words: str) -> Locator:
    """Says it in a conversation of its own and waits for the answer."""
    count = replies(page).count()
    say(page, words)
    return answered(page, count + 1)
