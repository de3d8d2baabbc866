"""`ldmref convert`: pickles to safetensors, and models from one layout to another."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ldmref.cli.progress import one_line, say
from ldmref.errors import InputError, OutputError, UsageError
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.compvis.single_file import averages_of, scale_tensor, unread
from ldmref.io.key_table import to_compvis
from ldmref.io.locate import find_model
from ldmref.io.native import SECOND_TOKENIZER, save_folder
from ldmref.io.tensors.safetensors import DTYPES, TensorFile
from ldmref.io.tensors.torch_checkpoint import is_pickle, read_checkpoint
from ldmref.io.tensors.writer import TensorSource, source, write_tensors
from ldmref.loading import read_model
from ldmref.models.config import ModelConfig
from ldmref.models.params import unflatten
from ldmref.prompts.tokenizer import PromptTokenizer

ENDING = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
METADATA = {"format": "pt"}


@click.command()
@click.argument("path", metavar="IN")
@click.argument("to", metavar="OUT")
@click.option("--model-config", metavar="NAME|FOLDER", help="What a single file does not tell.")
@click.option("--tokenizer", metavar="FOLDER|FILE", help="CLIP's vocabulary, for a folder as OUT.")
@click.option("--fetch", is_flag=True, help="Fetch OWNER/MODEL from Hugging Face; else nothing is.")
@click.option("--variant", metavar="NAME", help="Of a folder with several weights, such as fp16.")
@click.option(
    "--ema/--no-ema", default=None, help="Averaged weights of a file; default: as its makers do."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def convert(
    path: str,
    to: str,
    model_config: str | None,
    tokenizer: str | None,
    fetch: bool,
    variant: str | None,
    ema: bool | None,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Make a safe file of a pickle, or bring a model into another layout.

    IN is a pickle (.ckpt, .pt, .bin), whose tensors are copied as they are and whose code is never
    run; or a model: a folder of diffusers or ldmref, or a single file. OUT ends in .safetensors for
    one file (of a model: in CompVis' names), else it is a folder of ldmref. Of a training run's
    file the weights are taken that the makers draw with, unless --ema or --no-ema say which.
    """
    found, out = Path(path), Path(to)
    if out.exists() and found.exists() and out.resolve() == found.resolve():
        raise UsageError("IN and OUT are the same file", code="E-USAGE")
    check_output(out, overwrite)
    if found.is_file() and (is_pickle(found) or found.suffix.lower() in PICKLES):
        return convert_pickle(found, out, overwrite)
    found = find_model(path, fetch, variant)
    if out.suffix.lower() == ENDING:
        config, flat, _, _ = read_model(found, model_config, words=False, variant=variant, ema=ema)
        write_compvis(config, flat, out, overwrite)
        tell_unused(found, config, ema)
    else:
        config, flat, words, _ = read_model(
            found, model_config, tokenizer, variant=variant, ema=ema
        )
        write_folder(config, flat, words, out)
        tell_unused(found, config, ema)


COMMANDS = (convert,)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before anything is read.

    Raises:
        OutputError: it exists, or its folder does not, or it is a folder of something else.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{str(out)!r} exists", code="E-EXISTS", hint="add --overwrite")
    if not out.parent.is_dir():
        raise OutputError(
            f"the folder {str(out.parent)!r} does not exist",
            code="E-FOLDER",
            hint="create it first",
        )
    if out.is_dir() == (out.suffix.lower() == ENDING) and out.exists():
        what = "a folder" if out.is_dir() else "a file"
        raise OutputError(f"{str(out)!r} is {what}", code="E-EXISTS", hint="give another name")
    if out.is_dir() and any(out.iterdir()) and not (out / "model.safetensors").is_file():
        raise OutputError(
            f"{str(out)!r} is no model folder; it is not replaced", code="E-EXISTS",
            hint="give another name",
        )  # fmt: skip


def convert_pickle(path: Path, out: Path, overwrite: bool) -> None:
    """Tensors of a pickle into a safetensors file, bit for bit."""
    if out.suffix.lower() != ENDING:
        raise UsageError(
            f"the tensors of {path.name} go into one file, so OUT must end in {ENDING}",
            code="E-USAGE",
            hint=f"ldmref convert {path.name} {path.stem}{ENDING}",
        )
    if not is_pickle(path):
        raise InputError(
            f"{path.name} is no file of torch.save",
            code="E-PICKLE-FORMAT",
            hint="it neither starts as a zip nor as a pickle does",
        )
    checkpoint = read_checkpoint(path)
    tensors = {
        name: TensorSource(t.storage.kind, t.shape, lambda t=t: checkpoint.read(t))
        for name, t in checkpoint.tensors.items()
    }
    write_tensors(out, tensors, METADATA, overwrite=overwrite)
    told(out, len(tensors))
    if checkpoint.left_out:
        names = checkpoint.left_out
        more = ", ..." if len(names) > 5 else ""
        say(
            one_line(f"ldmref: left out, being no tensors with names: {', '.join(names[:5])}{more}")
        )


def write_compvis(
    config: ModelConfig, flat: dict[str, np.ndarray], out: Path, overwrite: bool
) -> None:
    """A model as one file in CompVis' names; types are kept, but bfloat16 becomes float32."""
    if config.unet.class_embed_type:
        raise UsageError(
            f"{config.name!r} has a class embedding, for which CompVis has no name",
            code="E-LAYOUT",
            hint="give OUT without .safetensors to get a folder",
        )
    tensors = to_compvis(flat, compvis_table(config)) | scale_tensor(config)
    kind = {"v": "v", "eps": "epsilon"}.get(config.scheduler.prediction_type)
    says = {} if kind is None else {"modelspec.prediction_type": kind}
    write_tensors(out, {n: source(t) for n, t in tensors.items()}, METADATA | says,
                  overwrite=overwrite)  # fmt: skip
    told(out, len(tensors))


def write_folder(
    config: ModelConfig, flat: dict[str, np.ndarray], words: list[PromptTokenizer], out: Path
) -> None:
    """A model as a folder of ldmref: in float16 if all of it was, else in float32."""
    short = all(tensor.dtype == DTYPES["F16"] for tensor in flat.values())
    extra = {SECOND_TOKENIZER: words[1].tokenizer.to_str()} if len(words) > 1 else None
    dtype = np.float16 if short else np.float32
    save_folder(out, config, unflatten(flat), words[0].tokenizer.to_str(), dtype, extra)
    told(out, len(flat))


def tell_unused(path: Path, config: ModelConfig, ema: bool | None) -> None:
    """Say what of a single file is not in the model that was made of it."""
    if not path.is_file():
        return
    file = TensorFile(path)
    averaged = averages_of(file, config, ema)
    if averaged is not None:
        say(f"ldmref: read {'the averaged weights (EMA)' if averaged else 'the last weights'}")
    names = unread(file, config, ema)
    if names:
        more = ", ..." if len(names) > 5 else ""
        say(one_line(f"ldmref: left out {len(names)} tensors: {', '.join(names[:5])}{more}"))


def told(out: Path, count: int) -> None:
    size = out.stat().st_size if out.is_file() else sum(f.stat().st_size for f in out.iterdir())
    say(one_line(f"{out}  {count} tensors  {size / 1e6:.1f} MB"))
