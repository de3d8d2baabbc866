"""`ldmref grid`: images of two or three parameters against each other, on one sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.combined import CombinedOutput
from ldmref.apps.cli.console import Console
from ldmref.apps.cli.options import (
    SOURCES,
    ImageCommand,
    is_set,
    listed,
    option,
    parameter_options,
    with_options,
)
from ldmref.apps.cli.parameter_text import find_field, number_type, read_value
from ldmref.apps.cli.progress import one_line, say, stopping
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.shared_options import MODEL, PROMPT, SAVING, VERBOSITY
from ldmref.apps.cli.sources import read_prompts, resolve_image_source
from ldmref.apps.cli.standard_streams import check_stdout
from ldmref.apps.foreign import ForeignValue, foreign_value, read_foreign
from ldmref.declare import Field
from ldmref.errors import LdmrefError, UsageError, short_repr
from ldmref.io.atomic import atomic_write, check_writable
from ldmref.models.config import ModelConfig
from ldmref.modes.aliases import NOTES
from ldmref.modes.registry import MODES
from ldmref.support.config import read_number

if TYPE_CHECKING:
    from ldmref.explore.grid import GridPlan, ImageGrid

LEFT_OUT = ("count", "batch_size")  # a cell holds one image
PARAMETERS = {
    name: field._replace(default=None)
    for name, field in MODES["inpaint"].parameters.items()
    if name not in LEFT_OUT
}
AXES = (
    option(
        "-x",
        "x",
        metavar="NAME=VALUES",
        required=True,
        help="Parameter of the columns with its values: sampler=euler,dpmpp_2m; steps=5:25:5 "
        '(from, to, by); prompt="a cat|a dog, asleep", where | separates values that hold commas.',
    ),
    option("-y", "y", metavar="NAME=VALUES", help="Parameter of the rows. Default: a single row."),
    option(
        "-z",
        "z",
        metavar="NAME=VALUES",
        help="Parameter of the sheets, which are below each other. Default: a single sheet.",
    ),
    option(
        "--distance/--no-distance",
        default=True,
        help="Compare each image with the converged image of the same seed. Default: yes.",
    ),
)


class GridOutput(CombinedOutput):
    """A sheet, and next to it a JSON file with the parameters and distances of its images."""

    mode = "grid"

    def __init__(self, to: str | None, planned: GridPlan, prompt: str, **files: object):
        seed = planned.parameters[0][0].get("seed")
        seeds = [seed] * planned.count if isinstance(seed, int) else None
        super().__init__(to, [prompt] * planned.count, seeds, **files)
        self.grid: ImageGrid | None = None

    def check(self) -> None:
        """Refuse a target that cannot be written, also for the JSON file."""
        super().check()
        for path in self.files:
            check_writable(path.with_suffix(".json"), self.overwrite)

    def combine(self) -> Any:
        """Return the sheet."""
        assert self.grid is not None
        return self.grid.sheet()

    def finish(self) -> str | None:
        """Write both files, if the grid is complete, and return the name of the sheet."""
        if self.grid is None:
            return None
        name = super().finish()
        if name is not None and name != "-":
            path = Path(name).with_suffix(".json")
            with atomic_write(path, overwrite=self.overwrite) as file:
                file.write(json.dumps(self.grid.to_json(), indent=1).encode() + b"\n")
        return name


@click.command(cls=ImageCommand)
@with_options(
    PROMPT,
    AXES,
    parameter_options(PARAMETERS.values()),
    MODEL,
    SAVING,
    VERBOSITY,
)
def grid(
    words: tuple[str, ...], prompt: tuple[str, ...], prompts: str | None, **flags: Any
) -> None:
    """Generate images of two or three parameters against each other, on one sheet.

    Below each image is its distance from the converged image of the same seed: the root mean square
    difference of their pixels, in units of 1/255. With -i, the images are made by img2img, and with
    --mask also, by inpaint.

    The sheet is written as an image, and the parameters and distances of its images as JSON next to
    it.
    """
    mode = "inpaint" if flags["mask"] else "img2img" if flags["image"] else "txt2img"
    axes = {key: read_axis_flag(mode, flags[key], key) for key in "xyz" if flags[key]}
    names = [name for name, _ in axes.values()]
    if "prompt" not in names:
        texts = read_prompts(words, prompt, prompts, "grid")
        if len(texts) > 1:
            message = f"a grid has one prompt, not {len(texts)}"
            hint = '-x "prompt=a cat|a dog" compares prompts'
            raise UsageError(message, code="E-USAGE", hint=hint)
        flags["prompt"] = texts[0]
    elif words or prompt or prompts:
        raise UsageError("prompt is an axis and has a value", code="E-GRID")
    _run_grid(flags, mode, axes)


COMMANDS = (grid,)


def _run_grid(flags: dict[str, Any], mode: str, axes: dict[str, tuple[str, list[Any]]]) -> None:
    """Plan, check and generate a grid, and print what was written."""
    from ldmref.explore.grid import GridCell, plan_grid

    names = [name for name, _ in axes.values()]
    session = CommandSession(flags)
    explicit = {n for n in PARAMETERS if is_set(flags.get(n))}
    with session.planning() as config:
        flags = with_settings(mode, flags, session.configured)
        values = read_parameters(mode, flags)
        values = {n: v for n, v in values.items() if n not in names or n in explicit}
        values = read_foreign(config, values)
        read = {key: read_axis(config, *axis, values) for key, axis in axes.items()}
        x, y, z = (read.get(key) for key in "xyz")
        assert x is not None
        planned = plan_grid(config, x, y, mode, z=z, distance=flags["distance"], **values)
    label = str(values.get("prompt", names[0]))
    output = GridOutput(
        flags["output"],
        planned,
        label,
        kind=flags["kind"],
        overwrite=flags["overwrite"],
        metadata=not flags["no_metadata"],
    )
    if flags["output"] == "-" and flags["as_json"]:
        raise UsageError("-o - and --json both want standard output", code="E-OUTPUT")
    output.check()
    if flags["as_json"]:
        check_stdout()
    with stopping() as stop:
        command = click.get_current_context().command
        console = Console(flags, output, planned.count, command)
        console.settings(session.configured, session.name, session.backend)
        model = session.load()
        cells = []
        try:
            for event in planned.generate(model, stop):
                if isinstance(event, GridCell):
                    cells.append(event)
                    output.write(event.image, 0, event.params)
                    console.warn(event.warnings)
                else:
                    console.bar.update(event.step + 1, event.steps, len(cells), planned.count)
        except LdmrefError:
            console.clear()
            raise
        console.clear()
        output.grid = planned.finish(cells)
        written = output.finish()
    if not flags["quiet"]:
        say(one_line(f"{written}  {planned.count} images"))
    if flags["as_json"]:
        click.echo(json.dumps({"path": written} | output.grid.to_json()))


def read_parameters(mode: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the mode that have a flag or a setting.

    Raises:
        UsageError: A flag that the mode does not have, or several input images.
    """
    takes = MODES[mode].parameters
    values = {}
    for name in PARAMETERS:
        value = flags.get(name)
        if not is_set(value):
            continue
        if name not in takes:
            message = f"{name} has no effect on a grid of {mode}"
            raise UsageError(message, code="E-USAGE", hint="give -i, for inpaint also --mask")
        if name in SOURCES:
            if len(listed(value)) > 1:
                message = f"a grid has one {name}, not {len(listed(value))}"
                raise UsageError(message, code="E-USAGE")
            value = resolve_image_source(listed(value)[0])
        elif isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        values[name] = value
    return values


