"""`--trace` of `ldmref train` and `ldmref finetune`: record steps of a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.options import PATH
from ldmref.apps.cli.progress import one_line, say
from ldmref.apps.cli.trace import read_steps
from ldmref.errors import UsageError

if TYPE_CHECKING:
    from ldmref.models.config import ModelConfig
    from ldmref.training import FineTuneRecipe, Recipe


def trace_options(command: Callable) -> Callable:
    """Add `--trace` and `--trace-steps` to a command."""
    steps = click.option(
        "--trace-steps",
        metavar="N,N-N,...",
        help="The steps to record, from 0, such as 0,100-102. Default: 0.",
    )
    folder = click.option(
        "--trace",
        type=PATH,
        metavar="FOLDER",
        help="Record steps of the denoiser's training in a trace: batch, noise, prediction, loss, "
        "and every layer with the norm of its gradient. See ldmref trace.",
    )
    return folder(steps(command))


def require_steps(folder: str | None, steps: str | None, count: int) -> tuple[int, ...]:
    """Return the steps to record, () without a folder.

    Args:
        folder: The trace, or None.
        steps: The value of `--trace-steps`.
        count: The number of steps of the denoiser's training.

    Raises:
        UsageError: There are no such steps, or several processes.
    """
    if folder is None:
        if steps is not None:
            message = "--trace-steps has no effect without --trace"
            raise UsageError(message, code="E-USAGE", hint="--trace FOLDER")
        return ()
    numbers = read_steps(steps or "0", "--trace-steps")
    if not numbers or numbers[-1] >= count:
        message = f"--trace-steps {steps}: the denoiser is trained in steps 0 to {count - 1}"
        raise UsageError(message, code="E-USAGE", hint="--trace-steps 0,10-12")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        message = "--trace records the training of one process"
        raise UsageError(message, code="E-USAGE", hint="start it without torchrun")
    return numbers


@contextmanager
def tracing(
    folder: str | None, steps: tuple[int, ...], recipe: Recipe | FineTuneRecipe, model: ModelConfig
) -> Iterator[Any]:
    """Yield the observer that traces these steps, None without a folder.

    Args:
        folder: The trace to write, or None.
        steps: The steps to record.
        recipe: The training.
        model: The model that is trained.

    Raises:
        OutputError: The folder has a trace.
    """
    if folder is None:
        yield None
        return
    from ldmref.training.recipes.file import to_toml
    from ldmref.training.step_trace import TrainingTrace

    params = {"recipe": to_toml(recipe)}
    with TrainingTrace(folder, model, steps, params=params, seeds=[recipe.seed]) as trace:
        yield trace
    missing = sorted(trace.steps.difference(trace.recorded))
    if missing:
        say(f"ldmref: warning: not traced, as they were trained before: steps {missing}")
    say(one_line(f"{folder}  trace of {len(trace.recorded)} steps"))
