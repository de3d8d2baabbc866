"""Targets that are files: safetensors, pickled checkpoints, noise, images and their metadata."""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors
from PIL import Image

from ldmref.apps.cli.replay import read_record
from ldmref.errors import LdmrefError
from ldmref.io.images import pil
from ldmref.io.images.infotext import parse_infotext
from ldmref.io.images.metadata import read_parameters, save_image
from ldmref.io.tensors.safetensors import DTYPES, TensorFile
from ldmref.io.tensors.torch_checkpoint import NAMES, STORAGES, load_pickle_bytes, read_checkpoint
from ldmref.modes.notation import read_noise

from .guard import Target, file
from .mutate import mutate_png, mutate_safetensors

# the limit itself, without its minutes and gigabytes
few_pixels = mock.patch.object(pil, "MAX_PIXELS", 250_000)


# -- safetensors ----------------------------------------------------------------------------------


def safetensors_bytes(header: Any, body: bytes = b"") -> bytes:
    """Return a file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _safetensors_seeds() -> list[bytes]:
    def tensor(kind: str, shape: list[int], begin: int) -> dict[str, Any]:
        size = math.prod(shape) * (1 if kind == "U8" else DTYPES[kind].itemsize)
        return {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + size]}

    every = {}
    begin = 0
    for kind in DTYPES:
        every[kind] = tensor(kind, [2], begin)
        begin = every[kind]["data_offsets"][1]
    two = {"b": tensor("U8", [3], 0), "a": tensor("F32", [1], 3), "__metadata__": {"format": "pt"}}
    eight = {"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    return [
        safetensors_bytes({}),
        safetensors_bytes(
            json.dumps({"a": tensor("F32", [2, 2], 0)}).encode() + b"    ", bytes(16)
        ),
        safetensors_bytes(every, bytes(begin)),
        safetensors_bytes(two, bytes(7)),
        safetensors_bytes({"e": tensor("F16", [0, 3], 0), "s": tensor("I64", [], 0)}, bytes(8)),
        safetensors_bytes(eight, bytes(2)),
    ]


def run_safetensors(written: tuple[Path, bytes]) -> None:
    """Check that the library and ldmref agree on which files are valid and on every byte."""
    path, data = written
    try:
        theirs = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError:
        theirs = None
    try:
        ours = TensorFile(path)
    except LdmrefError:
        assert theirs is None or _refused_with_reason(data), "the library accepts it"
        raise
    assert theirs is not None, "the library refuses it"
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        array = ours.codes(name)
        assert list(array.shape) == tensor["shape"] and ours.kinds[name] == tensor["dtype"]
        assert array.tobytes() == bytes(tensor["data"])
        assert ours[name].shape == array.shape
    ours.sha256()


def _refused_with_reason(data: bytes) -> bool:
    """Return whether ldmref refuses a file of the library: other kinds, names twice, no Unicode."""
    length = int.from_bytes(data[:8], "little")
    twice = False

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice |= len({name for name, _ in members}) < len(members)
        return dict(members)

    header = json.loads(data[8 : 8 + length], object_pairs_hook=pairs)
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    odd = any(e["dtype"] not in DTYPES or len(e["shape"]) > 64 for e in tensors)
    huge = any(math.prod(n for n in e["shape"] if n) >= 2**59 for e in tensors)
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which the library finds in names only
        return True
    return twice or odd or huge


# -- pickles --------------------------------------------------------------------------------------

NUMBERS_IN_STORAGE = 16
ALLOWED = {*NAMES, *(("torch", name) for name in STORAGES)}


def _pickled(name: str = "F32") -> bytes:
    """Return the pickle of {"state_dict": {"w": a 2 x 3 view, "b": a parameter}} by torch.save."""
    kind = next(k for k, v in STORAGES.items() if v == name).encode()
    storage = (
        b"(X\x07\0\0\0storageq\1ctorch\n" + kind + b"\nq\2X\1\0\0\x000q\3X\3\0\0\0cpuq\4K\x10tQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\1K\2K\3\x86K\3K\1\x86\x89ccollections\nOrderedDict\n)RtR"
    )
    parameter = (
        b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88ccollections\nOrderedDict\n)RtR"
    )
    inner = b"}(X\1\0\0\0w" + tensor + b"X\1\0\0\0b" + parameter + b"u"
    return (
        b"\x80\2}(X\x0a\0\0\0state_dict" + inner + b"X\5\0\0\0epochK\3X\4\0\0\0listq\5](K\1K\2eu."
    )


def laughs() -> list[bytes]:
    """Return pickles of a few hundred bytes for 2^60 objects: a key, dictionaries, lists."""
    nested: list[Any] = [(), {}, []]
    for _ in range(60):
        pair, table, items = nested
        nested = [(pair, pair), {"a": table, "b": table}, [items, items]]
    pair, *others = (pickle.dumps(value, 2) for value in nested)
    return [b"\x80\2}" + pair[2:-1] + b"K\1s.", *others]


def _pickle_seeds() -> list[bytes]:
    evil = b"cos\nsystem\n(X\4\0\0\0trueetR."
    stacked = b"\x80\4\x8c\2os\x8c\6system\x93\x8c\4true\x85R."
    nested = b"\x80\2}" + b"(X\1\0\0\0a}" * 3 + b"uuu."
    odict = b"\x80\2ccollections\nOrderedDict\nq\0)Rq\1(X\1\0\0\0aK\1u}X\x09\0\0\0_metadata}sb."
    return [*laughs(), _pickled(), _pickled("BF16"), b"\x80\2" + evil, evil, stacked, nested, odict]


def run_pickle(data: bytes) -> None:
    """Check that an accepted pickle names nothing outside the table."""
    load_pickle_bytes(data, "a.ckpt")
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == "GLOBAL":
            module, _, name = argument.partition(" ")
            assert (module, name) in ALLOWED, argument
        assert operation.name not in ("EXT1", "EXT2", "EXT4")


def in_zip(data: bytes) -> Path:
    """Return the pickle within a zip of torch.save, with one storage."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/data/0", bytes(range(4 * NUMBERS_IN_STORAGE)))
    return file("zipped.ckpt")(buffer.getvalue())


