"""The size at which a model generates for clients that ask for any size, mostly 512 x 512."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from ldmref.models.config import ModelConfig
from ldmref.modes.sizing import OWN_AREA, round_size
from ldmref.modes.validation import MAX_SIDE, check_integer


class Size(NamedTuple):
    """Width and height to generate, and what to tell the client if it asked for others."""

    width: int
    height: int
    note: str = ""


def choose_size(
    config: ModelConfig,
    asked: tuple[int | None, int | None] = (None, None),
    source: Image.Image | None = None,
) -> Size:
    """Return the size to generate.

    A model of one size generates at that size, whatever is asked for, because its images of other
    sizes are incoherent. Other models generate the size that is asked for, each side rounded down
    to one that the networks can take; without one, the given image's size or the model's.

    Args:
        config: The model's configuration.
        asked: Width and height as the client asked, None for a default.
        source: The image that is changed, if there is one.

    Raises:
        UsageError: A side is not a whole number of pixels, or too large.
    """
    for name, side in zip(("width", "height"), asked, strict=True):
        if side is not None:
            check_integer(name, side, 1, MAX_SIDE)
    own = (config.defaults.width, config.defaults.height)
    first = own if source is None else source.size
    wanted = (asked[0] or first[0], asked[1] or first[1])
    if config.defaults.one_size:
        return Size(*own, _explain(config, own, wanted, "its only size"))
    m = config.size_multiple
    kept = source if asked == (None, None) else None
    if kept is not None and round_size(config, kept, OWN_AREA) is None:
        return Size(
            *own, _explain(config, own, wanted, "the given image is too small or too large")
        )
    rounded = (max(m, wanted[0] // m * m), max(m, wanted[1] // m * m))
    return Size(*rounded, _explain(config, rounded, wanted, f"both sides are multiples of {m}"))


def _explain(
    config: ModelConfig, size: tuple[int, int], wanted: tuple[int, int], reason: str
) -> str:
    if size == wanted:
        return ""
    return (
        f"{config.name!r} generates {size[0]}x{size[1]} instead of {wanted[0]}x{wanted[1]}: "
        f"{reason}"
    )
