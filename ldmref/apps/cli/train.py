"""`ldmref train`: from images to a model folder, resumable."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.progress import one_line, say, stopping
from ldmref.apps.cli.training_trace import require_steps, trace_options, tracing
from ldmref.errors import UsageError

if TYPE_CHECKING:
    from ldmref.training.monitor.progress import TrainingProgress

option = click.option
DATA_HELP = (
    "small-emoji, emoji, scenes, styles, another installed data set, or a folder of captioned "
    "images."
)


font_option = option(
    "--font",
    type=click.Path(readable=False),
    metavar="FILE",
    help="NotoColorEmoji.ttf, for the data sets emoji and scenes. Default: Debian's.",
)
packages_option = option(
    "--packages",
    type=click.Path(readable=False),
    metavar="FOLDER",
    help="The npm packages with the drawings of the data set styles.",
)
processes_option = option(
    "--processes",
    type=click.IntRange(0),
    metavar="N",
    help="Make images first and prefetch batches, by N processes. Default: 0.",
)

no_plots_option = option(
    "--no-plots",
    is_flag=True,
    help="Leave out plots and images of the progress, which take minutes for large models.",
)


@click.command()
@click.argument("recipe", required=False)
@option(
    "--data",
    metavar="NAME|FOLDER",
    help=DATA_HELP,
)
@font_option
@packages_option
@processes_option
@option(
    "-o",
    "--output",
    metavar="FOLDER",
    help="Training resumes if it contains checkpoints. Default: runs/ and the recipe's name.",
)
@option(
    "--preset",
    metavar="NAME",
    help="Networks: emoji, emoji-128, tiny, sd3-tiny, flux-tiny or another preset of ldmref "
    "models. Default: emoji.",
)
@option("--size", type=int, help="Width and height in pixels. Default: the preset's.")
@option("--autoencoder-steps", type=click.IntRange(1), help="Autoencoder: training steps.")
@option("--steps", type=click.IntRange(1), help="Denoiser: training steps.")
@option("--autoencoder-batch", type=click.IntRange(1), help="Autoencoder: images per step.")
@option("--batch", type=click.IntRange(1), help="Denoiser: images per step.")
@option("--lr", type=float, help="Learning rate of both stages.")
@option("--seed", type=click.IntRange(0), help="Seed of the training. Default: 0.")
@option("--device", metavar="NAME", help="cpu or cuda. Default: cpu.")
@option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    help="Type of activations; auto: bfloat16 if the device computes in it. Default: float32.",
)
@option(
    "--checkpoint-seconds",
    type=click.FloatRange(0),
    metavar="X",
    help="Save every X seconds; 0: not by time. Default: 30.",
)
@option(
    "--checkpoint-steps",
    type=click.IntRange(0),
    metavar="N",
    help="Save every N steps; 0: not by step. Default: 0.",
)
@option("--accept-changes", is_flag=True, help="Resume even if settings or images changed.")
@no_plots_option
@trace_options
@option(
    "--json", "as_json", is_flag=True, help="Print a JSON object on standard output at the end."
)
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def train(
    recipe: str | None, output: str | None, accept_changes: bool, as_json: bool, **flags: Any
) -> None:
    """Train an autoencoder, then a denoiser, on captioned images.

    RECIPE is a TOML file of settings, or the name of a recipe that ldmref ships (tiny, mmdit,
    emoji-128, images, ...); flags replace its values. Without a recipe, --data and -o are required.

    The captions of a folder are read from metadata.jsonl, metadata.csv or a .txt file for each
    image; otherwise the file names are the captions. Ctrl-C saves a checkpoint; repeat the command
    to resume.
    """
    for name, value in (("data", flags["data"]), ("output", output)):
        if recipe is None and value is None:
            hint = "or give a recipe: ldmref train recipe.toml"
            raise UsageError(f"option --{name} is missing", code="E-USAGE", hint=hint)
    lr = flags["lr"]
    if lr is not None and not (math.isfinite(lr) and 0 < lr <= 1):
        raise UsageError(f"--lr must be above 0 and at most 1, not {lr!r}", code="E-LR")

    from ldmref.training import Recipe, read_recipe
    from ldmref.training import train as train_recipe

    settings = read_recipe(recipe, overrides(flags))
    if not isinstance(settings, Recipe):
        message = f"{recipe!r} is a recipe of fine-tuning: it has a base"
        raise UsageError(message, code="E-RECIPE", hint=f"ldmref finetune {recipe}")
    require_trained(settings.stages, flags)
    require_images(settings.data.source)
    folder = Path(output or Path("runs", Path(recipe or "").stem))
    if flags["trace"] is not None and "diffusion" not in settings.stages:
        raise UsageError("--trace: the recipe trains no denoiser", code="E-USAGE")
    steps = require_steps(flags["trace"], flags["trace_steps"], settings.diffusion.budget.steps)
    with tracing(flags["trace"], steps, settings, settings.model) as observer:
        trained = partial(train_recipe, observer=observer)
        model = run_stoppable(trained, settings, folder, accept_changes)
    if settings.stages == ("autoencoder",):
        say_once(f"the autoencoder is ready: --vae {model} of a model that it fits")
    else:
        say_once(f"the model is ready: ldmref txt2img -m {model} -p ...")
    if as_json:
        print_once({"output": str(model), "stages": list(settings.stages)})


COMMANDS = (train,)


def run_stoppable(
    function: Callable[..., Path], settings: object, folder: Path, accept_changes: bool
) -> Path:
    """Run a training; Ctrl-C and SIGTERM stop it with their exit code."""
    with stopping() as stop:
        return function(
            settings,
            folder,
            on_progress=report,
            log=lambda line: say(one_line(line)),
            cancel=stop,
            accept_changes=accept_changes,
        )


def say_once(line: str) -> None:
    """Print a line in the first of the processes that `torchrun` has started."""
    if os.environ.get("RANK", "0") == "0":
        say(one_line(line))


def print_once(row: dict[str, Any]) -> None:
    """Print a JSON object in the first of the processes that `torchrun` has started."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(json.dumps(row))


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's tables with the values of the given flags."""
    rate = {"learning_rate": flags["lr"]}
    tables = {
        **{name: flags[name] for name in ("seed", "device", "dtype")},
        "data": {
            "source": source(flags["data"]),
            "font": absolute_path(flags["font"]),
            "packages": absolute_path(flags["packages"]),
            "processes": flags["processes"],
            "size": flags["size"],
        },
        "progress": progress_table(flags["no_plots"]),
        "model": {"preset": flags["preset"]},
        "autoencoder": {
            "optimizer": {"batch_size": flags["autoencoder_batch"]} | rate,
            "budget": {"steps": flags["autoencoder_steps"]},
        },
        "diffusion": {
            "optimizer": {"batch_size": flags["batch"]} | rate,
            "budget": {"steps": flags["steps"]},
        },
        "checkpoint": {
            "seconds": flags["checkpoint_seconds"],
            "steps": flags["checkpoint_steps"],
        },
    }
    return without_none(tables)


