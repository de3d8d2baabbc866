"""`ldmref finetune`: a LoRA, a new word, or full fine-tuning of a model, from images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ldmref.cli.train import require_images, run_stoppable, say_once, source, without_none
from ldmref.errors import UsageError

option = click.option


@click.command()
@click.argument("recipe", required=False, default="lora")
@option("--base", metavar="MODEL", help="What is fine-tuned, as -m of txt2img; default: emoji.")
@option("--data", metavar="emoji|scenes|FOLDER", help="Captioned images.")
@option(
    "-o",
    "--output",
    metavar="FOLDER",
    help="Resumed if it contains checkpoints; default: runs/ and the recipe's name.",
)
@option(
    "--rank",
    type=click.IntRange(1, 1024),
    help="LoRA: the rank; default: 32 for a small base such as emoji, 8 for Stable Diffusion.",
)
@option("--alpha", type=click.FloatRange(0, min_open=True), help="LoRA: alpha; default: the rank.")
@option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="LoRA: attention, feed_forward, "
    "projections, convolutions or text; may be repeated; default: all for a small base, "
    "attention for Stable Diffusion.",
)
@option("--word", help="Textual inversion: the new word; default: <new>.")
@option("--initial", metavar="WORD", help="Textual inversion: the known word to start from.")
@option("--vectors", type=click.IntRange(1, 64), help="Textual inversion: how many; default: 1.")
@option("--size", type=int, help="Pixels; default: the model's.")
@option("--steps", type=click.IntRange(1), help="Training steps.")
@option("--batch", type=click.IntRange(1), help="Images per step.")
@option(
    "--lr",
    type=click.FloatRange(0, 1, min_open=True),
    help="Learning rate; default: by method and base, 1e-4 for a LoRA of Stable Diffusion.",
)
@option("--seed", type=click.IntRange(0), help="Default: 0.")
@option("--device", metavar="NAME", help="cpu or cuda; default: cpu.")
@option("--dtype", type=click.Choice(["float32", "bfloat16", "auto"]), help="Default: float32.")
@option("--accept-changes", is_flag=True, help="Resume although settings or images changed.")
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def finetune(recipe: str, output: str | None, accept_changes: bool, **flags: Any) -> None:
    """Learn a LoRA or a new word from captioned images, or fine-tune a whole model.

    RECIPE is a TOML file with every setting, or the name of one that comes with ldmref: lora (the
    default), textual-inversion or full; flags replace its values. Ctrl-C saves a checkpoint; repeat
    the command to resume.
    """
    from ldmref.training.finetune.recipe import FineTuneRecipe
    from ldmref.training.finetune.run import fine_tune
    from ldmref.training.recipe_file import read_recipe

    settings = read_recipe(recipe, overrides(flags))
    if not isinstance(settings, FineTuneRecipe):
        message = f"{recipe!r} is the recipe of a whole model: it has no base"
        raise UsageError(message, code="E-RECIPE", hint=f"ldmref train {recipe}")
    require_own_flags(settings.method, flags)
    require_images(settings.data.source)
    folder = Path(output or Path("runs", Path(recipe).stem))
    file = run_stoppable(fine_tune, settings, folder, accept_changes)
    flags = {"lora": f"-m {settings.base} --lora", "full": "-m"}
    flag = flags.get(settings.method, f"-m {settings.base} --embedding")
    say_once(f"ready: ldmref txt2img {flag} {file} -p ...")


COMMANDS = (finetune,)
OWN_FLAGS = {  # method -> its recipe, and the flags that no other method has
    "lora": ("lora", {"rank": "--rank", "alpha": "--alpha", "targets": "--target"}),
    "textual_inversion": (
        "textual-inversion", {"word": "--word", "initial": "--initial", "vectors": "--vectors"},
    ),
}  # fmt: skip


def require_own_flags(method: str, flags: dict[str, Any]) -> None:
    """Refuse the flags of another method, which would have no effect.

    Raises:
        UsageError: names the first of them, and the recipe that it belongs to.
    """
    for owner, (recipe, names) in OWN_FLAGS.items():
        for name, flag in names.items():
            if owner != method and flags[name] not in (None, ()):
                message = f"{flag} has no effect: the method is {method}"
                hint = f"for {owner}: ldmref finetune {recipe} {flag} ..."
                raise UsageError(message, code="E-USAGE", hint=hint)


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """The recipe's tables with the values of the flags that are there."""
    alpha = flags["alpha"] or flags["rank"]
    tables = {
        **{name: flags[name] for name in ("base", "seed", "device", "dtype")},
        "data": {"source": source(flags["data"]), "size": flags["size"]},
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
