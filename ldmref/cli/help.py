"""Help of the command line in its own words, where that of the modes speaks of Python."""

from __future__ import annotations

SUMMARIES = {  # of the modes
    "txt2img": "Generate images from words.",
    "img2img": "Change an image towards a prompt.",
    "inpaint": "Repaint the white part of a mask; where it is black, the image stays as it is.",
    "interpolate": "Generate images that turn from one prompt into another, or an animation.",
    "invert": "Find the noise of an image, and generate it again with other words.",
    "superres": "Enlarge an image, with a model made for it.",
    "seg2img": "Generate an image from a map of regions, with a model made for it.",
}
HELP = {  # of the parameters
    "image": "The image: PNG, JPEG or WebP; - reads standard input. May be repeated.",
    "mask": "An image of the same size: white is repainted, black is kept (or, if it is partly "
    "transparent, what is opaque is repainted). One for all images, or one for each.",
    "segmentation": "The map: a grey or palette image whose values are the numbers of the classes. "
    "May be repeated.",
    "negative_prompt": "What to keep away from; one for all prompts, or one for each.",
    "strength": "How much changes: 0 gives the image back, 1 ignores it.",
    "mask_blur": "Pixels over which the repainted part fades out beyond the white.",
    "cfg_scale": "Guidance: how closely the prompt is followed. 1 is none, 0 ignores the prompt; "
    "more than the default makes colours harsh.",
    "guidance": "How the prompt's pull is computed: a name of ldmref guidance, with parameters if "
    "need be, such as rescale:phi=0.5. Default: cfg.",
    "clip_skip": "Last layers of the text encoder to leave out: 0 is none.",
    "long_prompts": "Cut a prompt that is too long (truncate), or read it in parts (chunk).",
    "strict_prompt": "Refuse a prompt that would be cut.",
    "prompt_embeds": "Encoded prompts (n, l, d) in place of prompts, as .npy.",
    "negative_prompt_embeds": "The same for negative prompts, equally long.",
    "control": "A ControlNet and the image that it reads; may be repeated.",
    "steps": "How often the image is refined: more take longer.",
    "schedule": "How the noise levels are spaced: leading, linspace, trailing, karras, "
    "exponential, beta, ays, ...",
    "sigmas": "Noise levels in place of steps and schedule: decreasing, the last 0.",
    "batch_size": "Images generated together: faster on a GPU, and takes more memory.",
    "seed": "Which noise to begin with: the same seed gives the same image. Image i has seed + i; "
    "a list gives each its own. Default: random, and recorded.",
    "sampler": "The method; see ldmref samplers. A1111's names are known, too.",
    "eta": "Fresh noise of ddim, euler_a and other samplers that have it.",
    "count": "Images for each prompt.",
    "latents": "Initial noise of unit variance, (n, c, h, w), as .npy, in place of the seeds'.",
    "width": "Of the image, in pixels. Default: as the model was trained.",
    "height": "Of the image, in pixels. Default: as the model was trained.",
    "resize": "How an input image is brought to size.",
    "fill": "What is below the mask at first, which matters below strength 1: original, the image; "
    "noise; fill, the colours around; nothing, grey.",
    "only_masked": "Generate the region around the mask alone, at the model's size, and paste it "
    "back: the image may have any size. Default: if the model knows one size, and the image has "
    "another.",
    "padding": "Pixels around the mask that the model sees with --only-masked.",
    "resample": "RePaint: go back and repeat stretches of that many steps that often, so that the "
    "new part fits the rest better.",
    "iterations": "How exactly the noise is found: each costs an evaluation per step.",
    "path": "How one prompt becomes the other: straight (lerp), or along a circle (slerp).",
}
