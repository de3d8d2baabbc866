"""The parameters that modes share: each is declared once, with its type, range, default and help.

A parameter is a field of one of the classes below. The request of a mode (`requests.py`) inherits
the classes of the parameters that it takes, and declares its own. Checks, the documentation of the
mode (`help(modes.img2img)`), the flags of its command, the record in an image and the JSON schema
are derived from the fields.

`Doc` describes a parameter; its second text is the meaning of None, where that is the default.
`Flag(help=...)` replaces the description on the command line, where it speaks of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from ldmref.declare import Attachment, Check, Doc, Flag, Range, get_fields
from ldmref.errors import short_repr
from ldmref.modes import validation
from ldmref.modes.notation import parse_seeds, parse_sigmas, read_noise
from ldmref.modes.validation import MAX_COUNT, MAX_SIDE, MAX_STEPS
from ldmref.samplers import Sampler, Spacing

MODEL = "the model's setting"
StreamName = Literal[
    "philox",
    "torch",
    "torch-bf16",
    "a1111-gpu",
    "cuda:T4",
    "cuda:RTX-2070-Super",
    "cuda:RTX-A4000",
    "cuda:L4",
    "cuda:A10G",
    "cuda:RTX-A6000",
    "cuda:H20",
    "cuda:RTX-4090D",
    "cuda:L40",
    "cuda:L40S",
    "cuda:A100",
    "cuda:H100-PCIe",
    "cuda:H100-SXM",
]  # the names in `ldmref.samplers.noise.STREAMS`
IMAGE_OR_MODEL = "the size of the given image, or the model's setting"
TEXTS = {"type": ["string", "array"], "items": {"type": "string"}}
NUMBERS = {"type": "array", "items": {"type": "number"}}
ARRAY = {"type": "array"}


class Unrecorded(NamedTuple):
    """The mark of a parameter that images do not record."""


class Parameters:
    """The base of requests, which are shown by the parameters that differ from their defaults."""

    def __repr__(self) -> str:
        fields = get_fields(type(self))
        values = {name: getattr(self, name) for name in fields}
        changed = (
            f"{name}={short_repr(value)}"
            for name, value in values.items()
            if not _is_default(value, fields[name].default)
        )
        text = ", ".join(changed)
        return f"<{type(self).__name__}: {text if len(text) <= 200 else text[:197] + '...'}>"


def _is_default(value: object, default: object) -> bool:
    """Return whether a value is the default, or a list of it, as checks return it."""
    return type(value) in (type(default), list) and value in (default, [default])


FILE = {"type": "string", "contentEncoding": "base64"}


def accept(name: str, value: object) -> Any:
    """Return a value that is checked later, when the image is read or the sampler is chosen."""
    return value


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StepParameter(Parameters):
    """The number of steps."""

    steps: Annotated[
        int | None,
        Range(1, MAX_STEPS),
        Doc("Number of sampler steps: more take longer.", MODEL),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SamplerParameter:
    """The sampler."""

    sampler: Annotated[
        str | Sampler | None,
        Check(accept, {"type": "string"}),
        Flag(
            metavar="NAME",
            help="The method; `ldmref samplers` lists them. A1111's names also work.",
        ),
        Doc("A name in `ldmref.samplers.SAMPLERS` (`ldmref samplers`), or a `Sampler`.", MODEL),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScheduleParameter:
    """The spacing of the noise levels."""

    schedule: Annotated[
        str | Spacing | None,
        Check(accept, {"type": "string"}),
        Flag(metavar="NAME"),
        Doc(
            "Spacing of the noise levels: leading, linspace, trailing, karras, exponential, beta, "
            "ays, ...",
            MODEL,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SeedParameter:
    """The seed."""

    seed: Annotated[
        int | Sequence[int] | None,
        Check(validation.check_seeds, {"type": ["integer", "array"]}),
        Flag(
            metavar="N|-1|A,B,C",
            parse=parse_seeds,
            help="The noise to begin with: the same seed gives the same image. Image i has "
            "seed + i; a list gives each image its own.",
        ),
        Doc(
            "Image i has seed + i (modulo 2^64); a list gives each image its own.",
            "random, and recorded",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SizeParameters:
    """The size of the image."""

    width: Annotated[
        int | None,
        Range(1, MAX_SIDE),
        Flag(("-W", "--width")),
        Doc("Width in pixels.", IMAGE_OR_MODEL),
    ] = None
    height: Annotated[
        int | None,
        Range(1, MAX_SIDE),
        Flag(("-H", "--height")),
        Doc("Height in pixels.", IMAGE_OR_MODEL),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CountParameter:
    """The number of images."""

    count: Annotated[
        int, Range(1, MAX_COUNT), Flag(("-c", "--count")), Doc("Number of images per prompt.")
    ] = 1


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LatentsParameter:
    """The initial noise."""

    latents: Annotated[
        np.ndarray | None,
        Check(validation.check_noise, ARRAY),
        Attachment("array"),
        Flag(
            metavar="FILE.npy",
            parse=read_noise,
            help="Initial noise of unit variance, an array (n, c, h, w).",
        ),
        Unrecorded(),
        Doc("Initial noise of unit variance, (n, c, h, w).", "sampled from the seeds"),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EtaParameter:
    """The fresh noise of the sampler."""

    eta: Annotated[
        float | None,
        Range(0, 1),
        Flag(metavar="X"),
        Doc(
            "Share of fresh noise in each step, for ddim, euler_a and other samplers with an eta.",
            "the sampler's own",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RngParameter:
    """The source of noise."""

    rng: Annotated[
        StreamName,
        Flag(metavar="NAME"),
        Doc(
            "Source of noise: `philox`; `torch`, with which a seed gives diffusers' image "
            "(`torch-bf16`: in bfloat16, up to PyTorch 2.11); `a1111-gpu`, with which it gives "
            "A1111's; `cuda:CARD`, with which it gives diffusers' on that card."
        ),
    ] = "philox"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SigmasParameter:
    """The noise levels themselves, and the path on which they are."""

    sigmas: Annotated[
        Sequence[float] | None,
        Check(validation.check_sigmas, NUMBERS),
        Flag(metavar="A,B,...", parse=parse_sigmas),
        Doc(
            "Noise levels instead of steps and schedule: decreasing numbers. The last one is 0, or "
            "larger to leave noise in the latents.",
            "the levels that steps and schedule give",
        ),
    ] = None
    noise_path: Annotated[
        Literal["ve", "flow"] | None,
        Flag(metavar="NAME"),
        Doc(
            "The path of the steps: `ve`, x0 + sigma eps, or `flow`, (1 - sigma) x0 + sigma eps. "
            "The levels of the schedule are the same distributions on both.",
            "that of the model's training",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchParameters:
    """The sizes of batches and tiles."""

    batch_size: Annotated[
        int,
        Range(1, MAX_COUNT),
        Flag(("--batch",)),
        Unrecorded(),
        Doc(
            "Number of images generated together: more are faster on a GPU, take more memory, and "
            "may change the last bits of an image."
        ),
    ] = 1
    tile: Annotated[
        int | None,
        Range(1, MAX_SIDE),
        Doc(
            "Decode in overlapping tiles of this many pixels a side, to save memory; colours may "
            "drift from tile to tile.",
            "the whole image at once",
        ),
    ] = None
