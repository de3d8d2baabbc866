"""Plots of schedules and of runs, with matplotlib (extra `plot`).

    from ldmref.plots import plot_schedule, plot_trajectory

Both use new axes, or those passed as `ax=`, and return them. matplotlib is
imported at the first call.
"""

from ldmref.plots.schedule import plot_schedule
from ldmref.plots.trajectory import TrajectoryNumbers, measure_trajectory, plot_trajectory

__all__ = ["TrajectoryNumbers", "measure_trajectory", "plot_schedule", "plot_trajectory"]


def __dir__() -> list[str]:
    return __all__
