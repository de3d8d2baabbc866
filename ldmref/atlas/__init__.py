"""The atlas of flow schedules: how each program makes the flow times of each family, as data.

    from ldmref import atlas

    row = atlas.find_flow_schedule("FLUX.1", "ComfyUI")
    sigmas = atlas.make_flow_sigmas(row, steps=28, tokens=4096)
    atlas.name_sigmas(sigmas)                 # the rows that make these numbers, nearest first

The rows are in ldmref/assets/flow_schedules.toml; `ldmref schedule` prints them.
"""

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.atlas.making import count_tokens as count_tokens
    from ldmref.atlas.making import make_flow_sigmas as make_flow_sigmas
    from ldmref.atlas.making import shift_mu as shift_mu
    from ldmref.atlas.naming import ShiftFit as ShiftFit
    from ldmref.atlas.naming import SigmaMatch as SigmaMatch
    from ldmref.atlas.naming import fit_shifts as fit_shifts
    from ldmref.atlas.naming import name_sigmas as name_sigmas
    from ldmref.atlas.reading import describe_matches as describe_matches
    from ldmref.atlas.reading import name_numbers as name_numbers
    from ldmref.atlas.reading import read_numbers as read_numbers
    from ldmref.atlas.table import FlowSchedule as FlowSchedule
    from ldmref.atlas.table import find_flow_schedule as find_flow_schedule
    from ldmref.atlas.table import read_flow_schedules as read_flow_schedules

__getattr__, __dir__, __all__ = export_lazily(__name__)
