"""Warnings about requests that can be drawn but are seldom meant."""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.models.config import ModelConfig
from ldmref.modes.compositions import unseen_composition
from ldmref.modes.request import Request

COMPOSED_OF_EMOJI = ("emoji-128",)  # names of models that know nothing else
USUAL_CFG_SCALE = 50.0
USUAL_CFGPP_SCALE = 2.0


def advice(config: ModelConfig, request: Request, ops: Backend) -> list[str]:
    """One line for each number or prompt that is far from what the model draws well or fast."""
    lines = []
    (width, height) = (request.width, request.height)
    if abs(request.cfg_scale) > USUAL_CFG_SCALE:
        lines.append(f"cfg_scale {request.cfg_scale:g} is far from the usual 1 to 20")
    elif request.sampler.unconditional and abs(request.cfg_scale) > USUAL_CFGPP_SCALE:
        lines.append(
            f"cfg_scale {request.cfg_scale:g} is far from the usual 0 to 1 of CFG++ "
            f"({request.sampler.name})"
        )
    if request.strength == 0.0:
        lines.append("strength 0 gives the image back: nothing is drawn")
    elif not config.defaults.is_near(width, height):
        trained = f"{config.defaults.width} x {config.defaults.height}"
        lines.append(f"{width} x {height} is far from the {trained} on which the model was trained")
    if ops.name == "numpy" and ops.dtype == "float16":
        lines.append("float16 on NumPy is slower than float32, and less accurate")
    if config.name in COMPOSED_OF_EMOJI and not request.embeddings:
        lines += [unseen_composition(prompt) for prompt in dict.fromkeys(request.prompts)]
    return [line for line in lines if line]
