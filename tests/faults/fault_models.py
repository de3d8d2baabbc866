"""Rows 1 to 31: bad model files."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from fault_cases import Case, case, command
from safetensors.numpy import load_file, save_file

import ldmref
from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UnsafeFileError
from ldmref.io.native import save_folder

Make = Callable[[Path], Path]


class Payload:
    """A pickle that makes a file where it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def file(name: str, content: bytes | Callable[[Path], bytes]) -> Make:
    """A file of these bytes."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content(folder) if callable(content) else content)
        return path

    return make


def hostile(folder: Path) -> bytes:
    return pickle.dumps({"state_dict": Payload(folder / "canary")})


def zipped(folder: Path) -> bytes:
    path = folder.parent / "tmp.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", hostile(folder))
        archive.writestr("../../slipped", "x")
    content = path.read_bytes()
    path.unlink()
    return content


def tarred(folder: Path) -> bytes:
    path = folder.parent / "tmp.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("../../slipped")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    content = path.read_bytes()
    path.unlink()
    return content


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with this header, a JSON value or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: Any, end: Any, shape: Any, kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def gguf(kind: int = 8, row: int = 32, tensors: int = 1, fields: int = 0) -> bytes:
    """Return a GGUF file with one tensor of a block of Q8_0."""
    head = struct.pack("<4sIQQQ", b"GGUF", 3, tensors, fields, 1) + b"a"
    head += struct.pack("<IQIQ", 1, row, kind, 0)
    return head + b"\0" * (-len(head) % 32) + b"\0" * 34


def quantized(change: Mapping[str, np.ndarray] = MappingProxyType({}), without: str = "") -> Make:
    """A safetensors file with a weight of two rows in int8 and its scale."""

    def make(folder: Path) -> Path:
        tensors = {"a.weight": np.ones((2, 4), np.int8), "a.weight_scale": np.ones(1, np.float32)}
        tensors = {name: x for name, x in (tensors | dict(change)).items() if name != without}
        save_file(tensors, folder / "a.safetensors")
        return folder / "a.safetensors"

    return make


def tiny(
    *,
    weights: Callable[[dict[str, np.ndarray]], Any] | None = None,
    content: Callable[[bytes], bytes] | None = None,
    config: Mapping[str, Any] | Callable[[dict[str, Any]], Any] | None = None,
    tokenizer: Callable[[dict[str, Any]], Any] | None = None,
    digests: bool = False,
) -> Make:
    """A folder with preset `tiny`, changed.

    Args:
        weights: changes the tensors in place, or returns others.
        content: from the bytes of the weights' file to others.
        config: changes the JSON in place or returns another; or keys of `unet` by their values.
        tokenizer: changes the JSON of the tokenizer in place.
        digests: the configuration still records those of the unchanged files.
    """

    def make(folder: Path) -> Path:
        model = ldmref.random_model("tiny", backend="numpy")
        out = folder / "tiny"
        save_folder(out, model.config, model.params, [model.tokenizer], np.float32)
        path = out / "model.safetensors"
        if weights is not None:
            tensors = load_file(path)
            save_file(weights(tensors) or tensors, path)
        if content is not None:
            path.write_bytes(content(path.read_bytes()))
        data = json.loads((out / "config.json").read_text())
        if not digests:
            data.pop("sha256", None)
        if callable(config):
            data = config(data) or data
        elif config is not None:
            data["unet"] |= config
        text = data if isinstance(data, str) else json.dumps(data)
        (out / "config.json").write_text(text)
        if tokenizer is not None:
            words = json.loads((out / "tokenizer.json").read_text())
            tokenizer(words)
            (out / "tokenizer.json").write_text(json.dumps(words))
        return out

    return make


def set_first(value: float, everywhere: bool = False) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = "unet.conv_in.weight"
        tensors[name] = tensors[name].copy()
        tensors[name][...] = value if everywhere else tensors[name]
        tensors[name].flat[0] = value

    return change


def as_type(dtype: Any) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: {name: t.astype(dtype) for name, t in tensors.items()}


def without(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.pop(name) is None


def added(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.update({name: np.zeros(3, np.float32)})


def reshaped(tensors: dict[str, np.ndarray]) -> None:
    tensors["unet.conv_in.weight"] = tensors["unet.conv_in.weight"][:, :2].copy()


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        header, data = header_of(content)
        return raw(change(header) or header, data)

    return edit


def flipped(content: bytes) -> bytes:
    """Change the last byte of the last tensor a little."""
    return content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]


def as_bfloat16(content: bytes) -> bytes:
    """Cut tensors of float32 to their upper halves."""
    header, data = header_of(content)
    for entry in (header[name] for name in header if name != "__metadata__"):
        entry["dtype"] = "BF16"
        entry["data_offsets"] = [offset // 2 for offset in entry["data_offsets"]]
    return raw(header, np.frombuffer(data, "<u2")[1::2].tobytes())


def first_name(header: dict[str, Any]) -> str:
    return min(
        (n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][0]
    )


def overlapping(header: dict[str, Any]) -> None:
    """Two tensors of one size at one place; the second one's own bytes are a hole."""
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["shape"])
    a, b = next(
        (a, b) for a, b in itertools.pairwise(names) if header[a]["shape"] == header[b]["shape"]
    )
    header[b]["data_offsets"] = header[a]["data_offsets"]


