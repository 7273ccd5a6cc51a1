"""Our exception hierarchy:

* ClientError
  x SettingsError            a setting is wrong: one line for the owner, exit 2
  x LineError                an action sent to the OneBot implementation failed
    - LineDownError               it was never written: sending it again is safe
    - ActionUnsureError           it may have been carried out: never repeat it blindly
    - ActionRefusedError          it was certainly not carried out
  x ServerError              the chat server gave no usable answer
    - ServerAwayError             the request was certainly not answered: ask again
    - AnswerLostError             it may have been answered: ask again only by message_id
    - ServerRefusedError          asking again would get the same refusal
  x PictureError             one picture could not be fetched
    - PictureTooLargeError        and no other address of it would help
  x JournalError             the journal's file could not be read or written; the client goes on without it
    - JournalLockedError          another program holds it: it will come free
    - JournalDamagedError         it is no journal any more: put aside, begun anew
    - JournalUnwritableError      disk full, read only, folder gone: tried again now and then
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of every error this client raises on purpose."""


class SettingsError(ClientError):
    """A setting, flag or configuration file is wrong; the text is what the owner reads."""


class LineError(ClientError):
    """An action sent over the OneBot line failed."""


class LineDownError(LineError):
    """The action never left this process."""


class ActionUnsureError(LineError):
    """No answer came, or retcode 1200: QQ may have carried the action out."""


class ActionRefusedError(LineError):
    """The OneBot implementation refused the action before doing anything."""


class ServerError(ClientError):
    """The chat server gave no usable answer. `notice` is what a QQ user may be told."""

    notice = "暂时连不上服务器，请稍后再试。"


class ServerAwayError(ServerError):
    """Unreachable or too busy; the request was not answered."""

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class AnswerLostError(ServerError):
    """The request may have run, but no readable answer arrived."""

    notice = "这条消息没有得到答复，请稍后再试。"


class ServerRefusedError(ServerError):
    """The server understood the request and will not answer it."""

    notice = "这条消息处理不了。"

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status
        if status == 413:
            self.notice = "这条消息太大了，处理不了。"


class PictureError(ClientError):
    """One picture could not be fetched; the text is the note the model reads."""


class PictureTooLargeError(PictureError):
    """The picture is larger than the settings allow, wherever it is fetched from."""

    def __init__(self) -> None:
        super().__init__("太大")


class JournalError(ClientError):
    """The journal's file could not be read or written."""


class JournalLockedError(JournalError):
    """Another program holds the file."""


class JournalDamagedError(JournalError):
    """The file is not, or no longer, a journal."""


class JournalUnwritableError(JournalError):
    """The disk is full, read only, failing, or the file is no longer where it was."""
