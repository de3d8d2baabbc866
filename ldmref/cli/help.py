"""Help texts of the generating commands, for readers who do not know the Python interface.

A parameter that is missing here has the text of its declaration.
"""

from __future__ import annotations

SUMMARIES = {  # of the modes; the first sentence is also in the list of commands
    "txt2img": """Generate images from a text prompt.

    Example: ldmref txt2img "red heart" --seed 1
    """,
    "img2img": """Change an image to match a prompt.

    Example: ldmref img2img "blue heart" -i heart.png --strength 0.5
    """,
    "inpaint": """Repaint the white area of a mask; black pixels are preserved exactly.

    Example: ldmref inpaint "cat face" -i photo.png --mask mask.png
    """,
    "interpolate": """Generate images that gradually turn one prompt into another.

    PROMPT is the first prompt, --to the last one. To change only the noise, give two seeds.

    Example: ldmref interpolate "red heart" --to "blue heart" --count 24 --animate
    """,
    "invert": """Find the noise that gives an image, then edit the image with another prompt.

    PROMPT describes the image, --edit the new image.

    Example: ldmref invert "red heart" -i heart.png --edit "blue heart"
    """,
    "superres": """Upscale an image by the model's factor; needs a super-resolution model.

    Example: ldmref superres -m bsr-sr -i small.png
    """,
    "seg2img": """Generate an image from a segmentation map; needs a model trained for it.

    Example: ldmref seg2img -m semantic --map map.png
    """,
}
HELP = {  # of the parameters
    "image": "Input image: PNG, JPEG or WebP; - reads standard input. May be repeated.",
    "mask": "Mask of the same size as the image: white is repainted, black is kept. If its "
    "transparency varies, opaque is repainted. Give one mask for all images, or one for each.",
    "segmentation": "Segmentation map: a grey or palette image whose pixel values are class "
    "numbers. May be repeated.",
    "negative_prompt": "Things that the image should not show. Give one text for all prompts, or "
    "one for each.",
    "strength": "How much of the image changes, from 0 (nothing) to 1 (everything).",
    "mask_blur": "Fade out the repainted area beyond the white, by this many px. Default: 0.",
    "cfg_scale": "Guidance scale: how closely to follow the prompt. 0 ignores the prompt, 1 is no "
    "guidance; high values make colours harsh. Default: the model's.",
    "clip_skip": "Number of final text encoder layers to skip. Default: 0.",
    "long_prompts": "What to do with a prompt that is too long: truncate it, or read it in "
    "several chunks.",
    "prompt_weights": "a1111: read (word:1.3) and [word] as weights; none: as plain text.",
    "strict_prompt": "Refuse a prompt that would be truncated.",
    "prompt_embeds": ".npy file with encoded prompts (n, l, d), used instead of prompts.",
    "negative_prompt_embeds": ".npy file with encoded negative prompts, of the same length as "
    "--prompt-embeds.",
    "pooled_prompt_embeds": ".npy file with the pooled output (n, d) for --prompt-embeds; for SDXL "
    "only.",
    "negative_pooled_prompt_embeds": ".npy file with the pooled output for "
    "--negative-prompt-embeds; for SDXL only.",
    "control": "ControlNet and the image that it reads, e.g. canny:edges.png:0.8. WEIGHT is 1 by "
    "default; START-END limits it to a part of the steps, e.g. 0-0.5 for the first half. May be "
    "repeated.",
    "steps": "Number of denoising steps: more steps take longer. Default: the model's.",
    "schedule": "Spacing of the noise levels: leading, linspace, trailing, karras, exponential, "
    "beta, ays, ... Default: the model's.",
    "sigmas": "Noise levels to use instead of --steps and --schedule, in decreasing order, "
    "usually ending in 0.",
    "batch_size": "Number of images generated together: faster on a GPU, but needs more memory.",
    "tile": "Decode in overlapping tiles of N x N px, which saves memory but may shift colours "
    "between tiles. Default: no tiles.",
    "seed": "Seed of the random noise: the same seed gives the same image. Image number i uses "
    "N + i; a list gives one seed for each image; -1 is random. Default: random, recorded in the "
    "image.",
    "sampler": "Sampling method: see ldmref samplers; names of AUTOMATIC1111 also work. Default: "
    "the model's.",
    "eta": "Amount of fresh noise per step, from 0 to 1, for ddim, euler_a and other samplers "
    "that use it. Default: the sampler's.",
    "rng": "Random number generator: philox; torch, which gives the images of diffusers for a "
    "seed; or a1111-gpu, which gives those of AUTOMATIC1111.",
    "count": "Number of images for each prompt.",
    "latents": ".npy file with the initial noise (n, c, h, w), of unit variance, used instead of "
    "noise from --seed.",
    "width": "Width in px, a multiple of 8 for most models. Default: the input image's, or "
    "the model's.",
    "height": "Height in px, a multiple of 8 for most models. Default: the input image's, or "
    "the model's.",
    "resize": "How to fit an input image to --width and --height: crop the edges, stretch it, or "
    "fill with white.",
    "fill": "Content of the repainted area before noise is added, if --strength is below 1: "
    "original (the image), noise, fill (the surrounding colours) or nothing (grey).",
    "only_masked": "Generate only the region around the mask, at the model's size, and paste it "
    "back, so the image may have any size. Default: on for models of one size if the image "
    "has another size.",
    "padding": "px around the mask that the model sees with --only-masked.",
    "resample": "RePaint: go back LENGTH steps and repeat them, SAMPLES times in all. The "
    "repainted area then fits better, but takes longer.",
    "mask_invert": "Repaint the black area instead of the white one.",
    "iterations": "Accuracy of the inversion: refinements per step, each as expensive as a step.",
    "path": "How to blend the two prompts: lerp (along a straight line) or slerp (along an arc).",
}
