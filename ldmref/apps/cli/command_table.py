"""The commands by name: the module of each, and the sentence that `ldmref --help` prints.

The modules import the networks. `ldmref --help` needs none of them, and a command only its own.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module

import click

from ldmref.apps.cli.flags import simplify_options

# fmt: off
SUMMARIES = {
    "edit": (
        "images",
        "Edit an image with a flow-matching model; what two prompts share stays as it "
        "is.",
    ),
    "img2img": ("images", "Change an image to match a prompt."),
    "inpaint": ("images", "Repaint the white area of a mask; black pixels are preserved exactly."),
    "interpolate": ("images", "Generate images that gradually turn one prompt into another."),
    "invert": (
        "images",
        "Find the noise that gives an image, then edit the image with another "
        "prompt.",
    ),
    "seg2img": (
        "images",
        "Generate an image from a segmentation map; needs a model trained for "
        "it.",
    ),
    "superres": (
        "images",
        "Upscale an image by the model's factor; needs a super-resolution "
        "model.",
    ),
    "txt2img": ("images", "Generate images from a text prompt."),
    "batch": (
        "batch",
        "Generate the images of a file of requests, one JSON object per line; - is "
        "standard input.",
    ),
    "grid": (
        "grid",
        "Generate images of two or three parameters against each other, on one sheet.",
    ),
    "run": ("replay", "Generate an image again from its record; flags override the record."),
    "train": ("train", "Train an autoencoder, then a denoiser, on captioned images."),
    "finetune": (
        "finetune",
        "Learn a LoRA or a new word from captioned images, or fine-tune a whole "
        "model.",
    ),
    "convert": ("convert", "Convert a pickle to safetensors, or a model to another layout."),
    "export": ("export", "Write the networks of a model as files for other programs."),
    "backends": ("info", "List the backends and their devices, or why a backend cannot run here."),
    "models": (
        "info",
        "List the bundled models, and the network configurations (presets) for "
        "training.",
    ),
    "samplers": ("info", "List the samplers with their order, cost, source and other names."),
    "info": ("info", "Show how an image was made, or what a model contains."),
    "schedule": (
        "schedule",
        "Print the flow times of a family in several programs, or name a list of flow "
        "times.",
    ),
    "guidance": (
        "guidance",
        "List the kinds of guidance: parameters with their defaults, evaluations, "
        "source.",
    ),
    "config": (
        "configuration",
        "Show the settings: of ldmref.toml, LDMREF_* variables, and "
        "defaults.",
    ),
    "completion": ("completion", "Print a shell script that completes commands, flags and names."),
    "check": (
        "check",
        "Check the mathematics of ldmref, or of your implementation, on this "
        "machine.",
    ),
    "cases": ("cases", "Make golden cases as data, and run them in a runtime or another program."),
    "diff": (
        "diff",
        "Find the layers and steps of a port whose results differ from ldmref's.",
    ),
    "differences": (
        "differences",
        "List where other implementations differ from the definitions or from each "
        "other.",
    ),
    "bench": (
        "bench",
        "Measure how long a prompt, a step, the decoder and an image take on this machine.",
    ),
    "doctor": (
        "doctor",
        "Check the installation (versions, BLAS, backends), and run a "
        "self-test.",
    ),
    "evaluate": (
        "evaluate",
        "Measure a model on images: reconstruction, likelihood, samples, "
        "retrieval.",
    ),
    "words": (
        "words",
        "List the words that a model knows, with prompts to try, or search for one "
        "WORD.",
    ),
    "serve": ("serve", "Serve the web page, and interfaces for other programs."),
    "mcp": (
        "mcp",
        "Serve tools for coding agents by the Model Context Protocol, on standard input "
        "and output.",
    ),
    "record": (
        "record",
        "Record a run: every state, prediction and attention map, for the denoising "
        "explorer.",
    ),
    "trace": (
        "trace",
        "Record every named intermediate of a run: inputs and outputs of each "
        "layer.",
    ),
}
# fmt: on
"""Name of a command: (its module in `ldmref.apps.cli`, the first sentence of its help)."""


class Lazy(MutableMapping[str, click.Command]):
    """The commands of `SUMMARIES`, each imported when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _ = SUMMARIES[name]
            for command in import_module(f"ldmref.apps.cli.{module}").COMMANDS:
                simplify_options(command)
                self._loaded.setdefault(command.name, command)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands cannot be removed")

    def __contains__(self, name: object) -> bool:
        return name in SUMMARIES

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)
