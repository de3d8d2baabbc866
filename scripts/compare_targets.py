"""Compare a U-Net and an MMDiT, each trained on eps, v and flow targets: one command for each row.

    python scripts/compare_targets.py row unet eps --seed 0
    python scripts/compare_targets.py limits

`row` makes a model with the autoencoder, the text encoder and the words of the embedded one and a
denoiser with random weights, trains the denoiser as `compare_targets.toml` says, measures it, and
adds the row to a file of JSON lines. A training that was stopped is resumed by the same command; a
row that the file holds is not computed again. `limits` adds what the autoencoder alone allows.
`make_targets_page.py` writes the tables of docs/targets.md from the file.

All rows are measured in the same way, with the same random numbers:

- nats: the variational bound of held-out images given their captions, in nats per latent dimension,
  of the chain of 1,000 noise levels from 0.01 to 40, at even angles arctan(sigma)
  (`ldmref.evaluate.chain_bound`).
  Each network's prediction is converted to x0, so one definition holds for all targets.
- nats by level: SNR |x0 - prediction|^2 / 2, what a unit of log-SNR adds to the bound in the limit
  of many steps (Kingma et al. 2021, arXiv:2107.00630, eq. 15).
- rates: the share of generated images with the right shapes, colours, layout and background
  (`composition_oracle.py`), for compositions that training never showed.
- rms: the distance of the latents of 20 steps of Euler's method (DDIM) from the converged ones, by
  DPM-Solver++(2M), from the same noise. Noise levels are the same for all targets.

The script needs the Debian package fonts-noto-color-emoji.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from composition_oracle import Verdict, judge
from evaluate_compositions import CHECKS, scenes_and_prompts
from measure_few_steps import read_rows
from PIL import Image

import ldmref
from ldmref.backends.numpy import NumpyBackend
from ldmref.datasets.emoji.rendering import render_scene
from ldmref.datasets.emoji.scene import FRAME
from ldmref.datasets.emoji.scene_dataset import SHARES
from ldmref.evaluate.images import encode_images, host_denoiser, predictor
from ldmref.evaluate.likelihood import chain_bound, sum_per_example
from ldmref.io.native import save_folder
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.params import Params, flatten, tree_map, unflatten
from ldmref.models.validate import config_from_dict, find_named_family
from ldmref.modes.text import encode_conditioning
from ldmref.samplers import SAMPLERS, sample
from ldmref.training import TrainingProgress, fine_tune
from ldmref.training.diffusion.latents import PATTERN
from ldmref.training.diffusion.stage import initial_params
from ldmref.training.family_rules import training_rules_of
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.recipes.file import recipe_from_dict

SETTINGS = Path(__file__).with_suffix(".toml")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "targets.jsonl"
BASE = "emoji"
HIGHEST = 40.0  # noise level at which sampling begins, as of the embedded model
LOWEST = 0.05  # noise level from which the error is recorded
LEAST = 0.01  # first noise level of the chain, which every target has been trained at
TIMESTEPS = 1000


class RowName(NamedTuple):
    """What identifies a row; its training is in the folder `network-target-steps-seed`."""

    network: str
    target: str
    steps: int
    seed: int

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return "-".join(map(str, self))


def read_settings() -> dict[str, Any]:
    """Return the tables of `compare_targets.toml`."""
    return tomllib.loads(SETTINGS.read_text())


# -- the model and its training --------------------------------------------------------------------


def make_config(
    base: ModelConfig, settings: Mapping[str, Any], network: str, target: str
) -> ModelConfig:
    """Return the configuration of the base with another network and target, and the size of a row.

    Args:
        base: The embedded model's.
        settings: Those of `compare_targets.toml`.
        network: A name in `settings["networks"]`: fields of a model that replace the base's.
        target: A name in `settings["targets"]`: fields of its scheduler.
    """
    size = settings["training"]["data"]["size"]
    channels = base.vae.latent_channels
    shape = {"in_channels": channels, "out_channels": channels}
    shape["sample_size"] = size // base.vae.factor
    fields: dict[str, Any] = base.to_dict() | {"name": f"{network}-{target}"}
    chosen = settings["networks"][network]
    if "family" in chosen:
        del fields[base.denoiser.network]
    for key, value in chosen.items():
        fields[key] = fields.get(key, shape) | value if isinstance(value, Mapping) else value
    name = find_named_family(fields.get("family", base.denoiser.family)).denoiser.network
    fields[name] |= shape
    fields["scheduler"] |= settings["targets"][target]
    fields["defaults"] |= {"width": size, "height": size}
    return config_from_dict(fields)


def make_start(base: LatentDiffusion, config: ModelConfig, seed: int) -> Params:
    """Return the parameters with which a training begins: those of the base, a random denoiser.

    A text encoder with a pooled output projects its state by the identity.
    """
    network = config.denoiser.network
    kept = tree_map(base.backend.to_numpy, Params(base.params))
    flat = flatten(Params({name: kept[name] for name in ("vae", "text_encoder")}))
    if config.text_encoder.projection_dim:
        flat["text_encoder.text_projection.weight"] = np.eye(
            config.text_encoder.projection_dim, config.text_encoder.hidden_size, dtype=np.float32
        )
    return Params(unflatten(flat) | {network: initial_params(config, seed)[network]})


def make_recipe(training: Mapping[str, Any], name: RowName, start: Path) -> FineTuneRecipe:
    """Return the recipe of a row, whose training begins with the model in the folder `start`."""
    stage = {**training["diffusion"], "budget": {"steps": name.steps}}
    row = {"diffusion": stage, "base": str(start), "seed": name.seed}
    recipe = recipe_from_dict({**training, **row})
    assert isinstance(recipe, FineTuneRecipe)
    return recipe


def share_latents(folder: Path) -> None:
    """Link the encoded images of another row, which are the same, into the folder of a row."""
    for path in folder.parent.glob(f"*/{PATTERN}"):
        if not (folder / path.name).exists():
            os.link(path, folder / path.name)


class Clock:
    """Measures the processor time of a training step: between the first and the last report."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, float, float]] = []

    def __call__(self, progress: TrainingProgress) -> None:
        """Note the time of a report, and print it."""
        print(progress, flush=True)
        self.reports.append((progress.step, time.process_time(), progress.loss))

    @property
    def milliseconds(self) -> float | None:
        """The processor time of a step; None if there are not two reports."""
        if len(self.reports) < 2:
            return None
        (first, start, _), (last, end, _) = self.reports[0], self.reports[-1]
        return 1000.0 * (end - start) / (last - first)


