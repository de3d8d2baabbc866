"""Single files of a transformer: the names of its makers as data, with a prefix and without."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias

from ldmref.io.key_table import KeyEntry, add_prefixes
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.family import SingleFile
from ldmref.models.params import Shape, Spec, flatten

P = ParamSpec("P")
PREFIX = "model.diffusion_model."  # in files of several networks, and of other programs


class MakersLayer(NamedTuple):
    """The name of a layer in a file, and how its tensors are stored.

    Args:
        name: The name.
        third: Query (0), key (1) or value (2) of a stack of the three. None: it is not stacked.
        form: That of `KeyEntry`.
        rows: The first row and the number of all rows of another stack. None: it is in none.

    >>> from ldmref.families import MakersLayer
    >>> MakersLayer("final_layer.adaLN_modulation.1", form="swapped").third is None
    True
    """

    name: str
    third: int | None = None
    form: str = ""
    rows: tuple[int, int] | None = None


MakersNames: TypeAlias = Mapping[str, "str | MakersLayer"]
"""Names in a file by layer, or by tensor. What is not listed has our name."""

MakersBlocks: TypeAlias = Mapping[str, tuple[str, MakersNames]]
"""For each row of numbered blocks, its name in a file and the layers of a block."""


def stack_layers(name: str, layers: Sequence[str]) -> dict[str, MakersLayer]:
    """Return the names of queries, keys and values that a file stacks in one tensor.

    Args:
        name: The name of the stack.
        layers: Our names of the three.

    Returns:
        The layer in the file for each of them.

    >>> from ldmref.families import stack_layers
    >>> stack_layers("attn.qkv", ("to_q", "to_k", "to_v"))["to_k"]
    MakersLayer(name='attn.qkv', third=1, form='', rows=None)
    """
    return {layer: MakersLayer(name, third) for third, layer in enumerate(layers)}


def list_entries(
    spec: Spec, ends: MakersNames, blocks: MakersBlocks, prefix: str = ""
) -> dict[str, KeyEntry]:
    """Return the tensor of a file for each parameter of a transformer.

    Args:
        spec: The shapes of the parameters.
        ends: The names of layers outside of the blocks, or of single layers of a block.
        blocks: The blocks.
        prefix: What precedes all names.

    Returns:
        A `KeyEntry` by the name of the parameter.

    >>> from ldmref.families import list_entries
    >>> spec = {"blocks": {"0": {"up": {"weight": (8, 4)}}}, "norm": {"weight": (4,)}}
    >>> found = list_entries(spec, {"norm": "last"}, {"blocks": ("layers", {"up": "mlp.0"})})
    >>> [entry.name for entry in found.values()]
    ['layers.0.mlp.0.weight', 'last.weight']
    """
    shapes = flatten(spec)
    entries = {name: find_entry(name, shape, ends, blocks) for name, shape in shapes.items()}
    return add_prefixes("", prefix, entries)


def find_entry(name: str, shape: Shape, ends: MakersNames, blocks: MakersBlocks) -> KeyEntry:
    """Return the tensor of a file for a parameter; see `list_entries`.

    >>> blocks = {"layers": ("blocks", {"ff.up": "mlp.w1"})}
    >>> find_entry("layers.3.ff.up.weight", (8, 4), {}, blocks).name
    'blocks.3.mlp.w1.weight'
    """
    path, inner, layers = "", name, ends
    row = "" if find_start(name, ends) else find_start(name, blocks)
    if row:
        theirs, layers = blocks[row]
        number, _, inner = name.removeprefix(f"{row}.").partition(".")
        path = f"{theirs}.{number}."
    layer = find_start(inner, layers)
    stored = layers.get(layer, layer)
    if isinstance(stored, str):
        stored = MakersLayer(stored)
    path += stored.name + inner.removeprefix(layer)
    return KeyEntry(path, shape, stored.third, stored.form, rows=stored.rows)


def find_start(name: str, starts: Collection[str]) -> str:
    """Return the longest path of `starts` that contains a tensor; "" if none does."""
    while name and name not in starts:
        name = name.rpartition(".")[0]
    return name


class MissingTensor(KeyError):
    """A tensor that a file does not have."""


class _Shapes(dict[str, Shape]):
    """Shapes of the tensors of a file, by name."""

    def __missing__(self, name: str) -> Shape:
        raise MissingTensor(name)


def reads_sizes(
    read: Callable[Concatenate[dict[str, Shape], P], ModelConfig | None],
) -> Callable[..., ModelConfig | None]:
    """Make of a function of a transformer's tensors one that recognises files, by any prefix.

    Args:
        read: Returns the configuration of shapes by name. It may raise the errors of a tensor that
            is missing or has another number of axes, or of a size of 0: it is another file then.

    Returns:
        A function of the names and shapes of a file, of the `prefix` of the transformer's and of
        the other arguments of `read`; None if it is another file.

    >>> from ldmref.families import reads_sizes
    >>> from ldmref.models import preset
    >>> @reads_sizes
    ... def recognise(own):
    ...     d, z = own["img_in.weight"]
    ...     return preset("flux-dev")
    >>> recognise({"out.weight": (4,)}) is None
    True
    """

    @wraps(read)
    def recognise(
        shapes: Mapping[str, Shape], prefix: str = "", *args: P.args, **kwargs: P.kwargs
    ) -> ModelConfig | None:
        try:
            return read(_Shapes(remove_prefix(shapes, prefix)), *args, **kwargs)
        except (MissingTensor, ValueError, IndexError, ZeroDivisionError):
            return None

    return recognise


def list_files(
    description: str,
    recognise: Callable[..., ModelConfig | None],
    table: Callable[..., dict[str, KeyEntry]],
    ignored: str = "",
    **more: Any,
) -> tuple[SingleFile, ...]:
    """Return the files of a transformer, without the prefix and with it.

    Args:
        description: What such a file is, in a few words.
        recognise, table: Those of `SingleFile`, which also take the prefix.
        ignored: The pattern of `SingleFile`.
        more: Further attributes of it.
    """
    return tuple(
        SingleFile(
            description,
            partial(recognise, prefix=prefix),
            partial(table, prefix=prefix),
            ignored,
            **more,
        )
        for prefix in ("", PREFIX)
    )


def remove_prefix(shapes: Mapping[str, Shape], prefix: str) -> dict[str, Shape]:
    """Return the shapes of the tensors behind a prefix, by their names without it."""
    return {name.removeprefix(prefix): x for name, x in shapes.items() if name.startswith(prefix)}


def count_blocks(names: Collection[str], kind: str) -> int:
    """Return the number of blocks whose tensors have names of a kind.

    >>> count_blocks(["blocks.0.norm.weight", "blocks.1.norm.weight", "norm.weight"], "blocks")
    2
    """
    start = f"{kind}."
    return len({x.removeprefix(start).split(".")[0] for x in names if x.startswith(start)})


def find_known(
    models: Iterable[ModelConfig], network: DenoiserConfig, axes: str
) -> ModelConfig | None:
    """Return the first model whose transformer has the shapes of another one; None if none has.

    No tensor says for which images a transformer was trained, nor how its axes divide a head.

    Args:
        models: The models.
        network: The configuration that the tensors of a file say.
        axes: The field of the parts of a head.
    """
    for config in models:
        known = config.denoiser
        unseen = {"sample_size": known.sample_size, axes: getattr(known, axes)}
        if replace(network, **unseen) == known:
            return config
    return None


def find_model(
    models: Mapping[str, ModelConfig],
    network: DenoiserConfig,
    head: int,
    nearest: ModelConfig | None,
    axes: str = "axes_dims_rope",
) -> ModelConfig | None:
    """Return the model of a transformer: one with its shapes, or the nearest.

    Args:
        models: The models by name.
        network: The configuration that the tensors of a file say.
        head: The width of a head.
        nearest: The model whose other networks and settings belong to a transformer of other
            sizes. None: there is none.
        axes: The field of the parts of a head, which no tensor says: those of `network` must fit.
    """
    known = find_known(models.values(), network, axes)
    if known is not None or nearest is None or sum(getattr(network, axes)) != head:
        return known
    return replace(nearest, denoiser=network)
