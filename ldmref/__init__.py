"""ldmref: the latent diffusion model that you can check.

import ldmref
from ldmref import modes

model = ldmref.load()                       # the embedded text-to-emoji model
result = modes.txt2img(model, "red heart", seed=1)
result.save("heart.png")

Public and stable are the names that this package and its subpackages export (`dir(ldmref)`,
`ldmref.modes.__all__`, ...); modules below them are internal and may change in any version.
"""

# no module is imported here, not even `__future__`: Ctrl-C would print a traceback meanwhile
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ldmref.loading import load, random_model
    from ldmref.loading_networks import load_controlnet, load_taesd
    from ldmref.modes.denoiser import denoiser
    from ldmref.support.version import __version__
    from ldmref.trace.recording import recording

_MODULES = {
    "__version__": "ldmref.support.version",
    "load": "ldmref.loading",
    "load_controlnet": "ldmref.loading_networks",
    "load_taesd": "ldmref.loading_networks",
    "random_model": "ldmref.loading",
    "denoiser": "ldmref.modes.denoiser",
    "recording": "ldmref.trace.recording",
}

__all__ = [
    "__version__",
    "denoiser",
    "load",
    "load_controlnet",
    "load_taesd",
    "random_model",
    "recording",
]


def __getattr__(name: str) -> "Any":
    """Import a public name or package at its first use, so `import ldmref` takes milliseconds."""
    from importlib import import_module
    from importlib.util import find_spec

    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if not name.startswith("_") and find_spec(f"ldmref.{name}") is not None:
        return import_module(f"ldmref.{name}")
    raise AttributeError(f"module 'ldmref' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names and packages, loaded or not, for completion."""
    from pkgutil import iter_modules

    packages = {module.name for module in iter_modules(__path__) if module.ispkg}
    own = {name for name in globals() if name.startswith("__")}
    return sorted({*__all__, *packages, "errors", *own})
