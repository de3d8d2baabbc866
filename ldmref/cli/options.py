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
from ldmref.samplers import SAMPLERS, SPACINGS

Option = Callable[[Callable], Callable]
option = click.option
PATH = click.Path(readable=False)  # any text; a shell completes it as a file
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
           help="What to generate; - reads prompts from standard input, one per line. May be "
                "repeated."),
    option("--prompts", type=PATH, metavar="FILE",
           help="File with more prompts, one per line; - is standard input."),
)  # fmt: skip
MODEL_NAME = option(
    "-m",
    "--model",
    type=PATH,
    metavar="NAME|FILE|FOLDER",
    help="Model: a name from ldmref models, a folder, a .safetensors file, or OWNER/MODEL from "
    "Hugging Face. Default: emoji, which comes with ldmref.",
)
BACKEND = (
    option(
        "--backend",
        metavar="NAME",
        help="Library that computes: numpy, torch, cupy or a plug-in; see ldmref backends. "
        "Default: numpy.",
    ),
    option("--device", metavar="NAME", help="Device: cpu, cuda:0, ... Default: the backend's."),
    option(
        "--dtype",
        metavar="NAME",
        help="Number format: float64, float32, float16 or bfloat16. Default: float32.",
    ),
    option(
        "--speed",
        metavar="NAME",
        help="exact, fast or fastest; the faster ones round differently: see "
        "docs/performance.md. Default: by --backend and --dtype.",
    ),
)
CONFIG = option(
    "--config", type=PATH, metavar="FILE", help="Configuration file. Default: ./ldmref.toml."
)
MODEL = (
    MODEL_NAME,
    option("--fetch", is_flag=True,
           help="Download OWNER/MODEL from Hugging Face if it is not cached."),
    option("--variant", metavar="NAME",
           help="Which weights to read from a folder with several, e.g. fp16."),
    option("--ema/--no-ema", default=None,
           help="Read the averaged or the last weights of a training checkpoint. Default: the "
                "model family's published choice."),
    option("--model-config", type=PATH, metavar="NAME|FOLDER",
           help="Configuration for a single file that does not determine its own."),
    option("--tokenizer", type=PATH, metavar="FILE|FOLDER",
           help="Vocabulary of CLIP, if the model does not include it."),
    option("--allow-nonfinite", is_flag=True, help="Accept weights that are NaN or infinite."),
    option("--vae", type=PATH, metavar="FILE|FOLDER",
           help="Use another autoencoder, such as TAESD."),
    option("--lora", "loras", type=LoraFile(), multiple=True,
           help="LoRA file to apply; the default WEIGHT is 1. May be repeated."),
    option("--embedding", "embeddings", type=PATH, multiple=True, metavar="FILE",
           help="Textual inversion file, which adds a word to use in prompts. May be repeated."),
    *BACKEND,
    option("--max-memory", metavar="SIZE",
           help="Memory limit, e.g. 5GB. If needed, only one network at a time is in memory."),
    option("--max-seconds", type=float, metavar="N",
           help="Refuse a request that would take longer than N seconds."),
    CONFIG,
)  # fmt: skip
OUTPUT = option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE|FOLDER|-",
    help="Where to write; - is standard output. FOLDER/ is created if needed; a file name may "
    "contain {prompt}, {seed} and {index}. Default: ./PROMPT-SEED.png.",
)
FILES = (
    OUTPUT,
    option("--overwrite", is_flag=True, help="Replace existing files."),
    option("--format", "kind", type=click.Choice(list(FORMATS)),
           help="Image format. Default: given by the file name, otherwise png."),
    option("--no-metadata", is_flag=True, help="Do not record in the image how it was made."),
    option("--json", "as_json", is_flag=True,
           help="Print one JSON object per image on standard output."),
    option("--preview", is_flag=True,
           help="Show the image while it is generated: in the terminal if it can show images, "
                "otherwise in a temporary file."),
    option("--preview-file", type=PATH, metavar="FILE",
           help="Show the image while it is generated in this file, which is updated."),
    option("-q", "--quiet", is_flag=True, help="Print only errors."),
    option("-v", "--verbose", is_flag=True,
           help="Also print settings and memory use, and tracebacks of errors."),
    option(
        "--progress",
        type=click.Choice(STYLES),
        default="auto",
        help="How to show progress. Default: a bar if standard error is a terminal.",
    ),
)  # fmt: skip
SHEET = (
    option(
        "--sheet", is_flag=True, help="Write all images into one file, a labelled contact sheet."
    ),
)
INVERTING = (
    option("--edit", "edits", multiple=True, metavar="TEXT",
           help="Prompt to generate from the noise of the image. May be repeated. Default: the "
                "prompt, which gives the image back."),
    option("--batch", "batch_size", type=int, metavar="N",
           help="Number of images generated together. Default: 1."),
    option("--tile", type=int, metavar="N",
           help="Decode in tiles of N x N px, which saves memory."),
    option("--noise", type=PATH, metavar="FILE",
           help="Also save the noise, as a .npy file for --latents."),
)  # fmt: skip
INTERPOLATING = (
    option("--to", "--prompt-b", "to", metavar="TEXT", help="Last prompt. Default: the first one."),
    option("-c", "--count", "--frames", "frames", type=int, default=8, show_default=True,

           metavar="N", help="Number of images, evenly spaced."),
    option("--animate", is_flag=True, default=False,
           help="Write one animated WebP, or a GIF with -o NAME.gif."),
    option("--duration", type=click.IntRange(10, 60_000), default=100, show_default=True,
           metavar="MS", help="Time in milliseconds for which an animation shows each image."),
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
