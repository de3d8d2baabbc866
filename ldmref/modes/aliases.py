"""Parameters by the names that other programs give them, for suggestions.

diffusers says `num_inference_steps`, A1111's web interface and API `cfg_scale`, `sampler_name` and
`n_iter`, the scripts of CompVis `ddim_steps`. Some of them mean something else by a value: `NOTES`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

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
NOTES = {  # where the value also differs; those of flags and the server: `apps/foreign.py`
    "controlnet": "control=[modes.Control(net, image)]",
    "conditioning_scale": "control=[modes.Control(net, image, weight)]",
    "control_mode": "control=[modes.Control(net, image, mode=0)]",
    "denoise": "ComfyUI's takes all steps, of a schedule of steps / denoise; strength takes "
    "steps * strength",
    "denoising_strength": "A1111's takes int(steps * denoising_strength) + 1 steps, strength "
    "takes steps * strength",
    "generator": "an integer; rng='torch' gives the noise of torch's generator",
    "guidance_scale": "diffusers' up to 1 is no guidance, which is cfg_scale=1; cfg_scale=0 draws "
    "the negative prompt. Z-Image's and Krea 2's is one less than cfg_scale",
    "hr_second_pass_steps": "A1111's 0 is as many as in the first pass, which is None here",
    "inpaint_full_res": "A1111's 0 and 1 are False and True",
    "inpainting_fill": "A1111's 0 to 3 are fill, original, noise, nothing",
    "inpainting_mask_invert": "A1111's 0 and 1 are False and True",
    "padding_mask_crop": "diffusers' also generates the region around the mask alone: "
    "only_masked=True",
    "resize_mode": "A1111's 0 to 2 are stretch, crop, fill",
    "scheduler": "the spacing of the noise levels; the method is sampler=",
}
OF_PYTHON = ("conditioning_scale", "control_mode")  # numbers, which no flag takes
UNLIKE = {  # names of other programs that are no parameter here, and what is nearest to each
    "clip_stop_at_last_layers": "clip_skip is one less: it counts the layers that are left out",
    "controlnet_conditioning_scale": "it is the weight of a control",
    "distilled_cfg_scale": "cfg_scale is what a model reads that reads its guidance scale",
    "guidance_rescale": "it is phi of the guidance 'rescale'; diffusers' 0 is without it",
    "image_cfg_scale": "no model is guided by its image here",
    "image_guidance_scale": "no model is guided by its image here",
    "true_cfg_scale": "diffusers guides by it above 1, if there is a negative prompt; cfg_scale is "
    "guidance by any number except 1, without a negative prompt by the empty one",
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
    if lower in UNLIKE:
        return UNLIKE[lower]
    meant = ALIASES.get(lower, lower)
    if meant in own:
        note = f" ({NOTES[lower]})" if lower in NOTES else ""
        return f"did you mean {meant!r}?{note} Known: {', '.join(sorted(own))}"
    others = [other for other, parameters in known.items() if meant in parameters]
    if others:
        return f"{mode} has no {meant!r}, but {', '.join(others)}"
    return did_you_mean(name, own)
