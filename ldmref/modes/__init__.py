"""What a model can be asked for: images from words, from images, and between them.

`plan("txt2img", model.config, prompt=...)` checks everything without weights and gives an object
whose `run(model)` draws; `txt2img(model, ...)` and the others do both. `schema("txt2img")` is the
JSON schema of the parameters.
"""

from ldmref.modes.control import Control
from ldmref.modes.cost import Cost
from ldmref.modes.draw import GeneratedImage, Progress
from ldmref.modes.img2img import img2img
from ldmref.modes.inpaint import inpaint
from ldmref.modes.interpolate import interpolate
from ldmref.modes.inversion import Inversion, InversionPlan
from ldmref.modes.invert import invert
from ldmref.modes.plan import Plan, Run, plan, schema
from ldmref.modes.result import Result
from ldmref.modes.seg2img import seg2img
from ldmref.modes.superres import superres
from ldmref.modes.txt2img import txt2img

__all__ = [
    "Control",
    "Cost",
    "GeneratedImage",
    "Inversion",
    "InversionPlan",
    "Plan",
    "Progress",
    "Result",
    "Run",
    "img2img",
    "inpaint",
    "interpolate",
    "invert",
    "plan",
    "schema",
    "seg2img",
    "superres",
    "txt2img",
]  # fmt: skip