def shifted(header: dict[str, Any]) -> bytes:
    """All tensors four bytes later: a hole at the start; the file gets four bytes longer."""
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [offset + 4 for offset in entry["data_offsets"]]
    return json.dumps(header).encode()


def holed(content: bytes) -> bytes:
    header, data = header_of(content)
    return raw(shifted(header), b"\0\0\0\0" + data)


def reversed_offsets(header: dict[str, Any]) -> None:
    entry = header[first_name(header)]
    entry["data_offsets"] = entry["data_offsets"][::-1]


def float_offsets(header: dict[str, Any]) -> None:
    entry = header[first_name(header)]
    entry["data_offsets"] = [float(offset) for offset in entry["data_offsets"]]


def twice(header: dict[str, Any]) -> bytes:
    name = first_name(header)
    text = json.dumps(header)
    return (text[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}" + "}").encode()


def nul_padded(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode() + b"\0" * 8


def single(
    tensors: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None
) -> Make:
    """A safetensors file of zeros with these names and shapes."""

    def make(folder: Path) -> Path:
        path = folder / "model.safetensors"
        arrays = {name: np.zeros(shape, np.float16) for name, shape in tensors.items()}
        save_file(arrays, path, dict(metadata or {}))
        return path

    return make


def diffusers(index: Mapping[str, Any] | None, **files: Any) -> Make:
    """A folder of diffusers with this index; `files`: names with __ for /, to JSON values."""

    def make(folder: Path) -> Path:
        out = folder / "diffusers"
        out.mkdir()
        if index is not None:
            (out / "model_index.json").write_text(json.dumps(index))
        for name, value in files.items():
            component, _, rest = name.partition("__")
            path = out / component / (rest + ".json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(value))
        return out

    return make


INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
}
CLIP = {"vocab_size": 300, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 77, "bos_token_id": 298,
        "eos_token_id": 299}  # fmt: skip
NETWORKS = {
    "unet__config": {
        "_class_name": "UNet2DConditionModel", "sample_size": 8, "block_out_channels": [16, 32],
        "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 24,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "attention_head_dim": 2,
    },
    "vae__config": {
        "_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "layers_per_block": 1,
        "norm_num_groups": 4, "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "text_encoder__config": {"architectures": ["CLIPTextModel"], **CLIP},
    "scheduler__scheduler_config": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "tokenizer__vocab": {f"{i}</w>": i for i in range(298)}
    | {"<|startoftext|>": 298, "<|endoftext|>": 299},
}  # fmt: skip


def sharded(shard: str, link: str = "") -> Make:
    """A complete diffusers folder whose U-Net is one shard of this name; `{folder}` is filled in.

    `link`: make the shard a symbolic link to that file.
    """

    def make(folder: Path) -> Path:
        name = shard.format(folder=folder)
        index = {"weight_map": {"conv_in.weight": name}}
        out = diffusers(
            INDEX, **NETWORKS, **{"unet__diffusion_pytorch_model.safetensors.index": index}
        )(folder)
        (out / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
        for path in (folder / "outside.safetensors", out / "outside.safetensors"):
            save_file({"conv_in.weight": np.zeros((16, 4, 3, 3), np.float32)}, path)
        (folder / "secret").write_text("not for others")
        if link:
            (out / "unet" / name).symlink_to(link.format(folder=folder))
        return out

    return make


MANY = {"in_channels": 10**9}


def special(kind: str) -> Make:
    """A FIFO, a socket, a device, or a link to nothing, named like a model."""

    def make(folder: Path) -> Path:
        path = folder / "model.safetensors"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            here = Path.cwd()
            os.chdir(folder)  # names of sockets are short
            with socket.socket(socket.AF_UNIX) as unix:
                unix.bind(path.name)
            os.chdir(here)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.symlink_to(folder / "gone")
        return path

    return make


def linked(folder: Path) -> Path:
    """Return a model folder by a symbolic link, which is allowed."""
    link = folder / "link"
    link.symlink_to(tiny()(folder))
    return link


def weights_as_folder(folder: Path) -> Path:
    out = tiny()(folder)
    (out / "model.safetensors").unlink()
    (out / "model.safetensors").mkdir()
    return out


def unreadable(folder: Path) -> Path:
    out = tiny()(folder)
    (out / "model.safetensors").chmod(0)
    return out


def without_file(name: str) -> Make:
    def make(folder: Path) -> Path:
        out = tiny()(folder)
        (out / name).unlink()
        return out

    return make


def read_only(folder: Path) -> Path:
    out = tiny()(folder)
    for path in (*out.iterdir(), out):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return out


LORA = {
    f"lora_unet_down_blocks_0_attentions_0_proj_in.lora_{end}.weight": shape
    for end, shape in (("down", (4, 320)), ("up", (320, 4)))
}
VAE = {
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
XL = {
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
}
SAFE = "E-SAFETENSORS"
KEYS = "E-KEYS"
CONFIG = "E-CONFIG"
DAMAGED = CorruptModelError
UNSAFE = UnsafeFileError

FILES: list[Case] = [
    case(1, "pickle .ckpt", UNSAFE, "E-PICKLE", model=file("a.ckpt", hostile)),
    case(1, "pickle .bin", UNSAFE, "E-PICKLE", model=file("a.bin", hostile)),
    case(1, "missing pickle", InputError, "E-MODEL", model=lambda folder: folder / "gone.pt"),
    case(2, "pickle", UNSAFE, "E-PICKLE", model=file("a.safetensors", hostile)),
    case(2, "zip of torch", UNSAFE, "E-PICKLE", model=file("a.safetensors", zipped)),
    case(2, "pickle in a folder", UNSAFE, "E-PICKLE",
         model=tiny(content=lambda _: pickle.dumps({}))),
    command(3, "convert", UNSAFE, "E-PICKLE", "convert", file("a.ckpt", hostile), "a.safetensors"),
    command(3, "convert a zip", UNSAFE, "E-PICKLE",
            "convert", file("a.ckpt", zipped), "a.safetensors"),
    case(4, "file", DAMAGED, "E-LFS",
         model=file("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0")),
    case(4, "in a folder", DAMAGED, "E-LFS",
         model=tiny(content=lambda _: b"version https://git-lfs.github.com/spec/v1\n")),
    case(5, "doctype", DAMAGED, SAFE,
         model=file("a.safetensors", b"<!DOCTYPE html><html><body>Not found")),
    case(5, "html", DAMAGED, SAFE, model=file("a.safetensors", b"\n<html><body>Not found")),
    case(6, "empty", DAMAGED, SAFE, model=file("a.safetensors", b"")),
    case(6, "7 bytes", DAMAGED, SAFE, model=file("a.safetensors", b"\2\0\0\0\0\0\0")),
    case(6, "no JSON", DAMAGED, SAFE, model=file("a.safetensors", raw(b"hello", b"\0" * 8))),
    case(6, "a list", DAMAGED, SAFE, model=file("a.safetensors", raw([1], b"\0" * 8))),
    case(7, "2^63", DAMAGED, SAFE, model=file("a.safetensors", raw({}, b"\0" * 8, 2**63))),
    case(7, "200 MB", DAMAGED, SAFE, model=file("a.safetensors", raw({}, b"\0" * 8, 200_000_000))),
    case(7, "a byte too long", DAMAGED, SAFE, model=file("a.safetensors", raw({}, length=3))),
    case(8, "truncated", DAMAGED, SAFE, model=tiny(content=lambda content: content[:-1])),
    case(8, "half", DAMAGED, SAFE, model=tiny(content=lambda content: content[:300_000])),
    case(8, "trailing bytes", DAMAGED, SAFE, model=tiny(content=lambda content: content + b"\0")),
    case(9, "overlapping", DAMAGED, SAFE, model=tiny(content=with_header(overlapping))),
    case(9, "a hole", DAMAGED, SAFE, model=tiny(content=holed)),
    case(9, "reversed", DAMAGED, SAFE, model=tiny(content=with_header(reversed_offsets))),
    case(9, "beyond the end", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor(0, 400, [100])}, b"\0" * 8))),
    case(10, "negative shape", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor(0, 8, [-1, -2])}, b"\0" * 8))),
    case(10, "overflow", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor(0, 0, [2**62, 4])}))),
    case(10, "float offsets", DAMAGED, SAFE, model=tiny(content=with_header(float_offsets))),
    case(10, "text offsets", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor("0", "8", [2])}, b"\0" * 8))),
    case(11, "same entry", DAMAGED, SAFE, model=tiny(content=with_header(twice))),
    case(12, "padded", DAMAGED, SAFE, model=tiny(content=with_header(nul_padded))),
    case(13, "100,000 brackets", DAMAGED, SAFE,
         model=file("a.safetensors", raw(b"[" * 100_000, b"\0" * 8))),
    case(13, "config.json of 5,000 levels", DAMAGED, CONFIG,
         model=tiny(config=lambda _: '{"schema": 1, "unet": ' + "[" * 5000 + "]" * 5000 + "}")),
    case(14, "F8_E4M3FNUZ", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor(0, 8, [8], "F8_E4M3FNUZ")}, b"\0" * 8))),
    case(14, "number as type", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor(0, 8, [2], 7)}, b"\0" * 8))),
    case(14, "list as type", DAMAGED, SAFE,
         model=file("a.safetensors", raw({"a": tensor(0, 8, [2], ["F32"])}, b"\0" * 8))),
    case(14, "bfloat16", model=tiny(content=as_bfloat16)),
    case(14, "bfloat16 with NaN", DAMAGED, "E-NONFINITE",
         model=tiny(weights=set_first(np.nan), content=as_bfloat16)),
    case(15, "float16", model=tiny(weights=as_type(np.float16))),
    case(15, "float64", model=tiny(weights=as_type(np.float64))),
    case(16, "NaN", DAMAGED, "E-NONFINITE", model=tiny(weights=set_first(np.nan))),
    case(16, "infinity", DAMAGED, "E-NONFINITE", model=tiny(weights=set_first(np.inf))),
    case(17, "zeros", warns=True, model=tiny(weights=set_first(0.0, everywhere=True))),
    case(18, "missing", KeyMismatchError, KEYS, model=tiny(weights=without("vae.quant_conv.bias"))),
    case(18, "unexpected", KeyMismatchError, KEYS, model=tiny(weights=added("unet.more"))),
    case(19, "other shapes", KeyMismatchError, KEYS, model=tiny(weights=reshaped)),
    case(19, "piece of an SDXL file", InputError, KEYS, model=single(XL)),
    case(20, "velocity", model=tiny(config=lambda data: data["scheduler"].update(
        prediction_type="v"))),
    case(20, "unknown prediction", DAMAGED, CONFIG, model=tiny(config=lambda data: data[
        "scheduler"].update(prediction_type="w"))),
    case(21, "LoRA", InputError, KEYS, model=single(LORA)),
    case(21, "embedding", InputError, KEYS, model=single({"emb_params": (2, 768)})),
    case(21, "autoencoder", InputError, KEYS, model=single(VAE)),
    case(21, "no tensors", InputError, SAFE, model=single({})),
    case(22, "index", InputError, "E-MODEL", model=diffusers(None)),
    case(22, "no components", InputError, "E-MODEL", model=diffusers(INDEX)),
    case(22, "shard above", UNSAFE, "E-SHARD", model=sharded("../outside.safetensors")),
    case(22, "shard far above", UNSAFE, "E-SHARD", model=sharded("../../outside.safetensors")),
    case(22, "shard by its path", UNSAFE, "E-SHARD", model=sharded("{folder}/outside.safetensors")),
    case(22, "shard of Windows", UNSAFE, "E-SHARD", model=sharded("..\\outside.safetensors")),
    case(22, "shard on a drive", UNSAFE, "E-SHARD", model=sharded("C:outside.safetensors")),
    case(22, "shard that is the folder", InputError, "E-MODEL", model=sharded("..")),
    case(22, "shard with NUL", InputError, "E-MODEL", model=sharded("a\0b")),
    case(22, "link to no tensors", DAMAGED, SAFE, model=sharded("a", link="{folder}/secret")),
    case(22, "link to a device", InputError, "E-MODEL", model=sharded("a", link="/dev/zero")),
    case(22, "link to one of the tensors", KeyMismatchError, KEYS,
         model=sharded("a", link="{folder}/outside.safetensors")),
    case(23, "auto_map", DAMAGED, CONFIG, 
         model=tiny(config={"auto_map": {"AutoModel": "evil.py"}})),
    case(23, "unknown class", InputError, "E-PIPELINE",
         model=diffusers(INDEX | {"_class_name": "os.system"})),
    case(23, "unknown scheduler", DAMAGED, "E-SCHEDULER", model=diffusers(
        INDEX | {"scheduler": ["diffusers", "EDMEulerScheduler"]}, **NETWORKS)),
    case(23, "custom pipeline", InputError, "E-MODEL",
         model=diffusers(INDEX | {"unet": ["evil", "Evil"]})),
    case(24, "10^9 channels", DAMAGED, CONFIG, model=tiny(config=MANY)),
    case(24, "10^9 layers", DAMAGED, CONFIG, model=tiny(config={"layers_per_block": 10**9})),
    case(24, "null for a list", DAMAGED, CONFIG, model=tiny(config={"block_out_channels": None})),
    case(24, "no channels", DAMAGED, CONFIG, model=tiny(config={"block_out_channels": []})),
    case(24, "text for a number", DAMAGED, CONFIG, model=tiny(config={"in_channels": "4"})),
    case(24, "0 training steps", DAMAGED, CONFIG, model=tiny(config=lambda data: data[
        "scheduler"].update(num_train_timesteps=0))),
    case(24, "10^12 training steps", DAMAGED, CONFIG, model=tiny(config=lambda data: data[
        "scheduler"].update(num_train_timesteps=10**12))),
    case(24, "beta NaN", DAMAGED, CONFIG, model=tiny(config=lambda data: data[
        "scheduler"].update(beta_start=float("nan")))),
    case(24, "betas fall", DAMAGED, CONFIG, model=tiny(config=lambda data: data[
        "scheduler"].update(beta_start=0.5, beta_end=0.1))),
    case(24, "a million steps by default", DAMAGED, CONFIG, model=tiny(config=lambda data: data[
        "defaults"].update(steps=10**6))),
    case(25, "FIFO", InputError, "E-MODEL", model=special("fifo")),
    case(25, "socket", InputError, "E-MODEL", model=special("socket")),
    case(25, "device", InputError, "E-MODEL", model=special("device")),
    command(25, "device to look at", InputError, "E-MODEL", "info", "/dev/zero"),
    command(25, "device to convert", InputError, "E-MODEL", "convert", "/dev/zero", "a"),
    case(25, "link to nothing", InputError, "E-MODEL", model=special("link")),
    case(25, "folder for a file", InputError, "E-MODEL", model=weights_as_folder),
    case(25, "link to a model", model=linked),
    case(27, "missing", InputError, "E-MODEL", model=lambda folder: folder / "gone"),
    case(27, "no weights", InputError, "E-MODEL", model=without_file("model.safetensors")),
    case(27, "no tokenizer", InputError, "E-MODEL", model=without_file("tokenizer.json")),
    case(27, "read-only", model=read_only),
    case(27, "neither name nor path", InputError, "E-MODEL", model=lambda folder: Path("a\nb")),
    case(28, "zip", InputError, "E-PICKLE", model=file("model.zip", zipped)),
    case(28, "tar", DAMAGED, SAFE, model=file("model.tar", tarred)),
    case(29, "a flipped byte", DAMAGED, "E-DIGEST", model=tiny(content=flipped, digests=True)),
    case(31, "schema 2", DAMAGED, "E-SCHEMA",
         model=tiny(config=lambda data: data.update(schema=2))),
    case(31, "no schema", DAMAGED, CONFIG, model=tiny(config=lambda data: data.pop("schema") == 0)),
    case(155, "truncated", DAMAGED, "E-GGUF", model=file("a.gguf", gguf()[:-1])),
    case(155, "2^63 tensors", DAMAGED, "E-GGUF", model=file("a.gguf", gguf(tensors=2**63))),
    case(155, "2^63 fields", DAMAGED, "E-GGUF", model=file("a.gguf", gguf(fields=2**63))),
    case(155, "unknown type", DAMAGED, "E-GGUF", model=file("a.gguf", gguf(kind=99))),
    case(155, "half a block", DAMAGED, "E-GGUF", model=file("a.gguf", gguf(row=33))),
    case(156, "no weight", DAMAGED, "E-QUANTIZED", model=quantized(without="a.weight")),
    case(156, "three scales", DAMAGED, "E-QUANTIZED",
         model=quantized({"a.weight_scale": np.ones(3, np.float32)})),
    case(156, "SVDQuant", InputError, "E-QUANTIZED",
         model=quantized({"a.wscales": np.ones(3, np.float32)})),
]  # fmt: skip

if os.getuid():
    FILES.append(case(27, "unreadable", InputError, "E-MODEL", model=unreadable))
