"""The flags of the drawing commands, by their own names; `main.ALIASES` holds the other ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from ldmref.cli.output import FORMATS
from ldmref.cli.progress import STYLES
from ldmref.errors import UsageError
from ldmref.modes.picture import RESIZE


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


option = click.option
PROMPT = (
    click.argument("words", metavar="[PROMPT]", required=False),
    option("-p", "--prompt", metavar="TEXT", help="What to draw; - reads standard input."),
)
COMMON = (
    option("-n", "--negative-prompt", metavar="TEXT", help="What to keep away from."),
    option("--steps", type=int, help="Sampler steps."),
    option("--cfg", "cfg_scale", type=float, metavar="X", help="Guidance scale; 1 is none."),
    option("--seed", type=Seeds(), help="Default: random, and told."),
    option("-c", "--count", type=int, help="Number of pictures; picture i has seed + i."),
    option("--batch", "batch_size", type=int, default=1, help="Pictures drawn together."),
    option("--sampler", metavar="NAME", help="See ldmref samplers."),
    option("--schedule", metavar="NAME", help="Spacing of the noise levels, such as karras."),
    option("--eta", type=float, metavar="X", help="Fresh noise of ddim and euler_a, 0 to 1."),
    option("--clip-skip", type=int, help="Leave out that many last text layers."),
    option("-m", "--model", metavar="NAME|FOLDER", help="Default: emoji, which comes along."),
    option("--backend", metavar="NAME", help="See ldmref backends."),
    option("--device", metavar="NAME", help="cpu, cuda:0, ..."),
    option("--dtype", metavar="NAME", help="float64, float32, float16 or bfloat16."),
    option("--config", metavar="FILE", help="Settings; default: ./ldmref.toml."),
    option("-o", "--output", metavar="FILE|FOLDER|-", help="Default: ./PROMPT-SEED.png."),
    option("--overwrite", is_flag=True, help="Replace a file that exists."),
    option("--format", "kind", type=click.Choice(list(FORMATS)), help="Default: as the file ends."),
    option("--no-metadata", is_flag=True, help="Do not record in the file how it was made."),
    option("--json", "as_json", is_flag=True, help="One JSON object per picture on stdout."),
    option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    option("-v", "--verbose", is_flag=True, help="Print settings, and tracebacks of errors."),
    option("--progress", type=click.Choice(STYLES), default="auto", help="Default: a bar."),
)  # fmt: skip
SIZE = (
    option("-W", "--width", type=int, help="Pixels."),
    option("-H", "--height", type=int, help="Pixels."),
)
IMAGE = (
    option("-i", "--image", required=True, metavar="FILE", help="PNG, JPEG or WebP; - is stdin."),
)
RESIZING = (
    option("--strength", type=float, default=0.75, show_default=True, help="0 keeps, 1 ignores."),
    option("--resize", type=click.Choice(RESIZE), default="crop", show_default=True),
)
MASK = (
    option("--mask", required=True, metavar="FILE", help="White is repainted, black is kept."),
    option("--mask-blur", type=float, default=0.0, metavar="X", help="Soft edge, in pixels."),
    option("--mask-invert", is_flag=True, help="Repaint what is black instead."),
    option("--strength", type=float, default=1.0, show_default=True, help="0 keeps, 1 ignores."),
)


def with_options(*groups: tuple[Callable, ...]) -> Callable:
    """One decorator of many."""

    def decorate(function: Callable) -> Callable:
        for add in reversed([add for group in groups for add in group]):
            function = add(function)
        return function

    return decorate
