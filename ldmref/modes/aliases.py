"""Parameters by the names that other programs give them, for suggestions and for flags.

diffusers says `num_inference_steps`, A1111's web interface and API `cfg_scale`, `sampler_name` and
`n_iter`, the scripts of CompVis `ddim_steps`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ldmref.declare import Field, flag_names, long_flag
from ldmref.errors import did_you_mean

ALIASES = {  # the name elsewhere -> the parameter here
    "batch_count": "count",
    "cfg": "cfg_scale",
    "conditioning_scale": "control",
    "control_mode": "control",
    "controlnet": "control",
    "ddim_eta": "eta",
    "ddim_steps": "steps",
    "denoise": "strength",
    "denoising_strength": "strength",
    "generator": "seed",
    "guidance_scale": "cfg_scale",
    "hires_fix": "upscale",
    "hr_scale": "upscale",
    "hr_second_pass_steps": "upscale_steps",
    "hr_upscaler": "upscaler",
    "init_image": "image",
    "init_images": "image",
    "init_img": "image",
    "initial_image": "image",
    "inpaint_full_res": "only_masked",
    "inpaint_full_res_padding": "padding",
    "inpainting_fill": "fill",
    "inpainting_mask_invert": "mask_invert",
    "input_image": "image",
    "mask_image": "mask",
    "n_iter": "count",
    "n_samples": "count",
    "negative": "negative_prompt",
    "num_images": "count",
    "num_images_per_prompt": "count",
    "num_inference_steps": "steps",
    "num_samples": "count",
    "num_steps": "steps",
    "padding_mask_crop": "padding",
    "picture": "image",
    "resize_mode": "resize",
    "sampler_name": "sampler",
    "sampling_method": "sampler",
    "sampling_steps": "steps",
    "scheduler": "schedule",
}
NOTES = {  # where the value also differs
    "controlnet": "control=[modes.Control(net, image)]",
    "conditioning_scale": "control=[modes.Control(net, image, weight)]",
    "control_mode": "control=[modes.Control(net, image, mode=0)]",
    "generator": "an integer; rng='torch' gives the noise of torch's generator",
    "scheduler": "the spacing of the noise levels; the method is sampler=",
}
RUNNING = {  # arguments of functions that are not parameters of an image
    "callback": "plan(...).run(model, callback=...)",
    "callback_on_step_end": "callback=, called with a Progress after every step",
    "callback_steps": "callback=, called with a Progress after every step",
    "cancel": "plan(...).run(model, cancel=...)",
    "output_type": "a Result has images and latents",
    "return_dict": "a Result has images and latents",
}


def suggest_parameter(name: str, mode: str, known: Mapping[str, Collection[str]]) -> str:
    """Suggest a parameter for a name that a mode does not have.

    Args:
        name: The name as it was given.
        mode: The mode that does not have it.
        known: The parameters of every mode, by the mode's name.
    """
    own = known[mode]
    lower = name.lower()
    if lower in RUNNING:
        return RUNNING[lower]
    meant = ALIASES.get(lower, lower)
    if meant in own:
        note = f" ({NOTES[lower]})" if lower in NOTES else ""
        return f"did you mean {meant!r}?{note} Known: {', '.join(sorted(own))}"
    others = [other for other, parameters in known.items() if meant in parameters]
    if others:
        return f"{mode} has no {meant!r}, but {', '.join(others)}"
    return did_you_mean(name, own)


def flag_aliases(parameters: Mapping[str, Field]) -> dict[str, str]:
    """Return the flags by their names elsewhere and in Python, all without leading hyphens.

    >>> from ldmref.modes.registry import MODES
    >>> aliases = flag_aliases(MODES["img2img"].parameters)
    >>> aliases["guidance-scale"], aliases["cfg-scale"], aliases["init-image"]
    ('cfg', 'cfg', 'image')
    """
    own = {flag for field in parameters.values() for flag in flag_names(field)}
    aliases = {}
    for alias, meant in ({name: name for name in parameters} | ALIASES).items():
        flag = long_flag(parameters[meant]) if meant in parameters else ""
        spelled = alias.replace("_", "-")
        if flag and f"--{spelled}" not in own:
            aliases[spelled] = flag
    return aliases
