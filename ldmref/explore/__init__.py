"""Look into a run: every state and prediction, where it attends, how far it is from the truth.

| file           | content                                                                    |
|----------------|----------------------------------------------------------------------------|
| `record.py`    | `record_run`: a run with everything that led to its image                  |
| `format.py`    | `RunRecord` and its file, which the denoising explorer reads               |
| `branch.py`    | `branch_run`: a run continued from one of its steps with other parameters  |
| `attention.py` | maps of cross-attention for each word                                      |
| `preview.py`   | the linear preview: latents to small RGB images without a decoder          |
"""

from ldmref.explore.branch import branch_run
from ldmref.explore.format import RunRecord, load_record
from ldmref.explore.preview import has_preview, preview_images, preview_matrix
from ldmref.explore.record import record_run

__all__ = [
    "RunRecord",
    "branch_run",
    "has_preview",
    "load_record",
    "preview_images",
    "preview_matrix",
    "record_run",
]


def __dir__() -> list[str]:
    return __all__
