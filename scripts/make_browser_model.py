"""Write the embedded model as static pages that generate images in a browser, without a server.

The folder holds the explorer and the widgets of the course (docs/_browser), the networks as ONNX
with weights in float16, and ONNX Runtime Web from the npm registry: one pinned version, whose
SHA-512 is compared. Any file host can serve it. Usage:

    python scripts/make_browser_model.py -o build/browser [--runtime onnxruntime-web-1.30.0.tgz]

Needs the package onnx and, unless --runtime names the file, npm and a network.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import ldmref
from ldmref import modes
from ldmref.backends.graph.onnx import make_model
from ldmref.errors import InputError, LdmrefError, OutputError, UsageError
from ldmref.explore.preview import preview_matrix
from ldmref.export.networks import NetworkExport, list_networks
from ldmref.io.atomic import atomic_folder
from ldmref.models.params import flatten, tree_map
from ldmref.prompts.emoji import SELECTOR, named_emoji
from ldmref.prompts.text_checks import MAX_CHARACTERS
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.support.version import __version__

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from browser import copy_pages  # noqa: E402

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SCRIPT = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm"
LICENSE = """\
onnxruntime-web {version}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
NETWORKS = ("text_encoder", "unet", "vae_decoder")
FORMAT = {"format": "ldmref-browser", "version": 1}
SAMPLERS = ("dpmpp_2m", "euler")  # of docs/_browser/js/core/sampling.js


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--map",
        default="emoji-map",
        help="a flow map of the embedded model, to draw while one types; '' for none",
    )
    parser.add_argument("--runtime", type=Path, help=f"{PACKAGE}-{VERSION}.tgz of the npm registry")
    options = parser.parse_args(arguments)
    try:
        require_target(options.output)
        package = options.runtime or fetch_runtime(cache_folder())
        flow_map = ldmref.load(options.map, backend="numpy") if options.map else None
        manifest = write_site(ldmref.load(backend="numpy"), options.output, package, flow_map)
    except LdmrefError as error:
        notes = [f"error: {error}", *getattr(error, "__notes__", ())]
        print("\n".join(notes), file=sys.stderr)
        return 1
    print(f"{options.output}: {manifest['download_bytes'] / 1e6:.1f} MB for the first image")
    print(f"try it: python -m http.server --directory {options.output}")
    return 0


def write_site(
    model: ldmref.LatentDiffusion,
    folder: Path,
    package: Path,
    flow_map: ldmref.LatentDiffusion | None = None,
) -> dict[str, Any]:
    """Write pages, runtime and model into a folder, and return the model's manifest."""
    require_target(folder)
    require_supported(model)
    if flow_map is not None:
        require_map(flow_map, model)
    with atomic_folder(folder) as temporary:
        runtime = unpack_runtime(package, temporary / "runtime")
        copy_pages(temporary)
        return write_model(model, temporary / "model", runtime, flow_map)


