"""Rows whose sides are processes of their own: peak memory, and time from the process's start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from ldmref.backends import get_backend
from ldmref.bench.libraries import need
from ldmref.bench.peers import network
from ldmref.bench.rows import Row
from ldmref.bench.works import PROMPT, SEED, model_of, pixels
from ldmref.errors import LdmrefError, ResourceError
from ldmref.io.native import save_folder
from ldmref.loading import load
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.noise import Streams

SCRIPT = Path(__file__).with_name("diffusers_process.py")


def run(argv: list[str]) -> tuple[float, str]:
    """Seconds from start to end of a process, and what it wrote.

    Raises:
        LdmrefError: it failed; with the last line that it said.
    """
    start = time.perf_counter()
    ran = subprocess.run(argv, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if ran.returncode < 0:
        raise ResourceError(
            f"a process of this row was killed by signal {-ran.returncode}",
            code="E-MEMORY",
            hint="most often memory ran out: --size 256",
        )
    if ran.returncode:
        said = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LdmrefError(f"a process of this row failed: {said}", code="E-PROCESS")
    return seconds, ran.stdout


def write_model(row: Row, folder: Path) -> None:
    """The row's model with seeded random weights, float32: both sides of a memory row read it."""
    model = model_of(row, get_backend("numpy", "cpu", "float32", "exact"))
    words = model.tokenizer.tokenizer.to_str()
    save_folder(folder, model.config, Params(model.params), words, np.float32)


def peak_memory(row: Row, side: str, folder: Path, out: Path) -> dict[str, int]:
    """`peak` and `before`, bytes resident in a process that draws the row's picture into `out`.

    `before` is what the process holds when it has loaded the model and nothing is drawn yet. The
    peak is of the drawing alone, with the networks that ldmref reads as it comes to them.
    """
    child = [sys.executable, "-m", "ldmref.bench.child"]
    argv = [*child, side, json.dumps(asdict(row)), str(folder), str(out)]
    return json.loads(run(argv)[1].splitlines()[-1])


class Start:
    """The embedded model's picture by fresh processes: `ldmref txt2img`, and a diffusers script."""

    def __init__(self, row: Row, folder: Path):
        self.row, self.folder = row, folder
        self.files = {"ours": folder / "ours.png", "theirs": folder / "theirs.png"}
        self.model = load(row.model, backend="numpy", device="cpu", dtype="float32")
        write_diffusers(self.model, folder / "model", row)

    def seconds(self, side: str) -> float:
        """From the start of the process to its end, with the picture written."""
        row, file = self.row, str(self.files[side])
        if side == "theirs":
            return run([sys.executable, "-P", str(SCRIPT), str(self.folder / "model"), file])[0]
        return run([
            sys.executable, "-m", "ldmref", "txt2img", "-m", row.model, "-p", PROMPT,
            "--seed", str(SEED), "--steps", str(row.steps), "--backend", row.backend, "--device",
            row.device, "--dtype", row.dtype, "-o", file, "--overwrite", "-q",
        ])[0]  # fmt: skip

    def picture(self, side: str) -> np.ndarray:
        """What the side drew last."""
        with Image.open(self.files[side]) as image:
            return pixels([image])


def write_diffusers(model: LatentDiffusion, folder: Path, row: Row) -> None:
    """The model as a folder that `diffusers_process.py` draws from, with its inputs.

    Its scheduler has the training schedule as far as ldmref's samplers use it (`sigma_max`).
    """
    diffusers, config = need("diffusers"), model.config
    for part in ("unet", "vae", "text_encoder"):
        network(part, model).save_pretrained(folder / part)
    alpha_bar = sampling_alphas_cumprod(config.scheduler)
    betas = 1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[config.scheduler.prediction_type],
        timestep_spacing=config.scheduler.spacing,
        final_sigmas_type=config.scheduler.final_sigma,
    ).save_pretrained(folder / "scheduler")
    shape = model.latent_shape(row.size, row.size)
    np.savez(
        folder / "inputs.npz",
        ids=np.asarray(model.tokenize(["", PROMPT]).ids[:, 0], np.int64),
        latents=Streams([SEED], shape)(),
        steps=row.steps,
        cfg=config.defaults.cfg_scale,
    )