# -- the axes of a grid ----------------------------------------------------------------------------


CODE = "E-GRID"
MAX_VALUES = 100
EXAMPLE = "-x sampler=euler,dpmpp_2m -y steps=5:25:5"


def read_axis_flag(mode: str, text: str, flag: str) -> tuple[str, list[Any]]:
    """Return the parameter and the values of an axis.

    Values are separated by commas, or by `|` if there is one; `5:25:5` is 5, 10, ..., 25.

    Raises:
        UsageError: The text has another form, or the mode does not have the parameter.
    """
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        message = f"-{flag} must be NAME=VALUES, not {short_repr(text)}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    field = find_field(mode, name.strip(), CODE)
    parts = values.split("|" if "|" in values else ",")
    read: list[Any] = []
    for part in parts:
        read += read_values(field, part.strip())
    if len(read) > MAX_VALUES:
        message = f"an axis may have {MAX_VALUES} values, not {len(read)}"
        raise UsageError(message, code=CODE)
    return field.name, [foreign_value(name.strip(), value) for value in read]


def read_axis(
    config: ModelConfig, name: str, values: list[Any], others: dict[str, Any]
) -> tuple[str, list[Any]]:
    """Return an axis with its values in our terms, if another program's name was given.

    Raises:
        UsageError: A value is one of several parameters here.
    """
    read = []
    for value in values:
        ours = read_foreign(config, others | {name: value})
        if isinstance(value, ForeignValue) and any(
            ours[key] is not others.get(key) for key in ours if key != name
        ):
            message = f"{value.name} stands for several parameters, and cannot be an axis"
            hint = f"take {name}: {NOTES[value.name]}"
            raise UsageError(message, code=CODE, hint=hint)
        read.append(ours[name])
    return name, read


def read_values(field: Field, text: str) -> list[Any]:
    """Return the value of a text, or the values of a range of numbers.

    Raises:
        UsageError: It is not a value of the parameter.
    """
    number = number_type(field)
    if number is None or ":" not in text:
        return [read_value(field, text, CODE)]
    try:
        parts = [read_number(part, number) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (2, 3):
        message = f"{field.name} must be a number, or a range such as 5:25:5, not {text!r}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    return list_range(field.name, parts)


def list_range(name: str, parts: list[Any]) -> list[Any]:
    """Return the numbers of a range, with its end.

    Raises:
        UsageError: Its step is 0 or leads away from the end.
    """
    start, stop = parts[:2]
    by = parts[2] if len(parts) == 3 else 1
    try:
        # the quotient of "0..1..0.1" is 9.999999999999998 or 10: a value that rounding alone puts
        # behind the end belongs to the range
        count = int((stop - start) / by + 1e-9) + 1 if by else 0
    except (ValueError, OverflowError):  # NaN, infinity, or a number of hundreds of digits
        count = 0
    if count < 1 or count > MAX_VALUES:
        message = f"the range of {name} has no values or more than {MAX_VALUES}"
        raise UsageError(message, code=CODE, hint=EXAMPLE)
    return [start + i * by for i in range(count)]
