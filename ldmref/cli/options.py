"""The flags of the commands that generate images: parameters, model and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ldmref.cli.output import FORMATS
from ldmref.cli.progress import STYLES
from ldmref.config import read_number
from ldmref.declare import Doc, Field, Flag, flag_names
from ldmref.errors import UsageError
from ldmref.samplers import SAMPLERS, SPACINGS

Option = Callable[[Callable], Callable]
option = click.option
PATH = click.Path(readable=False)  # any text; shells complete it as a file
# Parameters that a mode takes once, and a command several times: one value for each image.
SOURCES = ("image", "mask", "segmentation")
REPEATED = (*SOURCES, "negative_prompt")
SECTIONS = {"model": "Model", "output": "Output"}  # of the help, each begun by an option
NAMES = {"sampler": SAMPLERS, "schedule": SPACINGS}  # which a shell completes


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
    """A value that its field's flag parses."""

    def __init__(self, flag: Flag):
        self.name = flag.metavar or "TEXT"
        self._parse = flag.parse

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


def parameter_option(field: Field) -> Option:
    """Return the flag of a parameter, which is None if it is left out: the default."""
    flag = field.get(Flag) or Flag()
    flags = flag_names(field)
    if field.kind is bool:
        if field.optional:
            flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
        return option(*flags, field.name, is_flag=True, default=None, help=describe_flag(field))
    kind: Any = {int: WholeNumber(), float: Number()}.get(field.kind, str)
    if field.choices and flag.metavar is None:
        kind = click.Choice(field.choices)
    elif flag.parse is not None:
        kind = Notation(flag)
    elif flag.metavar == "FILE":
        kind = PATH
    known = field.choices or NAMES.get(field.name, ())
    return option(
        *flags,
        field.name,
        type=kind,
        metavar=flag.metavar or {int: "N", float: "X"}.get(field.kind),
        help=describe_flag(field),
        multiple=flag.multiple or field.name in REPEATED,
        required=field.required,
        shell_complete=(lambda ctx, param, start: [n for n in known if n.startswith(start)])
        if known
        else None,
    )


def describe_flag(field: Field) -> str:
    """Return the help text of a parameter's flag, with its default."""
    flag = field.get(Flag) or Flag()
    doc = field.get(Doc) or Doc("")
    text = (flag.help or doc.text).replace("`", "")
    if field.required or isinstance(field.default, bool) or field.default in ("", ()):
        return text
    default = doc.none if field.default is None else field.default
    return f"{text} Default: {default}."


def parameter_options(fields: Iterable[Field]) -> tuple[Option, ...]:
    """Return the flags of parameters, except for those that a command declares itself."""
    return tuple(parameter_option(field) for field in fields if flag_names(field))


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
           help="Averaged weights of a file. Default: the family's published choice."),
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
    option("--max-seconds", type=float, metavar="N", help="Refuse what would take more seconds."),
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
                "a file, whose name is printed."),
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


class ImageCommand(click.Command):
    """A command with its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help of every option, below the heading of its section."""
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
    """Return whether a flag was given; otherwise it is None, or () if it may be repeated."""
    return value is not None and not (isinstance(value, tuple) and not value)


def listed(value: Any) -> list[Any]:
    """Return the values of a flag that may be repeated; a replay gives a single one."""
    if isinstance(value, tuple | list):
        return list(value)
    return [] if value is None else [value]


def with_options(*groups: Iterable[Option]) -> Option:
    """Return one decorator that adds all options."""

    def decorate(function: Callable) -> Callable:
        for add in reversed([add for group in groups for add in group]):
            function = add(function)
        return function

    return decorate
