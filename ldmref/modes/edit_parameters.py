"""The parameters of the methods that edit an image; None is the published value of the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ldmref.declare import Doc, Flag, Range
from ldmref.modes.validation import MAX_STEPS


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EditParameters:
    """The method, and the guidance of the source prompt."""

    method: Annotated[
        Literal["flowedit", "rf_inversion"],
        Doc(
            "`flowedit` follows the difference between the flows of the two prompts; "
            "`rf_inversion` goes up to noise and down again, held to the given image."
        ),
    ] = "flowedit"
    source_cfg_scale: Annotated[
        float | None,
        Range(-1000, 1000),
        Flag(("--source-cfg",), "X"),
        Doc("Guidance scale of the source prompt.", "the published one of the method"),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FlowEditParameters:
    """The parameters of FlowEdit, with the names of its authors."""

    n_max: Annotated[
        int | None,
        Range(1, MAX_STEPS),
        Doc(
            "FlowEdit: number of last steps that it takes; fewer keep more of the image.",
            "33/50 of the steps, or 24/28 for a model that reads the guidance scale",
        ),
    ] = None
    n_min: Annotated[
        int | None,
        Range(0, MAX_STEPS),
        Doc("FlowEdit: number of last steps that only the prompt decides.", "0"),
    ] = None
    n_avg: Annotated[
        int | None,
        Range(1, 100),
        Doc("FlowEdit: number of noises over which each step is averaged.", "1"),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RFInversionParameters:
    """The parameters of RF inversion."""

    gamma: Annotated[
        float | None,
        Range(0, 1),
        Doc(
            "RF inversion: pull towards the noise of the seed on the way up; 0 is plain inversion.",
            "0.5",
        ),
    ] = None
    keep: Annotated[
        float | None,
        Range(0, 1),
        Doc(
            "RF inversion: pull towards the given image on the way down, eta of the paper; at 1 "
            "nothing else matters.",
            "0.9",
        ),
    ] = None
    keep_start: Annotated[
        float | None,
        Range(0, 1),
        Doc("RF inversion: fraction of the steps at which that pull begins.", "0"),
    ] = None
    keep_end: Annotated[
        float | None,
        Range(0, 1),
        Doc("RF inversion: fraction of the steps at which that pull ends.", "0.25"),
    ] = None
