"""The guard of the server: who may send what, how much of it, and how slowly.

`guard(app, settings)` wraps an ASGI application. It checks, in this order: the Host header
(`hosts`), the Origin header (`origins`), the head of the request (`requests`), the token
(`tokens`), and the body (`requests`). Answers get the headers of `app`, and a line in the log. A
refused request is answered in the form of the interface that owns its path.

What comes before a request is left to uvicorn and its settings (`uvicorn_options`). SECURITY.md
says against whom the server is guarded, and what only a proxy in front of it can refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ldmref.apps.server.guard.limits import Limits, connections_allowed

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ldmref.support.server_settings import ServerSettings

__all__ = ["Limits", "guard", "uvicorn_options"]


def guard(app: ASGIApp, settings: ServerSettings, limits: Limits | None = None) -> ASGIApp:
    """Return an application that passes on what the settings allow, and refuses everything else.

    Args:
        app: The application.
        settings: Address, token, hosts, origins and limits.
        limits: Limits of connections. None: the defaults of `Limits`.

    Returns:
        The application, for an ASGI server such as uvicorn.

    Raises:
        UsageError: A name, an origin or the token of the settings is not valid, or other machines
            can reach the address and no token is set.

    >>> from ldmref.apps.server.guard import guard
    >>> from ldmref.support.server_settings import ServerSettings
    >>> async def app(scope, receive, send):
    ...     pass
    >>> callable(guard(app, ServerSettings()))
    True
    """
    from ldmref.apps.server.guard.app import Guard

    return Guard(app, settings, limits or Limits())


def uvicorn_options(settings: ServerSettings, limits: Limits | None = None) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that the guard needs.

    Headers such as X-Forwarded-For are not read: any client can send them. uvicorn's lines about
    clients, such as those that do not send HTTP or do not read an answer, are left out: a client
    could fill the log.

    Args:
        settings: The settings of the server.
        limits: Limits of connections. None: the defaults of `Limits`.

    Returns:
        Arguments of `uvicorn.Config` by name.

    >>> from ldmref.apps.server.guard import uvicorn_options
    >>> from ldmref.support.server_settings import ServerSettings
    >>> uvicorn_options(ServerSettings())["proxy_headers"]
    False
    """
    from ldmref.apps.server.guard.heads import make_protocol

    limits = limits or Limits()
    return {
        "http": make_protocol(limits),
        "ws": "none",
        "access_log": False,
        "log_config": None,
        "log_level": "critical",
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": limits.keep_alive,
        # uvicorn answers 503 to a request on as many connections as this, its own included.
        "limit_concurrency": connections_allowed(settings.max_connections) + 1,
        # A head that is larger than its limit, but complete within this, is answered by the guard.
        "h11_max_incomplete_event_size": 4 * limits.head_size,
    }
