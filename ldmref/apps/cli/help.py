"""Summaries of the commands that generate images, for readers who do not know Python."""

from __future__ import annotations

SUMMARIES = {  # the first sentence is also in the list of commands
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
    "edit": """Edit an image with a flow-matching model; what two prompts share stays as it is.

    PROMPT describes the edited image, --source-prompt the given one. Needs SD3 or Flux.

    Example: ldmref edit "a dog" --source-prompt "a cat" -i cat.png -m sd35-medium
    """,
    "superres": """Upscale an image by the model's factor; needs a super-resolution model.

    Example: ldmref superres -m bsr-sr -i small.png
    """,
    "seg2img": """Generate an image from a segmentation map; needs a model trained for it.

    Example: ldmref seg2img -m semantic --map map.png
    """,
}
