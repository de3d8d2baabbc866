"""The Host header names this server: a defence against DNS rebinding.

A page at http://evil.example can have its own name resolve to 127.0.0.1 after it was loaded. The
browser then takes this server for the page's own and lets the page read every answer; only the Host
header still has the name of the page. A name that is not known is therefore refused.

The status is 403. The status 421 (Misdirected Request) would also fit, but it invites clients to
try again on another connection, and the answer there is the same.

Starlette's TrustedHostMiddleware does less: it reads one of two Host headers, knows names but no
addresses (all of 127.0.0.0/8, and every address of a server on all interfaces), may redirect to
`www.`, and answers in plain text where clients of an API expect its errors.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ldmref.apps.server.guard.refused import Refused, values_of
from ldmref.errors import short_repr
from ldmref.support.addresses import as_address, is_loopback, read_host, split_authority

if TYPE_CHECKING:
    from starlette.types import Scope

    from ldmref.support.server_settings import ServerSettings


class Hosts:
    """The names under which clients may reach a server."""

    def __init__(self, settings: ServerSettings):
        own = read_host(settings.host or "0.0.0.0")
        address = as_address(own)
        self.every_address = address is not None and ipaddress.ip_address(address).is_unspecified
        self.names = {own, *(read_host(name) for name in settings.allow_host)}

    def allows(self, name: str) -> bool:
        """Return whether a name or address is one of the server.

        A server on all interfaces accepts every address. Rebinding needs a name: a page whose
        origin is an address was loaded from that address.
        """
        if is_loopback(name) or name in self.names:
            return True
        return self.every_address and as_address(name) is not None

    def check(self, scope: Scope) -> None:
        """Refuse a request for another server."""
        values = values_of(scope, b"host")
        parts = split_authority(values[0]) if len(values) == 1 else None
        if parts is None:
            raise Refused(
                400,
                "the request must have one valid Host header",
                code="E-HOST",
                hint="send the address of the server, such as Host: localhost:7860",
            )
        if not self.allows(parts[0]):
            raise Refused(
                403,
                f"the host {short_repr(parts[0])} is not allowed",
                code="E-HOST",
                hint="use localhost, or start the server with --allow-host NAME",
            )
