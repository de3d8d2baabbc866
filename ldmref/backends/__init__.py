"""Backends by name: `numpy`, `torch`, `onnx`, `openvino`, `cupy`, and plug-ins.

A package adds a backend with an entry point that names a `Backend` class, or any function of
`(device, dtype)` that returns a `Backend`:

    [project.entry-points."ldmref.backends"]
    jax = "ldmref_jax:JaxBackend"

Importing this module imports no array library: a backend's module is loaded on request.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from ldmref.backends.arguments import fill, split_arrays
from ldmref.backends.base import Backend
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError
from ldmref.support.plugins import describe_origin, find_plugin, suggest_names, summarize_error
from ldmref.support.renames import find_former_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Backend", "available", "fill", "get_backend", "split_arrays"]

GROUP = "ldmref.backends"
BUILT_IN = {
    "numpy": "ldmref.backends.fast:numpy_backend",
    "torch": "ldmref.backends.fast:torch_backend",
    "onnx": "ldmref.backends.onnx:OnnxBackend",
    "openvino": "ldmref.backends.openvino:OpenVinoBackend",
    "cupy": "ldmref.backends.fast:cupy_backend",
}


def get_backend(
    name: str | Backend,
    device: str | None = None,
    dtype: str | None = None,
    speed: str | None = None,
) -> Backend:
    """Return the backend called `name`, on a device and in a dtype.

    Args:
        name: `numpy`, `torch`, `onnx`, `openvino`, `cupy` or the name of a plug-in. A `Backend`
            is returned unchanged.
        device: Device on which it computes, such as "cpu" or "cuda:0". None: the backend's
            default.
        dtype: Floating-point type of parameters and activations. None: float32.
        speed: `exact`, `fast` or `fastest` (`ldmref.backends.base`). None: the backend's
            default.

    Returns:
        The backend, whose operations are those of `Backend`.

    Raises:
        UsageError: No backend has this name, an argument has the wrong type or value, or a
            plug-in's `Backend` lacks operations.
        BackendUnavailable: The backend exists but cannot run here.

    >>> from ldmref.backends import get_backend
    >>> ops = get_backend("numpy", dtype="float64")
    >>> ops.silu(ops.asarray([0.0, 1.0])).round(3)
    array([0.   , 0.731])
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
    point = _entry_point(str(name).lower())
    own = isinstance(point, OwnBackend)
    kind = f"the {point.name} backend" if own else describe_origin(point)
    options = {} if speed is None else {"speed": speed}  # optional in plug-ins
    backend = _make_backend(point, kind, device=device, dtype=dtype, **options)
    missing = backend.missing_operations()
    if missing:
        message = f"{kind} lacks {', '.join(missing)}"
        hint = "ldmref.backends.Backend says what each does"
        raise UsageError(message, code="E-PLUGIN", hint=hint)
    return backend


class OwnBackend(NamedTuple):
    """A backend of ldmref; as the entry point of a plug-in."""

    name: str
    value: str

    def load(self) -> Any:
        """Import what makes it."""
        return resolve_name(self.value)


def _make_backend(point: EntryPoint | OwnBackend, kind: str, **options: str | None) -> Backend:
    """Return the backend that an entry point makes; `kind` describes it in messages.

    Raises:
        UsageError: It is not a class or function that makes a `Backend`.
        BackendUnavailable: Its import or construction fails, for any reason.
    """
    try:
        make = point.load()
        made = make(**options) if callable(make) else None
    except (LdmrefError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plug-in may fail in any way
        message = f"{kind} cannot be loaded: {summarize_error(error)}"
        hint = "" if point.name in BUILT_IN else "update or uninstall it, or choose another backend"
        raise BackendUnavailable(message, code="E-BACKEND", hint=hint) from error
    if isinstance(made, Backend):
        return made
    message = f"{kind} gave a {type(made).__name__}, not a Backend"
    if not callable(make):
        message = f"{kind} is of type {type(make).__name__}, not a Backend class"
    hint = "an entry point names a Backend class, or a function of device and dtype"
    raise UsageError(message, code="E-PLUGIN", hint=hint)


def available() -> dict[str, str]:
    """Return why each built-in backend cannot run on its default device, "" for those that can.

    Plug-ins are not imported; `ldmref.support.plugins.list_plugins` lists them.

    Returns:
        A dictionary from the names of the built-in backends to reasons, one line each.

    >>> from ldmref.backends import available
    >>> available()["numpy"]  # it runs here
    ''
    """
    reasons = dict.fromkeys(BUILT_IN, "")
    for name in reasons:
        try:
            get_backend(name)
        except LdmrefError as error:
            reasons[name] = summarize_error(error) + (f" ({error.hint})" if error.hint else "")
    return reasons


def _entry_point(name: str) -> EntryPoint | OwnBackend:
    if name in BUILT_IN:
        return OwnBackend(name, BUILT_IN[name])
    point = find_plugin(GROUP, name)
    if point is None:
        hint = suggest_names(GROUP, BUILT_IN, name)
        raise UsageError(f"unknown backend {name!r}", code="E-BACKEND-NAME", hint=hint)
    return point


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__ = find_former_names(__name__)
