"""The docstrings of the calls of pipelines, argument by argument, and of the schedulers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from ldmref.compat.diffusers.arguments import UNSUPPORTED
from ldmref.declare import arguments_section

DESCRIPTIONS = {
    "prompt": "A text, or a list of texts. None: with prompt_embeds.",
    "image": "Pillow images, arrays (n, H, W, 3) or tensors (n, 3, H, W) from 0 to 1, or latents; "
    "one or a list. None: refused.",
    "mask_image": "Masks, whose white part (1) is repainted: Pillow images, arrays (n, H, W) or "
    "tensors (n, 1, H, W) from 0 to 1; one or a list. None: refused.",
    "height": "Height in pixels. None: the model's.",
    "width": "Width in pixels. None: the model's.",
    "padding_mask_crop": "Margin in pixels around the white part, which alone is repainted. "
    "None: the whole image.",
    "strength": "Amount of change, from 0 to 1.",
    "num_inference_steps": "Number of steps.",
    "guidance_scale": "Guidance scale s in u + s (c - u); 1 or less is no guidance.",
    "negative_prompt": 'Content to avoid, one text or a list. None: "".',
    "num_images_per_prompt": "Number of images per prompt.",
    "eta": "Share of fresh noise, from 0 to 1, for DDIM; other schedulers ignore it.",
    "generator": "A `Generator`, a generator of torch, or a list with one for each image. None: "
    "random noise.",
    "latents": "Initial noise of unit variance, (n, c, h, w). None: sampled by the generator.",
    "prompt_embeds": "Hidden states (n, l, d), instead of prompts. None: the prompts are encoded.",
    "negative_prompt_embeds": "Hidden states (n, l, d) of the negative prompts. None: they are "
    "encoded.",
    "pooled_prompt_embeds": "Pooled output (n, d) of the prompts. None: it is computed.",
    "negative_pooled_prompt_embeds": "Pooled output (n, d) of the negative prompts. None: it is "
    "computed.",
    "output_type": "`pil`, `np`, `pt` or `latent`.",
    "return_dict": "Whether to return a `StableDiffusionPipelineOutput`; otherwise a tuple.",
    "guidance_rescale": "Weight of the prediction with the contrast of the conditional one, from 0 "
    "to 1.",
    "clip_skip": "Number of last layers of the text encoder to leave out. None: 0.",
    "callback_on_step_end": "`callback(pipe, step, timestep, tensors)`, called after every step; "
    "it returns the tensors to continue with. None: nothing is called.",
    "callback_on_step_end_tensor_inputs": "Names of the tensors that the callback gets.",
}

RESULT = """
Returns:
    A `StableDiffusionPipelineOutput`; its `images` are Pillow images, an array (n, H, W, 3) or a
    tensor (n, 3, H, W) from 0 to 1, or latents (n, c, h, w), as `output_type` says.

Raises:
    UsageError, ImageError: An argument is wrong or not supported; the message names it.
"""

SCHEDULER = """The configuration of diffusers' {kind}.

It chooses the sampler and the schedule of a pipeline: `pipe.scheduler = {kind}(...)`, or
`{kind}.from_config(pipe.scheduler.config)`.

Args:
    fields: Fields of diffusers' class by name; others keep its defaults.

Raises:
    UsageError: The class does not have such a field.

Attributes:
    config: The configuration, a read-only dictionary.
    timesteps: The timesteps of the network's evaluations, (k,), after `set_timesteps` or a call of
        the pipeline; None before.
    sigmas: The noise levels, (n + 1,), at the same time; None before.
    init_noise_sigma: The standard deviation of the initial latents, at the same time.

>>> from ldmref.compat.diffusers import {kind}
>>> scheduler = {kind}(beta_schedule="scaled_linear")
>>> scheduler.config.beta_schedule, scheduler.config.num_train_timesteps
('scaled_linear', 1000)
"""


def describe_call(parameters: Mapping[str, Any]) -> str:
    """Return the docstring of a pipeline's call.

    Args:
        parameters: The arguments of the call with their defaults, in order.
    """
    described = [(name, _describe(name)) for name in parameters]
    summary = "Generate images; the arguments and their defaults are those of diffusers."
    text = f"{summary}\n\n{arguments_section(described)}\n{RESULT}"
    return textwrap.indent(text, " " * 8).strip()


def _describe(name: str) -> str:
    if name in DESCRIPTIONS:
        return DESCRIPTIONS[name]
    return f"Not supported: only the default, or None, is accepted; {UNSUPPORTED[name]}."
