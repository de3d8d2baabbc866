"""`NetworkPort`: a kind of text encoder or autoencoder as other programs have it.

Entry points of the groups `ldmref.ports.text_encoders` and `ldmref.ports.autoencoders` name those
of other packages; their names are those of the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from ldmref.models.autoencoder_kind import find_autoencoder
from ldmref.models.text_kind import TextEncoder, find_text_encoder, list_text_encoders
from ldmref.ports.library_object import LibraryObject
from ldmref.support.plugins import find_optional

TEXT_ENCODERS = "ldmref.ports.text_encoders"  # groups of entry points
AUTOENCODERS = "ldmref.ports.autoencoders"
BUILT_IN = {
    TEXT_ENCODERS: {
        "clip": "ldmref.ports.text_encoders:CLIP_PORT",
        "t5": "ldmref.ports.text_encoders:T5_PORT",
        "qwen3": "ldmref.ports.qwen3:QWEN3_PORT",
        "ldmbert": "ldmref.ports.text_encoders:LDMBERT_PORT",
    },
    AUTOENCODERS: {
        "kl": "ldmref.ports.autoencoders:KL_PORT",
        "vq": "ldmref.ports.autoencoders:VQ_PORT",
        "flux2": "ldmref.ports.autoencoders:FLUX2_PORT",
        "qwen-image": "ldmref.ports.autoencoders:QWEN_IMAGE_PORT",
        "qwen-image-2.1": "ldmref.ports.autoencoders:QWEN_IMAGE_21_PORT",
    },
}


@dataclass(frozen=True)
class NetworkPort:
    """A kind of text encoder or autoencoder as transformers and diffusers have it.

    Attributes:
        name: The name of the kind, and of the entry point.
        module: Returns the network of a configuration. None: no pipeline of diffusers is made from
            a kit with such a network.
        classes: The classes of transformers that compute a text encoder.

    >>> find_text_encoder_port("t5").classes
    ('T5EncoderModel',)
    """

    name: str
    module: Callable[[Any], LibraryObject] | None = None
    classes: tuple[str, ...] = ()


@cache
def find_text_encoder_port(name: str) -> NetworkPort:
    """Return a kind of text encoder as other programs have it; empty if nothing is declared.

    Args:
        name: The name of the kind.

    Returns:
        What is declared of it.

    Raises:
        UsageError: Its plug-in cannot be used.

    >>> find_text_encoder_port("clip").classes[0]
    'CLIPTextModel'
    """
    return _find(TEXT_ENCODERS, name) or _read_former(find_text_encoder(name))


@cache
def find_autoencoder_port(name: str) -> NetworkPort:
    """Return a kind of autoencoder as other programs have it; empty if nothing is declared.

    Args:
        name: The name of the kind.

    Returns:
        What is declared of it.

    Raises:
        UsageError: Its plug-in cannot be used.

    >>> from ldmref.models import preset
    >>> find_autoencoder_port("kl").module(preset("sd15").vae).path
    'diffusers:AutoencoderKL'
    """
    return _find(AUTOENCODERS, name) or _read_former(find_autoencoder(name))


def list_text_encoder_ports() -> Iterator[NetworkPort]:
    """Yield what is declared of text encoders, in the order of `list_text_encoders`."""
    for kind in list_text_encoders():
        yield find_text_encoder_port(kind.name)


def _find(group: str, name: str) -> NetworkPort | None:
    """Return a declaration of a group; None if there is none."""
    return find_optional(group, BUILT_IN[group], name, NetworkPort)


def _read_former(kind: Any) -> NetworkPort:
    """Return what a kind of an earlier version declares itself; an empty port if it does not."""
    own = getattr(kind, "classes", ()) if isinstance(kind, TextEncoder) else ()
    return NetworkPort(kind.name, getattr(kind, "module", None), own)  # an autoencoder's: readers
