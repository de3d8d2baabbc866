"""RePaint: jump back up by the forward process and denoise again.

The known values that a constraint puts into a state do not fit the region generated around them at
first. Going through the same sigmas several times makes the two agree.

Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1 and appendix B (jumps).
"""

from __future__ import annotations


def repaint_visits(steps: int, jump_length: int, jump_n_sample: int, first: int = 0) -> list[int]:
    """Return the indices into the sigmas in the order in which RePaint visits them, for `sample`.

    After every `jump_length` steps, counted from the last sigma with noise, it jumps as many
    indices back up, `jump_n_sample` - 1 times.

    Args:
        steps: Number of steps of the sampler.
        jump_length: Length j of a jump in steps, from 1; there are no jumps if it is `steps` or
            more.
        jump_n_sample: How often each block of steps is denoised, r, from 1 (no jumps).
        first: Index of the first sigma; the index of the last is `first` + `steps`.

    Returns:
        The indices, from `first` to `first` + `steps`; an index below the one before is a jump up.

    >>> repaint_visits(4, 2, 2)
    [0, 1, 2, 3, 1, 2, 3, 4]
    >>> repaint_visits(3, 1, 2)
    [0, 1, 0, 1, 2, 1, 2, 3]
    """
    starts = range(0, steps - jump_length, jump_length)
    jumps = {steps - 1 - start: jump_n_sample - 1 for start in starts}
    visits = [0]
    while visits[-1] < steps:
        i = visits[-1]
        if jumps.get(i):
            jumps[i] -= 1
            visits.append(i - jump_length)
        else:
            visits.append(i + 1)
    return [first + i for i in visits]