def _legacy_seed() -> bytes:
    head = b"\x80\2\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9\3."
    system = b"\x80\2}(X\x10\0\0\0protocol_versionM\xe9\3X\x0d\0\0\0little_endian\x88u."
    keys = b"\x80\2]X\1\0\0\x000a."
    storage = struct.pack("<q", NUMBERS_IN_STORAGE) + bytes(4 * NUMBERS_IN_STORAGE)
    return head + system + _pickled() + keys + storage


def run_checkpoint(path: Path) -> None:
    """Check that every tensor is read, whole and in its shape."""
    checkpoint = read_checkpoint(path)
    for tensor in checkpoint.tensors.values():
        if math.prod(tensor.shape) <= 1_000_000:
            array = checkpoint.read(tensor)
            assert array.shape == tensor.shape and array.flags.c_contiguous


PICKLE_WORDS = (
    b"ctorch\nSize\n", b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n", b"cbuiltins\neval\n",
    b"R", b"b", b"\x81", b"\x93", b"q\1", b"h\1", b"j\xff\xff\xff\x7f", b"r\0\0\0\x01", b"0", b"2",
    b"(", b"t", b"\x85", b"\x86", b"\x87", b"]", b"}", b"a", b"s", b"u", b"e", b"Q",
    b"P0\n", b"\x97", b"\x96\xff\0\0\0\0\0\0\0", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x82\1", b"N", b"\x88", b"\x91", b"\x8f", b"\x90", b"I99999\n", b"F1e9\n", b"S'a'\n",
    b"i__main__\nx\n", b"o",
)  # fmt: skip


# -- arrays and images --------------------------------------------------------------------------


