"""ldmref: the latent diffusion model that you can check.

import ldmref
from ldmref import modes

model = ldmref.load()                       # the embedded text-to-emoji model
result = modes.txt2img(model, "red heart", seed=1)
result.save("heart.png")
"""

__version__ = "0.1.0"

from ldmref.loading import load, random_model

__all__ = ["__version__", "load", "random_model"]
