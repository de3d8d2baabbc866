"""The file of a plot: checked before anything is computed, complete or not there at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ldmref.errors import OutputError, UsageError
from ldmref.io.atomic import atomic_write
from ldmref.plots.axes import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")


def check_plot(name: str, overwrite: bool) -> Path:
    """Check that a plot can be written under a name, and return its path.

    Raises:
        UsageError: The ending is none of a plot's.
        OutputError: The file exists (without `overwrite`), or its folder does not.
        BackendUnavailable: matplotlib is not installed.
    """
    path = Path(name)
    if path.suffix.lower() not in ENDINGS:
        hint = f"a plot's name ends in {', '.join(ENDINGS)}"
        raise UsageError(f"cannot plot into {name!r}", code="E-FORMAT", hint=hint)
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{name!r} exists", code="E-EXISTS", hint="add --overwrite")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"no folder {str(path.parent)!r}", code="E-FOLDER")
    require_matplotlib()
    return path


def save_plot(figure: Figure, path: Path, overwrite: bool, dpi: int = 150) -> None:
    """Write a figure in the format of the file's ending."""
    with atomic_write(path, overwrite=overwrite) as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower(), dpi=dpi)