def require_target(folder: Path) -> None:
    """Refuse a folder whose files are not an earlier export."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and not (folder / "model" / "manifest.json").is_file():
        message = f"{str(folder)!r} is not an export of this script, so it is not replaced"
        raise OutputError(message, code="E-EXISTS", hint="name an empty or a new folder")


def require_supported(model: ldmref.LatentDiffusion) -> None:
    """Refuse a model that the JavaScript cannot run: another tokenizer or another schedule."""
    config = model.config
    scheduler = config.scheduler
    missing = [
        text
        for text, fine in (
            ("a tokenizer of whole words", model.tokenizer.reads_words),
            ("one text encoder", len(config.text_encoders) == 1),
            ("trailing timesteps down to 0", scheduler.spacing == "trailing"),
            ("a final sigma of 0", scheduler.final_sigma == "zero" and not scheduler.convention),
            ("no further inputs", not config.image_channels),
        )
        if not fine
    ]
    if missing:
        message = f"{config.name!r} does not have {missing[0]}, which the browser pages need"
        raise UsageError(message, code="E-EXPORT", hint="ldmref export onnx exports every model")


def require_map(flow_map: ldmref.LatentDiffusion, model: ldmref.LatentDiffusion) -> None:
    """Refuse a model that is not a flow map of `model`, with its encoder, decoder and schedule."""
    same = (
        flow_map.config.denoiser.is_flow_map,
        np.array_equal(
            sampling_sigmas(flow_map.config.scheduler), sampling_sigmas(model.config.scheduler)
        ),
        flow_map.config.scheduler.spacing == "trailing",
        *(
            digest_of(flow_map.params[name]) == digest_of(model.params[name])
            for name in ("text_encoder", "vae")
        ),
    )
    if not all(same):
        message = f"{flow_map.config.name!r} is no flow map of {model.config.name!r}"
        hint = "ldmref finetune distill makes one"
        raise UsageError(message, code="E-EXPORT", hint=hint)


def digest_of(params: Any) -> str:
    """Return the SHA-256 of parameters as float32."""
    digest = hashlib.sha256()
    for name, value in sorted(flatten(params).items()):
        digest.update(name.encode() + np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


# -- the runtime --------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder in which the package of the runtime is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ldmref" / "npm"


def fetch_runtime(cache: Path) -> Path:
    """Return the package from the cache, or fetch it with npm.

    Raises:
        InputError: npm is missing or failed.
    """
    path = cache / f"{PACKAGE}-{VERSION}.tgz"
    if path.is_file():
        return path
    npm = shutil.which("npm")
    hint = f"install Node.js, or give the file: --runtime {path.name}"
    if npm is None:
        raise InputError(
            "npm, which fetches the runtime, is not installed", code="E-NPM", hint=hint
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--silent"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise InputError(f"npm failed: {lines[-1]}", code="E-NPM", hint=hint)
        fetched = Path(folder) / path.name
        require_integrity(fetched)
        fetched.replace(path)
    return path


def require_integrity(package: Path) -> None:
    """Refuse a package that is not the pinned one.

    Raises:
        InputError: It cannot be read, or its SHA-512 is another.
    """
    try:
        digest = hashlib.sha512(package.read_bytes()).digest()
    except OSError as error:
        message = f"{package} cannot be read: {error.strerror}"
        raise InputError(message, code="E-NPM", hint=f"npm pack {PACKAGE}@{VERSION}") from error
    if base64.b64encode(digest).decode() != SHA512:
        message = f"{package.name} is not {PACKAGE} {VERSION}: its SHA-512 is another"
        raise InputError(message, code="E-NPM", hint=f"npm pack {PACKAGE}@{VERSION}")


def unpack_runtime(package: Path, folder: Path) -> dict[str, Any]:
    """Write the two files that the pages need and the licence; return what the manifest says."""
    require_integrity(package)
    folder.mkdir(parents=True, exist_ok=True)
    # Some hosts do not know the type of .mjs files, and browsers then refuse them.
    names = {SCRIPT: "ort.js", WASM: "ort.wasm"}
    with tarfile.open(package) as archive:
        for name, target in names.items():
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            (folder / target).write_bytes(member.read())
    (folder / "LICENSE").write_text(LICENSE.format(version=VERSION), "utf-8")
    return {
        "package": PACKAGE,
        "version": VERSION,
        "sha512": SHA512,
        "script": describe(folder / "ort.js"),
        "wasm": describe(folder / "ort.wasm"),
    }


# -- the model ----------------------------------------------------------------------------------


def write_model(
    model: ldmref.LatentDiffusion,
    folder: Path,
    runtime: Mapping[str, Any],
    flow_map: ldmref.LatentDiffusion | None = None,
) -> dict[str, Any]:
    """Write networks, tokenizer and manifest, and return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = {
        network.name: write_network(model, network, folder)
        for network in list_networks(model.config)
        if network.name in NETWORKS
    }
    tokenizer = write_tokenizer(model, folder / "tokenizer.json")
    parts = [runtime["script"], runtime["wasm"], tokenizer, *networks.values()]
    manifest = describe_model(model) | {
        "runtime": runtime,
        "tokenizer": tokenizer,
        "networks": networks,
        "download_bytes": sum(part["bytes"] for part in parts),
    }
    if flow_map is not None:
        manifest["flow_map"] = write_map(flow_map, folder)
    text = json.dumps(manifest, indent=1) + "\n"
    (folder / "manifest.json").write_text(text, "utf-8")
    return manifest