def train_row(settings: Mapping[str, Any], name: RowName, runs: Path) -> tuple[Path, Clock]:
    """Train a row, or the rest of it; return the folder of the model, and the times."""
    folder = runs / name.folder
    start = folder / "start"
    if not start.exists():
        base = ldmref.load(BASE)
        config = make_config(base.config, settings, name.network, name.target)
        folder.mkdir(parents=True, exist_ok=True)
        params = make_start(base, config, name.seed)
        save_folder(start, config, params, [base.tokenizer], np.float32)
    share_latents(folder)
    clock = Clock()
    recipe = make_recipe(settings["training"], name, start)
    return fine_tune(recipe, folder, on_progress=clock, log=print), clock


# -- measuring -------------------------------------------------------------------------------------


class HeldOut(NamedTuple):
    """Compositions that training never shows: scenes, prompts, and images (n, 3, h, w) uint8."""

    scenes: list[Any]
    prompts: list[str]
    images: np.ndarray


def held_out(per_kind: int, size: int) -> HeldOut:
    """Return the same number of compositions of each kind, as images of this size."""
    found = [scenes_and_prompts(kind, per_kind) for kind in SHARES]
    scenes = [scene for some, _ in found for scene in some]
    prompts = [prompt for _, some in found for prompt in some]
    images = np.stack([render_scene(scene, size).transpose(2, 0, 1) for scene in scenes])
    return HeldOut(scenes, prompts, images)


