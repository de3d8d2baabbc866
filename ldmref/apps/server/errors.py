"""Errors of the server, their HTTP status, and their form in each of the interfaces."""

from __future__ import annotations

import logging
import secrets
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ldmref.errors import (
    BackendUnavailable,
    Cancelled,
    InputError,
    LdmrefError,
    NumericError,
    ResourceError,
    UsageError,
    one_line,
    short_repr,
)
from ldmref.support.free_memory import is_out_of_memory

if TYPE_CHECKING:
    from starlette.responses import Response

log = logging.getLogger("ldmref.server")


class QueueFull(LdmrefError):
    """All places of the queue are taken; `retry_after` is the number of seconds to wait."""

    retry_after = 1


class Stopping(LdmrefError):
    """The server is stopping and takes no more jobs."""


class UnknownJob(LdmrefError):
    """There has never been a job of this name, or the job does not have this image or file."""


class Gone(LdmrefError):
    """The lifetime of a job's results is over."""


class UnknownModel(UsageError):
    """A model that the server was not started with."""


class BadRequest(LdmrefError):
    """A request that is not JSON of the expected form."""


OUT_OF_MEMORY = "E-MEMORY"  # which a smaller request, or a later one, may avoid
STATUS = (  # the first class that fits decides
    (QueueFull, 429),
    (Stopping, 503),
    (UnknownModel, 404),
    (UnknownJob, 404),
    (Gone, 410),
    (BadRequest, 400),
    (UsageError, 422),
    (InputError, 422),
    (ResourceError, 422),
    (Cancelled, 409),
    (NumericError, 500),
    (BackendUnavailable, 500),
)


def status_of(error: LdmrefError) -> int:
    """Return the HTTP status of an error: 422 for a wrong parameter, 500 if nothing else fits."""
    if error.code == OUT_OF_MEMORY:
        return 503
    return next((status for cls, status in STATUS if isinstance(error, cls)), 500)


def to_json(error: LdmrefError) -> dict[str, Any]:
    """Return an error as the native interface writes it."""
    return {
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
        "parameter": error.parameter,
    }


def as_ldmref_error(error: BaseException) -> LdmrefError:
    """Return the error itself, or an equivalent one that a client may see.

    A client learns only the class of an unexpected error, and the id of its line in the log.
    """
    if isinstance(error, LdmrefError):
        return error
    if is_out_of_memory(error):
        hint = "generate smaller images, or fewer at a time"
        return ResourceError("out of memory", code=OUT_OF_MEMORY, hint=hint)
    return LdmrefError(
        f"internal error ({type(error).__name__})",
        code="E-INTERNAL",
        hint=f"the log of the server describes it as error {log_failure(error)}",
    )


def log_failure(error: BaseException) -> str:
    """Log an unexpected error, and return the id of its line, for the client.

    The message of the error may quote a prompt. It is left out, unless the log is at DEBUG.
    """
    number = secrets.token_hex(6)
    log.error("error %s: %s", number, describe_failure(error))
    log.debug("error %s: %s", number, short_repr(error))
    return number


def describe_failure(error: BaseException | None) -> str:
    """Return the class of an error, of its causes, and the lines of code where they were raised."""
    parts = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        parts.append(f"{type(error).__name__} in {' > '.join(lines) or 'no line'}")
        error = error.__cause__ or error.__context__
    return one_line(" from ".join(parts))


def refusal(path: str, status: int, error: LdmrefError) -> Response:
    """Return the response to a refused request in the form of the interface that owns the path.

    Args:
        path: The path of the request.
        status: The HTTP status.
        error: The reason.
    """
    from ldmref.apps.server.responses import JSONResponse

    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFull) else {}
    return JSONResponse(error_body(path, status, error), status, headers)


def error_body(path: str, status: int, error: LdmrefError) -> dict[str, Any]:
    """Return the JSON of a refusal: that of A1111, of OpenAI, of JSON-RPC, or ldmref's own."""
    message = f"{error} ({error.hint})" if error.hint else str(error)
    if path.startswith(("/sdapi", "/controlnet")):
        name = type(error).__name__
        return {"error": name, "detail": message, "body": "", "errors": message}
    if path.startswith(("/v1/images", "/v1/models")):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if status == 429 else kind
        own = {
            "message": message,
            "type": kind,
            "param": error.parameter or None,
            "code": error.code,
        }
        return {"error": own}
    if path.startswith("/mcp"):
        own = {"code": -32603 if status >= 500 else -32600, "message": message}
        return {"jsonrpc": "2.0", "id": None, "error": own | {"data": to_json(error)}}
    return {"error": to_json(error)}
