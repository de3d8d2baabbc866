"""What is said of a plan and of its run: what they take, what is unusual, and what has no effect.

The modes are the mathematics of a request; this is built on them. A `Plan` and a `Run` ask here for
`plan.estimate(model)`, the limits of a model and `run.warnings` (`Plan.adviser`).
"""

from ldmref.advice.cost import check_limits, estimate, out_of_memory
from ldmref.advice.requests import list_warnings

__all__ = ["check_limits", "estimate", "list_warnings", "out_of_memory"]