def in_batches(count: int, size: int) -> Iterator[slice]:
    """Yield the slices of `count` examples."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def measure_nats(
    model: LatentDiffusion, data: HeldOut, z: np.ndarray, timesteps: int, batch: int
) -> np.ndarray:
    """Return the bound on -log p(z | prompt) of scaled latents, nats per dimension, (n,)."""
    angles = np.linspace(math.atan(LEAST), math.atan(HIGHEST), TIMESTEPS)
    table = np.cos(angles) ** 2  # alpha-bar
    size = model.config.defaults.width, model.config.defaults.height
    rng = np.random.default_rng(0)
    nats = []
    for part in in_batches(len(z), batch):
        predict = predictor(model, encode_conditioning(model, data.prompts[part], size), table)
        terms = chain_bound(z[part], table, predict, "fixed_large", timesteps, rng)
        nats.append(sum(terms.values()) / z[0].size)
    return np.concatenate(nats)


def measure_levels(
    model: LatentDiffusion, data: HeldOut, z: np.ndarray, levels: Sequence[float], batch: int
) -> np.ndarray:
    """Return SNR |x0 - prediction|^2 / 2 per dimension at noise levels, (levels,)."""
    size = model.config.defaults.width, model.config.defaults.height
    rng = np.random.default_rng(1)
    sums = np.zeros(len(levels))
    for part in in_batches(len(z), batch):
        denoise = host_denoiser(model, encode_conditioning(model, data.prompts[part], size))
        for i, sigma in enumerate(levels):
            x = (z[part] + sigma * rng.standard_normal(z[part].shape)).astype(np.float32)
            error = sum_per_example((np.asarray(denoise(x, sigma)) - z[part]) ** 2)
            sums[i] += error.sum() / (2.0 * sigma**2)
    return sums / z.size


def draw(
    model: LatentDiffusion, prompts: Sequence[str], first: int, steps: int, sampler: str, cfg: float
) -> Array:
    """Return the latents of prompts, after steps at even angles of noise to data.

    Args:
        model: The model.
        prompts: The prompts.
        first: The seed of the first one's noise; those of others follow.
        steps: The number of steps.
        sampler: A sampler without fresh noise.
        cfg: The guidance scale.
    """
    ops = model.backend
    path = model.config.scheduler.path
    shape = model.latent_shape(model.config.defaults.width, model.config.defaults.height)
    noise = [
        np.random.default_rng([2, first + i]).standard_normal(shape) for i in range(len(prompts))
    ]
    ratios = np.tan(np.linspace(math.atan(HIGHEST), 0.0, steps + 1)).tolist()
    x, _ = path.from_ratio(math.hypot(1.0, HIGHEST) * np.stack(noise), HIGHEST)
    denoise = ldmref.denoiser(model, list(prompts), cfg_scale=cfg)
    levels = [path.level(ratio) for ratio in ratios]
    start = ops.asarray(x.astype(np.float32), ops.state_dtype)
    with ops.inference():
        return list(sample(denoise, start, levels, SAMPLERS[sampler].make(), path=path))[-1].x


def to_frames(images: np.ndarray) -> list[np.ndarray]:
    """Return decoded images (n, 3, h, w) in [-1, 1] in the size that is judged, uint8."""
    pixels = np.clip((images + 1.0) * 127.5 + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return [np.asarray(Image.fromarray(image).resize((FRAME, FRAME))) for image in pixels]


def measure_rates(
    model: LatentDiffusion, data: HeldOut, measure: Mapping[str, Any]
) -> tuple[list[Verdict], np.ndarray]:
    """Return verdicts on generated images, and their latents (n, c, h, w)."""
    ops = model.backend
    verdicts = []
    latents = []
    for part in in_batches(len(data.prompts), measure["batch"]):
        rest = measure["steps"], "ddim", measure["cfg_scale"]
        z = draw(model, data.prompts[part], part.start, *rest)
        with ops.inference():
            frames = to_frames(ops.to_numpy(model.decode(z)))
        verdicts += [judge(*pair) for pair in zip(frames, data.scenes[part], strict=True)]
        latents.append(ops.to_numpy(z))
    return verdicts, np.concatenate(latents)


def measure_rms(
    model: LatentDiffusion, data: HeldOut, latents: np.ndarray, measure: Mapping[str, Any]
) -> np.ndarray:
    """Return the mean squared distance from the converged latents, for some of each kind, (k,)."""
    per_kind = measure["prompts"]
    squares = []
    for first in range(0, len(data.prompts), per_kind):
        part = slice(first, first + measure["trajectories"])
        rest = measure["converged"], "dpmpp_2m", measure["cfg_scale"]
        z = model.backend.to_numpy(draw(model, data.prompts[part], first, *rest))
        squares.append(((z - latents[part]) ** 2).mean(axis=(1, 2, 3)))
    return np.concatenate(squares)


def time_evaluation(model: LatentDiffusion, repeats: int = 20) -> float:
    """Return the processor time of an evaluation for one image: the median, in ms."""
    size = model.config.defaults.width, model.config.defaults.height
    denoise = host_denoiser(model, encode_conditioning(model, ["a red heart"], size))
    x = np.zeros((1, *model.latent_shape(*size)), np.float32)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        denoise(x, 1.0)
        times.append(1000.0 * (time.process_time() - start))
    return float(np.median(times))


def measure_row(model: LatentDiffusion, measure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a trained model: lists with an element for each prompt."""
    size = model.config.defaults.width, model.config.defaults.height
    batch = measure["batch"]
    data = held_out(measure["prompts"], size[0])
    encoded = encode_images(model, data.images, np.random.default_rng(0), batch)
    z = model.latent_scale(NumpyBackend(dtype="float64")).normalize(encoded.z)
    levels = np.geomspace(LOWEST, HIGHEST, measure["levels"]).tolist()
    nats = measure_nats(model, data, z, measure["timesteps"], batch)
    by_level = measure_levels(model, data, z, levels, batch)
    verdicts, latents = measure_rates(model, data, measure)
    return {
        "parameters": count_trained(model.config),
        "gigaflops": family_of(model.config).work.flops(model.config, *size) / 1e9,
        "nats": nats.round(5).tolist(),
        "levels": levels,
        "by_level": by_level.round(6).tolist(),
        **{check: [bool(getattr(v, check)) for v in verdicts] for check in (*CHECKS, "right")},
        "squares": measure_rms(model, data, latents, measure).round(6).tolist(),
        "evaluation_ms": time_evaluation(model),
    }


