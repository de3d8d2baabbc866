"""What one stage leaves behind while it runs: lines of metrics, curves, an image.

None of it changes the training: no step sees it, and a file that cannot be written is a warning.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ldmref.errors import Cancelled, NumericError, OutputError
from ldmref.io.atomic import atomic_write
from ldmref.models.params import Params
from ldmref.training.diffusion_loss import BINS
from ldmref.training.distributed import any_rank, on_first_rank, rank
from ldmref.training.monitor import curves
from ldmref.training.monitor.metrics import METRICS, append_metrics, drop_after, read_metrics
from ldmref.training.monitor.previews import Preview
from ldmref.training.progress import WARNING, Progress, ProgressMeter
from ldmref.training.recipe import Recipe
from ldmref.training.recipe_file import AnyRecipe
from ldmref.training.trainer import StepLoss, Trainer

STATE = "progress."  # the prefix in checkpoints
MOST_STEPS = 10  # from line to line
HELD_OUT_TIMES = 50
MAX_DRAWING = 0.03  # the largest share of the time that is spent on images
RECENT = 500  # steps after which a loss by timestep counts 1 / e, at most a fifth of the budget


class StageMonitor:
    """Every rank has one, because averaged weights are gathered from all; the first one writes.

    Args:
        trainer: of the stage, after its checkpoint was loaded.
        state: the arrays of that checkpoint.
        warn: called with a line for the user, which should be shown once.
        preview: what is drawn of the averaged weights.
    """

    def __init__(
        self,
        trainer: Trainer,
        stage: str,
        state: Mapping[str, np.ndarray],
        folder: Path,
        recipe: AnyRecipe,
        warn: Callable[[str], None],
        preview: Preview | None,
    ):
        self.trainer = trainer
        self.stage = stage
        self.folder = folder
        self.recipe = recipe
        self.warn = warn
        self.preview = preview
        self.metrics = folder / METRICS
        batch_size = trainer.config.batch_size
        self.meter = ProgressMeter(
            stage, trainer.step, trainer.steps, batch_size, MOST_STEPS, math.inf
        )
        arrays = {k.removeprefix(STATE): v for k, v in state.items() if k.startswith(STATE)}
        self.by_timestep = np.array(arrays.pop("by_timestep", np.zeros((2, BINS))))
        self.meter.values.update({name: values.tolist() for name, values in arrays.items()})
        self.seconds = recipe.progress.seconds
        self.next = time.monotonic() + self.seconds

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed stage needs to go on with the same lines."""
        arrays = {name: np.array(values) for name, values in self.meter.values.items()}
        if self.by_timestep.any():
            arrays["by_timestep"] = self.by_timestep
        return {STATE + name: array for name, array in arrays.items()}

    def begin(self) -> None:
        """Remove the lines of steps that a killed training did and lost."""
        self._write(lambda: drop_after(self.metrics, self.stage, self.trainer.step))

    def record(self, done: StepLoss) -> bool:
        """Take in a step; returns whether it ended a line of metrics, on every rank alike."""
        if done.by_timestep is not None:
            recent = max(1.0, min(RECENT, self.trainer.steps / 5))
            self.by_timestep = (1 - 1 / recent) * self.by_timestep + done.by_timestep
        progress = self.meter.update(done.step, done.loss, done.metrics)
        if progress is not None:
            line = self._line(progress) | {"grad_norm": done.grad_norm} | self._held_out(done.step)
            self._write(lambda: append_metrics(self.metrics, line))
        return progress is not None

    def _held_out(self, step: int) -> dict[str, float]:
        """The loss of the averaged weights on held-out images, `HELD_OUT_TIMES` times per stage."""
        function = self.trainer.held_out_loss
        steps = self.trainer.steps
        lines = max(1, steps // (self.meter.every * HELD_OUT_TIMES))  # from one to the next
        due = step == steps or (step // self.meter.every) % lines == 0
        if function is None or not due:
            return {}
        params = self.trainer.ema_params()  # gathered from all ranks
        return {"held_out_loss": function(params)} if rank() == 0 else {}

    def draw_if_due(self) -> None:
        """Draw when the time has come, and at the end of the stage; every rank must ask."""
        due = time.monotonic() >= self.next
        device = self.trainer.ops.device
        last = self.trainer.step == self.trainer.steps
        if not self.seconds or not (last or any_rank(due, device)):
            return
        start = time.monotonic()
        params = self.trainer.ema_params() if self.preview else Params()
        on_first_rank(self._draw, params)
        now = time.monotonic()
        self.next = now + max(self.seconds, (now - start) / MAX_DRAWING)

    def _line(self, progress: Progress) -> dict[str, object]:
        return {
            "stage": self.stage,
            "step": progress.step,
            "loss": progress.loss,
            **progress.metrics,
            "lr_factor": self.trainer.lr_factor(progress.step - 1),
            "images_per_second": round(progress.images_per_second, 3),
        }

    def _draw(self, params: Params) -> None:
        title = f"{self.stage}, step {self.trainer.step:,} of {self.trainer.steps:,}"
        if self.preview is not None:
            self._draw_preview(self.preview, params, title)
        try:
            figure = curves.figure_class()
        except ImportError as error:
            line = f"curves of the loss need matplotlib: pip install matplotlib ({error})"
            self.warn(WARNING + line)
            return
        units = loss_units(self.recipe)
        lines = []
        self._write(lambda: lines.extend(read_metrics(self.metrics)))
        self._write_file("loss.png", curves.loss_curves(figure, lines, units))
        if self.by_timestep.any():
            title += ", mean of recent steps"
            curve = curves.timestep_curve(figure, self.by_timestep, title, units[self.stage])
            self._write_file("loss_by_timestep.png", curve)

    def _draw_preview(self, preview: Preview, params: Params, title: str) -> None:
        image = io.BytesIO()
        try:
            preview.draw(params, title).save(image, "PNG")
        except NumericError as error:
            self.warn(f"{WARNING}{preview.file} is not drawn: {error}")
        except Cancelled:
            pass  # the training stops after this step, too
        else:
            self._write_file(preview.file, image.getvalue())

    def _write_file(self, name: str, data: bytes) -> None:
        def write() -> None:
            with atomic_write(self.folder / name, overwrite=True) as file:
                file.write(data)

        self._write(write)

    def _write(self, write: Callable[[], None]) -> None:
        """A file that cannot be read or written does not stop the training."""
        try:
            if rank() == 0:
                write()
        except (OutputError, OSError) as error:
            self.warn(f"{WARNING}{error}; the training goes on")


def loss_units(recipe: AnyRecipe) -> dict[str, str]:
    """What the loss of each stage is measured in."""
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
