"""Types of recipe values, with their ranges."""

from __future__ import annotations

from typing import Annotated

from ldmref.declare import Range

Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, above=True)]
Weight = Annotated[float, Range(0, 1e6)]
Count = Annotated[int, Range(1, 10**9)]
NonNegativeInt = Annotated[int, Range(0, 10**9)]
