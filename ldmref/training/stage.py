"""One stage of a training: resumed from its checkpoint, saved, recorded and shown while it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ldmref.errors import Cancelled, NumericError, OutputError
from ldmref.training.checkpoint import (
    CheckpointTimer,
    Header,
    TrainingSettings,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)
from ldmref.training.context import TrainingContext
from ldmref.training.distributed import any_rank, on_first_rank, rank, ranks
from ldmref.training.monitor.previews import TrainingPreview
from ldmref.training.monitor.stage import StageMonitor
from ldmref.training.optimizers import learning_rate_factor
from ldmref.training.trainer import Trainer

RATE_JUMP = 1.5  # a larger factor is logged


@contextmanager
def exported(export: Callable[[], None]) -> Iterator[None]:
    """Export at the end of a stage, and also when it is cancelled."""
    try:
        yield
    except Cancelled:
        export()
        raise
    export()


def train_stage(
    context: TrainingContext,
    stage: str,
    trainer: Trainer,
    tokenizer: str,
    preview: TrainingPreview | None = None,
) -> bool:
    """Train a stage to the end of its budget.

    A checkpoint is saved when one is due, and on any interruption: `context.cancel`, Ctrl-C, an
    error in `context.on_progress`. If a step fails, or is interrupted while it changes parameters,
    the last checkpoint stays.

    Args:
        context: The training that the stage belongs to.
        stage: Its name, which is also the name of its checkpoint.
        trainer: A new trainer of the stage; the checkpoint's state is loaded into it.
        tokenizer: JSON of the tokenizer, recorded in the checkpoint; "" without one.
        preview: The image that is made of the averaged weights now and then, and at the end.

    Returns:
        Whether it was trained; False if the checkpoint was already complete.

    Raises:
        Cancelled: `context.cancel` was set.
        NumericError: The loss or its gradient is not finite.
        OutputError: A checkpoint cannot be written.
    """
    gc.collect()  # the previous trainer is cyclic and keeps the device's memory
    path = checkpoint_path(context.folder, stage)
    timer = CheckpointTimer(context.recipe.checkpoint)
    settings = TrainingSettings(context.recipe, context.summary)
    history: tuple[dict[str, Any], ...] = ()

    def state() -> dict[str, np.ndarray]:
        arrays = {name: tensor.numpy() for name, tensor in trainer.state().items()}
        return arrays | monitor.state()

    def save() -> None:
        start = time.monotonic()
        header = Header(trainer.step, *settings, tokenizer, history)
        on_first_rank(write_checkpoint, path, header, state())
        timer.saved(time.monotonic() - start)

    header: Header | None = None
    arrays: Mapping[str, np.ndarray] = {}
    if path.exists():
        header, arrays = read_checkpoint(path)
        history = header.continued(settings)
        trainer.load_state(header.step, arrays)
        log_rate_jump(context, stage, trainer, header)
    monitor = StageMonitor(context, stage, trainer, arrays, preview)
    del arrays  # the file that the next checkpoint replaces
    if header is not None and trainer.step >= trainer.steps:
        if context.rewrite:  # no step was made with these settings
            on_first_rank(write_checkpoint, path, header.accepting(settings), state())
        return False
    if trainer.step:
        context.log(f"{stage} resumed after step {trainer.step} of {trainer.steps}")
    monitor.begin()
    try:
        for done in trainer.run(context.cancel, stage):
            recorded = monitor.record(done)
            due = rank() == 0 and timer.due(done.step)
            if done.step == trainer.steps or any_rank(due, context.ops.device):
                save()
            if recorded:
                monitor.render_if_due()
    except (NumericError, OutputError):
        raise  # the last checkpoint is the good one
    except BaseException as error:
        together = ranks() == 1 or isinstance(error, Cancelled)
        if together and not trainer.updating:
            save()
        raise
    return True


def log_rate_jump(context: TrainingContext, stage: str, trainer: Trainer, header: Header) -> None:
    """Log it if a raised budget makes the learning rate jump where the training continues."""
    before = getattr(header.recipe, stage).budget.steps
    if not 0 < trainer.step < trainer.steps or before == trainer.steps:
        return
    old = learning_rate_factor(trainer.config, before, trainer.step - 1)
    new = trainer.lr_factor(trainer.step)
    if new > RATE_JUMP * old:
        context.log(
            f"{stage}: the learning rate rises from {old:.2g} to {new:.2g} of its peak, because "
            f"the budget is {trainer.steps} steps, not {before}; a cooldown below 1 avoids that"
        )
