"""`ldmref train`: from pictures to a model folder, resumable."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.cli.progress import duration, one_line, say, stopping
from ldmref.errors import Cancelled, OutputError, UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.presets import preset

if TYPE_CHECKING:
    from ldmref.training.data import Dataset
    from ldmref.training.trainer import TrainingProgress

MAX_SIZE = 1024
option = click.option


@click.command()
@option(
    "--data", required=True, metavar="emoji|FOLDER", help="The emoji font, or captioned pictures."
)
@option(
    "-o", "--output", required=True, metavar="FOLDER", help="Resumed if it contains checkpoints."
)
@option(
    "--preset",
    "preset_name",
    type=click.Choice(["emoji", "tiny"]),
    default="emoji",
    show_default=True,
)
@option("--size", type=int, help="Pixels; default: the preset's.")
@option(
    "--autoencoder-steps",
    type=click.IntRange(1),
    help="Autoencoder: training steps.",
)
@option("--steps", type=click.IntRange(1), help="Denoiser: training steps.")
@option("--autoencoder-batch", type=click.IntRange(1), help="Autoencoder: pictures per step.")
@option("--batch", type=click.IntRange(1), help="Denoiser: pictures per step.")
@option("--lr", type=float, help="Learning rate of both stages.")
@option("--seed", type=click.IntRange(0), default=0, show_default=True)
@option("--device", metavar="NAME", default="cpu", show_default=True, help="cpu or cuda.")
@option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def train(data: str, output: str, **flags: Any) -> None:
    """Train an autoencoder, then a denoiser, on captioned pictures.

    Captions of a folder come from metadata.jsonl, metadata.csv or a .txt file beside each picture,
    else from the file names. Ctrl-C saves a checkpoint; repeat the command to resume.
    """
    lr = flags["lr"]
    if lr is not None and not (math.isfinite(lr) and 0 < lr <= 1):
        raise UsageError(f"lr must be above 0 and at most 1, not {lr!r}", code="E-LR")
    config, out = with_size(preset(flags["preset_name"]), flags["size"]), Path(output)
    if data != "emoji":
        config = replace(config, name=out.resolve().name)
    from ldmref.backends.torch import TorchBackend  # raises BackendUnavailable without torch
    from ldmref.training import run

    ops = TorchBackend(flags["device"], flags["dtype"])

    first = {"steps": flags["autoencoder_steps"], "batch_size": flags["autoencoder_batch"]}
    second = {"steps": flags["steps"], "batch_size": flags["batch"]}
    shared = {"learning_rate": lr, "seed": flags["seed"]}
    autoencoder = replace(run.AUTOENCODER, **without_none(first | shared))
    diffusion = replace(run.DIFFUSION, **without_none(second | shared))
    pictures = load_dataset(data, config.defaults.width)
    say(f"{len(pictures.images)} pictures of {config.defaults.width}x{config.defaults.height}")
    make_folder(out)
    batch_sizes = {"autoencoder": autoencoder.batch_size, "diffusion": diffusion.batch_size}
    with stopping() as stop:
        try:
            model = run.train(
                pictures,
                config,
                out,
                ops,
                autoencoder=autoencoder,
                diffusion=diffusion,
                report=Reporter(batch_sizes),
                cancel=stop,
            )
        except Cancelled as cancelled:
            cancelled.exit_code = stop.exit_code
            raise
    say(one_line(f"the model is ready: ldmref txt2img -m {model} -p ..."))


COMMANDS = (train,)


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def with_size(config: ModelConfig, size: int | None) -> ModelConfig:
    """The configuration for square pictures of another size."""
    if size is None:
        return config
    multiple = config.size_multiple
    if not multiple <= size <= MAX_SIZE or size % multiple:
        raise UsageError(
            f"size must be a multiple of {multiple} from {multiple} to {MAX_SIZE}, not {size}",
            code="E-SIZE",
        )
    return replace(
        config,
        unet=replace(config.unet, sample_size=size // config.vae.factor),
        defaults=replace(config.defaults, width=size, height=size),
    )


def load_dataset(data: str, size: int) -> Dataset:
    """The emoji font, or a folder of pictures."""
    if data == "emoji":
        from ldmref.training.emoji import EmojiDataset

        return EmojiDataset(size)
    from ldmref.training.data import FolderDataset

    return FolderDataset(data, size)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {str(folder)!r}: {error.strerror}", code="E-WRITE"
        ) from error


class Reporter:
    """One line on stderr per report. `batch_sizes`: stage -> pictures per step."""

    def __init__(self, batch_sizes: dict[str, int]):
        self.batch_sizes = batch_sizes
        self.stage, self.step, self.time = "", 0, time.monotonic()

    def __call__(self, stage: str, progress: TrainingProgress) -> None:
        now, speed = time.monotonic(), ""
        if stage == self.stage:  # the first step of a resumed stage is unknown
            rate = (progress.step - self.step) / max(1e-9, now - self.time)
            left = duration((progress.steps - progress.step) / rate)
            speed = f"  {rate * self.batch_sizes[stage]:.1f} pictures/s  {left} left"
        self.stage, self.step, self.time = stage, progress.step, now
        say(f"{stage} {progress.step}/{progress.steps}  loss {progress.loss:.4f}{speed}")
