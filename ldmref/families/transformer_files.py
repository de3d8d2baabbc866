"""Single files of a transformer: other programs put a prefix before the names of its makers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ldmref.io.key_table import KeyEntry
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.family import SingleFile
from ldmref.models.params import Shape

PREFIX = "model.diffusion_model."  # in files of several networks, and of other programs


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
    models: Iterable[ModelConfig], network: DenoiserConfig, axes: str = "axes_dims_rope"
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