def _noise_seeds() -> list[bytes]:
    seeds = []
    for array in (
        np.zeros((1, 2, 2, 2), np.float32),
        np.float64(1.5),
        np.array(["a"]),
        np.zeros(3, [("a", "f4")]),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2))
    return [*seeds, buffer.getvalue()]


def run_noise(path: Path) -> None:
    """Finite float32."""
    array = read_noise(str(path))
    assert array.dtype == np.float32 and np.isfinite(array).all()


def images(kind: str, **options: Any) -> list[bytes]:
    """Small images of every mode that a format has."""
    seeds = []
    modes = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P",),
        "TIFF": ("F",),
    }
    for mode in modes[kind]:
        buffer = io.BytesIO()
        Image.new(mode, (5, 4)).save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    return seeds


def _image_seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [seed for kind in ("PNG", "JPEG", "WEBP") for seed in images(kind, exif=exif)]
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return [*seeds, *images("GIF"), *images("TIFF"), buffer.getvalue()]


def _png_seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 8
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return [*images("PNG", exif=exif), buffer.getvalue()]


@few_pixels
def run_image(path: Path) -> None:
    """Check that images are RGB, masks grey, and that writing and reading keeps an image."""
    image = pil.read_image(path)
    assert image.mode == "RGB" and image.width * image.height <= pil.MAX_PIXELS
    mask = pil.read_mask(path)
    assert mask.mode == "L" and mask.size == image.size
    buffer = io.BytesIO()
    save_image(buffer, image, "PNG", None)
    buffer.seek(0)
    assert pil.read_image(buffer).tobytes() == image.tobytes()


PARAMS: dict[str, Any] = {
    "mode": "txt2img", "prompt": "red heart", "negative_prompt": "", "steps": 20, "cfg_scale": 2.5,
    "sampler": "dpmpp_2m", "schedule": "karras", "seed": 2**64 - 1, "width": 64, "height": 32,
    "eta": None, "clip_skip": 0, "rng": "philox",
    "model": {"name": "a, b: c", "sha256": "0123456789"}, "ldmref": "0.1.0",
    "backend": {"name": "numpy", "dtype": "float32"},
}  # fmt: skip


def _metadata_seeds() -> list[bytes]:
    seeds = []
    for kind in ("PNG", "JPEG", "WEBP"):
        for params in (PARAMS, PARAMS | {"prompt": "❤️ \n x"}):
            buffer = io.BytesIO()
            save_image(buffer, Image.new("RGB", (2, 2)), kind, params)
            seeds.append(buffer.getvalue())
    return seeds


def run_metadata(path: Path) -> None:
    """Text is text, and a record that is accepted has a mode."""
    parameters = read_parameters(path)
    if "parameters" in parameters:
        assert isinstance(parse_infotext(parameters["parameters"])["pairs"], dict)
    assert isinstance(read_record(str(path))["mode"], str)


TARGETS = {
    "safetensors": Target(
        run_safetensors,
        _safetensors_seeds,
        lambda data: (file("a.safetensors")(data), data),
        mutate_safetensors,
    ),
    "pickle": Target(run_pickle, _pickle_seeds, words=PICKLE_WORDS),
    "checkpoint-pickle": Target(
        run_checkpoint, lambda: [_pickled(), *laughs()], in_zip, words=PICKLE_WORDS
    ),
    "checkpoint": Target(
        run_checkpoint,
        lambda: [in_zip(_pickled()).read_bytes(), _legacy_seed()],
        file("a.ckpt"),
        words=PICKLE_WORDS,
    ),
    "noise": Target(
        run_noise, _noise_seeds, file("noise.npy"), words=(b"(", b"'<f4'", b"'O'", b",")
    ),
    "image": Target(run_image, _image_seeds, file("image")),
    "png": Target(run_image, _png_seeds, file("image.png"), mutate_png),
    "metadata": Target(run_metadata, _metadata_seeds, file("recorded.png"), mutate_png),
}
