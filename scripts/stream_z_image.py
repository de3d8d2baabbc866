"""Run a whole Z-Image of random weights in Q4_K block by block, within its planned memory.

    python scripts/stream_z_image.py build FOLDER     # 6 GB of files, written tensor by tensor
    python scripts/stream_z_image.py run FOLDER       # one step of 256 x 256 pixels, Linux

The files have the names that published ones have: a transformer in ComfyUI's layout, Qwen3-4B in
llama.cpp's, and an autoencoder in CompVis'. `run` prints the least memory that the plan allows, and
the most that the process had; mapped pages of the files count there as well. --backend and --layers
(of both networks, for a trial) are for both commands.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

import ldmref
from ldmref import modes
from ldmref.families.qwen3.encoder import LLAMA, Qwen3Config, qwen3_spec
from ldmref.families.qwen3.tokens import small_vocabulary
from ldmref.families.z_image.config import transformer_of
from ldmref.families.z_image.files import comfyui_table
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.key_table import list_stored_shapes
from ldmref.io.native import SCHEMA
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models import preset
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape, flatten

BLOCK, BYTES = 256, 144  # numbers and bytes of a block of Q4_K
SCALE = 32  # of every part of a block, of six bits
CENTRE = 7.5  # of the four bits of a number
SPREAD = 4.61  # the deviation of uniform numbers from 0 to 15
TRANSFORMER, TEXT, AUTOENCODER = "z_image_turbo-Q4_K.gguf", "Qwen3-4B-Q4_K.gguf", "ae.safetensors"
ENDS = {"embed_tokens": "token_embd", "norm": "output_norm"}
MEGABYTE = 2**20


def configure(layers: int) -> ModelConfig:
    """Return the published configuration, or one of fewer layers."""
    config = preset("z-image-turbo")
    if not layers:
        return config
    text = config.text_encoder
    assert isinstance(text, Qwen3Config)
    return replace(
        config,
        denoiser=replace(transformer_of(config), n_layers=layers),
        text_encoder=replace(text, num_hidden_layers=layers),
    )


def is_packed(shape: Shape) -> bool:
    """Return whether a tensor is stored in Q4_K: matrices whose rows are whole blocks."""
    return len(shape) == 2 and shape[0] > 1 and shape[1] % BLOCK == 0


def pack_random(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return bytes of Q4_K for numbers around 0 whose deviation keeps that of a product."""
    count = math.prod(shape) // BLOCK
    step = 1.0 / (math.sqrt(shape[1]) * SPREAD * SCALE)
    blocks = np.empty((count, BYTES), np.uint8)
    blocks[:, :4] = np.array([step, CENTRE * step], np.float16).view(np.uint8)
    blocks[:, 4:12] = SCALE | SCALE >> 4 << 6
    blocks[:, 12:16] = 0
    blocks[:, 16:] = np.frombuffer(rng.bytes(count * (BYTES - 16)), np.uint8).reshape(count, -1)
    return blocks.reshape(shape[0], -1)


def write_gguf(path: Path, shapes: Mapping[str, Shape], architecture: str) -> None:
    """Write random tensors of these shapes, one after the other; norms are 1, biases 0."""
    import gguf

    packed = gguf.GGMLQuantizationType.Q4_K
    writer = gguf.GGUFWriter(path, architecture)
    if architecture == "qwen3":
        writer.add_float32("qwen3.rope.freq_base", 1e6)
    for name, shape in shapes.items():
        if is_packed(shape):
            size = math.prod(shape) // BLOCK * BYTES
            stored = (shape[0], shape[1] // BLOCK * BYTES)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), size, packed)
        else:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * math.prod(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        if is_packed(shape):
            writer.write_tensor_data(pack_random(shape, rng))
        elif len(shape) == 1 and name.endswith("weight"):
            writer.write_tensor_data(np.ones(shape, np.float32))
        else:
            deviation = 0.0 if len(shape) == 1 else 1.0 / math.sqrt(shape[-1])
            writer.write_tensor_data(deviation * rng.standard_normal(shape, np.float32))
    writer.close()


def list_llama(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Yield names and shapes of the text encoder in llama.cpp's files."""
    names = {theirs: ours for ours, theirs in LLAMA.items()}
    for name, shape in flatten(qwen3_spec(config.text_encoder)).items():
        module, _, leaf = name.rpartition(".")
        if module in ENDS:
            yield f"{ENDS[module]}.{leaf}", shape
        else:
            _, number, layer = module.split(".", 2)
            yield f"blk.{number}.{names[layer]}.{leaf}", shape


def build(folder: Path, config: ModelConfig) -> None:
    """Write the files of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(folder / TRANSFORMER, list_stored_shapes(comfyui_table(config)), "lumina2")
    write_gguf(folder / TEXT, dict(list_llama(config)), "qwen3")
    rng = np.random.default_rng(1)
    arrays = {}
    for name, shape in list_stored_shapes(autoencoder_table(config.kl_or_vq)).items():
        deviation = 1.0 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.0
        arrays[name] = np.float32(deviation) * rng.standard_normal(shape, np.float32)
        if len(shape) == 1 and name.endswith("weight"):
            arrays[name] += 1.0
    write_tensors(folder / AUTOENCODER, {name: source(x) for name, x in arrays.items()})
    (folder / "config.json").write_text(json.dumps({"schema": SCHEMA, **config.to_dict()}))
    for name, text in small_vocabulary().items():
        (folder / name).write_text(text, "utf-8")


def read_status(field: str) -> int:
    """Return the bytes of this process: now ("VmRSS") or at its peak ("VmHWM")."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def run(folder: Path, config: ModelConfig, backend: str, size: int) -> None:
    """Plan a model with the least memory in which it can run, and run one step."""
    files = {"text_encoders": [folder / TEXT], "vae": folder / AUTOENCODER, "tokenizer": folder}
    options = {"width": size, "height": size, "steps": 1, "cfg_scale": 1.0}
    options["max_sequence_length"] = 32
    start = time.monotonic()
    model = ldmref.load(
        folder / TRANSFORMER,
        config=folder / "config.json",
        backend=backend,
        max_memory="20GB",
        **files,
    )
    needs = model.with_text_length(32).estimate_memory(size, size)
    least = needs.peak_streamed(model.params.releasable)
    model.max_memory = least
    loaded = time.monotonic()
    result = modes.txt2img(model, "a red cat", seed=1, **options)
    assert np.isfinite(result.latents).all()
    numbers = {
        "planned": least,
        "peak": read_status("VmHWM"),
        "resident weights": needs.peak_resident,
    }
    print("  ".join(f"{name} {value / MEGABYTE:,.0f} MiB" for name, value in numbers.items()))
    print(f"loaded in {loaded - start:.0f} s, one step in {time.monotonic() - loaded:.0f} s")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("build", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=0, help="Default: all.")
    parser.add_argument("--backend", default="numpy", help="Default: numpy.")
    parser.add_argument("--size", type=int, default=256, help="Default: 256.")
    asked = parser.parse_args()
    config = configure(asked.layers)
    if asked.command == "build":
        build(asked.folder, config)
    else:
        run(asked.folder, config, asked.backend, asked.size)


if __name__ == "__main__":
    main()
