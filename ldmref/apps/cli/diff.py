"""`ldmref diff`: find the layers and steps of a port that compute something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.options import PATH, LoraFile
from ldmref.apps.cli.progress import ProgressBar, one_line, print_line, say
from ldmref.errors import (
    InputError,
    NotCompared,
    UsageError,
    VerifyError,
    abbreviated,
)
from ldmref.support.columns import align_columns
from ldmref.support.foreign_code import printing_to_stderr

if TYPE_CHECKING:
    from ldmref.locate import DiffReport
    from ldmref.models.model import LatentDiffusion
    from ldmref.trace import Trace

option = click.option


@click.command()
@click.argument("traces", nargs=-1, type=PATH, metavar="[REFERENCE] PORT")
@option(
    "-m",
    "--model",
    type=PATH,
    metavar="NAME|FILE|FOLDER",
    help="Model that the port ran. Default: the one that the traces name.",
)
@option(
    "--control",
    "controlnets",
    type=PATH,
    multiple=True,
    metavar="FILE|FOLDER",
    help="ControlNet that the port ran; may be repeated.",
)
@option(
    "--lora",
    "loras",
    type=LoraFile(),
    multiple=True,
    help="LoRA file that the port applied; the default WEIGHT is 1. May be repeated.",
)
@option(
    "--against",
    metavar="MODULE:FUNCTION",
    help="Compare with a PyTorch module, or a pipeline of some, instead of a model of ldmref: the "
    "function is imported, also from this folder, and returns it.",
)
@option(
    "--guide",
    type=PATH,
    metavar="NAME|FILE|FOLDER",
    help="Weaker model of a run with autoguidance.",
)
@option(
    "--dtype",
    metavar="NAME",
    help="Number format of the port: float64, float32, float16 or bfloat16. Default: as recorded.",
)
@option(
    "--names",
    type=PATH,
    metavar="FILE",
    help="JSON or TOML file with the trace's name for each name of the port.",
)
@option("--all", "everything", is_flag=True, help="List every layer, not only those that differ.")
@option("--worst", is_flag=True, help="List the largest error first, not in the order of the run.")
@option("--plot", "plot_file", metavar="FILE", help="Write a plot: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace the file given with --plot.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@option("-q", "--quiet", is_flag=True, help="Do not show progress.")
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def diff(traces: tuple[str, ...], plot_file: str | None, as_json: bool, **flags: Any) -> None:
    """Find the layers and steps of a port whose results differ from ldmref's.

    PORT is what your program recorded: a folder of ldmref trace, a .safetensors or .npz file, a
    folder of .npy files, or a GGUF file. ldmref computes each layer again in float64 from the
    port's own input and the model's weights, so one run names several faults, and neither the same
    seed nor a reference is needed. REFERENCE, a trace of the same run, adds the difference that
    each layer has inherited; it may also be a model. Two traces of a model that ldmref does not
    know are compared with each other alone; with --against, the layers of a port of any PyTorch
    module are judged by the module itself.

    The exit code is 4 if something differs, and 10 if nothing differs but not everything that the
    trace holds, or nothing, could be compared.

    \b
    ldmref diff port.safetensors --model v1-5.safetensors
    ldmref diff reference-trace port-trace --plot diff.png
    ldmref diff port-trace --against my_model:make
    """
    from ldmref.locate.report import summary

    plot = _check_plot(plot_file, flags["overwrite"])
    _check_original(flags)
    reference, port, name = _read(
        traces, flags["names"], flags["model"], flags["against"] is not None
    )
    bar = ProgressBar("none" if flags["quiet"] or as_json else "auto")

    def progress(done: int, calls: int, call: str) -> None:
        bar.update(max(done, 1), calls, 0, 1, call, "calls")

    try:
        report = _compare(port, reference, name, flags, progress)
    finally:
        bar.clear()
    if plot is not None:
        _write_plot(plot, report, flags["overwrite"])
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        print_report(report, flags["everything"], flags["worst"])
        if report.equal:
            print_line(summary(report))
    _require_equal(report, as_json)


def _compare(
    port: Trace,
    reference: Trace | None,
    name: str | None,
    flags: dict[str, Any],
    progress: Callable[[int, int, str], None],
) -> DiffReport:
    """Compare a port with a PyTorch module, or with a model of ldmref."""
    from ldmref.loading import load
    from ldmref.loading_networks import load_controlnet
    from ldmref.locate import diff_modules, diff_traces

    dtype = flags["dtype"]
    if flags["against"] is not None:
        from ldmref.locate.modules.loading import make_original

        with printing_to_stderr():
            original = make_original(flags["against"])
            return diff_modules(port, original, reference, dtype=dtype, progress=progress)
    model = _load_model(name, port, reference, flags["loras"])
    nets = [
        load_controlnet(path, "numpy", dtype="float32", unet=model and model.config.denoiser)
        for path in flags["controlnets"]
    ]
    named = flags["guide"]
    guide = None if named is None else load(named, backend="numpy", dtype="float32")
    more = {"controlnets": nets, "guide": guide, "dtype": dtype}
    return diff_traces(port, model, reference, progress=progress, **more)


def _check_original(flags: dict[str, Any]) -> None:
    """Refuse options of a model of ldmref together with a PyTorch module.

    Raises:
        UsageError: There are some.
    """
    of_model = {"--model": "model", "--control": "controlnets", "--lora": "loras"}
    of_model |= {"--guide": "guide"}
    both = [option for option, name in of_model.items() if flags[name]]
    if flags["against"] is not None and both:
        message = f"{both[0]} belongs to a model of ldmref, and --against names another original"
        raise UsageError(message, code="E-USAGE", hint="leave out one of them")


def _require_equal(report: DiffReport, is_printed: bool) -> None:
    """Raise if something differs, or if not everything was compared.

    Args:
        report: The report.
        is_printed: Whether it was printed as JSON.
    """
    from ldmref.locate.findings import DIFFERS
    from ldmref.locate.report import group_rows, summary

    if report.verdict == DIFFERS:
        names = [group.name for group in group_rows(report.faults)]
        error = VerifyError(f"{summary(report)}: {abbreviated(names, 3)}", code="E-DIFF")
        error.is_printed = is_printed
        raise error
    if not report.equal:
        hint = "the table and the notes say what was left out; --all lists every layer"
        missing = NotCompared(summary(report), code="E-NOT-COMPARED", hint=hint)
        missing.is_printed = is_printed
        raise missing


def _read(
    traces: tuple[str, ...], names: str | None, model: str | None, against: bool
) -> tuple[Trace | None, Trace, str | None]:
    """Return the reference trace, the port's trace, and the model's name."""
    from ldmref.trace.readers import load_trace

    if not 1 <= len(traces) <= 2:
        hint = "ldmref diff [REFERENCE] PORT"
        raise UsageError("diff needs one or two traces", code="E-USAGE", hint=hint)
    port = load_trace(traces[-1], names)
    if len(traces) == 1:
        return None, port, model
    try:
        return load_trace(traces[0]), port, model
    except InputError:
        if model is not None or against:
            raise
    return None, port, traces[0]  # the reference is a model


def _load_model(
    name: str | None, port: Trace, reference: Trace | None, loras: Sequence[Any] = ()
) -> LatentDiffusion | None:
    """Load the model of the traces with the LoRAs of the port, in float32 on NumPy.

    Returns:
        The model; None if two traces are of one that ldmref does not know.

    Raises:
        UsageError: The only trace names no model that is here; or a small model of golden cases
            shall get LoRAs.
    """
    from ldmref.cases.golden_models import model_of_suite
    from ldmref.io.checkpoint import read_model_config
    from ldmref.io.embedded import EMBEDDED
    from ldmref.loading import load

    def open_model(name: str) -> LatentDiffusion:
        golden = model_of_suite(name)
        if golden is None:
            return load(name, backend="numpy", dtype="float32", lora=loras)
        if loras:
            message = f"{name!r} is a model of golden cases, which takes no LoRA"
            raise UsageError(message, code="E-LORA", hint="leave out --lora")
        return golden

    if name is not None:
        return open_model(name)
    for trace in (port, reference):
        described = {} if trace is None else trace.manifest.get("model") or {}
        found = described.get("name", "") if isinstance(described, dict) else ""
        embedded = [n for n in EMBEDDED if found in (n, read_model_config(n).name)]
        if model_of_suite(found) is not None or embedded or (found and Path(found).exists()):
            return open_model(*embedded[:1] or [found])
    if reference is not None and not loras:
        return None
    message = "the traces do not name a model that is here"
    raise UsageError(message, code="E-TRACE-MODEL", hint="add --model NAME|FILE|FOLDER")


def _check_plot(name: str | None, overwrite: bool) -> Path | None:
    """Check the file of --plot before anything is computed, and return its path."""
    if name is None:
        return None
    from ldmref.plots.files import check_plot

    return check_plot(name, overwrite)


def _write_plot(path: Path, report: DiffReport, overwrite: bool) -> None:
    from ldmref.apps.cli.diff_plot import plot_diff
    from ldmref.plots.files import save_plot

    save_plot(plot_diff(report).figure, path, overwrite)
    say(f"note: wrote {path}")


def print_report(report: DiffReport, everything: bool, worst_first: bool = False) -> None:
    """Print the table and remarks."""
    from ldmref.locate.report import table

    cells = table(report, everything=everything, worst_first=worst_first)
    for i, line in enumerate(align_columns(cells)):
        print_line("" if i == 0 else line, heading=line if i == 0 else "")
    for note in (*report.gaps, *report.notes):
        say(one_line(f"note: {note}"))


COMMANDS = (diff,)
