"""Tensors that `torch.save` wrote: one file, or a folder of them, as sglang's dumper makes it.

Pickles are scanned and read by `ldmref.io.tensors.torch_checkpoint`; no code of theirs runs.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from ldmref.io.tensors.torch_checkpoint import PickledCheckpoint, read_checkpoint
from ldmref.support.bfloat16 import decode_bfloat16
from ldmref.support.lazy_mapping import LazyMapping

ENDINGS = (".pt", ".pth")
ALONE = "value"  # the key of the tensor in a file of sglang's dumper, and of one that is alone
FIELD = re.compile(r"(?:^|___)name=(?P<name>.+?)(?:___|$)")
NUMBER = re.compile(r"(\d+)")


class TorchFiles(LazyMapping[np.ndarray]):
    """The tensors of files of `torch.save`, read when they are used.

    Args:
        files: A pair of a name and a file each: what the names of its tensors begin with. A file
            with one tensor alone, or of sglang's dumper, gives it this name.

    Attributes:
        kinds: "BF16" for tensors of bfloat16, which are read as float32.

    Raises:
        UnsafeFileError: A pickle names anything but tensors and plain containers.
        CorruptModelError: A file is damaged or holds no tensor.
    """

    def __init__(self, files: Iterable[tuple[str, Path]]):
        self._stored: dict[str, tuple[PickledCheckpoint, str]] = {}
        for base, path in files:
            checkpoint = read_checkpoint(path, ALONE)
            for key in checkpoint.tensors:
                parts = () if key == ALONE and base else (key,)
                self._stored[self._unused(".".join([*([base] if base else ()), *parts]))] = (
                    checkpoint,
                    key,
                )
        self.kinds = {
            name: "BF16"
            for name, (checkpoint, key) in self._stored.items()
            if checkpoint.tensors[key].storage.kind == "BF16"
        }

    def __getitem__(self, name: str) -> np.ndarray:
        checkpoint, key = self._stored[name]
        array = checkpoint.read(checkpoint.tensors[key])
        return decode_bfloat16(array) if name in self.kinds else array

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._stored

    def _unused(self, name: str) -> str:
        """Return a name, with a number if an earlier file has it: of a later step."""
        found, count = name, 0
        while found in self._stored:
            count += 1
            found = f"{name}~{count}"
        return found


def is_torch_zip(path: Path) -> bool:
    """Return whether a zip archive is a file of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False


def read_torch_folder(folder: Path) -> TorchFiles | None:
    """Return the tensors of all files of `torch.save` in a folder; None if there are none.

    Names are those of the files, with `/` for `__`; sglang's dumper writes fields into them, of
    which `name` is taken: `step=0___rank=0___dump_index=3___name=conv_in.pt`.
    """
    paths = [path for path in folder.iterdir() if path.suffix in ENDINGS]
    paths.sort(key=lambda path: [int(x) if x.isdigit() else x for x in NUMBER.split(path.name)])
    return TorchFiles((_name(path), path) for path in paths) if paths else None


def _name(path: Path) -> str:
    field = FIELD.search(path.stem)
    return (field["name"] if field else path.stem).replace("__", "/")
