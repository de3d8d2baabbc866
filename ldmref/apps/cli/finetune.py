"""`ldmref finetune`: a LoRA, a new word, full fine-tuning of a model, or a flow map of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ldmref.apps.cli.train import (
    DATA_HELP,
    absolute_path,
    font_option,
    no_plots_option,
    packages_option,
    print_once,
    processes_option,
    progress_table,
    require_images,
    run_stoppable,
    say_once,
    source,
    without_none,
)
from ldmref.apps.cli.training_trace import require_steps, trace_options, tracing
from ldmref.errors import UsageError

option = click.option


@click.command()
@click.argument("recipe", required=False, default="lora")
@option("--base", metavar="MODEL", help="The model to fine-tune. Default: emoji.")
@option(
    "--model-config",
    metavar="NAME|FOLDER",
    help="Configuration of a single file that does not determine its own.",
)
@option("--data", metavar="NAME|FOLDER", help=DATA_HELP)
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
    "--rank",
    type=click.IntRange(1, 1024),
    help="LoRA: rank. Default: 32 for a small base such as emoji, 8 for Stable Diffusion.",
)
@option("--alpha", type=click.FloatRange(0, min_open=True), help="LoRA: alpha. Default: the rank.")
@option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="LoRA: layers to change, attention, feed_forward, projections, convolutions (of a U-Net) "
    "or text; may be repeated. Default: all for a small base, attention for Stable Diffusion.",
)
@option("--word", help="Textual inversion: the new word. Default: <new>.")
@option("--initial", metavar="WORD", help="Textual inversion: the known word to start from.")
@option(
    "--vectors",
    type=click.IntRange(1, 64),
    help="Textual inversion: vectors of the word. Default: 1.",
)
@option("--size", type=int, help="Width and height in pixels. Default: the model's.")
@option("--steps", type=click.IntRange(1), help="Training steps.")
@option("--batch", type=click.IntRange(1), help="Images per step.")
@option(
    "--lr",
    type=click.FloatRange(0, 1, min_open=True),
    help="Learning rate. Default: by method and base, 1e-4 for a LoRA of Stable Diffusion.",
)
@option("--seed", type=click.IntRange(0), help="Seed of the training. Default: 0.")
@option("--device", metavar="NAME", help="cpu or cuda. Default: cpu.")
@option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    help="Type of activations; auto: bfloat16 if the device computes in it. Default: float32.",
)
@option("--accept-changes", is_flag=True, help="Resume even if settings or images changed.")
@no_plots_option
@trace_options
@option(
    "--json", "as_json", is_flag=True, help="Print a JSON object on standard output at the end."
)
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def finetune(
    recipe: str, output: str | None, accept_changes: bool, as_json: bool, **flags: Any
) -> None:
    """Learn a LoRA or a new word from captioned images, fine-tune or distil a whole model.

    RECIPE is a TOML file of settings, or the name of a recipe that ldmref ships: lora (the
    default), textual-inversion, full, or distill, which makes a flow map of few steps. Flags
    replace its values. Ctrl-C saves a checkpoint; repeat the command to resume.
    """
    from ldmref.training import FineTuneRecipe, fine_tune, read_recipe

    settings = read_recipe(recipe, overrides(flags))
    if not isinstance(settings, FineTuneRecipe):
        message = f"{recipe!r} is the recipe of a whole model: it has no base"
        raise UsageError(message, code="E-RECIPE", hint=f"ldmref train {recipe}")
    require_own_flags(settings.method, flags)
    require_images(settings.data.source)
    folder = Path(output or Path("runs", Path(recipe).stem))
    if flags["trace"] is not None and settings.method == "distill":
        raise UsageError("--trace: steps of a distillation are not recorded", code="E-USAGE")
    steps = require_steps(flags["trace"], flags["trace_steps"], settings.diffusion.budget.steps)
    base = settings.read_base_config()
    with tracing(flags["trace"], steps, settings, base) as observer:
        tuned = partial(fine_tune, observer=observer)
        file = run_stoppable(tuned, settings, folder, accept_changes)
    model = f"-m {settings.base}"
    if settings.base_config:
        model += f" --model-config {settings.base_config}"
    flags_of = {"lora": f"{model} --lora", "textual_inversion": f"{model} --embedding"}
    flag = flags_of.get(settings.method, "-m")
    say_once(f"ready: ldmref txt2img {flag} {file} -p ...")
    if as_json:
        print_once({"output": str(file), "method": settings.method, "base": settings.base})


COMMANDS = (finetune,)
METHOD_FLAGS = {  # method -> its recipe, and the flags that only this method has
    "lora": ("lora", {"rank": "--rank", "alpha": "--alpha", "targets": "--target"}),
    "textual_inversion": (
        "textual-inversion",
        {"word": "--word", "initial": "--initial", "vectors": "--vectors"},
    ),
}


def require_own_flags(method: str, flags: dict[str, Any]) -> None:
    """Refuse flags of another method, which would have no effect.

    Raises:
        UsageError: Such a flag is given; the hint names its recipe.
    """
    for owner, (recipe, names) in METHOD_FLAGS.items():
        for name, flag in names.items():
            if owner != method and flags[name] not in (None, ()):
                message = f"{flag} has no effect: the method is {method}"
                hint = f"for {owner}: ldmref finetune {recipe} {flag} ..."
                raise UsageError(message, code="E-USAGE", hint=hint)


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's tables with the values of the given flags."""
    alpha = flags["alpha"] or flags["rank"]
    tables = {
        **{name: flags[name] for name in ("base", "seed", "device", "dtype")},
        "base_config": flags["model_config"],
        "data": {
            "source": source(flags["data"]),
            "font": absolute_path(flags["font"]),
            "packages": absolute_path(flags["packages"]),
            "processes": flags["processes"],
            "size": flags["size"],
        },
        "progress": progress_table(flags["no_plots"]),
        "lora": {
            "rank": flags["rank"],
            "alpha": None if alpha is None else float(alpha),
            "targets": list(flags["targets"]) or None,
        },
        "textual_inversion": {name: flags[name] for name in ("word", "initial", "vectors")},
        "diffusion": {
            "optimizer": {"batch_size": flags["batch"], "learning_rate": flags["lr"]},
            "budget": {"steps": flags["steps"]},
        },
    }
    return without_none(tables)