def write_map(flow_map: ldmref.LatentDiffusion, folder: Path) -> dict[str, Any]:
    """Write the U-Net of a flow map, which the pages load when it is asked for."""
    networks = list_networks(flow_map.config)
    [unet] = [network for network in networks if network.name == "unet"]
    network = write_network(flow_map, unet, folder, "flow_map")
    return {"name": flow_map.config.name, "sha256": flow_map.sha256, "network": network}


def write_network(
    model: ldmref.LatentDiffusion, network: NetworkExport, folder: Path, name: str = ""
) -> dict[str, Any]:
    """Write one network with its weights in float16; it computes in float32."""

    def half(x: Any) -> np.ndarray:
        array = np.asarray(model.backend.to_numpy(x))
        return array.astype(np.float16) if array.dtype.kind == "f" else array

    graph = network.trace(tree_map(half, model.params[network.params]))
    path = folder / f"{name or network.name}.onnx"
    path.write_bytes(make_model(graph, "embedded").SerializeToString())
    return describe(path)


def write_tokenizer(model: ldmref.LatentDiffusion, path: Path) -> dict[str, Any]:
    """Write the words of the tokenizer in the order of their ids, and the names of emoji."""
    tokenizer = model.tokenizer
    ids = tokenizer.tokenizer.get_vocab()
    words = sorted(ids, key=lambda word: ids[word])
    if [ids[word] for word in words] != list(range(len(words))):
        raise UsageError("the ids of the tokenizer's words have gaps", code="E-TOKENIZER")
    data = {name: getattr(tokenizer, name) for name in ("length", "start", "end", "pad", "unknown")}
    data["words"] = words
    data["emoji"] = [[emoji.text.replace(SELECTOR, ""), emoji.name] for emoji in named_emoji()]
    path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), "utf-8")
    return describe(path) | {"length": tokenizer.length}


def describe(path: Path) -> dict[str, Any]:
    """Return name, size and digest of a file."""
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def describe_model(model: ldmref.LatentDiffusion) -> dict[str, Any]:
    """Return the part of the manifest that a page needs to know about the model."""
    config = model.config
    preview = preview_matrix(model)
    if preview is None:
        raise UsageError(f"{config.name!r} does not have a linear preview", code="E-EXPORT")
    sigmas = sampling_sigmas(config.scheduler)
    fields = modes.schema("txt2img")["properties"]
    steps = fields["steps"]["anyOf"][0]
    guidance = fields["cfg_scale"]["anyOf"][0]
    channels, height, width = model.latent_shape(config.defaults.width, config.defaults.height)
    return FORMAT | {
        "program": f"ldmref {__version__}",
        "model": {"name": config.name, "sha256": model.sha256},
        "latents": {
            "channels": channels,
            "width": width,
            "height": height,
            "scaling_factor": config.kl_or_vq.scaling_factor,
        },
        "schedule": {
            "prediction_type": config.scheduler.prediction_type,
            "sigmas": sigmas.tolist(),
        },
        "preview": {
            "matrix": np.ravel(preview.matrix).tolist(),
            "bias": np.ravel(preview.bias).tolist(),
        },
        "parameters": {
            "prompt": {"maximum": MAX_CHARACTERS},
            "steps": {
                "minimum": steps["minimum"],
                "maximum": min(steps["maximum"], len(sigmas)),
            },
            "cfg_scale": {"minimum": guidance["minimum"], "maximum": guidance["maximum"]},
            "sampler": {"names": SAMPLERS},
        },
        "defaults": {
            "steps": config.defaults.steps,
            "cfg_scale": config.defaults.cfg_scale,
            "sampler": config.scheduler.sampler,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
