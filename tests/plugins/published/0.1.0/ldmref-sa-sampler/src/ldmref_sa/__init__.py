"""SA-Solver for ldmref; `ldmref txt2img --sampler sa_solver` finds it by its entry point."""

from functools import partial

from ldmref.samplers import Sampler
from ldmref_sa.solver import sa_solver

__all__ = ["SA_SOLVER", "SA_SOLVER_3", "sa_solver"]

SOURCE = "arXiv:2309.05019, algorithm 1"
SA_SOLVER = Sampler(sa_solver, 2, 1, True, SOURCE, eta=1.0, family="multistep")
SA_SOLVER_3 = Sampler(
    partial(sa_solver, predictor_order=3, corrector_order=4),
    order=3,
    nfe=1,
    stochastic=True,
    source=SOURCE,
    eta=1.0,
    family="multistep",
)
