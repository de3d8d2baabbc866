"""Progress, metrics, plots and previews of one stage while it runs.

They do not affect the training: if a file cannot be written, a warning is logged.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from ldmref.datasets.listing import METRICS
from ldmref.errors import Cancelled, NumericError, OutputError
from ldmref.io.atomic import atomic_write
from ldmref.models.params import Params
from ldmref.training.context import TrainingContext
from ldmref.training.diffusion.loss import BINS
from ldmref.training.distributed import any_rank, on_first_rank, rank
from ldmref.training.monitor import curves
from ldmref.training.monitor.metrics import append_metrics, drop_after, read_metrics
from ldmref.training.monitor.previews import TrainingPreview
from ldmref.training.monitor.progress import WARNING, ProgressMeter, TrainingProgress
from ldmref.training.recipes.file import AnyRecipe
from ldmref.training.recipes.schema import Recipe
from ldmref.training.trainer import StepLoss, Trainer

STATE = "progress."  # the prefix in checkpoints
MOST_STEPS = 10  # between two lines of metrics, at most
HELD_OUT_TIMES = 50  # measurements of the held-out loss in a stage, about
MAX_RENDERING = 0.03  # the largest share of the time that is spent on plots and previews
# steps after which a loss by timestep has the weight 1 / e, at most a fifth of the budget
RECENT = 500


class StageMonitor:
    """Records the steps of a stage.

    Every rank has a monitor, because averaged weights are gathered from all ranks. Only the first
    rank writes files.

    Args:
        context: The training: it has the folder in which files are written, and hears of the
            progress, of warnings, and of what takes minutes at the end of the stage.
        stage: The stage's name.
        trainer: The stage's trainer, after its checkpoint was loaded.
        state: The arrays of that checkpoint.
        preview: The image that is made of the averaged weights; None: no image.
    """

    def __init__(
        self,
        context: TrainingContext,
        stage: str,
        trainer: Trainer,
        state: Mapping[str, np.ndarray],
        preview: TrainingPreview | None,
    ):
        self.context = context
        self.stage = stage
        self.trainer = trainer
        self.preview = preview
        self.warn = context.log_once
        self.metrics = context.folder / METRICS
        start = stage, trainer.step, trainer.steps, trainer.config.batch_size
        self.display = ProgressMeter(*start)
        self.meter = ProgressMeter(*start, MOST_STEPS, math.inf)  # for lines of metrics
        arrays = {k.removeprefix(STATE): v for k, v in state.items() if k.startswith(STATE)}
        self.by_timestep = np.array(arrays.pop("by_timestep", np.zeros((2, BINS))))
        self.meter.values.update({name: values.tolist() for name, values in arrays.items()})
        self.seconds = context.recipe.progress.seconds
        self.next = time.monotonic() + self.seconds

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays with which a resumed stage continues the same lines of metrics."""
        arrays = {name: np.array(values) for name, values in self.meter.values.items()}
        if self.by_timestep.any():
            arrays["by_timestep"] = self.by_timestep
        return {STATE + name: array for name, array in arrays.items()}

    def begin(self) -> None:
        """Remove the lines of steps that a killed training did not save."""
        self._write(lambda: drop_after(self.metrics, self.stage, self.trainer.step))

    def record(self, done: StepLoss) -> bool:
        """Record a step; return whether a line of metrics was written, the same on all ranks."""
        shown = self.display.update(done.step, done.loss, done.metrics)
        if shown is not None:
            self.context.on_progress(shown)
        if done.by_timestep is not None:
            recent = max(1.0, min(RECENT, self.trainer.steps / 5))
            self.by_timestep = (1 - 1 / recent) * self.by_timestep + done.by_timestep
        progress = self.meter.update(done.step, done.loss, done.metrics)
        if progress is not None:
            line = self._line(progress) | {"grad_norm": done.grad_norm} | self._held_out(done.step)
            self._write(lambda: append_metrics(self.metrics, line))
        return progress is not None

    def _held_out(self, step: int) -> dict[str, float]:
        """Return the loss of the averaged weights on held-out images if it is due."""
        function = self.trainer.held_out_loss
        steps = self.trainer.steps
        lines = max(1, steps // (self.meter.every * HELD_OUT_TIMES))  # between two measurements
        due = step == steps or (step // self.meter.every) % lines == 0
        if function is None or not due:
            return {}
        params = self.trainer.ema_params()  # gathered from all ranks
        return {"held_out_loss": function(params)} if rank() == 0 else {}

    def render_if_due(self) -> None:
        """Write plots and preview if they are due or the stage ends; all ranks must call this."""
        due = time.monotonic() >= self.next
        device = self.trainer.ops.device
        last = self.trainer.step == self.trainer.steps
        if not self.seconds or not (last or any_rank(due, device)):
            return
        start = time.monotonic()
        params = self.trainer.ema_params() if self.preview else Params()
        on_first_rank(self._render, params)
        now = time.monotonic()
        self.next = now + max(self.seconds, (now - start) / MAX_RENDERING)

    def _line(self, progress: TrainingProgress) -> dict[str, object]:
        return {
            "stage": self.stage,
            "step": progress.step,
            "loss": progress.loss,
            **progress.metrics,
            "lr_factor": self.trainer.lr_factor(progress.step - 1),
            "images_per_second": round(progress.images_per_second, 3),
        }

    def _render(self, params: Params) -> None:
        title = f"{self.stage}, step {self.trainer.step:,} of {self.trainer.steps:,}"
        if self.preview is not None:
            self._render_preview(self.preview, params, title)
        try:
            figure = curves.figure_class()
        except ImportError as error:
            line = f"plots of the loss need matplotlib: pip install matplotlib ({error})"
            self.warn(WARNING + line)
            return
        units = loss_units(self.context.recipe)
        lines = []
        self._write(lambda: lines.extend(read_metrics(self.metrics)))
        self._write_file("loss.png", curves.loss_curves(figure, lines, units))
        if self.by_timestep.any():
            title += ", mean of recent steps"
            curve = curves.timestep_curve(figure, self.by_timestep, title, units[self.stage])
            self._write_file("loss_by_timestep.png", curve)

    def _render_preview(self, preview: TrainingPreview, params: Params, title: str) -> None:
        image = io.BytesIO()
        last = self.trainer.step == self.trainer.steps
        try:
            preview.render(params, title, self.context.log if last else _ignore).save(image, "PNG")
        except NumericError as error:
            self.warn(f"{WARNING}{preview.file} is not written: {error}")
        except Cancelled:
            pass  # the training also stops after this step
        else:
            self._write_file(preview.file, image.getvalue())

    def _write_file(self, name: str, data: bytes) -> None:
        def write() -> None:
            with atomic_write(self.context.folder / name, overwrite=True) as file:
                file.write(data)

        self._write(write)

    def _write(self, write: Callable[[], None]) -> None:
        """Call `write` on the first rank; if a file cannot be read or written, only warn."""
        try:
            if rank() == 0:
                write()
        except (OutputError, OSError) as error:
            self.warn(f"{WARNING}{error}; the training continues")


def _ignore(line: str) -> None:
    """Say nothing of the images during the training: they take little of its time."""


def loss_units(recipe: AnyRecipe) -> dict[str, str]:
    """Return the unit of the loss of each stage."""
    denoiser = {
        "simple": "squared error",
        "min_snr": "weighted squared error",
        "bound": "nats per dimension",
        "hybrid": "squared error + bound",
    }
    units = {"diffusion": denoiser[recipe.diffusion.objective.loss]}
    if isinstance(recipe, Recipe):
        elbo = recipe.autoencoder.objective.elbo_weight
        units["autoencoder"] = "nats per image" if elbo else "sum of terms"
    return units | dict.fromkeys(("features", "classifier"), "cross-entropy, nats")
