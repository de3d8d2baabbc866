"""The pages whose scripts may use the server: its own, and those of `--allow-origin`.

Browsers state the page that sends a request in the Origin header, and, since 2023, how far it is
from the server in Sec-Fetch-Site. Programs such as curl and the client libraries send neither. A
request of any method that names a foreign page is refused, so a page cannot use up the queue with
requests whose answers it could not read.

Starlette's CORSMiddleware refuses nothing but preflights: it passes a foreign page's simple POST on
and leaves out a header, so the work is done. It also does not read Sec-Fetch-Site, compares origins
as texts (a port or a case that is written out differs), and does not see what the guard refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.apps.server.guard.refused import Refused, values_of
from ldmref.errors import UsageError, short_repr
from ldmref.support.addresses import split_authority

if TYPE_CHECKING:
    from starlette.types import Scope

    from ldmref.support.server_settings import ServerSettings

DEFAULT_PORTS = {"http": "80", "https": "443"}
METHODS = "GET, POST, DELETE"
REQUEST_HEADERS = "authorization, content-type, last-event-id"
ANSWER_HEADERS = "content-disposition, ldmref-seed, ldmref-warning, location, retry-after"
PREFLIGHT_SECONDS = "600"


def split_origin(text: str) -> tuple[str, str, str] | None:
    """Return scheme, name and port of an origin, or None if it is not one (such as `null`).

    >>> split_origin("https://Example.org"), split_origin("null")
    (('https', 'example.org', '443'), None)
    """
    scheme, mark, authority = text.partition("://")
    scheme = scheme.lower()
    parts = split_authority(authority)
    if not mark or scheme not in DEFAULT_PORTS or parts is None:
        return None
    return scheme, parts[0], parts[1] or DEFAULT_PORTS[scheme]


def read_origin(text: str) -> tuple[str, str, str]:
    """Return the origin that `--allow-origin` gives.

    Raises:
        UsageError: `text` is not scheme, name and port of a page. `*` is not allowed.
    """
    parts = split_origin(text.removesuffix("/"))
    if parts is None:
        raise UsageError(
            f"{short_repr(text)} is not the origin of a page",
            code="E-ORIGIN",
            hint="write scheme, name and port, such as http://localhost:3000",
        )
    return parts


class Origins:
    """The pages whose scripts may send requests."""

    def __init__(self, settings: ServerSettings):
        self.allowed = {read_origin(text) for text in settings.allow_origin}

    def check(self, scope: Scope) -> str | None:
        """Refuse a request of a foreign page; return the origin if CORS allows it.

        Returns:
            The text of the Origin header if it is one of `--allow-origin`; None for the server's
            own page and for programs.
        """
        values = values_of(scope, b"origin")
        if not values:
            self._check_distance(scope)
            return None
        origin = split_origin(values[0]) if len(values) == 1 else None
        if origin is not None and origin in self.allowed:
            return values[0]
        if origin is None or not is_own(origin, scope):
            shown = short_repr(values[0])
            raise Refused(
                403,
                f"requests from the web page {shown} are not allowed",
                code="E-ORIGIN",
                hint="start the server with --allow-origin URL if you trust this page",
            )
        return None

    def _check_distance(self, scope: Scope) -> None:
        """Refuse what another page embeds; a link to this server may be followed."""
        site = values_of(scope, b"sec-fetch-site")
        if {*site} <= {"same-origin", "none"}:
            return
        follows_link = scope["method"] == "GET" and (
            values_of(scope, b"sec-fetch-mode") == ["navigate"]
            and values_of(scope, b"sec-fetch-dest") == ["document"]
        )
        if not follows_link:
            raise Refused(
                403,
                "another web page sent this request",
                code="E-ORIGIN",
                hint="open the server's own page, or start it with --allow-origin URL",
            )

    def answer_headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        """Return the CORS headers of an answer: none unless pages are allowed."""
        if not self.allowed:
            return []
        headers = [(b"vary", b"Origin")]
        if origin is not None:
            headers.append((b"access-control-allow-origin", origin.encode("latin-1")))
            headers.append((b"access-control-expose-headers", ANSWER_HEADERS.encode()))
        return headers


def is_own(origin: tuple[str, str, str], scope: Scope) -> bool:
    """Return whether an origin is the server's own page: that of the Host header.

    The scheme may differ: behind a proxy that speaks HTTPS, this server speaks HTTP.
    """
    host = split_authority(values_of(scope, b"host")[0])
    if host is None:
        return False
    scheme, name, port = origin
    return (name, port) == (host[0], host[1] or DEFAULT_PORTS[scheme])


def is_preflight(scope: Scope) -> bool:
    """Return whether a browser asks if a page may send a request."""
    return scope["method"] == "OPTIONS" and bool(values_of(scope, b"access-control-request-method"))


def preflight_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the answer to a preflight request of an allowed page."""
    headers = [
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", REQUEST_HEADERS.encode()),
        (b"access-control-max-age", PREFLIGHT_SECONDS.encode()),
    ]
    if values_of(scope, b"access-control-request-private-network") == ["true"]:
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers
