"""`Origin`: where the request of a command comes from, flags alone or the record of an image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.settings import with_settings
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.run import Run
from ldmref.support.config import Settings


class Origin:
    """A request of flags alone; a replay overrides what a record adds to it."""

    def check_model(self, session: CommandSession) -> None:
        """Refuse a model of which nobody said that it shall generate.

        Args:
            session: That of the command, which has found its model.

        Raises:
            UsageError: A record names another one.
        """

    def complete(
        self, mode: str, config: ModelConfig, flags: dict[str, Any], configured: Settings
    ) -> dict[str, Any]:
        """Return the flags with the settings, and with what a record says for a model.

        Raises:
            UsageError: The model cannot do what is asked for.
        """
        return with_settings(mode, flags, configured)

    def name_model(self, config: ModelConfig) -> str:
        """Return a hint at the model of the record, if it is another one."""
        return ""

    def compare_model(self, model: LatentDiffusion) -> Iterable[str]:
        """Return notes on what is not exact with this model."""
        return ()

    def compare_run(self, run: Run) -> Iterable[str]:
        """Return notes on what differs from the record in a prepared run."""
        return ()
