"""ldmref: the latent diffusion model that you can check.

import ldmref
from ldmref import modes

model = ldmref.load()                       # the embedded text-to-emoji model
result = modes.txt2img(model, "red heart", seed=1)
result.save("heart.png")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldmref.loading import load, random_model

__version__ = "0.1.0"

__all__ = ["__version__", "load", "random_model"]


def __getattr__(name: str) -> Any:
    """`load` and `random_model` at first use: the command line acts before NumPy is imported."""
    if name in ("load", "random_model"):
        from ldmref import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'ldmref' has no attribute {name!r}")
