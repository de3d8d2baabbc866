"""The modes: images from prompts, from images, and between them.

`txt2img(model, ...)` and the other modes generate images. `plan("txt2img", model.config, ...)`
checks everything without weights and returns a `Plan`, whose `run(model)` generates the images. A
`RunObserver` sees a run from within. `schema("txt2img")` is the JSON schema of the parameters.
"""

from ldmref.modes.control import Control
from ldmref.modes.cost import Cost
from ldmref.modes.edit import edit
from ldmref.modes.generate import GeneratedImage, Progress
from ldmref.modes.img2img import img2img
from ldmref.modes.inpaint import inpaint
from ldmref.modes.interpolate import interpolate
from ldmref.modes.inversion import Inversion, InversionPlan
from ldmref.modes.invert import invert
from ldmref.modes.observers import Observers, PreviewObserver
from ldmref.modes.plan import plan, schema
from ldmref.modes.result import Result
from ldmref.modes.run import Plan, Run
from ldmref.modes.seg2img import seg2img
from ldmref.modes.superres import superres
from ldmref.modes.trajectory import RunObserver, TakenStep
from ldmref.modes.txt2img import txt2img

__all__ = [
    "Control",
    "Cost",
    "GeneratedImage",
    "Inversion",
    "InversionPlan",
    "Observers",
    "Plan",
    "PreviewObserver",
    "Progress",
    "Result",
    "Run",
    "RunObserver",
    "TakenStep",
    "edit",
    "img2img",
    "inpaint",
    "interpolate",
    "invert",
    "plan",
    "schema",
    "seg2img",
    "superres",
    "txt2img",
]


def __dir__() -> list[str]:
    return __all__
