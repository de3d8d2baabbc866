"""Differences between other implementations and the definitions, as data.

`ldmref differences` prints them, and docs/math/differences.md shows them with their explanation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from ldmref.errors import UsageError, did_you_mean
from ldmref.support.assets import read_asset_table


@dataclass(frozen=True)
class ImplementationDifference:
    """One difference.

    Args:
        section: Its subject: "Schedules", "Steps", "Networks", "Noise" or "Objectives".
        programs: The programs that differ from the definition or from each other.
        samplers: ldmref's names of the samplers that it concerns; empty if it concerns all or none.
        difference: A description, in Markdown with LaTeX.
        number: Its size, measured.
        test: The tests that show it.
        newer: What a later version of a program does instead; "" if none is known to.
    """

    section: str
    programs: tuple[str, ...]
    samplers: tuple[str, ...]
    difference: str
    number: str
    test: str
    newer: str = ""

    @property
    def versions(self) -> list[str]:
        """The programs, each with the version or commit that was read, where it was noted."""
        known = program_versions()
        return [f"{name} {known[name]}".strip() for name in self.programs]


@functools.cache
def program_versions() -> dict[str, str]:
    """Return the version or commit of each program that was read or run; "" if none was noted.

    >>> program_versions()["diffusers"]
    '0.42.1'
    """
    rows = read_asset_table("differences.toml")["program"]
    return {row["name"]: row["version"] for row in rows}


@functools.cache
def read_differences() -> tuple[ImplementationDifference, ...]:
    """Return all differences, in the order of the page."""
    rows = read_asset_table("differences.toml")["difference"]
    return tuple(ImplementationDifference(**row) for row in rows)


def list_programs() -> list[str]:
    """Return the programs of the table by name."""
    return sorted({p for row in read_differences() for p in row.programs}, key=str.lower)


def find_differences(
    programs: Iterable[str] = (), sampler: str | None = None, text: str = ""
) -> list[ImplementationDifference]:
    """Return the differences that concern all of the given programs.

    Args:
        programs: Names of programs, ignoring case. Two programs select the rows in which both
            occur.
        sampler: Name of a sampler, in any spelling that `ldmref.samplers` accepts.
        text: Text that the description contains, ignoring case.

    Raises:
        UsageError: An unknown program or sampler.

    Example:
        >>> [row.test for row in find_differences(["ComfyUI"], sampler="deis")][:1]
        ['`test_deis_of_comfyui_is_of_order_3_in_the_time_of_edm`']
    """
    from ldmref.samplers import get_sampler

    known = {program.lower(): program for program in list_programs()}
    wanted = set()
    for program in programs:
        if program.lower() not in known:
            hint = did_you_mean(program, known.values())
            message = f"no difference of a program {program!r} is known"
            raise UsageError(message, code="E-PROGRAM", hint=hint)
        wanted.add(known[program.lower()])
    name = None if sampler is None else get_sampler(sampler).name
    return [
        row
        for row in read_differences()
        if wanted <= set(row.programs)
        and (name is None or name in row.samplers)
        and text.lower() in row.difference.lower()
    ]
