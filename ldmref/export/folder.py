"""A model as a folder of ONNX files, laid out and named as diffusers does.

FOLDER/ldmref.json                 what the files are, the schedule, and how to tokenize
FOLDER/text_encoder/model.onnx     and model.onnx_data, its weights
FOLDER/controlnet/model.onnx       with ControlNets, further ones in controlnet_2, ...
FOLDER/unet/model.onnx
FOLDER/vae_decoder/model.onnx
FOLDER/vae_encoder/model.onnx
FOLDER/tokenizer/tokenizer.json    for the library `tokenizers`
FOLDER/model_index.json            and others: see `ldmref.export.pipeline`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.graph.graph import Graph
from ldmref.backends.graph.onnx import OPSET, import_onnx, write_model
from ldmref.backends.graph.sizes import OpenSize
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import LdmrefError, OutputError, UsageError
from ldmref.export.networks import list_networks, name_controlnets
from ldmref.export.pipeline import is_pipeline, write_pipeline
from ldmref.io.atomic import atomic_folder, check_writable, require_own
from ldmref.io.diffusers.tokens import describe_tokens
from ldmref.loading import load
from ldmref.loading_networks import load_controlnet
from ldmref.math.arrays import Array
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TOKENIZERS
from ldmref.models.control import ControlNet, require_fit
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import tree_map
from ldmref.models.taesd import TinyAutoencoder
from ldmref.prompts.prompt_template import PLAIN
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.support.files import read_json
from ldmref.support.memmap import release_pages
from ldmref.support.version import __version__

MANIFEST = "ldmref.json"
FORMAT = "ldmref-onnx"
VERSION = 1
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx_data"
IDS = "int32"  # of token ids, as diffusers' pipelines hand them over
# What the levels of a flow depend on, by the names of `SchedulerConfig`.
FLOW_SCHEDULE = """
    num_train_timesteps spacing shift dynamic_shift shift_rule base_shift max_shift
    base_image_seq_len max_image_seq_len shift_terminal flow_times
