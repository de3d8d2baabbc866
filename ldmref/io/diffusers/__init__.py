"""Checkpoints in diffusers' layout: a folder for each part, with its configuration.

Public and stable are the names that this package exports, parts of a reader of such folders, for
families of other packages (docs/add-a-family.md). Its modules are internal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.io.diffusers.checks import read_json as read_json
    from ldmref.io.diffusers.checks import require_plain as require_plain
    from ldmref.io.diffusers.config import convert_autoencoder_config as convert_autoencoder_config
    from ldmref.io.diffusers.config import convert_t5_config as convert_t5_config
    from ldmref.io.diffusers.config import convert_text_config as convert_text_config
    from ldmref.io.diffusers.declared import read_denoiser as read_denoiser
    from ldmref.io.diffusers.folder import get_class as get_class
    from ldmref.io.diffusers.scheduler import convert_scheduler_config as convert_scheduler_config

__getattr__, __dir__, __all__ = export_lazily(__name__)
