"""Quantise a model: which tensors of its denoiser get another type, and the GGUF file of them.

The names and shapes are those of the family's own single files, so that other programs read the
file; a GGUF file holds the denoiser alone, as those of ComfyUI-GGUF do.

Which tensors stay whole, unless the caller says otherwise (city96/ComfyUI-GGUF, tools/convert.py
and tools/lcpp.patch; leejet/stable-diffusion.cpp, model_loader.cpp, tensor_should_be_converted):

- those with one axis: biases, and the weights of norms;
- those with at most 1024 numbers;
- those outside of the numbered blocks: what embeds latents, text, time, size and class, and the
  last layers. Both programs list their names for each family; here the structure says so. They
  differ in details: stable-diffusion.cpp quantises the convolutions before and after a U-Net if
  their rows are whole blocks of the type, and ComfyUI-GGUF does not;
- those whose numbers are not whole blocks of the type. ComfyUI-GGUF joins the rows of U-Nets to
  rows of 256 and notes the original shape in the file, and can so quantise 3 x 3 kernels;
  stable-diffusion.cpp leaves them whole. `join_rows` decides.

Whole tensors are stored without loss: in float16 if the model has them so, otherwise in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError, UsageError, did_you_mean
from ldmref.io.atomic import check_writable
from ldmref.io.checkpoint import Checkpoint, open_checkpoint
from ldmref.io.compvis.unet_file import PREFIX
from ldmref.io.key_table import KeyEntry, to_compvis
from ldmref.io.quantized.ggml import GGML_TYPES, WRITABLE, read_ggml, write_ggml
from ldmref.io.quantized.rounding import BITS_IN_MEMORY, IN_MEMORY
from ldmref.io.tensors.gguf import ORIGINAL_SHAPE
from ldmref.io.tensors.gguf_writer import GGUFSource, MetadataValue, write_gguf
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape, flatten
from ldmref.models.streaming import list_names_in_blocks

ENDING = ".gguf"
SMALL = 1024  # numbers of a tensor that stays whole
ROW = 256  # numbers of a joined row
LARGEST = 65504  # magnitude that scales in float16 can hold
MOST_AXES = 4
QUANTIZATION_VERSION = 2  # of ggml's blocks
TYPES = tuple(name for name in WRITABLE if name != "F32")
"""The types that a model can be quantised to, in a file or in memory."""


@dataclass(frozen=True)
class QuantizationRule:
    """Which tensors of a denoiser are quantised, and to which type.

    Args:
        type: A type of ggml that can be written, such as "Q4_K"; in memory also "FP8" or "NF4".
        edges: Whether layers outside of the numbered blocks are quantised as well.
        keep: Parts of names of tensors that stay whole, as ldmref or the file names them.
        join_rows: Whether tensors whose rows are not whole blocks are quantised in joined rows.

    Raises:
        UsageError: The type is unknown.

    >>> QuantizationRule("q4_k").type
    'Q4_K'
    """

    type: str
    edges: bool = False
    keep: tuple[str, ...] = ()
    join_rows: bool = True

    def __post_init__(self) -> None:
        known = (*TYPES, *IN_MEMORY)
        name = str(self.type).upper()
        if name not in known:
            message = f"unknown type {self.type!r}; known are {', '.join(known)}"
            recipe = name.rpartition("_")[0]
            hint = did_you_mean(name, known)
            if recipe in known:
                hint = f"{name} is a recipe that mixes types; --type {recipe} is the type"
            raise UsageError(message, code="E-QUANTIZED", hint=hint)
        object.__setattr__(self, "type", name)


class StoredTensor(NamedTuple):
    """A tensor of a file of the family, as it is quantised.

    Attributes:
        type: Its type in the file.
        shape: Its shape as the family stores it.
        rows: Its shape in the file, with joined rows.
        entries: The parameters that it holds, by our names.
    """

    type: str
    shape: Shape
    rows: Shape
    entries: Mapping[str, KeyEntry]

    @property
    def is_joined(self) -> bool:
        """Whether the shape in the file is another one."""
        return self.rows != self.shape


class QuantizedModelFile(NamedTuple):
    """The file that was written: its path, and tensors, numbers and bytes of each type."""

    path: Path
    types: Mapping[str, tuple[int, int, int]]

    @property
    def bits(self) -> float:
        """The mean number of bits of a weight."""
        numbers = sum(count for _, count, _ in self.types.values())
        return 8 * sum(size for _, _, size in self.types.values()) / numbers


def quantize_model(
    name: str | Path | Checkpoint,
    type: str | QuantizationRule,
    out: str | Path,
    *,
    config: str | Path | None = None,
    overwrite: bool = False,
) -> QuantizedModelFile:
    """Write the denoiser of a model as a GGUF file with quantised weights.

    `ldmref.load(out, config=name)` reads it, with the other networks of the model `name`. Nothing
    is written unless it is complete.

    Args:
        name: The model, as for `ldmref.load`, or an opened one.
        type: The type, or a rule that also says which tensors stay whole.
        out: The file to write, which ends in .gguf.
        config: The configuration of a single file, as for `ldmref.load`. None: it is recognised.
        overwrite: Whether a file that exists is replaced.

    Returns:
        The path, and what it holds.

    Raises:
        UsageError: The type cannot be written, or `out` does not end in .gguf.
        InputError: There is no such model, or it is damaged; or a weight is not finite, or too
            large for the type.
        OutputError: The file exists, or cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> out = Path(tempfile.mkdtemp()) / "emoji.gguf"
    >>> written = quantize_model("emoji", "Q4_K", out)
    >>> f"{written.bits:.2f}"
    '4.88'
    """
    path = Path(out)
    rule = type if isinstance(type, QuantizationRule) else QuantizationRule(type)
    require_written(rule, path)
    check_writable(path, overwrite)
    opened = name if isinstance(name, Checkpoint) else open_checkpoint(name, config)
    tensors = select_denoiser(opened)
    plan = plan_quantization(opened.config, tensors, rule)
    sources = {
        stored: GGUFSource(tensor.type, tensor.rows, make_reader(stored, tensor, tensors))
        for stored, tensor in plan.items()
    }
    metadata: dict[str, MetadataValue] = {
        "general.name": opened.config.name,
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    shapes = {f"{ORIGINAL_SHAPE}{n}": t.shape for n, t in plan.items() if t.is_joined}
    write_gguf(path, sources, metadata | shapes, overwrite=overwrite)
    return QuantizedModelFile(path, _sum_types(sources))


def require_written(rule: QuantizationRule, path: Path) -> None:
    """Refuse a type that cannot be written, and a file that is not named as one of these.

    Raises:
        UsageError: The type is only read, or the name does not end in .gguf.
    """
    if rule.type in IN_MEMORY:
        hint = f"written are {', '.join(TYPES)}; ldmref ledger --type {rule.type} measures it"
        raise UsageError(f"{rule.type} cannot be written", code="E-QUANTIZED", hint=hint)
    if path.suffix.lower() != ENDING:
        message = f"{path.name!r} does not end in {ENDING}"
        raise UsageError(message, code="E-FORMAT", hint=f"quantised models are {ENDING} files")


def quantize_in_memory(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], rule: QuantizationRule
) -> dict[str, np.ndarray]:
    """Return the tensors of a denoiser that a rule quantises, as a file would give them back.

    Args:
        config: The configuration of the model.
        tensors: The tensors of the denoiser by our names, without the network's.
        rule: The type, and which tensors stay whole.

    Returns:
        The quantised tensors by the same names, float32.

    >>> from ldmref.io import open_checkpoint
    >>> emoji = open_checkpoint("emoji")
    >>> denoiser = select_denoiser(emoji)
    >>> found = quantize_in_memory(emoji.config, denoiser, QuantizationRule("Q8_0"))
    >>> len(found), "conv_in.weight" in found
    (129, False)
    """
    found = {}
    for stored, tensor in plan_quantization(config, tensors, rule).items():
        if tensor.type == rule.type:
            numbers = make_reader(stored, tensor, tensors)()
            rounded = round_to_type(numbers, rule.type, stored).reshape(tensor.shape)
            found |= {name: entry.read(rounded) for name, entry in tensor.entries.items()}
    return found


def count_bits(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], rule: QuantizationRule
) -> float:
    """Return the mean number of bits of a parameter of the denoiser, whole ones among them."""
    sizes = [
        (math.prod(tensor.shape), bits_of_type(tensor.type))
        for tensor in plan_quantization(config, tensors, rule).values()
    ]
    return sum(n * bits for n, bits in sizes) / sum(n for n, _ in sizes)


def bits_of_type(type: str) -> float:
    """Return the bits of a number in a type, with its share of the scales.

    >>> bits_of_type("Q4_K"), bits_of_type("NF4")
    (4.5, 4.5)
    """
    if type in BITS_IN_MEMORY:
        return BITS_IN_MEMORY[type]
    kind = GGML_TYPES[WRITABLE[type]]
    return 8 * kind.nbytes / kind.values


def round_to_type(x: np.ndarray, type: str, label: str = "") -> np.ndarray:
    """Return numbers as a type holds them, float32, in the same shape.

    Args:
        x: Finite numbers; their last axis is whole blocks of the type.
        type: A type of `QuantizationRule`.
        label: The name of the tensor, for errors.
    """
    if type in IN_MEMORY:
        return IN_MEMORY[type](x)
    kind = GGML_TYPES[WRITABLE[type]]
    return read_ggml(write_ggml(x, kind), kind, label).astype(np.float32).reshape(x.shape)


def select_denoiser(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the tensors of a model's denoiser by our names, without the network's."""
    prefix = f"{checkpoint.config.denoiser.network}."
    tensors = checkpoint.tensors
    return {n.removeprefix(prefix): tensors[n] for n in tensors if n.startswith(prefix)}