def progress_table(no_plots: bool) -> dict[str, Any]:
    """Return the recipe's table of plots and images with the value of --no-plots."""
    return {"seconds": 0.0} if no_plots else {}


def source(data: str | None) -> str | None:
    """Return the data source of a flag: a data set's name, or the absolute path of a folder."""
    from ldmref.datasets.registry import is_dataset

    return data if data is None or is_dataset(data) else str(Path(data).absolute())


def absolute_path(file: str | None) -> str | None:
    """Return the absolute path of a flag's file; None without the flag."""
    return None if file is None else str(Path(file).absolute())


def require_trained(stages: tuple[str, ...], flags: dict[str, Any]) -> None:
    """Refuse the denoiser's flags if no denoiser is trained: they would have no effect.

    Raises:
        UsageError: Such a flag is given; the hint names the flag of the autoencoder.
    """
    for name in ("steps", "batch"):
        if "diffusion" not in stages and flags[name] is not None:
            message = f"--{name} has no effect: the recipe trains no denoiser"
            hint = f"for the autoencoder: --autoencoder-{name}"
            raise UsageError(message, code="E-USAGE", hint=hint)


def require_images(source: str) -> None:
    """Refuse a shipped recipe that does not name its images if --data is missing."""
    from ldmref.training.recipes.file import SHIPPED

    if Path(source).parent == SHIPPED:
        raise UsageError("option --data is missing", code="E-USAGE", hint="a folder of images")


def without_none(tables: dict[str, Any]) -> dict[str, Any]:
    """Return nested tables without values of None and without empty tables."""
    kept = {k: without_none(v) if isinstance(v, dict) else v for k, v in tables.items()}
    return {k: v for k, v in kept.items() if v is not None and v != {}}


def report(progress: TrainingProgress) -> None:
    """Print the progress on stderr."""
    say(str(progress))
