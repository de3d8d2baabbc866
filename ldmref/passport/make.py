"""Make kits: all files of a folder, and the manifest."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.cases.described_folder import WriteFile, write_into
from ldmref.cases.golden_models import golden_config, golden_model
from ldmref.cases.onnx_cases import rounded_up
from ldmref.cases.trace_cases import write_run
from ldmref.cases.trace_runs import NOISE
from ldmref.errors import UsageError
from ldmref.io.atomic import atomic_folder
from ldmref.io.key_table import to_compvis
from ldmref.io.kit_folder import CHECKPOINT, MANIFEST, find_makers_tables, makers_tables
from ldmref.io.native import CONFIG, SCHEMA, TOKENIZERS
from ldmref.io.tensors.writer import source, write_to
from ldmref.locate.recorded.layouts import latents_as_tokens
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten
from ldmref.models.presets import list_presets
from ldmref.passport.cached import cached_step
from ldmref.passport.inputs import describe_inputs
from ldmref.passport.kit import (
    FLOORS,
    KIT_FOLDER,
    TRACE,
    VERSION,
    Kit,
    WrongDump,
    kit_text,
    read_kit,
)
from ldmref.passport.recorded import (
    FORMATS,
    KitRun,
    kit_families,
    kit_trace,
    record_kit,
    stored_run,
)
from ldmref.passport.wrong import FollowedModel, WrongDumps, wrong_dumps
from ldmref.ports.pipeline_folder import pipeline_files
from ldmref.ports.port import port_of
from ldmref.samplers.registry import SAMPLERS
from ldmref.samplers.schedule import make_schedule
from ldmref.support.version import __version__
from ldmref.trace.model import Trace

SCHEDULES = "schedules.json"
CACHED = "cached.safetensors"
INPUTS = "inputs.md"
NO_PIPELINE = "no_pipeline"  # of a manifest: why the kit is no folder of diffusers
STEPS = (4, 8, 20, 50)  # of the schedules
SIDES = (512, 1024)  # of their images, in pixels
WRONG_LINE = "wrong/FAULT.safetensors  for each known fault, a dump of a port that has it\n"
README = """A passport kit of ldmref: a small random model, and all that a port of it must compute.

