"""Backends by name: `numpy`, `torch`, `cupy`, and plug-ins.

A package adds a backend with an entry point that names a `Backend` class, or any function of
`(device, dtype)` that returns a `Backend`:

    [project.entry-points."ldmref.backends"]
    jax = "ldmref_jax:JaxBackend"

Importing this module imports no array library: a backend's module is loaded on request.
"""

from __future__ import annotations

import importlib
import importlib.metadata

from ldmref.backends.base import Backend
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError, did_you_mean

__all__ = ["Backend", "available", "get_backend"]

GROUP = "ldmref.backends"
BUILT_IN = {
    "numpy": "ldmref.backends.fast:numpy_backend",
    "torch": "ldmref.backends.fast:torch_backend",
    "cupy": "ldmref.backends.fast:cupy_backend",
}


def get_backend(
    name: str | Backend,
    device: str | None = None,
    dtype: str | None = None,
    speed: str | None = None,
) -> Backend:
    """The backend called `name`, on a device ("cpu", "cuda:0"), in a dtype ("float32").

    `speed` is `exact`, `fast` or `fastest` (`ldmref.backends.base`); None means the backend's
    default. A `Backend` in place of the name is returned unchanged.

    Raises:
        UsageError: no backend has this name, or a plug-in uses a built-in's name.
        BackendUnavailable: the backend is known but cannot run here.
    """
    if isinstance(name, Backend):
        requested = {"device": device, "dtype": dtype, "speed": speed}
        if any(value not in (None, getattr(name, key)) for key, value in requested.items()):
            raise UsageError(
                f"{name!r} already has its device, dtype and speed",
                code="E-BACKEND",
                hint="give the backend's name to choose another device, dtype or speed",
            )
        return name
    if name in BUILT_IN:
        _refuse_override(name)
        entry_point = importlib.metadata.EntryPoint(name, BUILT_IN[name], GROUP)
    else:
        entry_point = _plug_in(name)
    try:
        options = {} if speed is None else {"speed": speed}  # optional in plug-ins
        backend = entry_point.load()(device=device, dtype=dtype, **options)
    except LdmrefError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way
        raise BackendUnavailable(
            f"the {name} backend ({entry_point.value}) cannot be loaded: {_one_line(error)}",
            code="E-BACKEND",
        ) from error
    if not isinstance(backend, Backend):
        raise UsageError(
            f"the {name} backend ({entry_point.value}) gave a {type(backend).__name__},"
            " not a Backend",
            code="E-PLUGIN",
        )
    return backend


def available() -> dict[str, str]:
    """Each known backend: "" if it runs here on its default device, else the reason."""
    names = [*BUILT_IN, *sorted({point.name for point in _entry_points()} - set(BUILT_IN))]
    reasons = {}
    for name in names:
        try:
            get_backend(name)
        except LdmrefError as error:
            reasons[name] = _one_line(error) + (f" ({error.hint})" if error.hint else "")
        else:
            reasons[name] = ""
    return reasons


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=GROUP))


def _refuse_override(name: str) -> None:
    for point in _entry_points():
        if point.name == name:
            raise UsageError(
                f"the plug-in {point.value} takes the name of the built-in backend {name!r}",
                code="E-PLUGIN",
                hint="a plug-in needs a name of its own; uninstall it or ask its author",
            )


def _plug_in(name: str) -> importlib.metadata.EntryPoint:
    points = _entry_points()
    matches = [point for point in points if point.name == name]
    if len({point.value for point in matches}) > 1:
        both = " and ".join(sorted(point.value for point in matches))
        raise UsageError(f"two plug-ins are called {name!r}: {both}", code="E-PLUGIN")
    if not matches:
        raise UsageError(
            f"unknown backend {name!r}",
            code="E-BACKEND-NAME",
            hint=did_you_mean(str(name), {*BUILT_IN, *(point.name for point in points)}),
        )
    return matches[0]


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, LdmrefError) else f"{type(error).__name__}: {lines[0]}"
