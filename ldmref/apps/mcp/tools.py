"""The tools of `ldmref mcp` and `/mcp`; `make_tools` lists them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

from ldmref import declare
from ldmref.apps.mcp.formulas import (
    DESCRIPTION,
    FormulaOrCodeRequest,
    FormulaRequest,
    check_formula,
)
from ldmref.apps.mcp.pitfalls import DESCRIPTION as PITFALLS_DESCRIPTION
from ldmref.apps.mcp.pitfalls import PitfallsRequest, answer_pitfalls
from ldmref.apps.mcp.protocol import Content, Tool, ToolCall, make_text
from ldmref.apps.mcp.schedules import DESCRIPTION as SCHEDULE_DESCRIPTION
from ldmref.apps.mcp.schedules import ScheduleRequest, answer_schedule
from ldmref.apps.mcp.sent_code import check_sent_formula
from ldmref.apps.mcp.traces import DESCRIPTION as DIFF_DESCRIPTION
from ldmref.apps.mcp.traces import DiffRequest
from ldmref.declare import Doc
from ldmref.differences import find_differences, list_programs
from ldmref.errors import UsageError

__all__ = ["Generated", "make_tools"]


class Generated(NamedTuple):
    """A generated image as a tool shows it: the PNG file, its parameters, and warnings."""

    png: bytes
    params: Mapping[str, Any]
    warnings: list[str]


Arguments = TypeVar("Arguments")
Generate = Callable[[Mapping[str, Any], ToolCall], list[Generated]]


def make_tools(
    generate: Generate,
    schema: Mapping[str, Any],
    about: str = "",
    *,
    run_code: bool,
    traces: Callable[[DiffRequest, ToolCall], Content] | None = None,
) -> list[Tool]:
    """Return the tools.

    Args:
        generate: `generate(arguments, call)` generates the images of a txt2img request.
        schema: JSON schema of the parameters that `generate` takes.
        about: A sentence about the model and the prompts that it understands.
        run_code: Whether `check_formula` may run code that the client sends.
        traces: `traces(request, call)` answers `diff_trace`. None: there is no such tool,
            because the user did not allow a folder of traces.

    Returns:
        The tools, for `Protocol`.

    >>> from ldmref import modes
    >>> from ldmref.apps.mcp import make_tools
    >>> tools = make_tools(lambda arguments, call: [], modes.schema("txt2img"), run_code=False)
    >>> [tool.name for tool in tools][2:]
    ['where_implementations_differ', 'find_pitfalls', 'flow_schedule']
    """
    formula = FormulaOrCodeRequest if run_code else FormulaRequest
    tools = [
        Tool(
            "generate_image",
            f"Generate images from a text with latent diffusion. {about}".strip(),
            schema,
            lambda arguments, call: show_images(generate(arguments, call)),
        ),
        Tool(
            "check_formula",
            DESCRIPTION,
            declare.schema(formula),
            lambda arguments, call: answer_formula(read_arguments(formula, arguments), call),
        ),
        Tool(
            "where_implementations_differ",
            "List measured differences between implementations of diffusion models and the "
            "definitions in the papers, each with a number and the test that shows it. Programs: "
            f"{', '.join(list_programs())}. Use it before porting a sampler or a schedule.",
            declare.schema(DifferencesRequest),
            lambda arguments, call: answer_differences(
                read_arguments(DifferencesRequest, arguments)
            ),
        ),
        Tool(
            "find_pitfalls",
            PITFALLS_DESCRIPTION,
            declare.schema(PitfallsRequest),
            lambda arguments, call: [
                make_text(
                    json.dumps(
                        answer_pitfalls(read_arguments(PitfallsRequest, arguments)),
                        ensure_ascii=False,
                    )
                )
            ],
        ),
        Tool(
            "flow_schedule",
            SCHEDULE_DESCRIPTION,
            declare.schema(ScheduleRequest),
            lambda arguments, call: [
                make_text(
                    json.dumps(
                        answer_schedule(read_arguments(ScheduleRequest, arguments)),
                        ensure_ascii=False,
                    )
                )
            ],
        ),
    ]
    if traces is None:
        return tools
    diff = Tool(
        "diff_trace",
        DIFF_DESCRIPTION,
        declare.schema(DiffRequest),
        lambda arguments, call: traces(read_arguments(DiffRequest, arguments), call),
    )
    return [*tools, diff]


@dataclass(frozen=True)
class DifferencesRequest:
    """The arguments of the tool `where_implementations_differ`."""

    programs: Annotated[
        tuple[str, ...], Doc("Only differences that concern all of these programs.")
    ] = ()
    sampler: Annotated[
        str | None, Doc("Only differences of this sampler: ddim, euler, DPM++ 2M, ...")
    ] = None
    text: Annotated[str, Doc("Text that the description contains.")] = ""


def read_arguments(request: type[Arguments], arguments: Mapping[str, Any]) -> Arguments:
    """Return the checked arguments of a tool.

    Raises:
        UsageError: An unknown or missing argument, or a wrong value.
    """
    try:
        return declare.read(request, arguments)
    except declare.Invalid as error:
        raise UsageError(str(error), code="E-USAGE", hint=error.hint) from None


def show_images(images: list[Generated]) -> Content:
    """Return each image with its parameters, and the warnings."""
    content: Content = []
    for image in images:
        data = base64.b64encode(image.png).decode()
        content.append({"type": "image", "data": data, "mimeType": "image/png"})
        content.append(make_text(json.dumps(image.params, ensure_ascii=False)))
    warnings = dict.fromkeys(line for image in images for line in image.warnings)
    content += [make_text(f"warning: {line}") for line in warnings]
    return content


def answer_formula(request: FormulaRequest, call: ToolCall) -> Content:
    """Return the answer of `check_formula` as JSON; code is run in a process of its own."""
    arguments = vars(request)
    if arguments.get("code") is None:
        answer = check_formula(**arguments)
    else:
        answer = check_sent_formula(arguments, call.cancel)
    return [make_text(json.dumps(answer, ensure_ascii=False))]


def answer_differences(request: DifferencesRequest) -> Content:
    """Return the differences as JSON, or a sentence if there is none."""
    rows = find_differences(request.programs, request.sampler, request.text)
    if not rows:
        return [make_text("No known difference matches.")]
    return [make_text(json.dumps([asdict(row) for row in rows], ensure_ascii=False))]
