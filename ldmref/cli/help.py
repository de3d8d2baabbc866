"""Summaries of the commands that generate images."""

from __future__ import annotations

SUMMARIES = {
    "txt2img": "Generate images from words.",
    "img2img": "Change an image towards a prompt.",
    "inpaint": "Repaint the white part of a mask; where it is black, the image stays as it is.",
    "interpolate": "Generate images that turn from one prompt into another, or an animation.",
    "invert": "Find the noise of an image, and generate it again with other words.",
    "superres": "Enlarge an image, with a model made for it.",
    "seg2img": "Generate an image from a map of regions, with a model made for it.",
}
