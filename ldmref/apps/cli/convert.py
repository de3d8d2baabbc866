"""`ldmref convert`: convert pickles to safetensors, and models to another layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from ldmref.apps.cli.file_info import name_weights
from ldmref.apps.cli.messages import quote_command
from ldmref.apps.cli.options import with_options
from ldmref.apps.cli.progress import one_line, say
from ldmref.apps.cli.session import opening_options
from ldmref.apps.cli.shared_options import FINDING
from ldmref.apps.cli.tables import join_first
from ldmref.errors import InputError, LdmrefError, OutputError, UsageError
from ldmref.io.atomic import check_writable
from ldmref.io.checkpoint import Checkpoint
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.compvis.whole_file import make_scale_tensor
from ldmref.io.key_table import to_compvis
from ldmref.io.native import save_folder
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import DTYPES
from ldmref.io.tensors.torch_checkpoint import is_pickle, read_checkpoint
from ldmref.io.tensors.writer import TensorSource, source, write_tensors
from ldmref.models.config import ModelConfig, UNetConfig
from ldmref.models.params import unflatten
from ldmref.prompts.tokenizer import PromptTokenizer

ENDING = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
ONLY_READ = (".gguf", ".sft", ".npz", ".onnx")
METADATA = {"format": "pt"}


@click.command()
@click.argument("path", metavar="IN")
@click.argument("to", metavar="OUT")
@with_options(FINDING)
@click.option("--tokenizer", metavar="FOLDER|FILE", help="Vocabulary of CLIP, if OUT is a folder.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def convert(
    path: str,
    to: str,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Convert a pickle to safetensors, or a model to another layout.

    IN is a pickle (.ckpt, .pt, .bin) or a model: a folder of diffusers or ldmref, or a single file.
    The tensors of a pickle are copied unchanged, and its code is never run.

    OUT is a file if it ends in .safetensors, otherwise a folder of ldmref. A model in one file has
    CompVis' tensor names; models with a transformer become folders only.
    """
    origin = Path(path)
    out = Path(to)
    if os.path.exists(out) and os.path.exists(origin) and out.samefile(origin):
        raise UsageError("IN and OUT are the same file", code="E-USAGE")
    check_output(out, overwrite)
    if os.path.isfile(origin) and (is_pickle(origin) or origin.suffix.lower() in PICKLES):
        left_out = convert_pickle(origin, out, overwrite)
        return report_written(out, left_out, as_json)
    refuse_format(out)
    single = out.suffix.lower() == ENDING
    options = opening_options(flags | ({"tokenizer": None} if single else {}))
    checkpoint = Checkpoint.open(path, options)
    config = checkpoint.config
    tensors = checkpoint.tensors
    for warning in checkpoint.check_weights(allow_nonfinite=True):
        say(one_line(f"ldmref: warning: {warning}"))
    needs_config = False
    if single:
        write_compvis(config, tensors, out, overwrite)
        needs_config = not is_recognised(out)
    else:
        write_folder(config, tensors, checkpoint.tokenizers, out)
    if checkpoint.ema is not None:
        say(f"ldmref: read {name_weights(checkpoint.ema)}")
    if needs_config:
        flag = quote_command(["--model-config", flags["model_config"] or path])
        say(
            f"ldmref: warning: {out} does not say which model it is, and nothing else does: it is "
            f"opened with {flag}; a folder (OUT without {ENDING}) holds its configuration"
        )
    report_written(out, checkpoint.source.unused, as_json)


