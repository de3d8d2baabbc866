"""The tool `find_pitfalls`: what ports of diffusion models get wrong, and the test that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from ldmref.declare import Doc
from ldmref.locate.pitfalls import find_pitfalls, list_causes

DESCRIPTION = (
    "Mistakes that ports of diffusion models made in public: symptom, what it was, the test that "
    "tells, the number that came out, the thread. Use it when an image is wrong, before guessing; "
    "and before a fix that looks reasonable, since some make another model of this one."
)


@dataclass(frozen=True)
class PitfallsRequest:
    """The arguments of the tool `find_pitfalls`."""

    words: Annotated[
        tuple[str, ...],
        Doc("Words that a row must all contain: padding, LoRA, Z-Image, black, rotation, ..."),
    ] = ()
    causes: Annotated[
        bool, Doc("Whether to list the causes that `ldmref diff` tries on a layer as well.")
    ] = False


def answer_pitfalls(request: PitfallsRequest) -> Any:
    """Return the rows, JSON-able.

    >>> answer_pitfalls(PitfallsRequest(("Z-Image",)))["pitfalls"][0]["reasonable"]
    True
    """
    rows = [asdict(row) | {"links": row.links} for row in find_pitfalls(request.words)]
    causes = {"causes": [cause._asdict() for cause in list_causes()]} if request.causes else {}
    return {"pitfalls": rows, **causes}
