"""Look into a run: every state and prediction, where it attends, how far it is from the truth.

| file           | content                                                                    |
|----------------|----------------------------------------------------------------------------|
| `record.py`    | `record_run`: a run with everything that led to its image                  |
| `format.py`    | `RunRecord` and its file, which the denoising explorer reads               |
| `attention.py` | maps of cross-attention for each word                                      |
| `grid.py`      | `ImageGrid`: images of two parameters against each other, and their sheet  |
| `grid_plan.py` | `make_grid`: checks all cells, then generates them                         |
| `preview.py`   | the linear preview: latents to small RGB images without a decoder          |
"""

from ldmref.explore.format import RunRecord, load_record
from ldmref.explore.grid import ImageGrid
from ldmref.explore.grid_plan import make_grid, plan_grid
from ldmref.explore.preview import has_preview, preview_images, preview_matrix
from ldmref.explore.record import record_run

__all__ = [
    "ImageGrid",
    "RunRecord",
    "has_preview",
    "load_record",
    "make_grid",
    "plan_grid",
    "preview_images",
    "preview_matrix",
    "record_run",
]


def __dir__() -> list[str]:
    return __all__
