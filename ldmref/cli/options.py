"""The flags of the drawing commands: of the mode's parameters, of the model, of the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ldmref.cli.help import HELP
from ldmref.cli.output import FORMATS
from ldmref.cli.progress import STYLES
from ldmref.config import read_number
from ldmref.errors import UsageError
from ldmref.modes.declaration import Parameter
from ldmref.samplers import GUIDANCES, SAMPLERS, SPACINGS

Option = Callable[[Callable], Callable]
option = click.option
PATH = click.Path(readable=False)  # any text; a shell completes it as a file
# Parameters that a mode takes once, and a command several times: one value for each image.
SOURCES = ("image", "mask", "segmentation")
REPEATED = (*SOURCES, "negative_prompt")
SECTIONS = {"model": "Model", "output": "Output"}  # of the help, each begun by an option
NAMES = {
    "sampler": SAMPLERS,
    "schedule": SPACINGS,
    "guidance": GUIDANCES,
}  # which a shell completes


class FileType(click.ParamType):
    """A type whose values a shell completes as files."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return PATH.shell_complete(ctx, param, incomplete)


class WholeNumber(click.types.IntParamType):
    """A whole number as `read_number` reads it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _plain(self, value, int, param, ctx)


class Number(click.types.FloatParamType):
    """A number as `read_number` reads it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _plain(self, value, float, param, ctx)


