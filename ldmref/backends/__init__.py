"""Backends by name: `numpy`, `torch`, `cupy`, and those of other packages.

A package adds a backend with an entry point that names a `Backend` class, or any function of
`(device, dtype)` that returns a `Backend`:

    [project.entry-points."ldmref.backends"]
    jax = "ldmref_jax:JaxBackend"

Importing this module imports no array library: a backend's module is loaded when it is named.
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
    """The backend called `name`, on a device ("cpu", "cuda:0") and in a dtype ("float32").

    `speed` is `exact`, `fast` or `fastest` (`ldmref.backends.base`); None is the backend's own.

    A `Backend` in place of the name comes back unchanged.

    Raises:
        UsageError: no backend has this name, or a plug-in takes a built-in's name.
        BackendUnavailable: the backend is known but cannot run here.
    """
    if isinstance(name, Backend):
        wanted = {"device": device, "dtype": dtype, "speed": speed}
        if any(value not in (None, getattr(name, key)) for key, value in wanted.items()):
            raise UsageError(
                f"{name!r} already has its device, dtype and speed",
                code="E-BACKEND",
                hint="give the backend's name to choose another device, dtype or speed",
            )
        return name
    if name in BUILT_IN:
        _refuse_override(name)
        entry = importlib.metadata.EntryPoint(name, BUILT_IN[name], GROUP)
    else:
        entry = _plug_in(name)
    try:
        chosen = {} if speed is None else {"speed": speed}  # plug-ins need not know of it
        backend = entry.load()(device=device, dtype=dtype, **chosen)
    except LdmrefError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way
        raise BackendUnavailable(
            f"the {name} backend ({entry.value}) cannot be loaded: {_one_line(error)}",
            code="E-BACKEND",
        ) from error
    if not isinstance(backend, Backend):
        raise UsageError(
            f"the {name} backend ({entry.value}) gave a {type(backend).__name__}, not a Backend",
            code="E-PLUGIN",
        )
    return backend


def available() -> dict[str, str]:
    """Every known backend: "" if it runs here with its default device, else why not."""
    names = [*BUILT_IN, *sorted({entry.name for entry in _entries()} - set(BUILT_IN))]
    reasons = {}
    for name in names:
        try:
            get_backend(name)
        except LdmrefError as error:
            reasons[name] = _one_line(error) + (f" ({error.hint})" if error.hint else "")
        else:
            reasons[name] = ""
    return reasons


def _entries() -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=GROUP))


def _refuse_override(name: str) -> None:
    for entry in _entries():
        if entry.name == name:
            raise UsageError(
                f"the plug-in {entry.value} takes the name of the built-in backend {name!r}",
                code="E-PLUGIN",
                hint="a plug-in needs a name of its own; uninstall it or ask its author",
            )


def _plug_in(name: str) -> importlib.metadata.EntryPoint:
    entries = _entries()
    found = [entry for entry in entries if entry.name == name]
    if len({entry.value for entry in found}) > 1:
        both = " and ".join(sorted(entry.value for entry in found))
        raise UsageError(f"two plug-ins are called {name!r}: {both}", code="E-PLUGIN")
    if not found:
        raise UsageError(
            f"unknown backend {name!r}",
            code="E-BACKEND-NAME",
            hint=did_you_mean(str(name), {*BUILT_IN, *(entry.name for entry in entries)}),
        )
    return found[0]


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, LdmrefError) else f"{type(error).__name__}: {lines[0]}"
