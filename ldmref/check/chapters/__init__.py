"""The identities: one module for each page of docs/math, or several with its name as prefix."""

from importlib import import_module

MODULES = (
    "schedules",
    "forward",
    "forward_flow",
    "forward_gradients",
    "forward_batches",
    "flow_sde",
    "flow_maps",
    "objective",
    "objective_algorithms",
    "objective_pixels",
    "objective_gradients",
    "objective_batches",
    "score",
    "score_likelihood",
    "score_steps",
    "score_batches",
    "guidance",
    "autoencoders",
    "autoencoders_latents",
    "autoencoders_adversarial",
    "autoencoders_gradients",
    "autoencoders_batches",
    "layers",
    "layers_tokens",
    "layers_gradients",
    "samplers",
    "samplers_multistep",
    "samplers_guided",
    "samplers_editing",
    "samplers_ends",
    "samplers_published",
    "evaluation",
)
CHAPTERS = tuple(import_module(f"{__name__}.{name}").chapter for name in MODULES)