COMMANDS = (convert,)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before anything is read.

    Raises:
        OutputError: It exists, its folder does not exist, or it is a folder with other files.
    """
    check_writable(out, overwrite)
    if not out.exists():
        return
    hint = "give another name"
    if out.is_dir() == (out.suffix.lower() == ENDING):
        kind = "folder" if out.is_dir() else "file"
        raise OutputError(f"{str(out)!r} is a {kind}", code="E-EXISTS", hint=hint)
    if out.is_dir() and any(out.iterdir()) and not (out / "model.safetensors").is_file():
        message = f"{str(out)!r} is not a model folder, so it is not replaced"
        raise OutputError(message, code="E-EXISTS", hint=hint)


def refuse_format(out: Path) -> None:
    """Refuse a target named like a file of a format that is only read.

    Raises:
        UsageError: The name ends like such a file; a folder of this name would pass for one.
    """
    ending = out.suffix.lower()
    if ending in (*PICKLES, *ONLY_READ):
        raise UsageError(
            f"convert writes {ENDING} files and folders, not {ending}",
            code="E-LAYOUT",
            hint=f"leave {out.suffix} out of OUT to write a folder",
        )


def convert_pickle(path: Path, out: Path, overwrite: bool) -> list[str]:
    """Copy the tensors of a pickle to a safetensors file, bit for bit.

    Returns:
        The names of the entries that are not tensors, which are left out.
    """
    if out.suffix.lower() != ENDING:
        raise UsageError(
            f"OUT must end in {ENDING}: the tensors of {path.name} are written to one file",
            code="E-USAGE",
            hint=f"ldmref convert {path.name} {path.stem}{ENDING}",
        )
    if not is_pickle(path):
        raise InputError(
            f"{path.name} was not written by torch.save",
            code="E-PICKLE-FORMAT",
            hint="it begins like neither a zip file nor a pickle",
        )
    checkpoint = read_checkpoint(path)
    tensors = {
        name: TensorSource(t.storage.kind, t.shape, lambda t=t: checkpoint.read(t))
        for name, t in checkpoint.tensors.items()
    }
    write_tensors(out, tensors, METADATA, overwrite=overwrite)
    return list(checkpoint.left_out)


def write_compvis(
    config: ModelConfig, flat: Mapping[str, np.ndarray], out: Path, overwrite: bool
) -> None:
    """Write a model as one file in CompVis' names; types are kept, but bfloat16 becomes float32."""
    transformer = not isinstance(config.denoiser, UNetConfig)
    unnamed = "a transformer in place of the U-Net" if transformer else ""
    unnamed = unnamed or ("a class embedding" if config.unet.class_embed_type else "")
    unnamed = unnamed or ("a shift factor" if config.kl_or_vq.shift_factor else "")
    if unnamed:
        raise UsageError(
            f"{config.name!r} has {unnamed}, which has no name in CompVis' layout",
            code="E-LAYOUT",
            hint="leave .safetensors out of OUT to write a folder",
        )
    tensors = to_compvis(flat, compvis_table(config)) | make_scale_tensor(config)
    if config.scheduler.rescale_betas_zero_snr:
        tensors["ztsnr"] = np.zeros(1, np.float32)  # a marker: its presence counts, not its value
    prediction = {"v": "v", "eps": "epsilon"}.get(config.scheduler.prediction_type)
    metadata = METADATA | ({"modelspec.prediction_type": prediction} if prediction else {})
    sources = {name: source(tensor) for name, tensor in tensors.items()}
    write_tensors(out, sources, metadata, overwrite=overwrite)


def is_recognised(path: Path) -> bool:
    """Return whether a single file determines its configuration by its names and shapes."""
    try:
        recognise_file(open_model_file(path))
    except LdmrefError:
        return False
    return True


def write_folder(
    config: ModelConfig,
    flat: Mapping[str, np.ndarray],
    tokenizers: Sequence[PromptTokenizer],
    out: Path,
) -> None:
    """Write a model as a folder of ldmref, in float16 if all tensors are, otherwise in float32."""
    half = all(tensor.dtype == DTYPES["F16"] for tensor in flat.values())
    save_folder(out, config, unflatten(flat), tokenizers, np.float16 if half else np.float32)


def report_written(out: Path, left_out: Sequence[str], as_json: bool) -> None:
    """Print path, number of tensors and size of the output, and the names that were left out."""
    weights = out if out.is_file() else out / "model.safetensors"
    tensors = len(open_model_file(weights))
    size = out.stat().st_size if out.is_file() else sum(f.stat().st_size for f in out.iterdir())
    if as_json:
        row = {"output": str(out), "tensors": tensors, "bytes": size, "left_out": list(left_out)}
        click.echo(json.dumps(row))
        return
    say(one_line(f"{out}  {tensors} tensors  {size / 1e6:.1f} MB"))
    if left_out:
        say(one_line(f"ldmref: left out {len(left_out)} tensors: {join_first(left_out)}"))
