"""`LibraryObject`: an object of diffusers or transformers as data, which imports neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LibraryObject:
    """An object of another library: a network, a scheduler or a pipeline.

    Attributes:
        path: Its class, `MODULE:CLASS`.
        settings: The arguments of the class. A network of transformers is made of its
            configuration, whose fields they are.
        like: A configuration of ours, whose fields are further arguments where the class has some
            of the same name, unless they are "". None: `settings` are all.

    >>> LibraryObject("diffusers:AutoencoderKL", {"latent_channels": 16}).path
    'diffusers:AutoencoderKL'
    """

    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    like: object = None
