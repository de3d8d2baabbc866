"""Start noise in files: NumPy's .npy, without pickles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldmref.errors import InputError, OutputError
from ldmref.io.atomic import atomic_write
from ldmref.models.config import ModelConfig
from ldmref.modes.request import Request

ENDING = ".npy"


def read_latents(path: str, config: ModelConfig, request: Request) -> np.ndarray:
    """The noise from which a request's pictures start, (n, c, h, w) float32.

    Raises:
        InputError: no such file, no array of finite numbers, or one of another shape.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path!r}", code="E-LATENTS", hint="check the path") from (
            error
        )
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read {path!r} as a NumPy array",
            code="E-LATENTS",
            hint="ldmref invert --noise noise.npy writes one",
        ) from error
    f = config.vae.factor
    want = (len(request.seeds), config.vae.latent_channels, request.height // f, request.width // f)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape != want:
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise InputError(
            f"the noise in {path!r} is {what}, these pictures need floating-point {want}",
            code="E-LATENTS",
            hint="one array for all pictures: (count, channels, height, width) of the latents",
        )
    if not np.isfinite(found).all():
        raise InputError(f"the noise in {path!r} holds NaN or infinity", code="E-LATENTS")
    return np.asarray(found, np.float32)


def check_latents_target(path: str, overwrite: bool) -> None:
    """Refuse a path to which noise cannot be written, before anything is computed.

    Raises:
        OutputError: another ending, no such folder, or the file exists.
    """
    target = Path(path)
    if target.suffix.lower() != ENDING:
        raise OutputError(
            f"noise goes into a file that ends in {ENDING}, not {path!r}", code="E-FORMAT"
        )
    if not target.parent.is_dir():
        raise OutputError(
            f"the folder {str(target.parent)!r} does not exist",
            code="E-FOLDER",
            hint="create it first",
        )
    if target.is_dir() or (target.exists() and not overwrite):
        raise OutputError(f"{path!r} exists", code="E-EXISTS", hint="add --overwrite")


def write_latents(path: str, latents: np.ndarray, overwrite: bool) -> None:
    """Write noise, (n, c, h, w); the file appears whole or not at all.

    Raises:
        OutputError: it exists (unless `overwrite`), or cannot be written.
    """
    with atomic_write(Path(path), overwrite=overwrite) as file:
        np.save(file, latents, allow_pickle=False)
