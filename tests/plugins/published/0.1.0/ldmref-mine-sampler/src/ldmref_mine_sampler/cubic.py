"""Noise levels at equal distances in sigma^(1/3)."""

import numpy as np

from ldmref.samplers import Spacing


def cubic(table, steps):
    largest, smallest = np.cbrt(table[-1]), np.cbrt(table[0])
    return np.append(np.linspace(largest, smallest, steps) ** 3, 0.0)


CUBIC = Spacing(cubic, source="Karras et al. 2022, eq. 5, with rho = 3")
