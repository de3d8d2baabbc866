"""Look into a run: every state and prediction, where it attends, how far it is from the truth.

| file           | content                                                                    |
|----------------|----------------------------------------------------------------------------|
| `record.py`    | `record_run`: a run with everything that led to its image                  |
| `format.py`    | `RunRecord` and its file, which the denoising explorer reads               |
| `reading.py`   | `load_record`; `view.py`: a record from a trace, with its steps            |
| `branching.py` | `branch_run`: a run continued from one of its steps with other parameters  |
| `attention.py` | maps of cross-attention for each word                                      |
| `grid.py`      | `make_grid`: images of parameters against each other, and their sheets     |
| `truth.py`     | `truth_line`: how far each state is from the converged trajectory          |
| `converged.py` | `converged_image`: what a request converges to with more and more steps    |
| `flow.py`      | the solver of the probability flow; `distance.py`: the distance of states  |
| `dial.py`      | the dial of evaluations: a flow map in few steps and its model in more     |
| `noised.py`    | `noised_image`: what remains of an image that a run starts from            |
| `preview.py`   | the linear preview: latents to small RGB images without a decoder          |
"""

from typing import NoReturn

from ldmref.explore.branching import branch_run
from ldmref.explore.converged import ConvergedImage, converged_image
from ldmref.explore.distance import Truth
from ldmref.explore.format import RunRecord
from ldmref.explore.grid import ImageGrid, make_grid, plan_grid
from ldmref.explore.noised import NoisedImage, noised_image
from ldmref.explore.preview import has_preview, preview_images, preview_matrix
from ldmref.explore.reading import load_record
from ldmref.explore.record import record_run
from ldmref.explore.truth import truth_line

__all__ = [
    "ConvergedImage",
    "ImageGrid",
    "NoisedImage",
    "RunRecord",
    "Truth",
    "branch_run",
    "converged_image",
    "has_preview",
    "load_record",
    "make_grid",
    "noised_image",
    "plan_grid",
    "preview_images",
    "preview_matrix",
    "record_run",
    "truth_line",
]


def __getattr__(name: str) -> NoReturn:
    """Name the function that the verb alone suggests."""
    hint = ": branch_run continues a run from one of its steps" if name == "branch" else ""
    raise AttributeError(f"module 'ldmref.explore' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__
