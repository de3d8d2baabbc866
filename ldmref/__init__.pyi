"""What static tools see of the package, whose names are imported at their first use."""

from typing import Any

from ldmref.loading import load as load
from ldmref.loading import random_model as random_model
from ldmref.loading_networks import load_controlnet as load_controlnet
from ldmref.loading_networks import load_taesd as load_taesd
from ldmref.modes.denoiser import denoiser as denoiser
from ldmref.support.version import __version__ as __version__
from ldmref.trace.recording import recording as recording

__all__ = [
    "__version__",
    "denoiser",
    "load",
    "load_controlnet",
    "load_taesd",
    "random_model",
    "recording",
]

def __getattr__(name: str) -> Any: ...
