"""`ldmref trace`: every intermediate of a run by name; `ldmref trace show`: what a trace holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ldmref.apps.cli.console import report_file
from ldmref.apps.cli.images import OWN_OPTIONS
from ldmref.apps.cli.options import PATH, ImageCommand, option, parameter_options, with_options
from ldmref.apps.cli.progress import ProgressBar, say, stopping
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.shared_options import INTERPOLATING, MODEL, PROMPT
from ldmref.apps.cli.sources import is_embedded, read_prompts
from ldmref.apps.cli.tables import TableRow, print_rows
from ldmref.apps.cli.tasks import WITHOUT_PROMPT, Values, plan_tasks
from ldmref.errors import UsageError
from ldmref.io.atomic import check_writable
from ldmref.models.memory import parse_bytes
from ldmref.modes.registry import MODES

if TYPE_CHECKING:
    from ldmref.modes.generate import Progress
    from ldmref.trace import Selection, Trace

LAYERS = option(
    "--layers",
    multiple=True,
    metavar="GLOB",
    help="Only layers whose names match, such as 'mid_block.*'; * also matches dots. The inputs "
    "and outputs of whole networks are always recorded. May be repeated.",
)
CALLS = option(
    "--calls",
    multiple=True,
    metavar="GLOB",
    help="Only calls whose names match, such as 'unet.*' or vae.decode. May be repeated.",
)
JSON = option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


@click.command()
@click.argument("folder", type=PATH)
@with_options((LAYERS, CALLS, JSON))
def show(folder: str, layers: tuple[str, ...], calls: tuple[str, ...], as_json: bool) -> None:
    """List the calls of a trace; with --layers or --calls, every tensor and its values.

    FOLDER may also be what another program recorded: a .safetensors or .npz file, a folder of
    .npy files, or a GGUF file, whose tensors have a trace's names.
    """
    from ldmref.trace import Selection, load_trace, show_bytes
    from ldmref.trace.summary import summarize_calls, summarize_tensors

    found = load_trace(folder)
    selection = Selection(layers, calls)
    if not layers and not calls:
        rows = [asdict(row) for row in summarize_calls(found)]
        print_rows(
            rows,
            as_json,
            lambda row: (
                row["call"],
                f"{row['layers']} layers",
                f"{row['tensors']} tensors",
                show_bytes(row["bytes"]),
            ),
        )
        return
    names = [entry.layer for entry in found.entries]
    selection.require_matches(found.calls, names)
    print_rows(
        [asdict(row) for row in summarize_tensors(found, selection)],
        as_json,
        lambda row: (
            f"{row['call']}/{row['layer']}",
            row["role"],
            row["dtype"],
            "x".join(map(str, row["shape"])) or "number",
            *(format_number(row[key]) for key in ("least", "greatest", "mean")),
            describe_bad(row),
        ),
    )


def format_number(value: float | None) -> str:
    """Return a number with four digits, "-" for None."""
    return "-" if value is None else f"{value:.4g}"


def describe_bad(row: TableRow) -> str:
    """Return how many values are NaN or infinite, "" if none is."""
    counts = [f"{row[key]} {key}" for key in ("nan", "infinite") if row[key]]
    return ", ".join(counts)


DEFAULT_MODE = "txt2img"
TRACED = tuple(mode for mode in MODES if mode != "edit")  # which follows two prompts
DEFAULT_DTYPE = "float64"
DEFAULT_LIMIT = "10GB"
RECORDING = (
    LAYERS,
    CALLS,
    option(
        "--only-steps",
        metavar="N,N-N,...",
        help="Only these steps of the sampler, from 0: 0,10-12. Calls outside of steps are "
        "always recorded.",
    ),
    option(
        "--states",
        is_flag=True,
        help="Only states, predictions and the image, which is what the explorer shows and ldmref "
        "record keeps.",
    ),
    option(
        "--max-size",
        metavar="SIZE",
        default=DEFAULT_LIMIT,
        show_default=True,
        help="Refuse a trace that would be larger.",
    ),
    option(
        "-o",
        "--output",
        type=PATH,
        metavar="FOLDER",
        required=True,
        help="The folder to write; it is created.",
    ),
    option("--overwrite", is_flag=True, help="Replace an existing trace."),
    JSON,
    option("-q", "--quiet", is_flag=True, help="Print only errors."),
    option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors."),
)


class TraceGroup(click.Group):
    """A group of modes; a prompt without a mode is traced with txt2img."""

    default = DEFAULT_MODE

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default mode where none is named."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(cls=TraceGroup)
def trace() -> None:
    """Record every named intermediate of a run: inputs and outputs of each layer.

    Computed by NumPy in float64, unless --backend, --device, --dtype or --speed is given.

    Example: ldmref trace "red heart" --seed 1 --steps 4 -o heart-trace
    """


def command(mode: str) -> click.Command:
    """Return the command that traces a mode."""
    prompt = () if mode in WITHOUT_PROMPT else PROMPT
    flags = parameter_options(MODES[mode].parameters.values())
    own = ()
    if mode == "interpolate":
        own = (*INTERPOLATING[:2], OWN_OPTIONS[mode][-1])

    @with_options(prompt, flags, own, MODEL, RECORDING)
    def run(
        words: tuple[str, ...] = (),
        prompt: tuple[str, ...] = (),
        prompts: str | None = None,
        **flags: object,
    ) -> None:
        texts = [""]
        if mode not in WITHOUT_PROMPT and not is_embedded(words, prompt, prompts, flags):
            texts = read_prompts(words, prompt, prompts, f"trace {mode}")
        record_mode(mode, flags | {"prompt": texts})

    name = f"Trace a run of {mode}."
    return click.command(name=mode, help=name, cls=ImageCommand)(run)


for _mode in TRACED:
    trace.add_command(command(_mode))


def record_mode(mode: str, flags: Values) -> None:
    """Check everything, load the model and record the run."""
    from ldmref.trace import read_trace, record_trace, show_bytes
    from ldmref.trace.record_plan import require_recordable

    session = CommandSession(flags, usual=("numpy", "cpu", DEFAULT_DTYPE, "exact"))
    folder = Path(flags["output"])
    selection = read_selection(flags)
    limit = parse_bytes(flags["max_size"], "max_size")
    with session.planning() as config:
        tasks = plan_tasks(mode, config, with_settings(mode, flags, session.configured))
    if len(tasks) > 1:
        message = f"a trace holds one run, not those of {len(tasks)} input images"
        raise UsageError(message, code="E-USAGE", hint="give one input image")
    plan = tasks[0].plan
    require_recordable(plan)
    if folder.exists():
        check_writable(folder / "trace.json", flags["overwrite"])
    with stopping() as stop:
        model = session.load()
        if not flags["quiet"] and session.backend.compiles:
            kept = "only their inputs and outputs are recorded"
            say(f"{session.backend.name} compiles networks: {kept}")
        bar = ProgressBar("none" if flags["quiet"] else "auto")

        def advance(progress: Progress) -> None:
            done = min(progress.step + 1, progress.steps)
            bar.update(done, progress.steps, progress.first, progress.count)

        try:
            result = record_trace(
                plan,
                model,
                folder,
                selection=selection,
                overwrite=flags["overwrite"],
                callback=advance,
                cancel=stop,
                max_bytes=limit,
            )
        finally:
            bar.clear()
        row: Values = {"path": str(folder)} | count_content(read_trace(folder), folder)
        row |= {"params": result.params, "warnings": result.warnings}
        size = f"{row['calls']} calls", show_bytes(row["bytes"])
        line = [str(folder), f"seed {result.params['seed']}", *size]
        report_file(line, result.warnings, row, flags)


def read_selection(flags: Values) -> Selection:
    """Return what to record.

    Raises:
        UsageError: --states is given with patterns.
    """
    from ldmref.trace import Selection

    steps = read_steps(flags["only_steps"])
    if not flags["states"]:
        return Selection(flags["layers"], flags["calls"], steps)
    if flags["layers"] or flags["calls"] or steps:
        message = "--states chooses calls and layers itself"
        hint = "leave out --layers, --calls and --only-steps"
        raise UsageError(message, code="E-USAGE", hint=hint)
    return Selection.states()


def read_steps(text: str | None, flag: str = "--only-steps") -> tuple[int, ...]:
    """Return the steps of a list such as `0,10-12`.

    Raises:
        UsageError: It is not such a list.

    >>> read_steps("0,10-12")
    (0, 10, 11, 12)
    """
    steps: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or int(last or first) > 10**6:
            message = f"cannot read the steps {text!r}"
            raise UsageError(message, code="E-USAGE", hint=f"{flag} 0,10-12")
        steps |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(steps))


def count_content(found: Trace, folder: Path) -> Values:
    """Return the size of a trace and the numbers of its calls, layers and tensors."""
    sizes = {file.stem: file.stat().st_size for file in folder.glob("*.safetensors")}
    size = sum(sizes.values()) + (folder / "trace.json").stat().st_size
    layers = {entry.layer for entry in found.entries if entry.layer}
    counts = {"calls": len(found.calls), "layers": len(layers), "tensors": len(found.tensors)}
    return {"bytes": size} | counts


trace.add_command(show)
COMMANDS = (trace,)