""".split()


@dataclass(frozen=True)
class ExportedFile:
    """One network of an exported model.

    Args:
        network: Its name: text_encoder, unet, vae_decoder, ...
        file: The ONNX file, relative to the folder.
        bytes: Size of the file and of its weights.
        inputs: Shape of each input by name; open sizes are names.
        outputs: Shape of each output by name; open sizes are names, or None.

    >>> from ldmref.export import ExportedFile
    >>> size = ["batch", 4, "height", "width"]
    >>> ExportedFile("unet", "unet/model.onnx", 1000, {"sample": size}, {"out_sample": size}).file
    'unet/model.onnx'
    """

    network: str
    file: str
    bytes: int
    inputs: dict[str, list[int | str | None]]
    outputs: dict[str, list[int | str | None]]


class _FileBackend(NumpyBackend):
    """NumPy with parameters as they are in their file."""

    def weight(self, x: Array) -> Array:
        return np.asarray(x).view()


def export_onnx(
    model: LatentDiffusion | str | Path,
    folder: str | Path,
    *,
    controlnets: Sequence[ControlNet | str | Path] = (),
    overwrite: bool = False,
    **options: Any,
) -> list[ExportedFile]:
    """Write the networks of a model as ONNX files.

    Batch, height, width and the number of tokens are open. Names of inputs and outputs are those
    of diffusers. Weights keep the data type of the model's file and are read and written one after
    the other, so the memory needed does not grow with the model. The networks compute in float32.

    Args:
        model: A name, file or folder as for `ldmref.load`, or a loaded model, whose parameters are
            then exported as they are on its backend.
        folder: The folder to write; it appears complete or not at all.
        controlnets: ControlNets to export beside the model, loaded or as for
            `ldmref.load_controlnet`. The denoiser then takes their outputs, added up.
        overwrite: Whether to replace a folder that an export has written.
        **options: Arguments of `ldmref.load` for a model that is not loaded, such as `lora`.

    Returns:
        The files, in the order in which a program needs them.

    Raises:
        OutputError: The folder exists, is not an export, or cannot be written.
        InputError: There is no such model or ControlNet, or it is damaged.
        UsageError: `options` for a loaded model, or a ControlNet of another model.
        BackendUnavailable: The package onnx is not installed.

    >>> import ldmref, tempfile
    >>> from ldmref.export import export_onnx
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     files = export_onnx(ldmref.random_model("tiny"), f"{parent}/tiny")
    >>> [file.network for file in files]
    ['text_encoder', 'unet', 'vae_decoder', 'vae_encoder']
    >>> files[1].inputs["encoder_hidden_states"]
    ['batch', 'sequence_length', 32]
    """
    target = Path(folder)
    import_onnx()
    require_target(target, overwrite)
    if not isinstance(model, LatentDiffusion):
        model = load(model, backend=_FileBackend(), **options)
    elif options:
        message = f"{', '.join(options)} cannot change a model that is loaded"
        raise UsageError(message, code="E-EXPORT", hint="give the model's name or file")
    nets = [_open_controlnet(net, model) for net in controlnets]
    with atomic_folder(target) as temporary:
        files = _write_networks(model, nets, temporary)
        tokens = _write_tokenizers(model, temporary)
        if is_pipeline(model):
            write_pipeline(model, temporary)
        manifest = _describe(model, files) | {"tokens": tokens, "files": _list_files(temporary)}
        text = json.dumps(manifest, indent=1) + "\n"
        (temporary / MANIFEST).write_text(text, "utf-8")
    return files


def require_target(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder that cannot be written or whose files are not an export.

    Raises:
        OutputError: It exists and `overwrite` is not set, it is not an export, or its parent does
            not exist.
    """
    check_writable(folder, overwrite)
    if not folder.exists():
        return
    hint = "give another name"
    if not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is a file", code="E-EXISTS", hint=hint)
    if not any(folder.iterdir()):
        return
    try:
        manifest = read_json(folder / MANIFEST)
        own = _files_of(manifest) if manifest["format"] == FORMAT else None
    except (LdmrefError, LookupError, TypeError, AttributeError):
        own = None
    if own is None:
        message = f"{str(folder)!r} is not an exported model, so it is not replaced"
        raise OutputError(message, code="E-EXISTS", hint=hint)
    require_own(folder, own)


def _list_files(folder: Path) -> list[str]:
    """Return the files of a finished export, which the next one may replace."""
    written = (path for path in folder.rglob("*") if path.is_file())
    return sorted([*(path.relative_to(folder).as_posix() for path in written), MANIFEST])


