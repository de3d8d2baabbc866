"""`python -m benchmarks.alone`: how long the pieces of an image take on this machine."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from benchmarks.__main__ import run, say
from benchmarks.machine import gemm_peaks, openblas_overrides
from benchmarks.measured import (
    OutputFiles,
    format_profile,
    format_scaling_point,
    format_time,
    plot_profile,
    plot_scaling,
    plot_times,
)
from benchmarks.profile import (
    SCALING_VALUES,
    SMALL_SCALING_VALUES,
    measure_scaling,
    measure_work,
    profile_work,
)
from benchmarks.work import TITLES, MeasuredWork
from ldmref.errors import UsageError
from ldmref.models.presets import preset

SCHEMA = 2
WORK = ("text", "unet", "vae", "image")
option = click.option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[WORK]...", nargs=-1, type=click.Choice(WORK))
@option("--model", metavar="PRESET", default="emoji-128", help="Default: emoji-128.")
@option("--backend", metavar="NAME", default="numpy", help="Default: numpy.")
@option("--device", metavar="NAME", help="Device: cpu, cuda:0, ... Default: the backend's.")
@option("--dtype", metavar="NAME", default="float32", help="Number format. Default: float32.")
@option("--size", type=click.IntRange(8, 4096), help="Width and height. Default: the model's.")
@option("--steps", type=click.IntRange(1, 1000), help="Of the image. Default: the model's.")
@option("--rounds", type=click.IntRange(1, 1000), default=5, help="Default: 5.")
@option("--profile", is_flag=True, help="Time by operation, shape and layer.")
@option("--grow", type=click.Choice(["resolution", "batch", "steps"]), help="How cost grows.")
@option("--json", "json_file", metavar="FILE", help="Write all numbers and the machine's data.")
@option("--plot", "plot_file", metavar="FILE", help="Write a plot: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace existing files.")
def alone(
    names: tuple[str, ...],
    model: str,
    backend: str,
    device: str | None,
    dtype: str,
    size: int | None,
    steps: int | None,
    rounds: int,
    profile: bool,
    grow: str | None,
    json_file: str | None,
    plot_file: str | None,
    overwrite: bool,
) -> None:
    """Measure how long a prompt, a step, the decoder and an image take on this machine.

    WORK is text, unet, vae or image; the default is all of them, and unet for --profile and --grow.
    The model is a preset of ldmref models with random weights, which take as long as trained ones:
    --model sd15 needs 4 GB of memory, and on two cores minutes for an image. --json also holds what
    the numbers depend on: processor, threads, versions.
    """
    if profile and grow:
        raise UsageError("--profile and --grow exclude each other", code="E-USAGE")
    if (profile or grow) and len(names) > 1:
        raise UsageError("--profile and --grow take one WORK", code="E-USAGE")
    files = OutputFiles(json_file, plot_file, overwrite)
    defaults = preset(model).defaults
    overrides = openblas_overrides()
    if overrides:
        say(f"warning: {overrides} overrides OpenBLAS' detection of the processor")
    work = MeasuredWork(
        work=names[0] if names else "unet",
        backend=backend,
        dtype=dtype,
        device=device or "",
        model=model,
        size=size or defaults.width,
        steps=steps or defaults.steps,
    )
    if profile:
        report, plot = _profile(work), plot_profile
    elif grow:
        report, plot = _grow(work, grow, rounds), plot_scaling
    else:
        report, plot = (
            _measure([replace(work, work=name) for name in names or WORK], rounds),
            plot_times,
        )
    ((name, found),) = report.items()
    files.write({"schema": SCHEMA, name: found}, plot, found)


def _measure(pieces: list[MeasuredWork], rounds: int) -> dict[str, list[dict]]:
    """Measure pieces of work of one model."""
    first = pieces[0]
    model = first.make_model()
    peak = max(gemm_peaks(first.dtype, first.device or "cpu").values(), default=0.0)
    times = []
    for piece in pieces:
        found = measure_work(piece, model, rounds, peak)
        click.echo(format_time(found))
        times.append(found)
    return {"work": times}


def _profile(work: MeasuredWork) -> dict[str, dict]:
    found = profile_work(work)
    click.echo("\n".join(format_profile(found)))
    return {"profile": found}


def _grow(work: MeasuredWork, variable: str, rounds: int) -> dict[str, list[dict]]:
    """Measure how the cost of one piece of work grows."""
    large = preset(work.model).defaults.width >= 256
    values = (SCALING_VALUES if large else SMALL_SCALING_VALUES)[variable]
    title = TITLES["image" if variable == "steps" else work.work]
    click.echo(f"{work.model} on {work.backend}: {title}")
    points = []
    for point in measure_scaling(work, variable, values, rounds):
        click.echo(format_scaling_point(point))
        points.append(point)
    return {"grow": points}


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code, and print an error as one line."""
    return run(alone, argv, "python -m benchmarks.alone")


if __name__ == "__main__":
    sys.exit(main())
