"""What is wrong with a request by its head alone: method, target, framing, type of the body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.apps.server.guard.refused import Refused, has_body, values_of
from ldmref.errors import short_repr

if TYPE_CHECKING:
    from starlette.types import Scope

VERSIONS = ("1.0", "1.1", "2", "3")
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
JSON = "application/json"
OTHER_BODIES = ("/v1/inspect", "/v1/images/edits")  # an image, a form; all others take JSON
# A form of any page can send these types without asking the server first.
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


def check_head(scope: Scope, largest: int) -> None:
    """Refuse a request that is not plain HTTP, or whose end two programs may see differently."""
    check_size(scope, largest)
    check_target(scope)
    check_framing(scope)
    check_type(scope)


def check_size(scope: Scope, largest: int) -> None:
    """Refuse a head of more than `largest` bytes; uvicorn refuses only much larger ones."""
    size = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > largest:
        raise Refused(
            431,
            f"the head of the request is larger than {largest} bytes",
            code="E-HEAD",
            hint="send less in the path and in the headers",
        )


def check_target(scope: Scope) -> None:
    """Refuse targets that are not paths of this server, and methods that it does not have."""
    if not scope["path"].startswith("/"):
        raise Refused(
            400,
            "the target of the request must be a path",
            code="E-REQUEST",
            hint="the server is not a proxy",
        )
    if scope["http_version"] not in VERSIONS:
        raise Refused(
            505,
            f"the version {short_repr(scope['http_version'])} of HTTP is not supported",
            code="E-REQUEST",
            hint="send HTTP/1.1",
        )
    if scope["method"] not in METHODS:
        allowed = ", ".join(METHODS)
        raise Refused(
            405,
            f"the method {short_repr(scope['method'])} is not allowed",
            code="E-METHOD",
            hint=f"allowed: {allowed}",
            headers={"Allow": allowed},
        )


def check_framing(scope: Scope) -> None:
    """Refuse a body that is coded, or whose length is stated twice.

    A proxy and this server could disagree about where such a request ends; the rest would be read
    as another request (request smuggling).
    """
    lengths = values_of(scope, b"content-length")
    transfer = values_of(scope, b"transfer-encoding")
    length_is_valid = all(value.isascii() and value.isdecimal() for value in lengths)
    chunked = [value.lower() for value in transfer] in ([], ["chunked"])
    if not length_is_valid or not chunked or len(lengths) + len(transfer) > 1:
        raise Refused(
            400,
            "the length of the body is not stated in one valid way",
            code="E-LENGTH",
            hint="send one Content-Length, or Transfer-Encoding: chunked",
        )
    coding = [value.lower() for value in values_of(scope, b"content-encoding")]
    if coding not in ([], ["identity"]):
        raise Refused(
            415,
            f"the content encoding {short_repr(coding[0])} is not accepted",
            code="E-ENCODING",
            hint="send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )


def check_type(scope: Scope) -> None:
    """Require JSON where JSON is read: a page needs the server's permission to send that type.

    The routes of A1111 also take requests without a body or without a type, which clients send.
    """
    path = scope["path"]
    if scope["method"] != "POST":
        return
    values = values_of(scope, b"content-type")
    kind = values[0].partition(";")[0].strip().lower() if values else ""
    own = path.startswith("/v1/") or path.rstrip("/") == "/mcp"
    strict = own and path.rstrip("/") not in OTHER_BODIES
    form = path.startswith("/sdapi/") and has_body(scope) and kind in FORM_TYPES
    if (strict and kind != JSON) or form or len(values) > 1:
        raise Refused(
            415,
            f"the content type {short_repr(kind)} is not accepted here",
            code="E-TYPE",
            hint=f"send JSON with Content-Type: {JSON}",
        )
