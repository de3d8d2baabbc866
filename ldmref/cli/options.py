"""The flags of the drawing commands, by their own names; `main.ALIASES` holds the other ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ldmref.cli.output import FORMATS
from ldmref.cli.progress import STYLES
from ldmref.errors import UsageError
from ldmref.modes.control import Control
from ldmref.modes.picture import RESIZE
from ldmref.modes.request import FILLS, RNGS
from ldmref.modes.steering import PATHS
from ldmref.prompts.tokenizer import LONG_PROMPTS, PROMPT_WEIGHTS


class Seeds(click.ParamType):
    """A whole number, or several with commas; their range is checked with the other arguments."""

    name = "N|-1|A,B,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,40}(,-?[0-9]{1,40})*", value):
            raise UsageError(
                f"seed must be a whole number from 0 to 2^64 - 1, or -1, not {value!r}",
                code="E-SEED",
                hint="several pictures may have a seed each: --seed 1,2,3",
            )
        seeds = [int(part) for part in value.split(",")]
        return seeds if len(seeds) > 1 else seeds[0]


class LoraFile(click.ParamType):
    """A path, or a path and a weight with a colon between: `style.safetensors:0.8`."""

    name = "FILE[:WEIGHT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path, colon, weight = value.rpartition(":")
        if not colon or Path(value).is_file():
            return value, 1.0
        try:
            return path, float(weight)
        except ValueError:
            raise UsageError(
                f"the weight of a LoRA must be a number, not {weight!r}",
                code="E-LORA-WEIGHT",
                hint="--lora style.safetensors:0.8",
            ) from None


class Resampling(click.ParamType):
    """RePaint's jump length and times, with a comma between."""

    name = "LENGTH,TIMES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"[0-9]{1,9},[0-9]{1,9}", value):
            raise UsageError(
                f"resample must be two whole numbers, not {value!r}",
                code="E-RESAMPLE",
                hint="--resample 10,10",
            )
        return tuple(int(part) for part in value.split(","))


class Positions(click.ParamType):
    """Numbers with commas between; their range is checked with the other arguments."""

    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            raise UsageError(
                f"positions must be numbers from 0 to 1, not {value!r}",
                code="E-POSITIONS",
                hint="--positions 0,0.25,0.5,1",
            ) from None


class ControlSpec(click.ParamType):
    """A ControlNet, a picture and a weight with colons between: `canny:edges.png:0.8`."""

    name = "NET:IMAGE[:WEIGHT[:START-END]]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        net, *rest = value.split(":")
        try:
            image, weight, steps = [*rest, *("1", "0-1")[len(rest) - 1 :]]
            start, _, end = steps.partition("-")
            if not net or not image:
                raise ValueError
            return Control(net, image, float(weight), float(start), float(end))
        except ValueError:
            raise UsageError(
                f"cannot read the control {value!r}",
                code="E-CONTROL",
                hint="--control NET:IMAGE, NET:IMAGE:0.8 or NET:IMAGE:0.8:0-0.5",
            ) from None


