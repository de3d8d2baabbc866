"""What people use the model for: pictures from words, from pictures, and on the way between."""

from ldmref.modes.control import Control
from ldmref.modes.event import Event
from ldmref.modes.img2img import img2img
from ldmref.modes.inpaint import inpaint
from ldmref.modes.interpolate import interpolate
from ldmref.modes.invert import Inversion, invert
from ldmref.modes.result import Result
from ldmref.modes.seg2img import seg2img
from ldmref.modes.superres import superres
from ldmref.modes.txt2img import txt2img

__all__ = [
    "Control",
    "Event",
    "Inversion",
    "Result",
    "img2img",
    "inpaint",
    "interpolate",
    "invert",
    "seg2img",
    "superres",
    "txt2img",
]
