"""Headers of every answer: what a browser may do with it."""

from __future__ import annotations

from collections.abc import Iterable

# The page loads its own scripts, styles and images, and talks to its own server. `blob:` and
# `data:` hold the images that it received. No inline script or style, no frame around the page.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
NAMES = {name for name, _ in HEADERS}


def secured(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those of every answer.

    Headers of the application that would weaken these are dropped. An answer without Cache-Control
    is not stored; the files of the page are checked for changes before they are used again.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in NAMES]
    if not any(name.lower() == b"cache-control" for name, _ in kept):
        static = path == "/" or path.startswith("/page/")
        kept.append((b"cache-control", b"no-cache" if static else b"no-store"))
    return kept + HEADERS
