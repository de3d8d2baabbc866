"""The plan of any mode, images or noise, for tests that go through all modes."""

from __future__ import annotations

from ldmref import modes
from ldmref.models.presets import preset


def plan_any(mode, config, /, **parameters):
    """Return the plan of a mode, `modes.plan` or `modes.plan_inversion`."""
    if mode == "invert":
        return modes.plan_inversion(config, **parameters)
    return modes.plan(mode, config, **parameters)


def config_for(mode, config):
    """Return a small model's configuration, or that of a model of flow matching for `edit`."""
    return preset("sd3-tiny") if mode == "edit" else config