kit.json                 what this is, the request, the wrong dumps, the SHA-256 of each file
model_index.json, FOLDER/config.json, FOLDER/*.safetensors
                         the model as a folder of diffusers: transformer/ or unet/, vae/,
                         text_encoder/, tokenizer/, scheduler/, ... `from_pretrained` of diffusers
                         and transformers opens each of them, and the folder as a pipeline.
                         kit.json says why if there is none (no_pipeline)
checkpoint/              the model: its denoiser under the names of its makers' file, the other
                         networks under those of diffusers and transformers (or all under the
                         makers', where they publish one file), configuration and tokenizers
trace/trace.safetensors  the run in float64: CALL//input.NAME and CALL//output of each network and
                         of each computation between them, and CALL/LAYER/output of every named
                         layer of a network's first call, where large rounded to float32.
                         `noise` is the initial noise of unit variance, (n, c, h, w), an image for
                         each prompt; `noise.tokens` the same as (n, l, c), where pipelines pass
                         tokens. tokens//output.ids are ids of tokens, LAYER/input.positions of
                         positions. vae.encode reads another image than vae.decode writes.
trace/trace.json         the layers in their order, the request, the configuration
floors.json              the error of each output if the whole run is computed in each of the
                         formats: the largest difference over the largest value. A port may have
                         16 times that.
inputs.md                what each network is given: units, padding, rows
schedules.json           the model's noise levels and timesteps for other numbers of steps
cached.safetensors       of denoisers that keep keys and values of the text over a run: those of
                         each block, and the output of the second step computed from them, which is
                         that of the full step, the denoiser's second call
{WRONG}
Give your port the checkpoint, the prompts one after the other, and the noise. Write what it
computes under the names of the trace, with the inputs of layers if you can, and let it be judged:

    ldmref passport check DUMP --kit THIS_FOLDER

docs/passport.md of ldmref describes it. License of the data: Apache-2.0.
"""


def make_kit(
    family: str, folder: str | Path, *, overwrite: bool = False, wrong: bool = True
) -> Kit:
    """Write the kit of a family to a folder.

    Two runs on one machine write the same bytes.

    Args:
        family: The name of a preset, in `kit_families()`.
        folder: The folder to write.
        overwrite: Whether to replace a folder that holds a kit.
        wrong: Whether to write a dump for each known fault, which takes most of the time.

    Returns:
        The kit that was written.

    Raises:
        UsageError: The family has no kit.
        OutputError: The folder exists (unless it is empty, or a kit and `overwrite`).

    >>> kit = make_kit("z-image", "kits/z-image")  # doctest: +SKIP
    >>> kit.version, len(kit.wrong)  # doctest: +SKIP
    ('3.0', 37)
    """
    kit_trace(family)
    return write_kit(Path(folder), overwrite, partial(_write, family=family, wrong=wrong))


def write_kit(folder: Path, overwrite: bool, write: Callable[[Path], Kit]) -> Kit:
    """Write a kit, which appears complete or not at all.

    Args:
        folder: The folder to write.
        overwrite: Whether to replace a folder that holds a kit.
        write: Writes the files of the kit to a folder, and returns it.

    Returns:
        The kit.

    Raises:
        OutputError: The folder exists (unless it is empty, or a kit and `overwrite`).
    """
    KIT_FOLDER.check_writable(folder, overwrite, lambda path: read_kit(path).digests)
    with atomic_folder(folder) as temporary:
        kit = write(temporary)
    return replace(kit, folder=folder)


def write_manifest(folder: Path, kit: Kit, described: Mapping[str, Any]) -> None:
    """Write what a kit is, with what `described` counts, to its folder."""
    (folder / MANIFEST).write_text(kit_text(kit, f"ldmref {__version__}", described), "utf-8")


def make_kits(folder: str | Path, *, overwrite: bool = False) -> Iterator[Kit]:
    """Write a kit for each denoiser that makers publish, to a folder with the model's name.

    Args:
        folder: The folder of these folders.
        overwrite: Whether to replace folders that hold kits.

    Yields:
        Each kit, when it is written.

    >>> [kit.family for kit in make_kits("kits")][:2]  # doctest: +SKIP
    ['sd15', 'sd2-base']
    """
    for family in distinct_families():
        yield make_kit(family, Path(folder) / family, overwrite=overwrite)


def distinct_families() -> list[str]:
    """Return the presets with a kit whose denoiser makers publish, and no earlier one has.

    >>> families = distinct_families()
    >>> "z-image" in families, "z-image-turbo" in families
    (True, False)
    """
    found: dict[str, str] = {}
    for family in kit_families():
        config = golden_config(family)
        if find_makers_tables(config) is not None:
            found.setdefault(repr(config.denoiser), family)
    return list(found.values())


def _write(folder: Path, family: str, wrong: bool) -> Kit:
    digests: dict[str, str] = {}
    write = write_into(folder, digests)
    run = record_kit(family)
    model = golden_model(family)
    write("README.txt", README.replace("{WRONG}", WRONG_LINE if wrong else "").encode())
    write_checkpoint(write, model)
    request = dict(kit_trace(family).params)
    missing = _write_pipeline(write, model, request)
    stored = stored_run(run)
    stored.tensors.update(noise_tokens(model.config, run.inputs[NOISE]))
    write_run(write, TRACE, family, stored, "float64")
    write(FLOORS, floors_text(run.floors, stored.tensors).encode())
    cached = cached_step(run)
    if cached:
        write(CACHED, tensors_file(cached))
    write(SCHEDULES, schedules_text(family).encode())
    exact = Trace(run.exact.tensors, tuple(run.exact.entries), run.exact.manifest)
    write(INPUTS, describe_inputs(model, exact).encode())
    dumps, left_out = wrong_dumps(exact, FollowedModel(model)) if wrong else ([], {})
    written = write_wrong(write, dumps)
    kit = Kit(folder, family, VERSION, dict(sorted(digests.items())), written, request)
    write_manifest(folder, kit, _describe(run, written, left_out) | missing)
    return kit


def write_wrong(write: WriteFile, dumps: WrongDumps) -> list[WrongDump]:
    """Write the wrong dumps, and return their rows of the manifest."""
    for dump, tensors in dumps:
        write(dump.path, tensors_file(tensors))
    return [dump for dump, _ in dumps]


def _describe(run: KitRun, wrong: list[WrongDump], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return what the manifest says of a run and of the dumps."""
    noise = run.inputs[NOISE]
    return {
        "noise": {"tensor": NOISE, "layout": "n, c, h, w", "shape": list(noise.shape)},
        "nodes": sum(bool(entry.outputs) for entry in stored_run(run).entries),
        "faults": len(wrong),
        "faults_left_out": dict(left_out),
    }


def write_checkpoint(write: WriteFile, model: LatentDiffusion) -> None:
    """Write the model of a kit: configuration, tokenizers, and networks in their makers' names.

    Args:
        write: Writes a file of the kit.
        model: The model.
    """
    tables = makers_tables(model.config)
    stored: dict[str, np.ndarray] = {}
    for network, table in tables.items():
        stored |= to_compvis(flatten(model.params[network]), table)
    files = {model.config.denoiser.network: stored}
    files |= {name: flatten(p) for name, p in model.params.items() if name not in tables}
    for name, tensors in files.items():
        write(f"{CHECKPOINT}/{name}.safetensors", tensors_file(tensors))
    settings = {"schema": SCHEMA} | model.config.to_dict()
    write(f"{CHECKPOINT}/{CONFIG}", (json.dumps(settings, indent=2) + "\n").encode())
    for name, tokenizer in zip(TOKENIZERS, model.tokenizers, strict=False):
        write(f"{CHECKPOINT}/{name}", tokenizer.tokenizer.to_str().encode())


def _write_pipeline(
    write: WriteFile, model: LatentDiffusion, asked: Mapping[str, Any]
) -> dict[str, str]:
    """Write the model as a folder of diffusers; return why there is none, for the manifest."""
    try:
        files = pipeline_files(model, asked)
    except UsageError as refused:
        return {NO_PIPELINE: str(refused)}
    for path, content in files.items():
        write(path, content)
    return {}


def tensors_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return a safetensors file."""
    file = io.BytesIO()
    write_to(file, {name: source(np.ascontiguousarray(x)) for name, x in tensors.items()})
    return file.getvalue()


def noise_tokens(config: ModelConfig, noise: np.ndarray) -> dict[str, np.ndarray]:
    """Return the noise as tokens (n, l, c), for pipelines that pass latents so; {} for others."""
    unpack = port_of(family_of(config)).unpack
    if unpack is None:
        return {}
    height, width = noise.shape[2:]
    side = config.denoiser.token_side
    rows, columns = height // side, width // side
    return {f"{NOISE}.tokens": latents_as_tokens(unpack, noise, rows, columns)}


def floors_text(floors: Mapping[str, Mapping[str, float]], names: Collection[str]) -> str:
    """Return the floors of tensors as JSON, a list by the name; null for an overflow.

    Args:
        floors: The floors by format, and by the name of the tensor.
        names: The tensors.
    """
    stored = [name for name in floors[FORMATS[0]] if name in names]
    rows = (
        f"{json.dumps(name)}: {json.dumps([_digits(floors[x].get(name)) for x in FORMATS])}"
        for name in stored
    )
    head = f'{{"formats": {json.dumps(FORMATS)}, "floors": {{\n'
    return head + ",\n".join(rows) + "\n}}\n"


def _digits(floor: float | None) -> float | None:
    """Return a floor as it is stored, rounded up; None where the format overflows."""
    if floor is None or not math.isfinite(floor):
        return None
    return rounded_up(floor)


def schedules_text(family: str) -> str:
    """Return the schedules of a model at the published size of its numbers, as JSON."""
    config = list_presets()[family]
    sampler = SAMPLERS[kit_trace(family).params["sampler"]]
    rows = []
    for side in SIDES if config.scheduler.dynamic_shift else SIDES[-1:]:
        tokens = config.count_tokens(side, side) if config.scheduler.dynamic_shift else 0
        for steps in STEPS:
            made = make_schedule(config.scheduler, sampler, None, steps, None, None, tokens)
            row: dict[str, Any] = {"steps": steps, "sampler": sampler.name}
            row |= {"width": side, "height": side} if tokens else {}
            row |= {"sigmas": made.sigmas.tolist(), "timesteps": made.timesteps.tolist()}
            rows.append(json.dumps(row))
    return "[\n" + ",\n".join(rows) + "\n]\n"
