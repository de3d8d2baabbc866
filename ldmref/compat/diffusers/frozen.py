"""Configurations as diffusers shows them: read-only dictionaries whose keys are also attributes."""

from __future__ import annotations

from typing import Any, NoReturn

from ldmref.errors import UsageError


class FrozenConfig(dict[str, Any]):
    """A read-only dictionary whose keys are also attributes.

    >>> config = FrozenConfig(steps_offset=1)
    >>> config.steps_offset, config["steps_offset"], dict(config)
    (1, 1, {'steps_offset': 1})
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"the configuration has no {name!r}; it has {', '.join(self)}")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            "a configuration cannot be changed",
            code="E-CONFIG",
            hint="give changes to from_config: EulerDiscreteScheduler.from_config(config, name=1)",
        )

    __setattr__ = __setitem__ = __delitem__ = _refuse
    update = pop = popitem = setdefault = clear = _refuse  # type: ignore[assignment]
