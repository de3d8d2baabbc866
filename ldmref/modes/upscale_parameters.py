"""The parameters of a second pass at a larger size; `upscale.py` says what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Check, Doc, Flag, Range
from ldmref.modes import validation
from ldmref.modes.notation import parse_sigmas
from ldmref.modes.parameters import NUMBERS
from ldmref.modes.validation import MAX_STEPS


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class UpscaleParameters:
    """The second pass at a larger size."""

    upscale: Annotated[
        float | None,
        Range(1, 4),
        Doc(
            "Factor by which width and height are enlarged after the first pass; a second pass "
            "then adds detail, as A1111's hires fix does.",
            "no second pass",
        ),
    ] = None
    upscale_strength: Annotated[
        float | None,
        Range(0, 1),
        Flag(metavar="X"),
        Doc(
            "Amount of change in the second pass: 0 only enlarges, 1 keeps hardly anything.", "0.7"
        ),
    ] = None
    upscale_steps: Annotated[
        int | None,
        Range(1, MAX_STEPS),
        Doc(
            "Number of steps that the second pass takes; all of them are taken, whatever the "
            "strength.",
            "as many as the first pass",
        ),
    ] = None
    upscale_sigmas: Annotated[
        Sequence[float] | None,
        Check(validation.check_sigmas, NUMBERS),
        Flag(metavar="A,B,...", parse=parse_sigmas),
        Doc(
            "Noise levels of the second pass, from the one that the enlarged latents are noised "
            "to, instead of upscale_steps and upscale_strength.",
            "those of the first pass's schedule",
        ),
    ] = None
    upscaler: Annotated[
        Literal["latent", "lanczos"] | None,
        Doc(
            "What is enlarged between the passes: `latent`, the latents, bilinearly; `lanczos`, "
            "the decoded image.",
            "latent",
        ),
    ] = None
