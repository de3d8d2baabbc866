"""The fault locator: which layers and steps of a port differ from ldmref's.

`docs/find-where-my-port-differs.md` shows how to use it. `diff_traces` begins in `diff`, and
`diff_modules` in `against`.

| folder     | what it has                                                                |
|------------|----------------------------------------------------------------------------|
| `recorded` | what another program recorded, in ldmref's terms                           |
| `replay`   | a network, followed from layer to layer with what was recorded             |
| `modules`  | a module of PyTorch, followed in the same way                              |
| `faults`   | the known faults of layers                                                 |
| `causes`   | the cause of a wrong array of a network                                    |
| `run`      | a run, made again with what was recorded of it                             |
| `parts`    | guidance, steps and other parts of a run, and their known faults           |
| `pipeline` | runs of diffusers under the names of ldmref's, and what a run is given     |

`judging` and `law` say which differences are rounding, `rows` and `report` what is said of them.
"""

from ldmref.locate.against import diff_modules
from ldmref.locate.diff import diff_traces
from ldmref.locate.findings import DiffReport, Row

__all__ = ["DiffReport", "Row", "diff_modules", "diff_traces"]
