"""The rows of the atlas: one for each family and program."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Any

from ldmref.errors import UsageError, did_you_mean
from ldmref.support.assets import read_asset_table


@dataclass(frozen=True)
class FlowSchedule:
    """How one program makes the flow times (sigmas) of one family.

    Args:
        family: Name of the family of models.
        program: Name of the program, or of its setting.
        positions: "linspace" from 1 to `end`, "open linspace" without its last, "table", "strides",
            "beta", "list" or "logit-normal"; or "karras", "exponential", "arctan", "bong_tangent"
            and "linear-quadratic", which are not shifted.
        shift: "none", "linear", "exponential", "tokens" or "tokens and steps".
        steps: The usual number of steps.
        source: Where this was read.
        time: What the model gets as its time.
        end: The last position: a number, "1/n", or "shifted 1/1000" or "shifted 1/10000", which
            is shifted before the spacing; "shifted" is that of 1 / `table`.
        table: Number of values of the table.
        sigmas: The list, which is never shifted.
        factor: k of the linear shift s -> k s / (1 + (k - 1) s).
        mu: The logarithm of k, of the exponential shift; or the mean of the logit.
        tokens: Two numbers of tokens.
        mus: mu at these two, linear between and beyond.
        terminal: The last sigma, to which all are stretched; 0 leaves them.
        std: Standard deviation of the logit.
        pixels: Number of pixels at which the mean of the logit is `mu`.
        count: What the program's list has.
        remark: Anything else.

    Example:
        >>> row = find_flow_schedule("Qwen-Image")
        >>> row.name, row.rule
        ('Qwen-Image, diffusers', 'mu by tokens, stretched to 0.02')
    """

    family: str
    program: str
    positions: str
    shift: str
    steps: int
    source: str
    time: str
    end: str | float = "1/n"
    table: int = 0
    sigmas: tuple[float, ...] = ()
    factor: float = 1.0
    mu: float = 0.0
    tokens: tuple[int, ...] = ()
    mus: tuple[float, ...] = ()
    terminal: float = 0.0
    std: float = 1.0
    pixels: int = 0
    count: str = "n"
    remark: str = ""

    @property
    def name(self) -> str:
        """The family and the program."""
        return f"{self.family}, {self.program}"

    @property
    def rule(self) -> str:
        """The shift in words."""
        words = {
            "none": "no shift",
            "linear": f"constant shift {self.factor:g}",
            "exponential": f"constant mu {self.mu:g}",
            "tokens": "mu by tokens",
            "tokens and steps": "mu by tokens and steps",
        }
        mean = f", mean {self.mu:g}" if self.mu else ""
        special = {
            "list": "an explicit list",
            "logit-normal": f"logit-normal, std {self.std:g}{mean}",
            "linear-quadratic": "no shift",
        }
        ignored = self.positions == "bong_tangent" and self.end == 0.0
        text = special.get(self.positions, words["none" if ignored else self.shift])
        return text + (f", stretched to {self.terminal:g}" if self.terminal else "")

    @property
    def spacing(self) -> str:
        """The positions in words."""
        end = self.end if isinstance(self.end, str) else f"{self.end:.4g}"
        end = f"shifted 1/{self.table}" if end == "shifted" else end
        of_table = f"of a table of {self.table}"
        words = {
            "linspace": f"linspace(1, {end}, n)",
            "open linspace": f"linspace(1, {end}, n + 1) without the last",
            "table": f"every ({self.table} / n)-th {of_table}",
            "strides": f"every ({self.table} // n)-th {of_table}, from its small end",
            "beta": f"quantiles of Beta(0.6, 0.6) {of_table}",
            "bong_tangent": f"two arctangents to {end}",
            "karras": f"karras to shifted 1/{self.table}",
            "exponential": f"exponential to shifted 1/{self.table}",
            "arctan": f"equal steps of the arctangent to shifted 1/{self.table}",
            "linear-quadratic": "half of the steps to 0.975, then a parabola",
        }
        return words.get(self.positions, self.positions)


@functools.cache
def read_flow_schedules() -> tuple[FlowSchedule, ...]:
    """Read the atlas.

    Returns:
        All rows, in the order of the table; the first of a family is its maker's, if known.

    Example:
        >>> [row.program for row in read_flow_schedules() if row.family == "FLUX.1"][:5]
        ['BFL', 'diffusers', 'ComfyUI', 'ComfyUI normal', 'ComfyUI sgm_uniform']
    """
    tables = read_asset_table("flow_schedules.toml")
    rows: list[FlowSchedule] = []
    for fields in tables["schedule"]:
        row = FlowSchedule(**fields)
        rows.append(row)
        rows += [
            _other_scheduler(row, scheduler)
            for scheduler in tables["scheduler"]
            if row.name in scheduler.get("of", ())
            or ("of" not in scheduler and scheduler["program"] == row.program)
        ]
    return tuple(rows)


def _other_scheduler(row: FlowSchedule, scheduler: dict[str, Any]) -> FlowSchedule:
    """Return the row of the same family with another scheduler of its program."""
    name = scheduler["name"]
    program = f"{scheduler['program']} {name}"
    own = {"positions", "end", "count", "table", "source"} & scheduler.keys()
    remark = "; ".join(filter(None, [f"scheduler {name}", scheduler.get("remark", "")]))
    return replace(row, program=program, remark=remark, **{key: scheduler[key] for key in own})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_flow_schedule(family: str, program: str | None = None) -> FlowSchedule:
    """Find the row of a family and a program.

    Args:
        family: Name of the family, ignoring case and signs: "FLUX.1", "flux1".
        program: Name of the program; None for the first of the family.

    Returns:
        The row.

    Raises:
        UsageError: The atlas has no such family, or no such program of it.

    Example:
        >>> find_flow_schedule("flux1", "comfyui").rule
        'constant mu 1.15'
    """
    rows = read_flow_schedules()
    of_family = [row for row in rows if _plain(row.family) == _plain(family)]
    if not of_family:
        hint = did_you_mean(family, dict.fromkeys(row.family for row in rows))
        message = f"the atlas has no family {family!r}"
        raise UsageError(message, code="E-FAMILY", hint=hint or "ldmref schedule --list")
    if program is None:
        return of_family[0]
    found = [row for row in of_family if _plain(row.program) == _plain(program)]
    if not found:
        programs = ", ".join(row.program for row in of_family)
        message = f"the atlas has no schedule of {of_family[0].family} for {program!r}"
        raise UsageError(message, code="E-PROGRAM", hint=f"there are: {programs}")
    return found[0]
