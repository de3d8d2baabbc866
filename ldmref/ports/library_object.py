"""`LibraryObject`: an object of diffusers or transformers as data, which imports neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        own: The fields of `like` that the class does not have.
        stored: What its configuration file says besides its arguments, such as the `model_type` of
            a network of transformers.
        rename: Returns the name of one of our tensors in its file of weights.

    >>> LibraryObject("diffusers:AutoencoderKL", {"latent_channels": 16}).path
    'diffusers:AutoencoderKL'
    """

    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    like: object = None
    own: tuple[str, ...] = ()
    stored: Mapping[str, Any] = field(default_factory=dict)
    rename: Callable[[str], str] = lambda name: name

    @property
    def library(self) -> str:
        """The library of its class, as indices of pipelines name it: "diffusers"."""
        return self.path.partition(":")[0].rpartition(".")[2]

    @property
    def kind(self) -> str:
        """The name of its class."""
        return self.path.partition(":")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the class: the fields of `like`, and `settings` instead of them.

        >>> LibraryObject("diffusers:AutoencoderKL", {"latent_channels": 16}).arguments
        {'latent_channels': 16}
        """
        fields = {} if self.like is None else vars(self.like)
        same = {k: x for k, x in fields.items() if k not in self.own and x != ""}
        return same | {**self.settings}
