"""Open a single file of any format: safetensors or GGUF, plain or quantised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.quantized.layers import is_quantized, list_layers, list_unscaled, list_unused
from ldmref.io.tensors.gguf import GGUFFile
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.safetensors import EXPANDED, TensorFile
from ldmref.support.deferred import DeferredArray
from ldmref.support.files import check_input_path, open_file, shown

MOST_KEPT = 2**29  # bytes of the last tensor that was expanded


class QuantizedFile(ModelFile):
    """The weights of a safetensors file whose scales are tensors of their own.

    Each quantised weight appears as one tensor of its true shape, float32; its scales do not.

    Raises:
        InputError: A format is not supported.
        CorruptModelError: A scale is missing or has another size.
    """

    def __init__(self, file: TensorFile):
        self.path = file.path
        self.metadata = file.metadata
        self.identity = file.identity
        self._file = file
        self._layers = list_layers(file)
        hidden = {part for layer in self._layers.values() for part in layer.parts}
        self.warnings = _warn_of_unscaled(list_unscaled(file, self._layers), file)
        plain = [name for name in file if name not in hidden | list_unused(file)]
        self.kinds = {name: file.kinds[name] for name in plain}
        self.shapes = {name: file.shapes[name] for name in plain}
        self.kinds |= {name: layer.kind for name, layer in self._layers.items()}
        self.shapes |= {name: layer.shape for name, layer in self._layers.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._layers:
            return self._file[name]
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are refused later
            return self._layers[name].read()

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        return self._file.sha256()


class DeferredFile(ModelFile):
    """The tensors of a file whose types NumPy lacks, each expanded when it is used.

    Each is a `DeferredArray`. The last tensor is kept, since several parameters may be its parts,
    such as queries, keys and values, and they are used one after the other; tables of tokens, which
    are larger, are not.
    """

    def __init__(self, file: ModelFile):
        self.path = file.path
        self.kinds = file.kinds
        self.shapes = file.shapes
        self.metadata = file.metadata
        self.identity = file.identity
        self.squeezed = file.squeezed
        self.warnings = file.warnings
        self._file = file
        self._last: tuple[str | None, np.ndarray] = (None, np.empty(0))

    def __getitem__(self, name: str) -> np.ndarray:
        dtype = NATIVE.get(self.kinds[name], np.float32)
        deferred = DeferredArray(partial(self.expand, name), self.shapes[name], dtype)
        return cast(np.ndarray, deferred)

    def expand(self, name: str) -> np.ndarray:
        """Return a tensor; one that is kept, nobody may change."""
        last, array = self._last
        if last == name:
            return array
        array = self._file[name]
        self._last = (None, np.empty(0))
        if array.nbytes <= MOST_KEPT:
            array.flags.writeable = False
            self._last = (name, array)
        return array

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        return self._file.sha256()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file as a reference to it."""
        return _reopen, (str(self.path.resolve()), self.identity)


def _warn_of_unscaled(names: Sequence[str], file: TensorFile) -> list[str]:
    """Return a warning of the float8 tensors of a file that lack the scale which others have."""
    if not names:
        return []
    more = f" and {len(names) - 1:,} more float8 tensors" if len(names) > 1 else ""
    verb = "have" if more else "has"
    return [f"{shown(file.path)}: {names[0][:80]!r}{more} {verb} no scale, as others have"]


NATIVE = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def open_model_file(path: str | Path) -> ModelFile:
    """Open a single file by its content.

    Args:
        path: A safetensors or GGUF file.

    Returns:
        The tensors by name. Those of quantised files are float32 in their true shape, and are
        expanded each time they are used.

    Raises:
        UnsafeFileError: The file is a pickle or a zip.
        InputError: It cannot be read, or its weights are quantised in a way that is not supported.
        CorruptModelError: It is neither, or is damaged.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from safetensors.numpy import save_file
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> codes = np.array([[-3, 4]], np.int8)
    >>> scale = np.float32([0.5])
    >>> save_file({"a.weight": codes, "a.weight_scale": scale}, path)
    >>> file = open_model_file(path)
    >>> file.kinds, np.asarray(file["a.weight"]).tolist()
    ({'a.weight': 'int8_tensorwise'}, [[-1.5, 2.0]])
    """
    path = check_input_path(path)
    with open_file(path) as stream:
        start = stream.read(4)
    if start == b"GGUF":
        return DeferredFile(GGUFFile(path))
    return open_weights(path)


def open_weights(path: Path) -> ModelFile:
    """Open weights of a folder, a safetensors file, as `open_model_file` does.

    Raises:
        UnsafeFileError, InputError, CorruptModelError: As for `open_model_file`.
    """
    file = TensorFile(path)
    if is_quantized(file):
        return DeferredFile(QuantizedFile(file))
    return DeferredFile(file) if EXPANDED.keys() & set(file.kinds.values()) else file


def _reopen(path: str, identity: tuple[int, ...]) -> ModelFile:
    """Open a pickled file again.

    Raises:
        InputError: The file is missing.
        CorruptModelError: It has changed.
    """
    file = open_model_file(path)
    if file.identity[2:] != identity[2:]:  # size and time; a copy elsewhere has another inode
        message = f"{shown(file.path)} has changed since the model was pickled"
        raise CorruptModelError(message, code="E-FILE-CHANGED")
    return file
