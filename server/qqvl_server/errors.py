"""Every error this product raises on purpose, in one tree.

    QqvlError
    ├── ConfigError              a flag, variable or file key is unknown or has a bad value   (exit 2)
    ├── WeightsError             the checkpoint cannot be loaded or fetched                   (exit 3)
    ├── RequestError             the caller can mend it
    │   ├── InvalidRequest           malformed body, wrong type, missing field
    │   ├── Unauthorized             a key is needed or wrong
    │   ├── Forbidden                foreign Origin, unknown Host, admin from afar
    │   ├── NotFound
    │   │   └── ModelNotFound        a model name that is not served
    │   ├── MethodNotAllowed
    │   ├── Conflict                 something else is going on there
    │   │   └── AlreadySaid              this very message came before
    │   ├── PayloadTooLarge
    │   ├── UnsupportedMedia         content type or encoding of the body
    │   ├── ImageRejected            a picture cannot be used
    │   └── PromptTooLong            the prompt does not fit the context
    ├── CapacityError            nothing is wrong with the request: try again
    │   ├── Busy                     queue full
    │   ├── RateLimited              this caller asks too often
    │   ├── Loading                  weights are still being read
    │   ├── Draining                 the server is stopping
    │   ├── Away                     no upstream answers now
    │   ├── BodyTimeout              the body came too slowly
    │   └── DeadlineExceeded         the request took longer than allowed
    └── FailureError             our side broke
        ├── GenerationFailed         one model call failed, the engine lives
        │   └── UpstreamFailed       an upstream broke off, or will not have us
        ├── EngineDead               no model call can succeed any more
        └── StorageFailed            the message or reply could not be made durable

A class knows its code and whether the same request may be sent again; HTTP statuses live in
``api/faults.py`` alone. ``message`` is Chinese text that a bot owner understands and never holds
exception text, paths or the caller's input.
"""

from __future__ import annotations

from qqvl_server.language import told


class QqvlError(Exception):
    """Root of the tree. ``str(error)`` is the operator's message, in the operator's language."""

    code = "internal_error"
    may_retry = False

    def __init__(self, message: str) -> None:
        message = told(message)
        super().__init__(message)
        self.message = message


class ConfigError(QqvlError):
    code = "config_error"


class WeightsError(QqvlError):
    code = "weights_error"


class RequestError(QqvlError):
    """``param`` names the field that is to blame, where one is: a name of ours, never a word of the caller's."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    pass


class Unauthorized(RequestError):
    code = "unauthorized"


class Forbidden(RequestError):
    code = "forbidden"


class NotFound(RequestError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"


class Conflict(RequestError):
    code = "conflict"


class AlreadySaid(Conflict):
    code = "already_said"


class PayloadTooLarge(RequestError):
    code = "payload_too_large"


class UnsupportedMedia(RequestError):
    code = "unsupported_media_type"


class ImageRejected(RequestError):
    code = "image_rejected"


class PromptTooLong(RequestError):
    """``limit`` is how many tokens prompt and reply may have together, where that is the bound."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


class CapacityError(QqvlError):
    """``retry_after`` is in whole seconds, for the header of that name."""

    code = "busy"
    may_retry = True

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(CapacityError):
    pass


class RateLimited(CapacityError):
    code = "rate_limit_exceeded"


class Loading(CapacityError):
    code = "model_loading"


class Draining(CapacityError):
    code = "shutting_down"


class Away(CapacityError):
    code = "upstream_away"


class BodyTimeout(CapacityError):
    code = "request_timeout"


class DeadlineExceeded(CapacityError):
    code = "deadline_exceeded"


class FailureError(QqvlError):
    may_retry = True


class GenerationFailed(FailureError):
    code = "generation_failed"


class UpstreamFailed(GenerationFailed):
    code = "upstream_failed"


class EngineDead(FailureError):
    code = "engine_dead"


class StorageFailed(FailureError):
    code = "storage_failed"
