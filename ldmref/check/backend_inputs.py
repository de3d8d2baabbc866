"""The random inputs of a case in the library, number format and device of a backend."""

from __future__ import annotations

import numpy as np

from ldmref.backends import Backend
from ldmref.check.identity import Identity, RandomInputs


def random_inputs(identity: Identity, backend: Backend, seed: int, case: int) -> RandomInputs:
    """Return the inputs of one case, which depend only on its name, seed and number."""
    key = np.random.SeedSequence([seed, case, *identity.name.encode()])
    dtype = getattr(backend.xp, backend.dtype)
    device = getattr(backend.asarray(np.zeros(1)), "device", None)
    generator = np.random.Generator(np.random.Philox(key))
    return RandomInputs(backend.xp, dtype, device, generator, case)


def unit_of_rounding(backend: Backend) -> float:
    """Return the distance of 1 to the next number of the backend's number format."""
    return float(backend.xp.finfo(getattr(backend.xp, backend.dtype)).eps)
