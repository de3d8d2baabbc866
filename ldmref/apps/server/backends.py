"""The backend of a server: the configured one, or the fastest that is installed.

The order is that of docs/backends.md, where an image of the embedded model takes 0.31 s on
`openvino`, 0.38 s on `onnx`, 0.50 s on `torch` and 0.64 s on `numpy`. Their images differ from
NumPy's by at most 1/255.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.errors import LdmrefError, one_line

FASTEST_FIRST = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}  # -> package
FASTEST = "the fastest backend that is installed"
ONLY = "no faster backend is installed: pip install 'ldmref[server]'"


def choose_backend(warn: Callable[[str], None]) -> tuple[Backend, str]:
    """Return the fastest backend that can be used here, and why it was chosen.

    Args:
        warn: It gets a line for each backend that is installed and cannot be used.

    Returns:
        (the backend, on its default device and in float32; the reason).

    >>> from ldmref.apps.server.backends import choose_backend
    >>> backend, reason = choose_backend(print)
    >>> backend.dtype
    'float32'
    """
    for name, package in FASTEST_FIRST.items():
        if not is_installed(package):
            continue
        try:
            return get_backend(name), FASTEST
        except LdmrefError as error:
            warn(one_line(f"the backend {name} is installed, but cannot be used: {error}"))
    return get_backend("numpy"), ONLY


def is_installed(package: str) -> bool:
    """Return whether a package can be found, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