def _files_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files of an export; until version 0.9, its manifest named only some of them."""
    if "files" in manifest:
        return [str(name) for name in manifest["files"]]
    models = [str(network["file"]) for network in manifest["networks"].values()]
    weights = [str(PurePosixPath(name).with_name(WEIGHTS_FILE)) for name in models]
    return [*models, *weights, *(str(entry["file"]) for entry in manifest["tokens"]), MANIFEST]


def _open_controlnet(net: ControlNet | str | Path, model: LatentDiffusion) -> ControlNet:
    """Load a ControlNet if necessary, and check that its outputs fit the model.

    Raises:
        UsageError: They do not.
    """
    denoiser = model.config.denoiser
    if not isinstance(net, ControlNet):
        net = load_controlnet(net, _FileBackend(), unet=denoiser)
    require_fit(model.config, net.config, net.name)
    return net.for_denoiser(model.params[denoiser.network])


def _write_networks(
    model: LatentDiffusion, controlnets: Sequence[ControlNet], folder: Path
) -> list[ExportedFile]:
    tiny = model.tiny_autoencoder
    added: dict[str, TinyAutoencoder | ControlNet] = {"tiny": tiny} if tiny else {}
    added |= zip(name_controlnets(len(controlnets)), controlnets, strict=True)
    configs = [net.config for net in controlnets]
    files = []
    for network in list_networks(model.config, tiny.config if tiny else None, configs, IDS):
        owner = added.get(network.params)
        params = owner.params if owner else model.params[network.params]
        graph = network.trace(tree_map(_to_host((owner or model).backend), params), layers=True)
        path = folder / network.name / MODEL_FILE
        path.parent.mkdir()
        write_model(graph, path, WEIGHTS_FILE)
        for array in graph.parameters.values():
            release_pages(array)
        size = sum(part.stat().st_size for part in path.parent.iterdir())
        name = f"{network.name}/{MODEL_FILE}"
        shapes = [
            {x.name: _shape(graph, x) for x in part} for part in (graph.inputs, graph.outputs)
        ]
        files.append(ExportedFile(network.name, name, size, *shapes))
    return files


def _to_host(backend: Backend) -> Any:
    if isinstance(backend, NumpyBackend):
        return np.asarray  # also of float16, and without a copy
    return backend.to_numpy


def _shape(graph: Graph, x: Any) -> list[int | str | None]:
    return [graph.labels.get(d) if isinstance(d, OpenSize) else d for d in x.shape]


def _write_tokenizers(model: LatentDiffusion, folder: Path) -> list[dict[str, Any]]:
    """Write a tokenizer for each text encoder, and return how their tokens become `input_ids`."""
    written = []
    for name, tokenizer in zip(TOKENIZERS, model.tokenizers, strict=False):
        (folder / name).mkdir()
        text = describe_tokens(tokenizer)
        (folder / name / "tokenizer.json").write_text(text, "utf-8")
        numbers = {key: getattr(tokenizer, key) for key in ("length", "start", "end", "pad")}
        described: dict[str, Any] = {"file": f"{name}/tokenizer.json"} | numbers
        if tokenizer.template != PLAIN:
            described["template"] = asdict(tokenizer.template)
        written.append(described)
    return written


def _describe(model: LatentDiffusion, files: list[ExportedFile]) -> dict[str, Any]:
    """Return the manifest: the model, its files and what a sampler needs to know."""
    config = model.config
    scales = autoencoder_of(config.vae).scales
    scaling_factor, shift_factor = 1.0, 0.0  # of graphs that read and return latents
    if model.tiny_autoencoder is None and scales is not None:
        scaling_factor, shift_factor = scales(config.vae)
    return {
        "format": FORMAT,
        "version": VERSION,
        "program": f"ldmref {__version__}",
        "opset": OPSET,
        "model": {
            "name": config.name,
            "sha256": model.sha256,
            "modifications": model.modifications,
        },
        "networks": {
            file.network: {"file": file.file, "inputs": file.inputs, "outputs": file.outputs}
            for file in files
        },
        "latents": {
            "channels": config.vae.latent_channels,
            "factor": config.vae.factor,
            "scaling_factor": scaling_factor,
            "shift_factor": shift_factor,
            "size_multiple": config.size_multiple,
            "token_side": config.vae.factor * config.denoiser.token_side,
        },
        "schedule": _describe_schedule(config.scheduler),
        "defaults": {
            key: getattr(config.defaults, key) for key in ("width", "height", "steps", "cfg_scale")
        },
    }


def _describe_schedule(scheduler: SchedulerConfig) -> dict[str, Any]:
    """Return what is predicted and the levels of training: alpha-bar, or the shift of a flow."""
    found: dict[str, Any] = {"prediction_type": scheduler.prediction_type}
    if scheduler.path is FLOW:
        return found | {name: getattr(scheduler, name) for name in FLOW_SCHEDULE}
    alpha_bar = alpha_bar_from_sigma(sampling_sigmas(scheduler))
    return found | {"alphas_cumprod": alpha_bar.tolist()}
