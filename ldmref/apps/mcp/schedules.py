"""The tool `flow_schedule`: the flow times of a family in programs, or the name of a list."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from ldmref.atlas import (
    count_tokens,
    find_flow_schedule,
    make_flow_sigmas,
    name_numbers,
    read_flow_schedules,
)
from ldmref.declare import Doc, Range
from ldmref.errors import UsageError

DESCRIPTION = (
    "The flow times (sigmas) of a flow-matching model, as each program makes them: FLUX, SD3, "
    "Z-Image, Qwen-Image, Wan, ... in the maker's code, diffusers, ComfyUI and others. With "
    "`numbers` instead of a family, it says which family and program makes a list. Use it before "
    "porting a scheduler, and when two programs give different images for the same seed."
)


@dataclass(frozen=True)
class ScheduleRequest:
    """The arguments of the tool `flow_schedule`."""

    family: Annotated[str | None, Doc("The family: FLUX.1, SD3, Z-Image, ...")] = None
    programs: Annotated[
        tuple[str, ...], Doc("Programs, such as diffusers or comfyui.", "all that are known")
    ] = ()
    steps: Annotated[int | None, Range(1, 1000), Doc("Number of steps.", "the usual one")] = None
    width: Annotated[int, Range(16, 65536), Doc("Width of the image in pixels.")] = 1024
    height: Annotated[int, Range(16, 65536), Doc("Height of the image in pixels.")] = 1024
    numbers: Annotated[
        str,
        Doc("Flow times, or timesteps (1000 times these), as a program prints them, to be named."),
    ] = ""


def answer_schedule(request: ScheduleRequest) -> Any:
    """Return the schedules of a family, or the names of a list, JSON-able.

    Raises:
        UsageError: Neither a family nor numbers are there, or both; or a name is unknown.
        InputError: There are no numbers in the text.

    >>> request = ScheduleRequest(numbers="1.0, 0.9, 0.75, 0.5")
    >>> answer_schedule(request)["same"][0]
    'Z-Image, constant shift 3: Tongyi, diffusers, ComfyUI, ComfyUI sgm_uniform, DiffSynth'
    """
    if (request.family is None) == (not request.numbers):
        raise UsageError(
            "flow_schedule needs a family, or numbers to be named",
            code="E-USAGE",
            hint="families: " + ", ".join(dict.fromkeys(r.family for r in read_flow_schedules())),
        )
    if request.family is None:
        return name_numbers(request.numbers)._asdict()
    family = find_flow_schedule(request.family).family
    every = [row for row in read_flow_schedules() if row.family == family]
    if len(request.programs) > len(every):
        message = f"{len(request.programs)} programs are more than the {len(every)} of {family}"
        raise UsageError(message, code="E-PROGRAM", hint="name each once")
    named = [find_flow_schedule(family, program) for program in request.programs]
    tokens = count_tokens(request.width, request.height)
    answers = []
    for row in dict.fromkeys(named) or every:
        own = len(row.sigmas) if row.positions == "list" and not request.programs else None
        steps = own or request.steps or row.steps
        made = make_flow_sigmas(row, steps, tokens).tolist()
        described = asdict(row) | {
            "rule": row.rule,
            "spacing": row.spacing,
            "steps": steps,
            "tokens": tokens,
        }
        answers.append(described | {"made": made})
    return answers
