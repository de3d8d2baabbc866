"""What people use the model for: `txt2img`, `img2img`, `inpaint`."""

from ldmref.modes.generate import Event
from ldmref.modes.img2img import img2img
from ldmref.modes.inpaint import inpaint
from ldmref.modes.result import Result
from ldmref.modes.txt2img import txt2img

__all__ = ["Event", "Result", "img2img", "inpaint", "txt2img"]
