"""The token: required where other machines can reach the server.

It comes in the Authorization header, as `Bearer TOKEN` or as the password of `Basic`, with any
user. It is never part of a URL, which browsers and proxies record. The answer to a wrong token only
offers Bearer: a browser would ask for a Basic password by itself, remember it, and send it along
with requests of other pages.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING

from ldmref.apps.server.guard.refused import Refused, values_of
from ldmref.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import Scope

    from ldmref.support.server_settings import ServerSettings

SHORTEST = 8
MAKE_ONE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe())"'
PUBLIC = ("/", "/favicon.ico", "/healthz")
PUBLIC_FOLDER = "/page/"


def is_public(scope: Scope) -> bool:
    """Return whether a request does without a token: the page's files, which hold no data."""
    path = scope["path"]
    known = path in PUBLIC or path.startswith(PUBLIC_FOLDER)
    return known and scope["method"] in ("GET", "HEAD")


def token_of(scope: Scope) -> str | None:
    """Return the token of a request; None if it has none, or two, or one of another form.

    An empty Authorization header counts as none: some clients send it if no password is set.
    """
    sent = [value for value in values_of(scope, b"authorization") if value]
    if len(sent) != 1:
        return None
    scheme, _, credentials = sent[0].partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        return credentials
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return decoded.partition(":")[2]


def require_token(settings: ServerSettings) -> None:
    """Refuse to serve other machines without a token, unless the user insists.

    Raises:
        UsageError: The address is not one of this machine only, and no token is set.
    """
    if not (settings.is_local or settings.token is not None or settings.insecure_no_token):
        raise UsageError(
            f"other machines could use {settings.host or 'every interface'} without a token",
            code="E-TOKEN",
            hint=f"--token TEXT, or --insecure-no-token to allow it; {MAKE_ONE}",
        )


class TokenCheck:
    """The check of the token.

    Raises:
        UsageError: The token is short or has characters that a header cannot hold, or the address
            can be reached by other machines and no token is set.
    """

    def __init__(self, settings: ServerSettings):
        token = settings.token
        require_token(settings)
        if token is None:
            self.expected = None
            return
        if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError(
                f"the token must have {SHORTEST} or more letters, digits or signs, without spaces",
                code="E-TOKEN",
                hint=MAKE_ONE,
            )
        self.expected = token.encode()

    def check(self, scope: Scope) -> None:
        """Refuse a request without the token; the comparison takes the same time for all."""
        if self.expected is None or is_public(scope):
            return
        sent = token_of(scope)
        if sent is not None and hmac.compare_digest(sent.encode(), self.expected):
            return
        raise Refused(
            401,
            "the token is missing" if sent is None else "the token is wrong",
            code="E-TOKEN",
            hint="send the header Authorization: Bearer TOKEN, or the token as a Basic password",
            headers={"WWW-Authenticate": 'Bearer realm="ldmref"'},
        )
