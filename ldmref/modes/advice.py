"""Warnings about requests that are allowed but unusual."""

from __future__ import annotations

from ldmref.backends.base import Backend
from ldmref.models.config import ModelConfig
from ldmref.modes.compositions import unseen_composition
from ldmref.modes.job import Job

COMPOSED_OF_EMOJI = ("emoji-128",)  # names of models that know nothing else
EXAMPLES = (  # prompts that those models understand
    "red heart", "🐶", "two blue dogs on yellow", "a green cat and a red apple",
    "a small dog above a big house", "a fox to the left of a tree", "nine stars",
    "a purple unicorn on a pink background", "woman astronaut: dark skin tone", "flag: Iceland",
)  # fmt: skip
USUAL_CFG_SCALE = 50.0
USUAL_CFGPP_SCALE = 2.0


def prompts_to_try(config: ModelConfig) -> tuple[str, ...]:
    """Return prompts that a model understands; none for models that read any text."""
    return EXAMPLES if config.name in COMPOSED_OF_EMOJI else ()


def advise(config: ModelConfig, job: Job, ops: Backend) -> list[str]:
    """Return a line for each number or prompt for which the model is not suited, or slow."""
    lines = []
    width, height = job.size
    if abs(job.cfg_scale) > USUAL_CFG_SCALE:
        lines.append(f"cfg_scale {job.cfg_scale:g} is far from the usual range of 1 to 20")
    elif job.sampler.unconditional and abs(job.cfg_scale) > USUAL_CFGPP_SCALE:
        lines.append(
            f"cfg_scale {job.cfg_scale:g} is far from the usual range of 0 to 1 of CFG++ "
            f"({job.sampler.name})"
        )
    if job.strength == 0.0:
        lines.append("strength 0 returns the image: nothing is generated")
    elif not config.defaults.is_near(width, height):
        trained = f"{config.defaults.width} x {config.defaults.height}"
        lines.append(f"{width} x {height} is far from the {trained} on which the model was trained")
    if ops.name == "numpy" and ops.dtype == "float16":
        lines.append("float16 on NumPy is slower than float32, and less accurate")
    if config.name in COMPOSED_OF_EMOJI and not job.embeddings:
        lines += [unseen_composition(prompt) for prompt in dict.fromkeys(job.prompts)]
    return [line for line in lines if line]