def count_trained(config: ModelConfig) -> int:
    """Return the number of parameters of the denoiser that are trained."""
    name = config.denoiser.network
    flat = flatten({name: model_spec(config)[name]})
    return sum(math.prod(shape) for key, shape in flat.items() if key not in fixed_names(config))


def fixed_names(config: ModelConfig) -> set[str]:
    """Return the names of parameters that are computed and not trained."""
    return set(training_rules_of(family_of(config)).fixed(config))


# -- the rows --------------------------------------------------------------------------------------


def make_row(args: argparse.Namespace) -> None:
    """Train and measure a row, and add it to the file unless it is there."""
    settings = read_settings()
    steps = args.steps or settings["training"]["diffusion"]["budget"]["steps"]
    name = RowName(args.network, args.target, steps, args.seed)
    known = {RowName(*row["row"]) for row in read_rows(args.results) if "row" in row}
    if name in known:
        print(*name, "is there")
        return
    folder, clock = train_row(settings, name, args.runs)
    model = ldmref.load(folder, backend="torch")
    training = {
        "loss": clock.reports[-1][2] if clock.reports else None,
        "step_ms": clock.milliseconds,
    }
    found = measure_row(model, settings["measure"])
    with open(args.results, "a") as file:
        file.write(json.dumps({"row": name} | training | found) + "\n")
    nats, right = (np.mean(found[key]) for key in ("nats", "right"))
    print(*name, f"{nats:.3f} nats per dimension, {right:.1%} right")


def measure_limits(args: argparse.Namespace) -> None:
    """Judge images of the autoencoder: of the prompts' scenes, and of another scene of the kind."""
    settings = read_settings()
    measure = settings["measure"]
    data = held_out(measure["prompts"], settings["training"]["data"]["size"])
    model = ldmref.load(BASE, backend="torch")
    encoded = encode_images(model, data.images, np.random.default_rng(0), measure["batch"])
    frames = to_frames(encoded.decoded)
    others = np.arange(len(frames)).reshape(-1, measure["prompts"])
    orders = {"ceiling": others.ravel(), "floor": np.roll(others, 1, axis=1).ravel()}
    limits = {}
    for name, order in orders.items():
        verdicts = [judge(frames[i], scene) for i, scene in zip(order, data.scenes, strict=True)]
        limits[name] = {c: [bool(getattr(v, c)) for v in verdicts] for c in (*CHECKS, "right")}
    with open(args.results, "a") as file:
        file.write(json.dumps({"limits": limits}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    settings = read_settings()
    one = commands.add_parser("row", help="train and measure a row")
    one.add_argument("network", choices=list(settings["networks"]))
    one.add_argument("target", choices=list(settings["targets"]))
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=int, default=None, help="of training, instead of the budget")
    one.add_argument("--runs", type=Path, default=Path("runs/targets"), help="folder of trainings")
    one.add_argument("--results", type=Path, default=RESULTS, help="file of JSON lines")
    one.set_defaults(function=make_row)
    two = commands.add_parser("limits", help="judge images of the autoencoder alone")
    two.add_argument("--results", type=Path, default=RESULTS, help="file of JSON lines")
    two.set_defaults(function=measure_limits)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