def plan_quantization(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], rule: QuantizationRule
) -> dict[str, StoredTensor]:
    """Return each tensor of a file of the family with its type, in the order of the network.

    Args:
        config: The configuration of the model.
        tensors: The tensors of the denoiser, of which only types are used.
        rule: The type, and which tensors stay whole.
    """
    network = model_spec(config)[config.denoiser.network]
    inside = {*flatten(network)} if rule.edges else list_names_in_blocks(network)
    members: dict[str, dict[str, KeyEntry]] = {}
    for name, entry in find_stored_names(config).items():
        members.setdefault(entry.name, {})[name] = entry
    plan = {}
    for stored, entries in members.items():
        shape = next(iter(entries.values())).stored_shape
        half = all(tensors[name].dtype == np.float16 for name in entries)
        whole = StoredTensor("F16" if half else "F32", shape, _fitting(shape), entries)
        kept = any(part in name for part in rule.keep for name in (stored, *entries))
        rows = None if kept or not inside.issuperset(entries) else _cut(shape, rule)
        plan[stored] = whole if rows is None else StoredTensor(rule.type, shape, rows, entries)
    return plan


def find_stored_names(config: ModelConfig) -> dict[str, KeyEntry]:
    """Return the tensor of the family's single files for each parameter of the denoiser.

    The first layout of a denoiser alone counts whose names do not begin with
    `model.diffusion_model.`, as in GGUF files of other programs. A family without one gets our
    names.
    """
    for layout in family_of(config).files:
        table = {} if layout.whole else layout.table(config)
        entries = {n: entry for n, entry in table.items() if isinstance(entry, KeyEntry)}
        if entries and not all(x.name.startswith(PREFIX) for x in entries.values()):
            return entries
    shapes = flatten(model_spec(config)[config.denoiser.network])
    return {name: KeyEntry(name, shape) for name, shape in shapes.items()}