option = click.option
PROMPT = (
    click.argument("words", metavar="[PROMPT]", required=False),
    option("-p", "--prompt", metavar="TEXT", help="What to draw; - reads standard input."),
)
WORDS = (  # how prompts are read
    option("-n", "--negative-prompt", metavar="TEXT", help="What to keep away from."),
    option("--clip-skip", type=int, help="Leave out that many last text layers."),
    option("--long-prompts", type=click.Choice(LONG_PROMPTS), help="Default: truncate."),
    option("--prompt-weights", type=click.Choice(PROMPT_WEIGHTS), help="Default: none."),
)
GUIDANCE = (
    option("--cfg", "cfg_scale", type=float, metavar="X", help="Guidance scale; 1 is none."),
)
CONTROL = (
    option("--control", type=ControlSpec(), multiple=True,
           help="A ControlNet and its picture; may be repeated."),
)  # fmt: skip
STEPS = (
    option("--steps", type=int, help="Sampler steps."),
    option("--schedule", metavar="NAME", help="Spacing of the noise levels, such as karras."),
    option("--batch", "batch_size", type=int, default=1, help="Pictures drawn together."),
    option("--tile", type=int, metavar="N", help="Decode in tiles of N pixels: less memory."),
)
SAMPLING = (
    option("--seed", type=Seeds(), help="Default: random, and told."),
    option("--sampler", metavar="NAME", help="See ldmref samplers."),
    option("--eta", type=float, metavar="X", help="Fresh noise of ddim and euler_a, 0 to 1."),
    option("--rng", metavar="NAME", help=f"Source of noise: {', '.join(RNGS)}."),
)
COUNT = (
    option("-c", "--count", type=int, help="Number of pictures; picture i has seed + i."),
    option("--latents", metavar="FILE", help="Start noise (n, c, h, w), .npy; else the seeds'."),
)
MODEL = (
    option("-m", "--model", metavar="NAME|FILE|FOLDER", help="Default: emoji, which comes along."),
    option("--fetch", is_flag=True, help="Fetch OWNER/MODEL from Hugging Face; else nothing is."),
    option("--variant", metavar="NAME", help="Of a folder with several weights, such as fp16."),
    option(
        "--ema/--no-ema",
        default=None,
        help="Averaged weights of a file; default: as its makers do.",
    ),
    option("--model-config", metavar="NAME|FOLDER", help="What a single file does not tell."),
    option("--tokenizer", metavar="FILE|FOLDER", help="CLIP's vocabulary, if not in the folder."),
    option("--vae", metavar="FILE|FOLDER", help="Another autoencoder, or TAESD."),
    option("--lora", "loras", type=LoraFile(), multiple=True, help="May be repeated."),
    option("--backend", metavar="NAME", help="See ldmref backends."),
    option("--device", metavar="NAME", help="cpu, cuda:0, ..."),
    option("--dtype", metavar="NAME", help="float64, float32, float16 or bfloat16."),
    option("--speed", metavar="NAME", help="exact, fast or fastest: see docs/performance.md."),
    option("--max-memory", metavar="SIZE", help="Such as 5GB; a network at a time if need be."),
    option("--config", metavar="FILE", help="Settings; default: ./ldmref.toml."),
)
FILES = (
    option("-o", "--output", metavar="FILE|FOLDER|-", help="Default: ./PROMPT-SEED.png."),
    option("--overwrite", is_flag=True, help="Replace a file that exists."),
    option("--format", "kind", type=click.Choice(list(FORMATS)), help="Default: as the file ends."),
    option("--no-metadata", is_flag=True, help="Do not record in the file how it was made."),
    option("--json", "as_json", is_flag=True, help="One JSON object per picture on stdout."),
    option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    option("-v", "--verbose", is_flag=True, help="Print settings, and tracebacks of errors."),
    option("--progress", type=click.Choice(STYLES), default="auto", help="Default: a bar."),
)
PROMPTED = (*WORDS, *GUIDANCE, *CONTROL)
SEEDED = (*STEPS, *SAMPLING, *COUNT)
OUTER = (*MODEL, *FILES)
COMMON = (*PROMPTED, *SEEDED, *OUTER)
SIZE = (
    option("-W", "--width", type=int, help="Pixels."),
    option("-H", "--height", type=int, help="Pixels."),
)
IMAGE = (
    option("-i", "--image", required=True, metavar="FILE", help="PNG, JPEG or WebP; - is stdin."),
)
STRENGTH = (
    option("--strength", type=float, default=0.75, show_default=True, help="0 keeps, 1 ignores."),
)
RESIZING = (option("--resize", type=click.Choice(RESIZE), default="crop", show_default=True),)
MASK = (
    option("--mask", required=True, metavar="FILE", help="White is repainted, black is kept."),
    option("--mask-blur", type=float, default=0.0, metavar="X", help="Soft edge, in pixels."),
    option("--fill", metavar="NAME", default="original", show_default=True,
           help=f"What is below the mask at the start: {', '.join(FILLS)}."),
    option("--only-masked", is_flag=True, help="Draw the region around the mask alone, larger."),
    option("--padding", type=int, default=32, show_default=True,
           help="Pixels around the mask, with --only-masked."),
    option("--resample", type=Resampling(), help="RePaint: walk each stretch that often."),
    option("--mask-invert", is_flag=True, help="Repaint what is black instead."),
    option("--strength", type=float, default=1.0, show_default=True, help="0 keeps, 1 ignores."),
)  # fmt: skip
INVERTING = (
    option("--edit", "edits", multiple=True, metavar="TEXT",
           help="Draw this from the picture's noise; may be repeated. Default: the prompt."),
    option("--cfg", "cfg_scale", type=float, default=1.0, show_default=True, metavar="X",
           help="Guidance scale of what is drawn; the way to the noise has none."),
    option("--iterations", type=int, default=5, show_default=True,
           help="Evaluations that refine each step to the noise; 0 is DDIM inversion."),
    option("--noise", metavar="FILE", help="Keep the noise too, as .npy: see --latents."),
)  # fmt: skip
INTERPOLATING = (
    option("--to", "--prompt-b", "to", metavar="TEXT", help="The last prompt; default: the first."),
    option("-c", "--count", "--frames", "frames", type=int, default=8, show_default=True,
           help="Number of pictures, evenly spaced."),
    option("--positions", type=Positions(), help="Their places between 0 and 1 instead."),
    option("--path", type=click.Choice(tuple(PATHS)), default="lerp", show_default=True,
           help="Of what the text encoder says, straight or along the circle."),
)  # fmt: skip
SMALL = (
    option("-i", "--image", required=True, metavar="FILE",
           help="The picture to enlarge: PNG, JPEG or WebP; - is stdin."),
)  # fmt: skip
MAP = (
    option("-i", "--image", "--map", "--segmentation", "image", required=True, metavar="FILE",
           help="Numbers of classes as grey values or palette indices; - is stdin."),
)  # fmt: skip


def with_options(*groups: tuple[Callable, ...]) -> Callable:
    """One decorator of many."""

    def decorate(function: Callable) -> Callable:
        for add in reversed([add for group in groups for add in group]):
            function = add(function)
        return function

    return decorate
