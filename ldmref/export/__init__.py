"""Models as files that other programs run, without Python and without ldmref.

Public and stable are the names that this package exports; import them from here. Its modules are
internal and may change in any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.export.folder import ExportedFile as ExportedFile
    from ldmref.export.folder import export_onnx as export_onnx

__getattr__, __dir__, __all__ = export_lazily(__name__)