def make_reader(
    stored: str, tensor: StoredTensor, tensors: Mapping[str, np.ndarray]
) -> Callable[[], np.ndarray]:
    """Return a function that returns the numbers of a tensor in the rows of its file.

    It raises CorruptModelError for numbers that are not finite, or too large for its type.
    """
    most = math.inf if tensor.type == "F32" else LARGEST

    def read() -> np.ndarray:
        parts = {name: tensors[name] for name in tensor.entries}
        x = to_compvis(parts, tensor.entries)[stored].reshape(tensor.rows)
        largest = np.abs(x).max(initial=0)
        if not np.isfinite(largest) or largest > most:
            what = f"up to {largest:.3g}" if np.isfinite(largest) else "that are not finite"
            message = f"{stored[:80]!r} holds numbers {what}, which {tensor.type} cannot hold"
            hint = f"keep it whole: --keep {stored[:80]}"
            raise CorruptModelError(message, code="E-NONFINITE", hint=hint)
        return x

    return read


def _cut(shape: Shape, rule: QuantizationRule) -> Shape | None:
    """Return the shape whose rows are whole blocks of the type; None if a tensor stays whole."""
    size = math.prod(shape)
    if len(shape) < 2 or size <= SMALL:
        return None
    values = 1 if rule.type in IN_MEMORY else GGML_TYPES[WRITABLE[rule.type]].values
    if shape[-1] % values == 0 and len(shape) <= MOST_AXES:
        return shape
    return (size // ROW, ROW) if rule.join_rows and size % ROW == 0 else None


def _fitting(shape: Shape) -> Shape:
    """Return a shape of as many axes as a file may have."""
    return shape if len(shape) <= MOST_AXES else (math.prod(shape),)


def _sum_types(sources: Mapping[str, GGUFSource]) -> dict[str, tuple[int, int, int]]:
    """Return tensors, numbers and bytes by type."""
    found: dict[str, tuple[int, int, int]] = {}
    for source in sources.values():
        tensors, numbers, size = found.get(source.kind, (0, 0, 0))
        counted = numbers + math.prod(source.shape)
        found[source.kind] = (tensors + 1, counted, size + source.nbytes)
    return found


def list_types() -> Sequence[str]:
    """Return the names of all types, those of files first."""
    return (*TYPES, *IN_MEMORY)
