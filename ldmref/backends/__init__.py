"""Backends by name: `numpy`, `torch`, `cupy`, and plug-ins.

A package adds a backend with an entry point that names a `Backend` class, or any function of
`(device, dtype)` that returns a `Backend`:

    [project.entry-points."ldmref.backends"]
    jax = "ldmref_jax:JaxBackend"

Importing this module imports no array library: a backend's module is loaded on request.
"""

from __future__ import annotations

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
    name: str | Backend, device: str | None = None, dtype: str | None = None,
    speed: str | None = None,
) -> Backend:  # fmt: skip
    """The backend called `name`, on a device ("cpu", "cuda:0"), in a dtype ("float32").

    `speed` is `exact`, `fast` or `fastest` (`ldmref.backends.base`); None means the backend's
    default. A `Backend` in place of the name is returned unchanged.

    Raises:
        UsageError: no backend has this name, or a plug-in uses a built-in's name.
        BackendUnavailable: the backend is known but cannot run here.
    """
    arguments = {"backend": name, "device": device, "dtype": dtype, "speed": speed}
    for key, value in arguments.items():
        if not isinstance(value, str | None | Backend):
            kind = type(value).__name__
            raise UsageError(f"{key} must be a name, not of type {kind}", code="E-TYPE")
    if isinstance(name, Backend):
        requested = {"device": device, "dtype": dtype, "speed": speed}
        if any(value not in (None, getattr(name, key)) for key, value in requested.items()):
            message = f"{name!r} already has its device, dtype and speed"
            hint = "give the backend's name to choose another device, dtype or speed"
            raise UsageError(message, code="E-BACKEND", hint=hint)
        return name
    entry_point = _entry_point(name)
    try:
        options = {} if speed is None else {"speed": speed}  # optional in plug-ins
        backend = entry_point.load()(device=device, dtype=dtype, **options)
    except LdmrefError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way
        message = f"the {name} backend ({entry_point.value}) cannot be loaded: {_one_line(error)}"
        raise BackendUnavailable(message, code="E-BACKEND") from error
    if not isinstance(backend, Backend):
        kind = type(backend).__name__
        message = f"the {name} backend ({entry_point.value}) gave a {kind}, not a Backend"
        raise UsageError(message, code="E-PLUGIN")
    return backend


def available() -> dict[str, str]:
    """Each known backend: "" if it runs here on its default device, else the reason."""
    plug_ins = {point.name for point in importlib.metadata.entry_points(group=GROUP)}
    names = [*BUILT_IN, *sorted(plug_ins - set(BUILT_IN))]
    reasons = dict.fromkeys(names, "")
    for name in names:
        try:
            get_backend(name)
        except LdmrefError as error:
            reasons[name] = _one_line(error) + (f" ({error.hint})" if error.hint else "")
    return reasons


def _entry_point(name: str) -> importlib.metadata.EntryPoint:
    points = importlib.metadata.entry_points(group=GROUP)
    plug_ins = [point for point in points if point.name == name]
    if name in BUILT_IN:
        if plug_ins:
            message = f"the plug-in {plug_ins[0].value} takes the name of the built-in backend"
            hint = "a plug-in needs a name of its own; uninstall it or ask its author"
            raise UsageError(f"{message} {name!r}", code="E-PLUGIN", hint=hint)
        return importlib.metadata.EntryPoint(name, BUILT_IN[name], GROUP)
    if len({point.value for point in plug_ins}) > 1:
        both = " and ".join(sorted(point.value for point in plug_ins))
        raise UsageError(f"two plug-ins are called {name!r}: {both}", code="E-PLUGIN")
    if not plug_ins:
        hint = did_you_mean(str(name), {*BUILT_IN, *(point.name for point in points)})
        raise UsageError(f"unknown backend {name!r}", code="E-BACKEND-NAME", hint=hint)
    return plug_ins[0]


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, LdmrefError) else f"{type(error).__name__}: {lines[0]}"