def _plain(
    kind: click.ParamType,
    value: Any,
    number: type[int] | type[float],
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    try:
        return read_number(str(value), number)
    except ValueError:
        kind.fail(f"{value!r} is not a valid {kind.name}.", param, ctx)


class Notation(FileType):
    """A value whose parameter says how it is written."""

    def __init__(self, parameter: Parameter):
        self.name = parameter.metavar or "TEXT"
        self._parse = parameter.parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._parse(value) if isinstance(value, str) and self._parse else value


class LoraFile(FileType):
    """A path, or a path and a weight with a colon between: `style.safetensors:0.8`."""

    name = "FILE[:WEIGHT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path, colon, weight = value.rpartition(":")
        if not colon or Path(value).is_file():
            return value, 1.0
        try:
            return path, read_number(weight)
        except ValueError:
            raise UsageError(
                f"the weight of a LoRA must be a number, not {weight!r}",
                code="E-LORA-WEIGHT",
                hint="--lora style.safetensors:0.8",
            ) from None


def parameter_option(parameter: Parameter) -> Option:
    """The flag of a parameter. Left out, it is None, which means the default."""
    flags = parameter.flags or (f"--{parameter.name.replace('_', '-')}",)
    text = HELP.get(parameter.name, parameter.help).replace("`", "")
    if parameter.type is bool and parameter.optional:
        flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
    if parameter.default not in (None, "", (), False):
        text += f" Default: {parameter.default}."
    kind: Any = {int: WholeNumber(), float: Number()}.get(parameter.type, str)
    if parameter.type is bool:
        return option(*flags, parameter.name, is_flag=True, default=None, help=text)
    if parameter.choices and parameter.metavar is None:
        kind = click.Choice(tuple(parameter.choices))
    elif parameter.parse is not None:
        kind = Notation(parameter)
    elif parameter.metavar == "FILE":
        kind = PATH
    known = parameter.choices or NAMES.get(parameter.name, ())
    metavar = parameter.metavar or {int: "N", float: "X"}.get(parameter.type)
    return option(
        *flags,
        parameter.name,
        type=kind,
        metavar=metavar,
        help=text,
        multiple=parameter.multiple or parameter.name in REPEATED,
        required=parameter.required,
        shell_complete=(lambda ctx, param, start: [n for n in known if n.startswith(start)])
        if known
        else None,
    )


def parameter_options(parameters: Iterable[Parameter]) -> tuple[Option, ...]:
    """The flags of parameters, but for those of which a command has its own."""
    return tuple(parameter_option(p) for p in parameters if p.flags != ())


PROMPT = (
    click.argument("words", metavar="[PROMPT]...", nargs=-1),
    option("-p", "--prompt", metavar="TEXT", multiple=True,
           help="What to generate; may be repeated. - reads standard input, a prompt a line."),
    option("--prompts", type=PATH, metavar="FILE",
           help="More prompts, one a line; - is standard input."),
)  # fmt: skip
MODEL_NAME = option(
    "-m", "--model", type=PATH, metavar="NAME|FILE|FOLDER", help="Default: emoji (bundled)."
)
BACKEND = (
    option("--backend", metavar="NAME", help="See ldmref backends."),
    option("--device", metavar="NAME", help="cpu, cuda:0, ..."),
    option("--dtype", metavar="NAME", help="float64, float32, float16 or bfloat16."),
    option("--speed", metavar="NAME", help="exact, fast or fastest: see docs/performance.md."),
)
CONFIG = option("--config", type=PATH, metavar="FILE", help="Settings; default: ./ldmref.toml.")
MODEL = (
    MODEL_NAME,
    option("--fetch", is_flag=True, help="Download OWNER/MODEL from Hugging Face if not cached."),
    option("--variant", metavar="NAME", help="Of a folder with several weights, such as fp16."),
    option("--ema/--no-ema", default=None,
           help="Averaged weights of a file; default: as the model's makers do."),
    option("--model-config", type=PATH, metavar="NAME|FOLDER",
           help="Configuration of a single file."),
    option("--tokenizer", type=PATH, metavar="FILE|FOLDER",
           help="CLIP's vocabulary, if not in the folder."),
    option("--allow-nonfinite", is_flag=True, help="Read weights that are NaN or infinite."),
    option("--vae", type=PATH, metavar="FILE|FOLDER", help="Another autoencoder, or TAESD."),
    option("--lora", "loras", type=LoraFile(), multiple=True, help="May be repeated."),
    option("--embedding", "embeddings", type=PATH, multiple=True, metavar="FILE",
           help="A word of textual inversion; may be repeated."),
    *BACKEND,
    option("--max-memory", metavar="SIZE", help="Such as 5GB; one network at a time if need be."),
    option("--max-seconds", type=float, metavar="N", help="Refuse what would take longer."),
    CONFIG,
)  # fmt: skip
OUTPUT = option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE|FOLDER|-",
    help="Default: ./PROMPT-SEED.png. FOLDER/ is created. A name may hold {prompt}, "
    "{seed} and {index}.",
)
FILES = (
    OUTPUT,
    option("--overwrite", is_flag=True, help="Replace a file that exists."),
    option("--format", "kind", type=click.Choice(list(FORMATS)), help="Default: from the name."),
    option("--no-metadata", is_flag=True, help="Do not record in the file how it was made."),
    option("--json", "as_json", is_flag=True, help="One JSON object per image on stdout."),
    option("--preview", is_flag=True,
           help="Show the image while it is generated: in terminals that show images, otherwise in "
                "a file, which is named."),
    option("--preview-file", type=PATH, metavar="FILE",
           help="Show it in this file, which is replaced again and again."),
    option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    option("-v", "--verbose", is_flag=True, help="Print settings, and tracebacks of errors."),
    option(
        "--progress",
        type=click.Choice(STYLES),
        default="auto",
        help="Default: a bar if stderr is a terminal.",
    ),
)  # fmt: skip
SHEET = (option("--sheet", is_flag=True, help="One file with all images, labelled."),)
INVERTING = (
    option("--edit", "edits", multiple=True, metavar="TEXT",
           help="Generate this from the image's noise; may be repeated. Default: the prompt."),
    option("--batch", "batch_size", type=int, help="Images generated together."),
    option("--tile", type=int, metavar="N", help="Decode in tiles of N pixels: less memory."),
    option("--noise", type=PATH, metavar="FILE",
           help="Keep the noise too, as .npy: see --latents."),
)  # fmt: skip
INTERPOLATING = (
    option("--to", "--prompt-b", "to", metavar="TEXT", help="The last prompt; default: the first."),
    option("-c", "--count", "--frames", "frames", type=int, default=8, show_default=True,
           help="Number of images, evenly spaced."),
    option("--animate", is_flag=True, default=False,
           help="One animated WebP of all images, or GIF: -o NAME.gif."),
    option("--duration", type=click.IntRange(10, 60_000), default=100, show_default=True,
           metavar="MS", help="Time for which an animation shows each image."),
)  # fmt: skip


class Drawing(click.Command):
    """A command with its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help of every option, below the heading of its section."""
        title = "Image"
        rows = {}
        for param in self.get_params(ctx):
            title = SECTIONS.get(param.name or "", title)
            if isinstance(param, click.Option):
                rows.setdefault(title, []).append(param.get_help_record(ctx))
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)


def is_set(value: Any) -> bool:
    """Whether a flag was given: None, and () for flags that may be repeated, mean no."""
    return value is not None and not (isinstance(value, tuple) and not value)


def listed(value: Any) -> list[Any]:
    """The values of a flag that may be repeated; a replay gives a single one."""
    if isinstance(value, tuple | list):
        return list(value)
    return [] if value is None else [value]


def with_options(*groups: Iterable[Option]) -> Option:
    """One decorator of many."""

    def decorate(function: Callable) -> Callable:
        for add in reversed([add for group in groups for add in group]):
            function = add(function)
        return function

    return decorate
