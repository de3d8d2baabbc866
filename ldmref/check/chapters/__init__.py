"""The identities: one module for each page of docs/math, or several with its name as prefix."""

from importlib import import_module

MODULES = (
    "schedules", "forward", "forward_flow", "objective", "score", "score_steps", "guidance",
    "autoencoders", "autoencoders_latents", "autoencoders_adversarial", "layers", "samplers",
    "samplers_multistep", "evaluation",
)  # fmt: skip
CHAPTERS = tuple(import_module(f"{__name__}.{name}").chapter for name in MODULES)
